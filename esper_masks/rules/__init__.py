"""A lifecycle as frozen data. Standard library only; nothing here computes a mask.

model     ``MaskRules``: stages, transitions, ops, heads, features, switches
parts     ``Op`` and ``Head``
gates     what an op needs besides a stage: one class a gate, and the program of an engine
checks    every way in which rules contradict themselves
fields    the types of fields, and ``FrozenMapping``
fingerprint  one number for all that rules say
names     words with a meaning of their own, such as the heads ``slot`` and ``op``
"""

from esper_masks.rules.model import MaskRules
from esper_masks.rules.parts import Head, Op

__all__ = ["Head", "MaskRules", "Op"]
