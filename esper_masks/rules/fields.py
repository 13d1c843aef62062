"""What the fields of rules may hold: each value is checked and frozen on the way in. Standard library only.

A kind is a function of a place, for the message, and a value. It returns the value in the form that is kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from enum import IntEnum
from typing import Any, TypeVar

from esper_masks.errors import RulesError

K = TypeVar("K")
V = TypeVar("V")
Kind = Callable[[str, Any], Any]


class FrozenMapping(Mapping[K, V]):
    """A dict that cannot change, so that rules hash, pickle and compare by value."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()):
        self._items = dict(items)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def take_fields(part: object, where: str, **kinds: Kind) -> None:
    """Put the frozen form of each field in its place.

    Raises:
        RulesError: a value of another type; names the part, the field, the value and what was wanted.
    """
    for field, kind in kinds.items():
        object.__setattr__(part, field, kind(f"{where}: {field}", getattr(part, field)))


def instance(of: type, wanted: str) -> Kind:
    """Values of one type, which are frozen as they are."""

    def take(at: str, value: Any) -> Any:
        if not isinstance(value, of):
            raise _wrong(at, value, wanted)
        return value

    return take


def optional(kind: Kind) -> Kind:
    """The same, or None."""
    return lambda at, value: None if value is None else kind(at, value)


def sequence(kind: Kind) -> Kind:
    """Tuples of anything that has an order. Sets have none, it differs from process to process."""

    def take(at: str, value: Any) -> Any:
        if isinstance(value, (str, bytes, Set, Mapping)) or not isinstance(value, Iterable):
            raise _wrong(at, value, "a sequence such as a tuple")
        return tuple(kind(f"{at}[{index}]", item) for index, item in enumerate(value))

    return take


def mapping(key: Kind, kind: Kind) -> Kind:
    """Frozen mappings."""

    def take(at: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(at, value, "a mapping")
        return FrozenMapping({key(f"{at}, a key,", k): kind(f"{at}[{show(k)}]", v) for k, v in value.items()})

    return take


def flag(at: str, value: Any) -> Any:
    """A bool; a string would be true whatever it says."""
    if not isinstance(value, bool):
        raise _wrong(at, value, "True or False")
    return value


def int32(at: str, value: Any) -> Any:
    """An integer that a slot state can hold."""
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise _wrong(at, value, "a 32-bit integer")
    return value


def int_enum(at: str, value: Any) -> Any:
    """An enum itself, not a member."""
    if not isinstance(value, type) or not issubclass(value, IntEnum) or not len(value):
        raise _wrong(at, value, "an IntEnum class with members")
    return value


def hashable(at: str, value: Any) -> Any:
    """A value that can be a key, and by which rules can be compared."""
    try:
        hash(value)
    except TypeError:
        raise _wrong(at, value, "hashable") from None
    return value


name = instance(str, "a string")
member = instance(IntEnum, "a member of an IntEnum")
names, members = sequence(name), sequence(member)


def choices(at: str, value: Any) -> Any:
    """Names, or names for each value of a switch, or None."""
    return mapping(hashable, names)(at, value) if isinstance(value, Mapping) else optional(names)(at, value)


def show(value: object) -> str:
    """A member by its name, anything else as it prints."""
    return value.name if isinstance(value, IntEnum) else repr(value)


def _wrong(at: str, value: object, wanted: str) -> RulesError:
    got = f"{type(value).__name__}.{value.name}" if isinstance(value, IntEnum) else f"{value!r:.80}"
    return RulesError(f"{at} must be {wanted}, got {got}")
