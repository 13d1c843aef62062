"""What the author of rules may not have meant. Rules that contradict themselves are refused when they are made."""

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

from esper_masks.rules import Count, Kind, MaskRules, Op, Row, SlotHead, Unless
from esper_masks.rules.bounds import outside
from esper_masks.rules.combined import plain_guards
from esper_masks.rules.fields import either, name_of
from esper_masks.rules.guards import Bounded
from esper_masks.rules.judged import Guard, InSlot
from esper_masks.rules.names import OP, STAGE


def lint(rules: MaskRules) -> list[str]:
    """Notes on a rule set, a sentence each: of its stages, ops, heads, rows and kinds."""
    reached = [rules.empty]
    for stage in reached:  # which grows on the way
        reached += [to for to in rules.transitions[stage] if to not in reached]
    notes = [*_of_stages(rules, reached)]
    for op in rules.op_rules:
        notes += (f"op {op.name}{note}" for note in _of_op(rules, op, reached))
    used = {OP, *(name for op in rules.op_rules for name in op.uses)}
    notes += [f"head {head.name} is used by no op" for head in rules.heads if head.name not in used]
    for head in rules.slot_heads:
        notes += (f"head {head.name}{note}" for note in _of_slot_head(rules, head))
    return [*notes, *_of_declared(rules)]


def _of_stages(rules: MaskRules, reached: Sequence[IntEnum]) -> Iterator[str]:
    legal = [rules.legal_stages(op.id) for op in rules.op_rules if op.in_slot and not op.always]
    legal += [rules.target_scopes[head.name].legal for head in rules.slot_heads if head.moves or head.sets]
    acted_in = frozenset().union(*legal)
    for stage in rules.stages:
        if stage not in reached:
            yield f"stage {stage.name} is never reached from {rules.empty.name}, unless an episode begins in it"
        elif stage not in acted_in:
            onward = ", ".join(to.name for to in rules.transitions[stage])
            after = f"it moves on by itself to {onward}" if onward else "it never ends"
            yield f"stage {stage.name}: no op acts in it; {after}"


def _of_op(rules: MaskRules, op: Op, reached: Sequence[IntEnum]) -> Iterator[str]:
    legal = rules.legal_stages(op.id)
    if legal.isdisjoint(reached):
        yield f" never becomes legal, unless an episode begins with slots in {either(s.name for s in sorted(legal))}"
    if rules.empty in legal:
        yield from _of_empty(rules, op)
    if op.enters is not None:
        sources = [stage for stage in rules.stages if op.enters in rules.transitions[stage]]
        others = either(stage.name for stage in sources if stage != rules.empty)
        if rules.empty in sources and len(sources) > 1:
            empty = f"{rules.empty.name}, where a slot is empty,"
            yield f" enters {op.enters.name} from {empty} and from {others}; moves says which of them are meant"
    yield from _unbounded(op.when, legal)


def _of_empty(rules: MaskRules, op: Op) -> Iterator[str]:
    """Guards that no empty slot passes, since all that it holds is 0."""
    number, empty = int(op.id), rules.empty
    for guard in rules.gates[number]:  # what Any and Unless hold may be made up for by another part, or by a row
        for part in guard.closes(rules.scopes[number]):
            here = isinstance(part, InSlot) and part.reads != STAGE and part.stage in (None, empty)
            if here and part.unless is None and outside(0, part.runs):
                held = name_of(rules.features.get(part.reads, int), 0)
                yield f" is never legal in {empty.name}: there a slot is empty, and its {part.reads} is {held}"


def _of_slot_head(rules: MaskRules, head: SlotHead) -> Iterator[str]:
    legal = rules.target_scopes[head.name].legal
    if rules.empty in legal and rules.empty not in head.moves:
        yield f" may choose an empty slot, in {rules.empty.name}; a guard of the stage can keep it from that"
    yield from _unbounded(head.when, legal)


def _unbounded(guards: Iterable[Guard], legal: Iterable[IntEnum]) -> Iterator[str]:
    """Bounds by stage that leave out a stage in which they are looked at."""
    for guard in plain_guards(guards):
        if isinstance(guard, Bounded) and (named := guard.bounds.by_stage):
            missing = [stage.name for stage in sorted(legal) if stage not in named]
            if missing:
                yield f": {guard.subject} has bounds by stage, and none in {either(missing)}"


def _of_declared(rules: MaskRules) -> Iterator[str]:
    """Rows and kinds that nothing reads."""
    guards = [guard for op in rules.op_rules for guard in op.when]
    guards += [guard for head in rules.slot_heads for guard in head.when]
    read = {guard.name for guard in guards if isinstance(guard, Unless)}
    asked: set[str | None] = set()
    for guard in plain_guards(guards):
        read |= {guard.name} if isinstance(guard, Row) else set()
        asked |= set(guard.names) if isinstance(guard, Kind) else set()
        asked |= {guard.kind} if isinstance(guard, Count) else set()
    yield from (f"row {name} is read by no guard" for name in rules.row_features if name not in read)
    yield from (f"kind {name} is asked for by no guard" for name in rules.kinds if name not in asked)
