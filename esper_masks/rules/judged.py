"""What guards and gates judge, what they become for the engine, and the base of them all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from esper_masks.rules.bounds import Runs
from esper_masks.rules.fields import FrozenMapping, listed
from esper_masks.rules.names import STAGE

KIND = "kind"  # what a gate reads that is not a feature of a slot


class Scope(NamedTuple):
    """What the rules around an op have, or those around a head whose choices are slots."""

    stages: type[IntEnum]
    legal: frozenset[IntEnum]  # the stages in which the op may act, or which a target may have
    features: Mapping[str, Any]  # name -> its values
    switches: Mapping[str, Sequence[object]]
    rows: Mapping[str, Any] = FrozenMapping()  # name of a value of the environment -> its values
    kinds: Mapping[str, Sequence[str]] = FrozenMapping()
    in_slot: bool = True  # whether the op acts in a slot

    def not_stages(self, members: Iterable[IntEnum]) -> Iterator[str]:
        """Why members that should be stages are none."""
        for member in members:
            if not isinstance(member, self.stages):
                yield f"names {member.name}, which is no stage; the stages are {listed(self.stages)}"

    def not_a_switch(self, name: str) -> Iterator[str]:
        """Why a name is no switch of False and True."""
        if name not in self.switches:
            yield f"names the switch {name!r}; the switches are: {', '.join(self.switches) or 'none'}"
        elif sorted(map(repr, self.switches[name])) != ["False", "True"]:
            yield f"needs {name!r} to be a switch of False and True, not {self.switches[name]}"

    def not_a_kind(self, name: str) -> Iterator[str]:
        """Why a name is no kind of slots."""
        if name not in self.kinds:
            yield f"wants the kind {name!r}; the kinds are: {', '.join(self.kinds) or 'none'}"


class Place(NamedTuple):
    """A slot of one environment, in Python integers; or the environment alone, for an op that acts in no slot."""

    slots: Sequence[Sequence[int]]  # features of every slot, the stage first
    enabled: Sequence[bool]
    slot_ids: Sequence[str] | None = None
    total_seeds: int | None = None
    max_seeds: int = 0  # 0 or less for none
    rows: Mapping[str, int] = FrozenMapping()
    kinds: Mapping[str, Sequence[int]] = FrozenMapping()  # name -> the slots of that kind
    at: int | None = None  # the slot
    slot: Mapping[str, int] = FrozenMapping()  # its features, stage and age among them

    @property
    def where(self) -> str:
        """What the slot is called."""
        return f"slot {self.at}" if self.slot_ids is None else self.slot_ids[self.at or 0]

    def row(self, name: str) -> int:
        """A value of the environment.

        Raises:
            ValueError: it was not given.
        """
        if name not in self.rows:
            raise ValueError(f"the rules need the row {name!r}: row={{{name!r}: ...}}")
        return self.rows[name]


class InSlot(NamedTuple):
    """A gate of each slot by itself, closed where a feature lies ``outside`` the runs."""

    reads: str  # the feature
    runs: Runs
    stage: int | None = None  # closed in this stage alone; None: in every stage
    unless: str | None = None  # a row that waives it where it is true


class InCount(NamedTuple):
    """A gate closed where the number of enabled slots in some stages lies ``outside`` the runs."""

    watches: frozenset[IntEnum]
    others: bool  # less the slot that is judged
    runs: Runs
    stage: int | None = None
    unless: str | None = None
    kind: str | None = None  # slots of this kind count; None: all
    reads: str = STAGE


class InRow(NamedTuple):
    """A gate of a whole environment, closed where a value of it lies ``outside`` the runs."""

    reads: str  # the row
    runs: Runs
    unless: str | None = None


class InKind(NamedTuple):
    """A gate closed in every slot that is of none of some kinds."""

    kinds: tuple[str, ...]
    unless: str | None = None
    reads: str = KIND


class InAny(NamedTuple):
    """A gate closed where each of some guards is; a guard is closed where one of its own parts is.

    The parts of its guards are of the kinds above, and have no ``unless``.
    """

    guards: tuple[tuple[Any, ...], ...]
    unless: None = None


def plain_parts(part: Any) -> Iterator[Any]:
    """The parts that compare something: the part itself, or those of the guards of an ``InAny``."""
    if isinstance(part, InAny):
        for parts in part.guards:
            yield from parts
    else:
        yield part


def reads(part: Any) -> set[str]:
    """What a part looks at: features, rows, ``KIND``, or what else a gate may read."""
    found: set[str] = set()
    for one in plain_parts(part):
        found |= {one.reads, *([] if one.unless is None else [one.unless])}
        found |= {KIND} if isinstance(one, InCount) and one.kind is not None else set()
    return found


class Guard:
    """What an op needs besides a stage. The base of all guards and gates."""

    def contradictions(self, scope: Scope) -> Iterator[str]:
        """Reasons to refuse the rules, to be read behind the name of the op."""
        yield from ()

    def verdict(self, place: Place, scope: Scope) -> str | None:
        """Why the op is illegal in a slot whose stage permits it, or in an environment."""
        return None

    def as_guards(self) -> Iterator["Guard"]:
        """The guards that say the same: this one, or those of which it is the short form."""
        yield self

    def sentences(self) -> Iterator[str]:
        """What the op needs, in words."""
        yield from ()

    def closes(self, scope: Scope) -> Iterator[Any]:
        """The arithmetic of the engine, for an op of resolved rules."""
        yield from ()
