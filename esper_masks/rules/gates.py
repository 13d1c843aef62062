"""Gates: what an op needs besides a stage. One class a gate, with all that anyone knows of it.

An op has a gate where one of the gate's fields is not at its default, and each guard of ``when`` is one: ``gates_of``
makes them. The fields are short forms of what guards say, see ``guards``, and of what none says. A verdict in plain
Python, for the oracle, and ``closes``, for the engine, share fields and nothing else. So the oracle can catch the
engine.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Any, NamedTuple

from esper_masks.rules.fields import listed, name_of
from esper_masks.rules.guards import Age, Feature
from esper_masks.rules.judged import Guard, InSlot, Place, Scope, reads
from esper_masks.rules.names import AGE, STAGE
from esper_masks.rules.parts import Op, SlotHead

SEED_LIMIT = "seed limit"  # what a gate reads that is neither a feature of a slot nor a row


class Env(NamedTuple):
    """One environment in numbers, or a batch of them in tensors ``[...]``."""

    union: Any  # the words of all enabled slots, ORed
    total_seeds: Any
    max_seeds: Any  # 0 or less for none
    each: bool = False  # whether ``max_seeds`` is a tensor, a limit of each environment


class InEnv(NamedTuple):
    """A gate of a whole environment, closed where ``closed(env, bit)``; None where that takes no operation.

    The bit is set in ``env.union`` while an enabled slot is in one of the stages ``watches``.
    """

    reads: str
    closed: Callable[[Env, int], Any]
    watches: frozenset[IntEnum] = frozenset()
    unless: None = None


class Gate(Guard):
    """A gate that an op has by a field of its own. The base of these gates.

    Attributes:
        op: the op.
        value: what the first of the fields says.
    """

    fields: tuple[str, ...] = ()  # of ``Op``; there is no gate while they are at their defaults

    def __init__(self, op: Op):
        self.op: Op = op
        self.value: Any = getattr(op, self.fields[0])

    def resolve(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the op that change once switches are set."""
        return {}

    def as_guards(self) -> Iterator[Guard]:
        """The guards of which it is the short form, if it is one that nothing waives."""
        yield from ()


