"""One number for all that a rule set says, so that files that were made under other rules can be told."""

import dataclasses
import hashlib
from collections.abc import Mapping
from enum import IntEnum

# Fields that version 0.1.0 had. They are in every fingerprint, whatever their value, so that the files of that version
# are known. A field that came later is left out at its default: rules that do not use it keep their fingerprint.
ALWAYS_IN = {
    "Op": "id always enters moves acts_in min_age requires waived_by disabled_by disabled seed_limit blocked_by uses",
    "Head": "name choices legal switch closed opened_by by_op canonical",
    "MaskRules": "name stages transitions empty op_rules heads features switches slot_ids",
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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        always_in = ALWAYS_IN.get(type(value).__name__, "").split()
        held = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return tuple((f.name, _plain(v)) for f, v in held if f.name in always_in or not _is_default(f, v))
    return value


def _is_default(field: "dataclasses.Field[object]", held: object) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return held == field.default_factory()
    return field.default is not dataclasses.MISSING and held == field.default
