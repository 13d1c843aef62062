"""Gates: what an op needs besides a stage. One class a gate, with all that anyone knows of it.

An op has a gate where one of the gate's fields is not at its default; ``gates_of`` makes the gates of ops. What a gate
says in plain Python, ``verdict`` to the oracle and ``sentences`` to people, shares the fields of ``Op`` with what it
gives to the engine in ``closes``, and nothing else. So the oracle can catch the engine.

``closes`` gives operators and numbers. They serve the tensors of a batch and the plain numbers of one environment, and
nothing here imports torch. Ops with an equal ``InSlot`` or ``InRow`` share one operation of the engine. PRUNE (bit 3)
of ``esper-2026-06`` needs age >= 5 and alpha_mode HOLD, SET_ALPHA_TARGET (bit 2) alpha_mode HOLD; the program is

    column 1 (age)         <   5   clears 0b001000
    column 2 (alpha_mode)  !=  0   clears 0b001100
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import product
from operator import gt, lt, ne
from typing import Any, NamedTuple

from esper_masks.rules.fields import listed, name_of
from esper_masks.rules.names import AGE, STAGE
from esper_masks.rules.parts import Op

SEED_LIMIT = "seed limit"  # what a gate reads that is not a feature of a slot


class Scope(NamedTuple):
    """What the rules around an op have."""

    stages: type[IntEnum]
    legal: frozenset[IntEnum]  # the stages in which the op may act
    features: Mapping[str, type[IntEnum]]
    switches: Mapping[str, Sequence[object]]

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


class Place(NamedTuple):
    """A slot of one environment, in Python integers."""

    slot: Mapping[str, int]  # feature -> value, stage and age among them
    slots: Sequence[Sequence[int]]  # the same of every slot, the stage first
    enabled: Sequence[bool]
    slot_ids: Sequence[str] | None
    total_seeds: int | None
    max_seeds: int  # 0 or less for none


class Row(NamedTuple):
    """One environment in numbers, or a batch of them in tensors ``[...]``."""

    union: Any  # the words of all enabled slots, ORed
    total_seeds: Any
    max_seeds: Any  # 0 or less for none
    each: bool = False  # whether ``max_seeds`` is a tensor, a limit of each environment


class InSlot(NamedTuple):
    """A gate of each slot by itself, closed where ``compare(feature, value)``."""

    reads: str  # the feature
    compare: Callable[[Any, int], Any]
    value: int


class InRow(NamedTuple):
    """A gate of a whole environment, closed where ``closed(row, bit)``; None where that takes no operation.

    The bit is set in ``row.union`` while an enabled slot is in one of the stages ``watches``.
    """

    reads: str
    closed: Callable[[Row, int], Any]
    watches: frozenset[IntEnum] = frozenset()


class Gate:
    """What one op needs besides a stage. The base of all gates.

    Attributes:
        op: the op.
        value: what the first of the fields says.
    """

    fields: tuple[str, ...] = ()  # of ``Op``; there is no gate while they are at their defaults

    def __init__(self, op: Op):
        self.op: Op = op
        self.value: Any = getattr(op, self.fields[0])

    def contradictions(self, scope: Scope) -> Iterator[str]:
        """Reasons to refuse the rules, to be read behind the name of the op."""
        yield from ()

    def resolve(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the op that change once switches are set."""
        return {}

    def verdict(self, place: Place) -> str | None:
        """Why the op is illegal in a slot whose stage permits it."""
        return None

    def sentences(self) -> Iterator[str]:
        """What the op needs, in words."""
        yield from ()

    def closes(self) -> Iterator[InSlot | InRow]:
        """The arithmetic of the engine."""
        yield from ()


class MinAge(Gate):
    """The seed must have reached an age."""

    fields = ("min_age",)

    def verdict(self, place: Place) -> str | None:
        age = place.slot[AGE]
        return f"age {age} < {self.value}" if age < self.value else None

    def sentences(self) -> Iterator[str]:
        yield f"age >= {self.value}"

    def closes(self) -> Iterator[InSlot]:
        yield InSlot(AGE, lt, self.value)


