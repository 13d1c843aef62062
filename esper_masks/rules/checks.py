"""Every way in which the parts of a rule set can contradict one another. Those of gates are in ``gates``.

Each function yields the reasons to refuse a part, and has what it reads as arguments. Only the first reason is told: a
later one may take for granted what an earlier one denies.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from esper_masks.rules.fields import listed, show
from esper_masks.rules.gates import Scope, gates_of, watched_bits
from esper_masks.rules.names import AGE, ENGINE_ARGUMENTS, INT32, MASK_NAMES, MAX_STAGE, OP, SLOT, STAGE, WORD_BITS
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


def in_features(features: Mapping[str, type[IntEnum]]) -> Iterator[str]:
    for feature, values in features.items():
        if feature in (STAGE, AGE):
            yield f"feature {feature!r} needs a name of its own"
        yield from _aliases(values, f"feature {feature!r}")
        if not all(int(value) in INT32 for value in values):
            yield f"feature {feature!r} has a value that is no 32-bit integer"
        if 0 not in set(values):
            yield f"feature {feature!r} has no value 0, which an empty slot holds"


def in_switches(switches: Switches) -> Iterator[str]:
    for switch, choices in switches.items():
        if not choices:
            yield f"switch {switch!r} has no values"
        if switch in ENGINE_ARGUMENTS:
            yield f"switch {switch!r} has the name of an argument of the engine"


def in_op_numbers(ops: Sequence[Op]) -> Iterator[str]:
    """Unless the ops are those of one enum, numbered from 0 without gaps, and fit a word."""
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
    watched = len(watched_bits(ops))
    if (bits := len(ops) + watched) > WORD_BITS:
        yield f"{len(ops)} ops and {watched} sets of blocking stages need {bits} bits; a word has {WORD_BITS}"


def in_ops(ops: Sequence[Op]) -> Iterator[str]:
    """Unless every row has a legal action."""
    if not any(op.always and SLOT not in op.uses for op in ops):
        yield (
            "no op is always legal without a slot, so a row could be left without a legal action; "
            "mark one always=True that does not use 'slot'"
        )


def in_op(op: Op, scope: Scope, transitions: Transitions, head_names: Sequence[str]) -> Iterator[str]:
    """Reasons to be read behind the name of the op."""
    moving = any((op.enters is not None, op.moves, op.acts_in))
    if op.always:
        if any((moving, op.disabled, *gates_of(op))):
            yield "is always legal, so it can have neither stages nor gates"
    elif op.enters is not None and op.moves:
        yield "has both enters and moves; write the edge of enters into moves"
    named = (op.enters, *op.moves, *op.moves.values(), *op.acts_in)
    yield from scope.not_stages(stage for stage in named if stage is not None)
    for source, target in op.moves.items():
        if target not in transitions[source]:
            yield f"moves {source.name} -> {target.name}, which transitions do not permit"
    for gate in gates_of(op):
        yield from gate.contradictions(scope)
    if not op.disabled and not scope.legal:
        yield f"can never be legal: {f'no stage moves to {show(op.enters)}' if moving else 'it names no stage'}"
    for name in op.uses:
        if name == OP or name not in head_names:
            yield f"uses {name!r}; it may use {', '.join(n for n in head_names if n != OP)}"


def in_heads(head_names: Sequence[str]) -> Iterator[str]:
    for name in head_names:
        if name in MASK_NAMES:
            yield f"no head can be called {name!r}; masks use the name"
    for name in (SLOT, OP):
        if head_names.count(name) != 1:
            yield f"there must be one head {name!r}, found {head_names.count(name)}"
    if len(set(head_names)) != len(head_names):
        yield f"head names repeat: {', '.join(head_names)}"


def in_head(head: Head, ops: Sequence[Op], switches: Switches) -> Iterator[str]:
    where = f"head {head.name!r}"
    if head.name in (SLOT, OP):
        if any((head.choices, head.legal, head.closed, head.opened_by, head.by_op, head.canonical)):
            yield f"{where} takes its choices and its mask from the slots and the ops; give only its name"
        return
    if not head.choices or len(set(head.choices)) != len(head.choices):
        yield f"{where} needs choices with distinct names, got {head.choices}"
    if isinstance(head.legal, Mapping) != (head.switch is not None):
        yield f"{where}: a switch and a mapping of its values to choices go together"
    if head.switch is not None and head.switch not in switches:
        yield f"{where} names the switch {head.switch!r}; the switches are: {', '.join(switches) or 'none'}"
    by_switch = head.legal if isinstance(head.legal, Mapping) else {}
    if head.switch is not None and set(by_switch) != set(switches[head.switch]):
        yield f"{where}: legal needs one entry for each value of {head.switch!r}"
    options = tuple(by_switch.values()) or (head.open_choices,)
    users = {op.id for op in ops if head.name in op.uses}
    enum = type(ops[0].id)
    for op in (*head.opened_by, *head.by_op):
        if not isinstance(op, enum):
            yield f"{where} names the op {op.name}; the ops are {listed(enum)}"
    if head.by_op and (head.opened_by or head.legal is not None):
        yield f"{where}: by_op says all; it goes with neither legal nor opened_by"
    if head.by_op and set(head.by_op) != users:
        yield f"{where}: by_op must name exactly the ops that use the head: {listed(sorted(users)) or 'none'}"
    if head.closed is None and head.opened_by:
        yield f"{where}: opened_by needs closed, the choices while none of those ops is legal"
    if head.closed is not None and head.opened_by and not users <= set(head.opened_by):
        missing = listed(sorted(users - set(head.opened_by)))
        yield f"{where}: {missing} uses the head and does not open it; add it to opened_by or use by_op"
    if head.closed is not None and not (users or head.opened_by):
        yield f"{where}: nothing opens it; no op uses it"
    for choices in (*options, *head.by_op.values(), *(() if head.closed is None else (head.closed,))):
        if not choices:
            yield f"{where} is left without a legal action"
        for choice in choices:
            if choice not in head.choices:
                yield f"{where} has no choice {choice!r}; it has {', '.join(head.choices)}"
    if head.closed is not None and not head.by_op:
        for choices in options:
            if not set(head.closed) <= set(choices):
                yield f"{where}: closed {tuple(head.closed)} is not among the legal choices {tuple(choices)}"
    if head.canonical is not None and head.canonical not in head.choices:
        yield f"{where}: canonical {head.canonical!r} is no choice of it; it has {', '.join(head.choices)}"


def _aliases(enum: type[IntEnum], what: str) -> Iterator[str]:
    for name, member in enum.__members__.items():
        if name != member.name:
            yield f"{what}: {member.name} and {name} share the index {int(member)}"
