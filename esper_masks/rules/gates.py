"""Gates: what an op needs besides a stage. One class a gate, with all that anyone knows of it.

Each method answers one question about an op, and answers nothing for an op without that gate. What a gate says in plain
Python, ``verdict`` to the oracle and ``sentences`` to people, shares the fields of ``Op`` with what it gives to the
engine in ``closes``, and nothing else. So the oracle can catch the engine.

``closes`` gives operators and numbers. They serve the tensors of a batch and the plain numbers of one environment, and
nothing here imports torch. Ops with an equal ``InSlot`` or ``InRow`` share one operation of the engine. PRUNE (bit 3)
of ``esper-2026-06`` needs age >= 5 and alpha_mode HOLD, SET_ALPHA_TARGET (bit 2) alpha_mode HOLD; the program is

    column 1 (age)         <   5   clears 0b001000
    column 2 (alpha_mode)  !=  0   clears 0b001100
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import product
from operator import gt, lt, ne
from typing import Any, NamedTuple

from esper_masks.rules.names import AGE, STAGE, WORD_BITS
from esper_masks.rules.parts import Op

SEED_LIMIT = "seed limit"  # what a gate reads that is not a feature of a slot


class Scope(NamedTuple):
    """What the rules around an op have."""

    stages: type[IntEnum]
    legal: frozenset[IntEnum]  # the stages in which the op may act
    features: Mapping[str, type[IntEnum]]
    switches: Mapping[str, Sequence[object]]


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
    max_seeds: Any
    limited: Any  # whether the limit counts; False: nowhere; True: everywhere


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
    """The base of all gates: one that is never there."""

    fields: tuple[str, ...] = ()  # of ``Op``; there is no gate while they are at their defaults

    def contradictions(self, op: Op, scope: Scope) -> Iterator[str]:
        """Reasons to refuse the rules, to be read behind the name of the op."""
        yield from ()

    def resolve(self, op: Op, setting: Mapping[str, object]) -> dict[str, Any]:
        """The fields of the op that change once switches are set."""
        return {}

    def never(self, op: Op) -> str | None:
        """Why the rules alone forbid the op, in every slot and stage."""
        return None

    def verdict(self, op: Op, place: Place) -> str | None:
        """Why the op is illegal in a slot whose stage permits it."""
        return None

    def sentences(self, op: Op) -> Iterator[str]:
        """What the op needs, in words."""
        yield from ()

    def edges(self, op: Op) -> Iterator[tuple[str, int]]:
        """Each feature and value at which the verdict may change."""
        yield from ()

    def seeds(self, op: Op) -> Iterator[tuple[int, int]]:
        """Seeds so far and their limit, on all sides of where the verdict changes."""
        yield from ()

    def closes(self, op: Op) -> Iterator[InSlot | InRow]:
        """The arithmetic of the engine."""
        yield from ()


class Disabled(Gate):
    """The op keeps its index and is never legal."""

    fields = ("disabled",)

    def never(self, op: Op) -> str | None:
        return "a rule switch disables it" if op.disabled else None

    def sentences(self, op: Op) -> Iterator[str]:
        if op.disabled:
            yield "never legal"


class MinAge(Gate):
    """The seed must have reached an age."""

    fields = ("min_age",)

    def verdict(self, op: Op, place: Place) -> str | None:
        age = place.slot[AGE]
        return f"age {age} < {op.min_age}" if op.min_age is not None and age < op.min_age else None

    def sentences(self, op: Op) -> Iterator[str]:
        if op.min_age is not None:
            yield f"age >= {op.min_age}"

    def edges(self, op: Op) -> Iterator[tuple[str, int]]:
        if op.min_age is not None:
            yield AGE, op.min_age

    def closes(self, op: Op) -> Iterator[InSlot]:
        if op.min_age is not None:
            yield InSlot(AGE, lt, op.min_age)


class MaxAge(Gate):
    """The seed must not be older than an age."""

    fields = ("max_age",)

    def contradictions(self, op: Op, scope: Scope) -> Iterator[str]:
        if op.max_age is not None and op.min_age is not None and op.max_age < op.min_age:
            yield f"can never be legal: max_age={op.max_age} is below min_age={op.min_age}; raise max_age"

    def verdict(self, op: Op, place: Place) -> str | None:
        age = place.slot[AGE]
        return f"age {age} > {op.max_age}" if op.max_age is not None and age > op.max_age else None

    def sentences(self, op: Op) -> Iterator[str]:
        if op.max_age is not None:
            yield f"age <= {op.max_age}"

    def edges(self, op: Op) -> Iterator[tuple[str, int]]:
        if op.max_age is not None:
            yield AGE, op.max_age

    def closes(self, op: Op) -> Iterator[InSlot]:
        if op.max_age is not None:
            yield InSlot(AGE, gt, op.max_age)


class Requires(Gate):
    """Features must have certain values, unless a switch waives it."""

    fields = ("requires", "waived_by")

    def contradictions(self, op: Op, scope: Scope) -> Iterator[str]:
        if op.waived_by is not None and not op.requires:
            yield f"has waived_by={op.waived_by!r} and requires nothing that it could waive"
        for feature, value in op.requires.items():
            if feature not in scope.features:
                yield f"requires feature {feature!r}; the features are: {', '.join(scope.features) or 'none'}"
            elif not isinstance(value, scope.features[feature]):
                allowed = ", ".join(member.name for member in scope.features[feature])
                yield f"can never be legal: {feature} is never {value.name}, only {allowed}"
        yield from _no_switch(op.waived_by, scope)

    def resolve(self, op: Op, setting: Mapping[str, object]) -> dict[str, Any]:
        waived = op.waived_by is not None and setting[op.waived_by]
        return {"waived_by": None} | ({"requires": {}} if waived else {})

    def verdict(self, op: Op, place: Place) -> str | None:
        for feature, needed in op.requires.items():
            if (value := place.slot[feature]) != needed:
                held = next((member.name for member in type(needed) if member == value), value)
                return f"{feature} {held}, needs {needed.name}"
        return None

    def sentences(self, op: Op) -> Iterator[str]:
        waived = f", unless {op.waived_by}" if op.waived_by else ""
        yield from (f"{feature} {value.name}{waived}" for feature, value in op.requires.items())

    def edges(self, op: Op) -> Iterator[tuple[str, int]]:
        yield from op.requires.items()

    def closes(self, op: Op) -> Iterator[InSlot]:
        yield from (InSlot(feature, ne, int(value)) for feature, value in op.requires.items())


class SeedLimit(Gate):
    """There must be fewer seeds than the limit of the environment."""

    fields = ("seed_limit",)

    def verdict(self, op: Op, place: Place) -> str | None:
        if not op.seed_limit or place.max_seeds <= 0:
            return None
        if place.total_seeds is None:
            raise ValueError("a seed limit needs total_seeds")
        full = place.total_seeds >= place.max_seeds
        return f"seed limit {place.total_seeds} of {place.max_seeds}" if full else None

    def sentences(self, op: Op) -> Iterator[str]:
        if op.seed_limit:
            yield "below the seed limit"

    def seeds(self, op: Op) -> Iterator[tuple[int, int]]:
        if op.seed_limit:
            yield from ((1, 2), (2, 2), (3, 2), (3, 0))

    def closes(self, op: Op) -> Iterator[InRow]:
        if op.seed_limit:
            yield InRow(SEED_LIMIT, _full)


def _full(row: Row, bit: int) -> Any:
    if row.limited is False:
        return None
    full = row.total_seeds >= row.max_seeds
    return full if row.limited is True else full & row.limited


class BlockedBy(Gate):
    """No enabled slot may be in one of some stages."""

    fields = ("blocked_by",)

    def contradictions(self, op: Op, scope: Scope) -> Iterator[str]:
        for stage in op.blocked_by:
            if not isinstance(stage, scope.stages):
                known = ", ".join(member.name for member in scope.stages)
                yield f"names {stage.name}, which is no stage; the stages are {known}"
        if scope.legal and scope.legal <= set(op.blocked_by):
            yield "can never be legal: every stage it acts in also blocks it"

    def verdict(self, op: Op, place: Place) -> str | None:
        for slot, (row, enabled) in enumerate(zip(place.slots, place.enabled)):
            for stage in op.blocked_by:
                if enabled and row[0] == stage:
                    where = slot if place.slot_ids is None else place.slot_ids[slot]
                    return f"slot {where} is {stage.name}, which blocks it everywhere"
        return None

    def sentences(self, op: Op) -> Iterator[str]:
        if op.blocked_by:
            yield f"no enabled slot in {', '.join(stage.name for stage in op.blocked_by)}"

    def closes(self, op: Op) -> Iterator[InRow]:
        if op.blocked_by:
            yield InRow(STAGE, _blocked, frozenset(op.blocked_by))


def _blocked(row: Row, bit: int) -> Any:
    return (row.union & bit) != 0


class DisabledBy(Gate):
    """A switch disables the op, once it is set."""

    fields = ("disabled_by",)

    def contradictions(self, op: Op, scope: Scope) -> Iterator[str]:
        yield from _no_switch(op.disabled_by, scope)

    def resolve(self, op: Op, setting: Mapping[str, object]) -> dict[str, Any]:
        disabled = op.disabled_by is not None and setting[op.disabled_by]
        return {"disabled_by": None} | ({"disabled": True} if disabled else {})

    def sentences(self, op: Op) -> Iterator[str]:
        if op.disabled_by:
            yield f"never with {op.disabled_by}"


GATES: tuple[Gate, ...] = (Disabled(), MinAge(), MaxAge(), Requires(), SeedLimit(), BlockedBy(), DisabledBy())
"""All gates, in the order in which a reason is looked for, and in which people read them."""


def _no_switch(name: str | None, scope: Scope) -> Iterator[str]:
    """Why a name is no switch of False and True."""
    if name is not None and name not in scope.switches:
        yield f"names the switch {name!r}; the switches are: {', '.join(scope.switches) or 'none'}"
    elif name is not None and sorted(map(repr, scope.switches[name])) != ["False", "True"]:
        yield f"needs {name!r} to be a switch of False and True, not {scope.switches[name]}"


# -- of all gates -----------------------------------------------------------------------------------------------------


def sentences(op: Op) -> Iterator[str]:
    """What an op needs besides a stage, in words."""
    for gate in GATES:
        yield from gate.sentences(op)


def lift(op: Op, known: Collection[str]) -> Op:
    """The op without its gates that read anything but what is known."""
    blank = Op(op.id)
    lifted = (gate for gate in GATES if any(part.reads not in known for part in gate.closes(op)))
    return replace(op, **{field: getattr(blank, field) for gate in lifted for field in gate.fields})


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
    """The gates of all ops in index order, equal ones merged."""
    merged: dict[InSlot | InRow, int] = {}
    for gate, op in product(GATES, ops):
        for part in gate.closes(op):
            merged[part] = merged.get(part, 0) | 1 << op.id
    bits = watched_bits(ops)
    return Program(
        slot=tuple(
            SlotStep(feature_names.index(part.reads), part.compare, part.value, word)
            for part, word in merged.items()
            if isinstance(part, InSlot)
        ),
        row=tuple(
            RowStep(part.closed, bits.get(part.watches, 0), word)
            for part, word in merged.items()
            if isinstance(part, InRow)
        ),
        limited=any(isinstance(part, InRow) and part.reads == SEED_LIMIT for part in merged),
    )


def watched_bits(ops: Sequence[Op]) -> dict[frozenset[IntEnum], int]:
    """Bits of a word above those of the ops: one for each distinct set of stages that gates watch, in op order."""
    parts = (part for gate, op in product(GATES, ops) for part in gate.closes(op))
    watched = dict.fromkeys(part.watches for part in parts if isinstance(part, InRow) and part.watches)
    return {stages: 1 << bit for bit, stages in enumerate(watched, start=len(ops))}


def width_contradictions(ops: Sequence[Op]) -> Iterator[str]:
    """Why one word cannot hold the ops and what their gates watch."""
    watched = len(watched_bits(ops))
    if (bits := len(ops) + watched) > WORD_BITS:
        yield f"{len(ops)} ops and {watched} sets of blocking stages need {bits} bits; a word has {WORD_BITS}"
