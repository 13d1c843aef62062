"""From slot states to words, and from words to masks.

engine        ``MaskEngine``: slot states in, masks out
masks         ``ActionMasks``: the masks of a batch, held as words
slots         ``SlotState``, and states from Python objects
stage_words   the lookup table of stages, and the ops that gates take away
checks        what an engine is made with and called with
checkpoints   a module refuses the checkpoints of other rules
"""

from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.masks.slots import SlotState

__all__ = ["ActionMasks", "MaskEngine", "SlotState"]
