"""One number for all that a rule set says, so that files that were made under other rules can be told."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from esper_masks.rules.gates import parts_of, parts_of_targets
from esper_masks.rules.judged import Guard, InCount, InKind, InRow, plain_parts
from esper_masks.rules.parts import SlotHead

# Fields that version 0.1.0 had. They are in every fingerprint, whatever their value, so that the files of that version
# are known. A field that came later is left out at its default: rules that do not use it keep their fingerprint. Its
# default must be a plain value, not a factory: parts that were pickled before the field read it from the class.
ALWAYS_IN = {
    "MaskRules": "name stages transitions empty op_rules heads features switches slot_ids",
    "Op": "id always enters moves acts_in min_age requires waived_by disabled_by disabled seed_limit blocked_by uses",
    "Head": "name choices legal switch closed opened_by by_op canonical",
}


def fingerprint_of(rules: object) -> str:
    """SHA-256 of a rule set, or of a part of one, names included: 64 hexadecimal digits."""
    return hashlib.sha256(repr(_plain(rules)).encode()).hexdigest()


def _plain(value: object) -> object:
    """Nested tuples of names and numbers: a form whose repr is the same in every process and Python version."""
    if isinstance(value, IntEnum):
        return (value.name, int(value))
    if isinstance(value, type) and issubclass(value, IntEnum):
        return tuple(_plain(member) for member in value)
    if isinstance(value, Mapping):
        return tuple(sorted(((_plain(k), _plain(v)) for k, v in value.items()), key=repr))
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, (Guard, SlotHead)):
        return (type(value).__name__, *((name, _plain(getattr(value, name))) for name in _telling(value, type(value))))
    for part in type(value).__mro__:  # a part of rules, or of a class that a user derived from one
        if part.__module__.startswith("esper_masks.rules.") and part.__name__ in ALWAYS_IN:
            return tuple((name, _plain(_read(value, name))) for name in _telling(value, part))
    return value


def _read(value: Any, name: str) -> Any:
    """A field of a part; of rows and kinds those that gates read: what is merely declared decides nothing."""
    if name not in ("row_features", "kinds"):
        return getattr(value, name)
    used = _used(value, name)
    return {one: what for one, what in getattr(value, name).items() if one in used}


def _used(rules: Any, name: str) -> set[str | None]:
    """The rows or the kinds that gates read."""
    of_ops, of_targets = parts_of(rules.op_rules, rules.scopes), parts_of_targets(rules.slot_heads, rules.target_scopes)
    found: set[str | None] = set()
    for part in (one for _, whole in (*of_ops, *of_targets) for one in plain_parts(whole)):
        if name == "row_features":
            found |= {part.unless, *([part.reads] if isinstance(part, InRow) else [])}
        elif isinstance(part, InKind):
            found |= set(part.kinds)
        elif isinstance(part, InCount):
            found |= {part.kind}
    return found


def _telling(value: Any, part: type[Any]) -> Iterator[str]:
    """The fields of a part that count: not those of ours that came later and are at their defaults."""
    ours = {field.name: field.default for field in dataclasses.fields(part)}
    for field in dataclasses.fields(value):
        later = field.name in ours and field.name not in ALWAYS_IN.get(part.__name__, "").split()
        if not later or _read(value, field.name) != ours[field.name]:
            yield field.name
