"""Vectorized action masks for controllers that grow networks by a lifecycle."""

from esper_masks import reference
from esper_masks.engine import MaskEngine
from esper_masks.errors import InvalidStateMachineError, RulesError, SlotStateError
from esper_masks.joint import JointActions
from esper_masks.layout import ActionLayout, HeadLayout
from esper_masks.pytree import ActionMasks
from esper_masks.rules import Head, MaskRules, Op
from esper_masks.rulesets import ruleset, rulesets
from esper_masks.slots import SlotState

__version__ = "0.1.0"

__all__ = [
    "ActionLayout",
    "ActionMasks",
    "Head",
    "HeadLayout",
    "InvalidStateMachineError",
    "JointActions",
    "MaskEngine",
    "MaskRules",
    "Op",
    "RulesError",
    "SlotState",
    "SlotStateError",
    "reference",
    "ruleset",
    "rulesets",
]
