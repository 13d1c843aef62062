"""A lifecycle as frozen data. Standard library only; nothing here computes a mask.

model     ``MaskRules``: stages, transitions, ops, heads, features, switches
parts     ``Op``, ``Head`` and ``SlotHead``
guards    conditions of an op or of a second slot, one class a guard
combined  guards made of guards: ``Unless`` and ``Any``
bounds    what a number has to be
judged    what guards judge, what they become for an engine, and the base of them all
gates     what an op needs besides a stage, guards among it: one class a gate, and the program of an engine
checks    every way in which rules contradict themselves ...
head_checks  ... and those of heads
fields    the types of fields, and ``FrozenMapping``
fingerprint  one number for all that rules say
names     words with a meaning of their own, such as the heads ``slot`` and ``op``
"""

from esper_masks.rules.combined import Any, Unless
from esper_masks.rules.guards import Age, Count, Feature, Kind, Row
from esper_masks.rules.model import MaskRules
from esper_masks.rules.parts import Head, Op, SlotHead

__all__ = ["Age", "Any", "Count", "Feature", "Head", "Kind", "MaskRules", "Op", "Row", "SlotHead", "Unless"]