class MinAge(Gate):
    """The seed must have reached an age."""

    fields = ("min_age",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from _needs_slot(scope, "min_age")

    def verdict(self, place: Place, scope: Scope) -> str | None:
        age = place.slot[AGE]
        return f"age {age} < {self.value}" if age < self.value else None

    def as_guards(self) -> Iterator[Guard]:
        yield Age(at_least=self.value)

    def sentences(self) -> Iterator[str]:
        yield f"age >= {self.value}"

    def closes(self, scope: Scope) -> Iterator[InSlot]:
        yield InSlot(AGE, ((self.value, None),))


class MaxAge(Gate):
    """The seed must not be older than an age."""

    fields = ("max_age",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from _needs_slot(scope, "max_age")

    def verdict(self, place: Place, scope: Scope) -> str | None:
        age = place.slot[AGE]
        return f"age {age} > {self.value}" if age > self.value else None

    def as_guards(self) -> Iterator[Guard]:
        yield Age(at_most=self.value)

    def sentences(self) -> Iterator[str]:
        yield f"age <= {self.value}"

    def closes(self, scope: Scope) -> Iterator[InSlot]:
        yield InSlot(AGE, ((None, self.value),))


class Requires(Gate):
    """Features must have certain values, unless a switch waives it."""

    fields = ("requires", "waived_by")

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from _needs_slot(scope, "requires")
        waived_by = self.op.waived_by
        if not self.value:
            yield f"has waived_by={waived_by!r} and requires nothing that it could waive"
        for feature, needed in self.value.items():
            if feature not in scope.features:
                yield f"requires feature {feature!r}; the features are: {', '.join(scope.features) or 'none'}"
            elif scope.features[feature] in (int, bool):
                yield f"requires feature {feature!r}, which has no members; guard it by Feature({feature!r}, ...)"
            elif not isinstance(needed, scope.features[feature]):
                yield f"can never be legal: {feature} is never {needed.name}, only {listed(scope.features[feature])}"
        if waived_by is not None:
            yield from scope.not_a_switch(waived_by)

    def resolve(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        waived = self.op.waived_by is not None and setting[self.op.waived_by]
        return {"waived_by": None, "requires": {} if waived else self.value}

    def as_guards(self) -> Iterator[Guard]:
        if self.op.waived_by is None:
            yield from (Feature(feature, in_=(needed,)) for feature, needed in self.value.items())

    def verdict(self, place: Place, scope: Scope) -> str | None:
        for feature, needed in self.value.items():
            if (value := place.slot[feature]) != needed:
                return f"{feature} {name_of(type(needed), value)}, needs {needed.name}"
        return None

    def sentences(self) -> Iterator[str]:
        waived = f", unless {self.op.waived_by}" if self.op.waived_by else ""
        yield from (f"{feature} {needed.name}{waived}" for feature, needed in self.value.items())

    def closes(self, scope: Scope) -> Iterator[InSlot]:
        yield from (InSlot(feature, ((int(needed), int(needed)),)) for feature, needed in self.value.items())


class SeedLimit(Gate):
    """There must be fewer seeds than the limit of the environment."""

    fields = ("seed_limit",)

    def verdict(self, place: Place, scope: Scope) -> str | None:
        if place.max_seeds <= 0:
            return None
        if place.total_seeds is None:
            raise ValueError("a seed limit needs total_seeds")
        full = place.total_seeds >= place.max_seeds
        return f"seed limit {place.total_seeds} of {place.max_seeds}" if full else None

    def sentences(self) -> Iterator[str]:
        yield "below the seed limit"

    def closes(self, scope: Scope) -> Iterator[InEnv]:
        yield InEnv(SEED_LIMIT, self.full)

    @staticmethod
    def full(env: Env, bit: int) -> Any:
        if env.each:
            return (env.total_seeds >= env.max_seeds) & (env.max_seeds > 0)
        return env.total_seeds >= env.max_seeds if env.max_seeds > 0 else None


class BlockedBy(Gate):
    """No enabled slot may be in one of some stages."""

    fields = ("blocked_by",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from scope.not_stages(self.value)
        if scope.legal and scope.legal <= set(self.value):
            yield "can never be legal: every stage it acts in also blocks it"

    def verdict(self, place: Place, scope: Scope) -> str | None:
        for slot, (row, enabled) in enumerate(zip(place.slots, place.enabled)):
            for stage in self.value:
                if enabled and row[0] == stage:
                    where = slot if place.slot_ids is None else place.slot_ids[slot]
                    return f"slot {where} is {stage.name}, which blocks it everywhere"
        return None

    def sentences(self) -> Iterator[str]:
        yield f"no enabled slot in {listed(self.value)}"

    def closes(self, scope: Scope) -> Iterator[InEnv]:
        yield InEnv(STAGE, self.blocked, frozenset(self.value))

    @staticmethod
    def blocked(env: Env, bit: int) -> Any:
        return (env.union & bit) != 0


class DisabledBy(Gate):
    """A switch disables the op, once it is set."""

    fields = ("disabled_by",)

    def contradictions(self, scope: Scope) -> Iterator[str]:
        yield from scope.not_a_switch(self.value)

    def resolve(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        return {"disabled_by": None, "disabled": self.op.disabled or setting[self.value]}

    def sentences(self) -> Iterator[str]:
        yield f"never with {self.value}"


def _needs_slot(scope: Scope, field: str) -> Iterator[str]:
    if not scope.in_slot:
        yield f"acts in no slot, so it can have no {field}"


GATES: tuple[type[Gate], ...] = (MinAge, MaxAge, Requires, SeedLimit, BlockedBy, DisabledBy)
"""All gates, in the order in which a reason is looked for, and in which people read them."""


# -- of all gates -----------------------------------------------------------------------------------------------------


def gates_of(op: Op) -> Iterator[Guard]:
    """The gates that an op has besides its stages: those of its fields, then its guards, in the order of ``when``."""
    for gate in GATES:
        if any(getattr(op, field) != getattr(Op, field) for field in gate.fields):
            yield gate(op)
    yield from op.judges


def lift(op: Op, scope: Scope, known: Collection[str]) -> Op:
    """The op without its gates that read anything but what is known."""
    lifted = [gate for gate in gates_of(op) if not is_known(gate, scope, known)]
    blank = {field: getattr(Op, field) for gate in lifted if isinstance(gate, Gate) for field in gate.fields}
    return replace(op, **blank, when=tuple(guard for guard in op.when if guard not in lifted))


def is_known(gate: Guard, scope: Scope, known: Collection[str]) -> bool:
    """Whether a gate reads nothing but what is known."""
    return all(reads(part) <= set(known) for part in gate.closes(scope))


def parts_of(ops: Sequence[Op], scopes: Sequence[Scope]) -> Iterator[tuple[Op, Any]]:
    """Each op with each part of its gates: short forms gate by gate, each in the order of the ops; then guards."""
    gates = [(op, gate, scope) for op, scope in zip(ops, scopes) for gate in gates_of(op)]
    order: list[type[Any]] = [*GATES]
    gates.sort(key=lambda one: order.index(type(one[1])) if type(one[1]) in order else len(order))
    for op, gate, scope in gates:
        for part in gate.closes(scope):
            yield op, part


def parts_of_targets(heads: Iterable[SlotHead], scopes: Mapping[str, Scope]) -> Iterator[tuple[SlotHead, Any]]:
    """Each head of slots with each part of its guards, which judge the slot that is chosen."""
    for head in heads:
        for guard in head.judges:
            for part in guard.closes(scopes[head.name]):
                yield head, part
