"""Every way in which heads can contradict the rules around them, or one another. See ``checks``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from esper_masks.rules.checks import Switches, Transitions, in_guards, in_moves, in_sets
from esper_masks.rules.fields import is_a, listed, show, told_values
from esper_masks.rules.judged import Scope
from esper_masks.rules.names import BY_SLOT, MASK_NAMES, MAX_HEADS, OP, SLOT, STAGE
from esper_masks.rules.parts import Head, Op, SlotHead


def in_heads(heads: Sequence[Head]) -> Iterator[str]:
    names = [head.name for head in heads]
    if len(names) > MAX_HEADS:
        yield f"{len(names)} heads; there may be {MAX_HEADS}"
    for name in names:
        if name in MASK_NAMES or (name.endswith(BY_SLOT) and name.removesuffix(BY_SLOT) in names):
            yield f"no head can be called {name!r}; masks use the name"
    for name in (SLOT, OP):
        if names.count(name) != 1:
            yield f"there must be one head {name!r}, found {names.count(name)}"
    if len(set(names)) != len(names):
        yield f"head names repeat: {', '.join(names)}"


def in_slot_head(head: SlotHead, scope: Scope, transitions: Transitions, empty: IntEnum) -> Iterator[str]:
    """Reasons to be read behind the name of the head."""
    if head.name in (SLOT, OP):
        yield ": that is the name of the first slot and of the op; give a second slot a name of its own"
    yield from (f" {reason}" for reason in scope.not_stages((*head.moves, *head.moves.values())))
    yield from (f" {reason}" for reason in in_moves(head.moves, transitions))
    yield from (f" {reason}" for reason in in_guards(head.when, scope))
    if not scope.legal:
        yield ": no slot can ever be its choice, since its guards leave no stage"
    yield from (f" {reason}" for reason in in_sets(head.sets, set(head.moves.values()), scope.features, empty))


def in_head(
    head: Head, ops: Sequence[Op], switches: Switches, features: Mapping[str, Any], stages: type[IntEnum]
) -> Iterator[str]:
    """Reasons to be read behind the name of the head."""
    if head.name in (SLOT, OP):
        if any((head.choices, head.legal, head.closed, head.opened_by, head.by_op, head.canonical, head.by_slot)):
            yield " takes its choices and its mask from the slots and the ops; give only its name"
        return
    if not head.choices or len(set(head.choices)) != len(head.choices):
        yield f" needs choices with distinct names, got {head.choices}"
    if isinstance(head.legal, Mapping) != (head.switch is not None):
        yield ": a switch and a mapping of its values to choices go together"
    if head.switch is not None and head.switch not in switches:
        yield f" names the switch {head.switch!r}; the switches are: {', '.join(switches) or 'none'}"
    by_switch = head.legal if isinstance(head.legal, Mapping) else {}
    if head.switch is not None and set(by_switch) != set(switches[head.switch]):
        yield f": legal needs one entry for each value of {head.switch!r}"
    options = _options(head)
    users = {op.id for op in ops if head.name in op.uses}
    enum = type(ops[0].id)
    for op in (*head.opened_by, *head.by_op):
        if not isinstance(op, enum):
            yield f" names the op {op.name}; the ops are {listed(enum)}"
    if head.by_op and head.opened_by:
        yield ": by_op says under which ops it is open; it does not go with opened_by"
    if head.by_op and set(head.by_op) != users:
        yield f": by_op must name exactly the ops that use the head: {listed(sorted(users)) or 'none'}"
    if head.by_slot and (head.closed is not None or head.opened_by):
        yield ": closed and opened_by are of the whole environment; they go with neither by_stage nor by_feature"
    if head.closed is None and head.opened_by:
        yield ": opened_by needs closed, the choices while none of those ops is legal"
    if head.closed is not None and head.opened_by and not users <= set(head.opened_by):
        missing = listed(sorted(users - set(head.opened_by)))
        yield f": {missing} uses the head and does not open it; add it to opened_by or use by_op"
    if head.closed is not None and not (users or head.opened_by):
        yield ": nothing opens it; no op uses it"
    for choices in (*options, *head.by_op.values(), *(() if head.closed is None else (head.closed,))):
        if not choices:
            yield " is left without a legal action"
        yield from _unknown(choices, head)
    for op, choices in head.by_op.items():
        if any(set(choices).isdisjoint(legal) for legal in options):
            yield f" is left without a legal action under {op.name}: legal and by_op have no choice in common"
    if head.closed is not None and not head.by_op:
        for choices in options:
            if not set(head.closed) <= set(choices):
                yield f": closed {tuple(head.closed)} is not among the legal choices {tuple(choices)}"
    if head.canonical is not None and head.canonical not in head.choices:
        yield f": canonical {head.canonical!r} is no choice of it; it has {', '.join(head.choices)}"
    yield from _in_slot_tables(head, features, stages)


def _in_slot_tables(head: Head, features: Mapping[str, Any], stages: type[IntEnum]) -> Iterator[str]:
    for stage, choices in head.by_stage.items():
        if not isinstance(stage, stages):
            yield f": by_stage names {stage.name}, which is no stage; the stages are {listed(stages)}"
        yield from _unknown(choices, head)
    for feature, by_value in head.feature_choices:
        if feature not in features:
            hint = "; by_stage is for stages" if feature == STAGE else ""
            yield f": by_feature names {feature!r}; the features are: {', '.join(features) or 'none'}{hint}"
        for value, choices in by_value.items():
            if not is_a(value, features[feature]):
                it = told_values(features[feature])
                yield f": by_feature has choices where {feature} is {show(value)}; it is {it}"
            yield from _unknown(choices, head)


def _unknown(choices: Iterable[str], head: Head) -> Iterator[str]:
    for choice in choices:
        if choice not in head.choices:
            yield f" has no choice {choice!r}; it has {', '.join(head.choices)}"


def in_use(
    op: Op, used: Sequence[Head], legal: frozenset[IntEnum], target_scopes: Mapping[str, Scope]
) -> Iterator[str]:
    """Reasons to be read behind the name of the op, of heads that are right by themselves.

    Args:
        op: the op.
        used: the heads it uses.
        legal: its stages.
        target_scopes: those of ``MaskRules``.
    """
    for head in used:
        for stage in sorted(legal) if head.by_stage else ():
            if stage not in head.by_stage:
                yield (
                    f"may be legal in {stage.name}, where by_stage of the head {head.name!r} has no choices; add them, "
                    f"give {stage.name} an empty tuple to close the op there, or take the stage from the op"
                )
        tabled = legal and head.by_slot and not isinstance(head, SlotHead)
        if tabled and not all(_reachable(head, op, options, legal) for options in _options(head)):
            yield f"can never be legal: no slot leaves it a choice of {head.name!r}"
    changing = [head for head in used if isinstance(head, SlotHead) and (head.moves or head.sets)]
    if len(changing) > 1:
        names = " and ".join(repr(head.name) for head in changing)
        yield f"uses the heads {names}, all of which move or set their slot; one of them may"
    for head in changing:
        if head.distinct or not target_scopes[head.name].legal & legal:
            continue
        if op.enters is not None or op.moves:
            yield (
                f"moves its slot, and the head {head.name!r} moves or sets a slot that may be the same; "
                "give the head distinct=True"
            )
        for feature in head.sets:
            if feature in op.sets:
                yield (
                    f"sets {feature!r} of its slot, and the head {head.name!r} of a slot that may be the same; "
                    "give the head distinct=True"
                )


def _options(head: Head) -> tuple[Sequence[str], ...]:
    """The choices that each value of a switch leaves."""
    return tuple(head.legal.values()) if isinstance(head.legal, Mapping) else (head.open_choices,)


def _reachable(head: Head, op: Op, options: Sequence[str], legal: frozenset[IntEnum]) -> set[str]:
    """The choices that some slot in some stage of an op leaves."""
    left = set(options) & set(head.by_op.get(op.id, head.choices))
    if head.by_stage:
        left &= {choice for stage in legal for choice in head.by_stage[stage]}
    for _, by_value in head.feature_choices:
        left &= {choice for choices in by_value.values() for choice in choices}
    return left
