"""Exact, vectorized action masks for reinforcement learning: a state machine as data, legal actions from one lookup."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

import esper_masks.starting  # noqa: F401  # before torch is imported

# isort: split
from torch.serialization import add_safe_globals

from esper_masks import compat, reference
from esper_masks.actions.joint import JointActions
from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.decision.buffer import Minibatch, RolloutBuffer
from esper_masks.decision.export import export_step
from esper_masks.decision.rows import Decision, Evaluation
from esper_masks.decision.step import DecisionStep
from esper_masks.distributions.categorical import MaskedCategorical
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import raise_on_fault
from esper_masks.errors import InvalidStateMachineError, RulesError, SlotStateError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.masks.slots import SlotState
from esper_masks.rules import Age, Any, Count, Feature, Head, Kind, MaskRules, Op, Row, SlotHead, Unless
from esper_masks.rulesets import ruleset, rulesets

if TYPE_CHECKING:
    from esper_masks import interop as interop
    from esper_masks import rollout as rollout
    from esper_masks import viz as viz

__version__ = "0.1.0"

# modules that files written by 0.1.0 name, where they are today, and what torch.load(weights_only=True) makes of them
_moved: dict[str, tuple[str, list[type]]] = {
    "buffer": ("decision.buffer", [Minibatch]),
    "decision_rows": ("decision.rows", [Decision, Evaluation]),
    "explain": ("reference.explain", []),
    "joint": ("actions.joint", []),
    "layout": ("actions.layout", [ActionLayout, HeadLayout]),
    "masks": ("masks.masks", [ActionMasks]),
    "rule_fields": ("rules.fields", []),
    "slots": ("masks.slots", []),
}
for _old, (_new, _loadable) in _moved.items():
    sys.modules.setdefault(f"esper_masks.{_old}", import_module(f"esper_masks.{_new}"))  # ``masks`` is a room today
    add_safe_globals([*_loadable, *[(made, f"esper_masks.{_old}.{made.__name__}") for made in _loadable]])

__all__ = [
    "ActionLayout",
    "ActionMasks",
    "Age",
    "Any",
    "Count",
    "Decision",
    "DecisionStep",
    "Evaluation",
    "FactoredCategorical",
    "Feature",
    "Head",
    "HeadLayout",
    "InvalidStateMachineError",
    "JointActions",
    "Kind",
    "MaskEngine",
    "MaskRules",
    "MaskedCategorical",
    "Minibatch",
    "Op",
    "RolloutBuffer",
    "Row",
    "RulesError",
    "SlotHead",
    "SlotState",
    "SlotStateError",
    "Unless",
    "compat",
    "export_step",
    "raise_on_fault",
    "reference",
    "ruleset",
    "rulesets",
]


def __getattr__(name: str) -> object:
    """``esper_masks.rollout``, ``.interop`` and ``.viz``, loaded when they are first asked for."""
    if name in ("rollout", "interop", "viz"):
        return import_module(f"esper_masks.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
