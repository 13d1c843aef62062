"""What the fields of rules may hold: each value is checked and frozen on the way in. Standard library only.

The annotation of a field says what it takes, and nothing else does. It is made of ``bool``, ``int`` of 32 bits,
``str``, ``IntEnum`` for a member, ``Number`` for an int or a member that stands for one, ``type[IntEnum]`` for an enum,
``Any`` for what can be hashed, parts of rules, sequences, tuples of a fixed length and mappings. With ``None`` goes one
type or, where there may be more to say, a second, which is a mapping.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields
from enum import IntEnum
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from esper_masks.errors import RulesError
from esper_masks.rules.names import INT32

K = TypeVar("K")
V = TypeVar("V")
Member = Annotated[Any, IntEnum]  # a key; to type checkers, a dict of the members of one enum has no IntEnum for keys
DOMAIN = "domain"
NUMBER = "number"
Number = Annotated[Any, NUMBER]  # a value that can be compared, or the member of an IntEnum that stands for it
Domain = Annotated[Any, DOMAIN]  # what a feature or a row may hold: the values of an IntEnum, int or bool


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


def take_fields(part: Any, kind: type[Any], where: str) -> None:
    """Put the frozen form of each field in its place.

    Args:
        part: a part of rules.
        kind: its class, whose annotations count. A class derived from it may have fields of any type.
        where: what the part is called.

    Raises:
        RulesError: a value of another type; names the part, the field, the value and what was wanted.
    """
    for field in fields(kind):
        value = frozen(f"{where}: {field.name}", getattr(part, field.name), field.type)
        object.__setattr__(part, field.name, value)


def frozen(at: str, value: Any, wanted: Any) -> Any:
    """The form in which a value is kept, if it is of the type that an annotation wants.

    Args:
        at: the place, for the message.
        value: what was given.
        wanted: an annotation.

    Raises:
        RulesError: a value of another type.
    """
    kind, inner = get_origin(wanted), get_args(wanted)
    if NoneType in inner:
        types = [one for one in inner if one is not NoneType]
        return None if value is None else frozen(at, value, types[-1] if isinstance(value, Mapping) else types[0])
    if kind is Annotated:
        return frozen(at, value, inner[1])
    if kind is Literal:
        if value not in inner:
            raise _wrong(at, value, " or ".join(map(repr, inner)))
        return value
    if kind is Sequence:
        # sets have no order: it differs from process to process
        if isinstance(value, (str, bytes, Set, Mapping)) or not isinstance(value, Iterable):
            raise _wrong(at, value, "a sequence such as a tuple")
        return tuple(frozen(f"{at}[{index}]", item, inner[0]) for index, item in enumerate(value))
    if kind is tuple:
        if not isinstance(value, (tuple, list)) or len(value) != len(inner):
            raise _wrong(at, value, f"a tuple of {len(inner)}")
        return tuple(frozen(f"{at}[{index}]", item, one) for index, (item, one) in enumerate(zip(value, inner)))
    if kind is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(at, value, "a mapping")
        return FrozenMapping(
            (frozen(f"{at}, a key,", key, inner[0]), frozen(f"{at}[{show(key)}]", item, inner[1]))
            for key, item in value.items()
        )
    if not is_a(value, wanted):
        name = getattr(wanted, "__name__", "")
        raise _wrong(at, value, WANTED.get(wanted) or f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")
    return value


def show(value: object) -> str:
    """A member by its name, anything else as it prints."""
    return value.name if isinstance(value, IntEnum) else repr(value)


def listed(members: Iterable[IntEnum]) -> str:
    """Members by their names, as a list in a sentence."""
    return ", ".join(member.name for member in members)


def either(words: Iterable[str]) -> str:
    """Words as a choice in a sentence."""
    *most, last = list(words) or ["none"]
    return f"{', '.join(most)} or {last}" if most else last


def values_of(domain: Any) -> tuple[int, ...] | None:
    """The numbers that a feature or a row may hold; None for any."""
    if domain is int:
        return None
    return (0, 1) if domain is bool else tuple(map(int, domain))


def told_values(domain: Any) -> str:
    """What a feature or a row may hold, in words."""
    known = values_of(domain)
    return WANTED[int] if known is None else either(name_of(domain, value) for value in known)


def name_of(domain: Any, value: int) -> str:
    """The name of a value, or the integer where it has none."""
    if value not in (values_of(domain) or ()):
        return str(value)
    return str(value == 1) if domain is bool else str(domain(value).name)


WANTED: dict[Any, str] = {
    bool: "True or False",  # a string would be true whatever it says
    int: "a 32-bit integer",  # what a slot state can hold
    str: "a string",
    IntEnum: "a member of an IntEnum",
    type[IntEnum]: "an IntEnum class with members",
    DOMAIN: "an IntEnum class with members, int or bool",
    NUMBER: "a 32-bit integer or a member of an IntEnum",
    Any: "hashable",  # a value that can be a key, and by which rules can be compared
}


def is_a(value: Any, wanted: Any) -> bool:
    """Whether a value is of the type that an annotation, or of those that a domain, wants."""
    if wanted is Any:
        try:
            hash(value)
        except TypeError:
            return False
        return True
    if wanted == NUMBER and isinstance(value, IntEnum):
        return int(value) in INT32  # a range looks for a member one by one
    if wanted in (int, NUMBER):
        return type(value) is int and value in INT32
    if wanted in (type[IntEnum], DOMAIN):
        named = isinstance(value, type) and issubclass(value, IntEnum) and len(value) > 0
        return named or (wanted == DOMAIN and value in (int, bool))
    return isinstance(value, wanted)


def _wrong(at: str, value: object, wanted: str) -> RulesError:
    got = f"{type(value).__name__}.{value.name}" if isinstance(value, IntEnum) else f"{value!r:.80}"
    return RulesError(f"{at} must be {wanted}, got {got}")