class MaxAge(Gate):
    """The seed must not be older than an age."""

    fields = ("max_age",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        least = self.op.min_age
        if least is not None and self.value < least:
            yield f"can never be legal: max_age={self.value} is below min_age={least}; raise max_age"

    def verdict(self, place: Place) -> str | None:
        age = place.slot[AGE]
        return f"age {age} > {self.value}" if age > self.value else None

    def sentences(self) -> Iterator[str]:
        yield f"age <= {self.value}"

    def closes(self) -> Iterator[InSlot]:
        yield InSlot(AGE, gt, self.value)


class Requires(Gate):
    """Features must have certain values, unless a switch waives it."""

    fields = ("requires", "waived_by")

    def contradictions(self, scope: Scope) -> Iterator[str]:
        waived_by = self.op.waived_by
        if not self.value:
            yield f"has waived_by={waived_by!r} and requires nothing that it could waive"
        for feature, needed in self.value.items():
            if feature not in scope.features:
                yield f"requires feature {feature!r}; the features are: {', '.join(scope.features) or 'none'}"
            elif not isinstance(needed, scope.features[feature]):
                yield f"can never be legal: {feature} is never {needed.name}, only {listed(scope.features[feature])}"
        if waived_by is not None:
            yield from scope.not_a_switch(waived_by)

    def resolve(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        waived = self.op.waived_by is not None and setting[self.op.waived_by]
        return {"waived_by": None, "requires": {} if waived else self.value}

    def verdict(self, place: Place) -> str | None:
        for feature, needed in self.value.items():
            if (value := place.slot[feature]) != needed:
                return f"{feature} {name_of(type(needed), value)}, needs {needed.name}"
        return None

    def sentences(self) -> Iterator[str]:
        waived = f", unless {self.op.waived_by}" if self.op.waived_by else ""
        yield from (f"{feature} {needed.name}{waived}" for feature, needed in self.value.items())

    def closes(self) -> Iterator[InSlot]:
        yield from (InSlot(feature, ne, int(needed)) for feature, needed in self.value.items())


class SeedLimit(Gate):
    """There must be fewer seeds than the limit of the environment."""

    fields = ("seed_limit",)

    def verdict(self, place: Place) -> str | None:
        if place.max_seeds <= 0:
            return None
        if place.total_seeds is None:
            raise ValueError("a seed limit needs total_seeds")
        full = place.total_seeds >= place.max_seeds
        return f"seed limit {place.total_seeds} of {place.max_seeds}" if full else None

    def sentences(self) -> Iterator[str]:
        yield "below the seed limit"

    def closes(self) -> Iterator[InRow]:
        yield InRow(SEED_LIMIT, self.full)

    @staticmethod
    def full(row: Row, bit: int) -> Any:
        if row.each:
            return (row.total_seeds >= row.max_seeds) & (row.max_seeds > 0)
        return row.total_seeds >= row.max_seeds if row.max_seeds > 0 else None


class BlockedBy(Gate):
    """No enabled slot may be in one of some stages."""

    fields = ("blocked_by",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from scope.not_stages(self.value)
        if scope.legal and scope.legal <= set(self.value):
            yield "can never be legal: every stage it acts in also blocks it"

    def verdict(self, place: Place) -> str | None:
        for slot, (row, enabled) in enumerate(zip(place.slots, place.enabled)):
            for stage in self.value:
                if enabled and row[0] == stage:
                    where = slot if place.slot_ids is None else place.slot_ids[slot]
                    return f"slot {where} is {stage.name}, which blocks it everywhere"
        return None

    def sentences(self) -> Iterator[str]:
        yield f"no enabled slot in {listed(self.value)}"

    def closes(self) -> Iterator[InRow]:
        yield InRow(STAGE, self.blocked, frozenset(self.value))

    @staticmethod
    def blocked(row: Row, bit: int) -> Any:
        return (row.union & bit) != 0


class DisabledBy(Gate):
    """A switch disables the op, once it is set."""

    fields = ("disabled_by",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from scope.not_a_switch(self.value)

    def resolve(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        return {"disabled_by": None, "disabled": self.op.disabled or setting[self.value]}

    def sentences(self) -> Iterator[str]:
        yield f"never with {self.value}"


GATES: tuple[type[Gate], ...] = (MinAge, MaxAge, Requires, SeedLimit, BlockedBy, DisabledBy)
"""All gates, in the order in which a reason is looked for, and in which people read them."""


# -- of all gates -----------------------------------------------------------------------------------------------------


def gates_of(*ops: Op) -> Iterator[Gate]:
    """The gates that ops have: gate by gate, each in the order of the ops."""
    for gate, op in product(GATES, ops):
        if any(getattr(op, field) != getattr(Op, field) for field in gate.fields):
            yield gate(op)


def lift(op: Op, known: Collection[str]) -> Op:
    """The op without its gates that read anything but what is known."""
    lifted = (gate for gate in gates_of(op) if any(part.reads not in known for part in gate.closes()))
    return replace(op, **{field: getattr(Op, field) for gate in lifted for field in gate.fields})


class SlotStep(NamedTuple):
    """Clear the ops in each slot where ``compare(column, value)``."""

    column: int
    compare: Callable[[Any, int], Any]
    value: int
    ops: int


class RowStep(NamedTuple):
    """Clear the ops in all slots of each environment where ``closed(row, bit)``; see ``InRow``."""

    closed: Callable[[Row, int], Any]
    bit: int
    ops: int


class Program(NamedTuple):
    """The gates of resolved rules as tuples of numbers and functions, so that a compiler sees constants."""

    slot: tuple[SlotStep, ...]
    row: tuple[RowStep, ...]
    limited: bool  # some op is under the seed limit


def build_program(ops: Sequence[Op], feature_names: Sequence[str]) -> Program:
    """The gates of all ops, equal ones merged."""
    slot: dict[InSlot, int] = {}
    row: dict[InRow, int] = {}
    for gate in gates_of(*ops):
        for part in gate.closes():
            same: dict[Any, int] = slot if isinstance(part, InSlot) else row
            same[part] = same.get(part, 0) | 1 << gate.op.id
    bits = watched_bits(ops)
    return Program(
        slot=tuple(
            SlotStep(feature_names.index(part.reads), part.compare, part.value, word) for part, word in slot.items()
        ),
        row=tuple(RowStep(part.closed, bits.get(part.watches, 0), word) for part, word in row.items()),
        limited=any(op.seed_limit for op in ops),
    )


def watched_bits(ops: Sequence[Op]) -> dict[frozenset[IntEnum], int]:
    """Bits of a word above those of the ops: one for each distinct set of stages that gates watch, in op order."""
    parts = (part for gate in gates_of(*ops) for part in gate.closes())
    watched = dict.fromkeys(part.watches for part in parts if isinstance(part, InRow) and part.watches)
    return {stages: 1 << bit for bit, stages in enumerate(watched, start=len(ops))}
