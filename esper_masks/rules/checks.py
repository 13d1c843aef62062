"""Every way in which the parts of a rule set can contradict one another, but for heads: see ``head_checks``.

What is wrong with one gate alone is in ``gates`` and ``guards``.

Each function yields the reasons to refuse a part, and has what it reads as arguments. Only the first reason is told: a
later one may take for granted what an earlier one denies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import IntEnum
from typing import Any

from esper_masks.rules.fields import is_a, listed, show, told_values, values_of
from esper_masks.rules.gates import gates_of
from esper_masks.rules.guards import Bounded, Count, never_together
from esper_masks.rules.judged import Guard, Scope
from esper_masks.rules.names import AGE, ENGINE_ARGUMENTS, INT32, MAX_OPS, MAX_STAGE, OP, SLOT, STAGE
from esper_masks.rules.parts import Head, Op

Transitions = Mapping[Any, Sequence[IntEnum]]
Switches = Mapping[str, Sequence[object]]


def in_stages(stages: type[IntEnum], transitions: Transitions, empty: IntEnum) -> Iterator[str]:
    yield from _aliases(stages, "stages")
    for stage in stages:
        if not 0 <= stage <= MAX_STAGE:
            yield f"stage {stage.name} = {int(stage)} is outside 0..{MAX_STAGE}"
        if stage not in transitions:
            yield f"stage {stage.name} has no entry in transitions; give () if nothing follows it"
    for stage, targets in transitions.items():
        for member in (stage, *targets):
            if not isinstance(member, stages):
                yield f"transition {stage.name} -> {member.name}: {member.name} is no stage"
    if not isinstance(empty, stages):
        yield f"empty={empty.name} is no stage; the stages are {listed(stages)}"


def in_features(features: Mapping[str, Any]) -> Iterator[str]:
    for feature, values in features.items():
        if feature in (STAGE, AGE):
            yield f"feature {feature!r} needs a name of its own"
        yield from _in_domain(values, f"feature {feature!r}")
        if 0 not in (values_of(values) or (0,)):
            yield f"feature {feature!r} has no value 0, which an empty slot holds"


def in_rows(rows: Mapping[str, Any], switches: Switches) -> Iterator[str]:
    for row, values in rows.items():
        yield from _in_domain(values, f"row {row!r}")
        if row in switches:
            yield f"{row!r} is both a switch and a row; a switch is set once, a row changes with the environment"


def in_kinds(kinds: Mapping[str, Sequence[str]], slot_ids: Sequence[str]) -> Iterator[str]:
    for kind, slots in kinds.items():
        if len(set(slots)) != len(slots):
            yield f"kind {kind!r} names a slot twice: {', '.join(slots)}"
        for slot in slots:
            if slot_ids and slot not in slot_ids:
                yield f"kind {kind!r} names no slot: {slot!r}; the slots are {', '.join(slot_ids)}"


def _in_domain(values: Any, what: str) -> Iterator[str]:
    if values in (int, bool):
        return
    yield from _aliases(values, what)
    if not all(int(value) in INT32 for value in values):
        yield f"{what} has a value that is no 32-bit integer"


def in_switches(switches: Switches) -> Iterator[str]:
    for switch, choices in switches.items():
        if not choices:
            yield f"switch {switch!r} has no values"
        if switch in ENGINE_ARGUMENTS:
            yield f"switch {switch!r} has the name of an argument of the engine"


def in_op_numbers(ops: Sequence[Op]) -> Iterator[str]:
    """Unless the ops are those of one enum, numbered from 0 without gaps."""
    if not ops:
        yield "there are no ops"
    enum = type(ops[0].id)
    yield from _aliases(enum, "ops")
    seen: dict[int, Op] = {}
    for op in ops:
        if not isinstance(op.id, enum):
            yield f"op {op.name} is of {type(op.id).__name__}, the others of {enum.__name__}"
        if int(op.id) in seen:
            yield f"two ops with the index {int(op.id)}: {seen[int(op.id)].name} and {op.name}"
        seen[int(op.id)] = op
    for member in enum:
        if int(member) not in seen:
            yield f"op {member.name} has no rule"
    if sorted(seen) != list(range(len(seen))):
        yield f"op indices must be 0..{len(seen) - 1} without gaps, got {sorted(seen)}"


def in_ops(ops: Sequence[Op]) -> Iterator[str]:
    """Unless every row has a legal action, and the ops fit a word."""
    if len(ops) > MAX_OPS:
        yield (
            f"{len(ops)} ops; a word has bits for {MAX_OPS}. Make one op of those that are legal together, "
            "with a head that says which of them it is"
        )
    if not any(op.always and SLOT not in op.uses for op in ops):
        yield (
            "no op is always legal without a slot, so a row could be left without a legal action; "
            "mark one always=True that does not use 'slot'"
        )


def in_op(op: Op, scope: Scope, transitions: Transitions, heads: Mapping[str, Head], empty: IntEnum) -> Iterator[str]:
    """Reasons to be read behind the name of the op."""
    moving = op.names_stages
    if op.always:
        if any((moving, op.disabled, op.when, *gates_of(op))):
            yield "is always legal, so it can have neither stages nor gates"
    elif op.enters is not None and op.moves:
        yield "has both enters and moves; write the edge of enters into moves"
    named = (op.enters, *op.moves, *op.moves.values(), *op.acts_in)
    yield from scope.not_stages(stage for stage in named if stage is not None)
    yield from in_moves(op.moves, transitions)
    for stage in op.acts_in:
        if stage in op.moves or op.enters in transitions[stage]:
            target = show(op.moves.get(stage, op.enters))
            yield f"acts in {stage.name} without moving, and moves {stage.name} -> {target}; take one of the two away"
    yield from in_guards((*gates_of(op), *op.when), scope)
    if not op.disabled and not scope.legal:
        if not moving:
            yield "can never be legal: it names no stage"
        elif not (op.moves or op.acts_in or any(op.enters in targets for targets in transitions.values())):
            yield f"can never be legal: no stage moves to {show(op.enters)}"
        yield "can never be legal: its guards of the stage leave none of its stages"
    if not (op.always or op.disabled or op.in_slot or op.uses or any(gates_of(op))):
        yield "names no stage, no head and no guard; what is always legal says always=True"
    yield from _in_uses(op, heads)
    if op.sets and SLOT not in op.uses:
        yield f"sets {', '.join(map(repr, op.sets))}, and uses no slot; add {SLOT!r} to uses"
    yield from in_sets(op.sets, {op.enters, *op.moves.values(), *op.acts_in} - {None}, scope.features, empty)


def _in_uses(op: Op, heads: Mapping[str, Head]) -> Iterator[str]:
    for name in op.uses:
        if name == OP or name not in heads:
            yield f"uses {name!r}; it may use {', '.join(n for n in heads if n != OP)}"
        if heads[name].dynamic and SLOT not in op.uses:
            yield f"uses {name!r}, whose choices depend on the slots, so it must use 'slot' as well"


def in_moves(moves: Mapping[Any, IntEnum], transitions: Transitions) -> Iterator[str]:
    """Edges that the transitions do not have."""
    for source, target in moves.items():
        if target not in transitions[source]:
            yield f"moves {source.name} -> {target.name}, which transitions do not permit"


def in_sets(
    sets: Mapping[str, Any], leaves: Set[IntEnum | None], features: Mapping[str, Any], empty: IntEnum
) -> Iterator[str]:
    """Values that a slot cannot have afterwards.

    Args:
        sets: feature -> value.
        leaves: the stages in which the slot is left, as far as the part names any.
        features: those of the rules.
        empty: the stage of an empty slot.
    """
    for feature, value in sets.items():
        if feature not in features:
            hint = {STAGE: "; moves changes the stage", AGE: "; the age is kept, and 0 in a slot that was empty"}
            known = ", ".join(features) or "none"
            yield f"sets {feature!r}; the features are: {known}{hint.get(feature, '')}"
        if not is_a(value, features[feature]):
            yield f"sets {feature!r} to {show(value)}, which it never is; it is {told_values(features[feature])}"
    if sets and leaves == {empty}:
        yield f"sets {', '.join(map(repr, sets))}, and leaves its slot {empty.name}, where all is 0; take it from sets"


def in_guards(guards: Sequence[Guard], scope: Scope) -> Iterator[str]:
    """Guards that contradict the rules, or one another."""
    for guard in dict.fromkeys(guards):
        yield from guard.contradictions(scope)
    yield from never_met(guards, scope)


def never_met(guards: Sequence[Guard], scope: Scope) -> Iterator[str]:
    """Guards that no number meets together."""
    same: dict[object, list[Bounded]] = {}
    for guard in dict.fromkeys(guards):
        for bounded in guard.as_guards():
            if isinstance(bounded, Bounded):
                same.setdefault(bounded.compares, []).append(bounded)
    for together in same.values():
        if len(together) > 1:
            yield from never_together(together, scope)


def too_few_slots(
    judged: Iterable[tuple[str, Sequence[Guard], Scope]], slots: int, of_kind: Mapping[str, int]
) -> Iterator[str]:
    """Reasons why an engine of so many slots, and so many of each kind, could never permit something.

    Of guards within ``Unless`` or ``Any`` nothing is said: what they guard may do without them.

    Args:
        judged: what could never be, with its guards and their scope.
        slots: how many the engine has.
        of_kind: kind -> how many of them are of it.
    """
    for what, guards, scope in judged:
        for guard in guards:
            if isinstance(guard, Count):
                others = slots - (guard.of == "others")
                most = others if guard.kind is None else min(others, of_kind.get(guard.kind, 0))
                stages = scope.legal if guard.bounds.by_stage else {None}
                wanted = min(guard.bounds.ends(stage)[0] or 0 for stage in stages)
                if wanted > most:
                    number = f"{guard.subject} is at most {most}, and {wanted} are needed"
                    yield f"{what}: {number}"


def _aliases(enum: type[IntEnum], what: str) -> Iterator[str]:
    for name, member in enum.__members__.items():
        if name != member.name:
            yield f"{what}: {member.name} and {name} share the index {int(member)}"
