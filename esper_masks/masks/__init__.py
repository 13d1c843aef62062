"""From slot states to words, and from words to masks.

engine        ``MaskEngine``: slot states in, masks out
masks         ``ActionMasks``: the masks of a batch, held as words
choices       choice words: which choices of a head are legal
packed        the parts of masks side by side in one tensor
trees         what torch is told of masks: they are a pytree
slots         ``SlotState``, and states from Python objects
program       the gates and guards of rules as tests, each with the bits that it clears
closing       where these tests are closed, over a batch
stage_words   lookup tables of small integers into words
successors    what whole actions make of slot states
checks        what an engine is made with and called with
checkpoints   a module refuses the checkpoints of other rules
"""

from esper_masks.masks import trees  # noqa: F401  # which registers masks
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.masks.slots import SlotState

__all__ = ["ActionMasks", "MaskEngine", "SlotState"]
