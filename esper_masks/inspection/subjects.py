"""What ``verify`` judges by itself, and what that reads: ops, and heads that have choices of their own in each slot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper_masks.masks.masks import ActionMasks
from esper_masks.reference import Situation
from esper_masks.rules import Count, Head, Kind, MaskRules, Op, SlotHead, Unless
from esper_masks.rules.combined import plain_guards
from esper_masks.rules.fields import values_of
from esper_masks.rules.gates import BlockedBy, SeedLimit, parts_of, parts_of_targets
from esper_masks.rules.guards import Bounded
from esper_masks.rules.judged import Guard, InRow, InSlot, Place, plain_parts
from esper_masks.rules.names import AGE, INT32, STAGE

ROWS = "rows."  # before the name of a row, which a feature may have as well
Counted = tuple[frozenset[Any], str | None]  # the stages that are counted, and the kind


def as_row(name: str) -> str:
    """What a row is called among columns."""
    return f"{ROWS}{name}"


@dataclass(frozen=True)
class Subject:
    """An op, or a head with choices of its own in each slot.

    Args:
        rules: resolved rules.
        name: what it is called.
        guards: what it needs besides a stage.
        legal: its stages.
        heads: the heads whose choices an op needs, or the head itself.
        op: the op, if it is one.
    """

    rules: MaskRules
    name: str
    guards: tuple[Guard, ...]
    legal: frozenset[Any]
    heads: tuple[Head, ...]
    op: Op | None = None

    @property
    def free(self) -> bool:
        """Whether it is an op that acts in no slot."""
        return self.op is not None and not self.op.in_slot

    @property
    def limited(self) -> bool:
        """Whether it is under the seed limit."""
        return any(isinstance(guard, SeedLimit) for guard in self.guards)

    @property
    def targets(self) -> tuple[SlotHead, ...]:
        """The second slots of an op."""
        return () if self.op is None else tuple(head for head in self.heads if isinstance(head, SlotHead))

    @property
    def all_guards(self) -> tuple[Guard, ...]:
        """Its own, and those of its second slots: its own slot may be one of them."""
        return (*self.guards, *(guard for head in self.targets for guard in head.judges))

    @property
    def counts(self) -> dict[Counted, list[Guard]]:
        """What its guards count, and which of them do."""
        found: dict[Counted, list[Guard]] = {}
        for guard in plain_guards(self.all_guards):
            if isinstance(guard, Count):
                found.setdefault((frozenset(guard.stages), guard.kind), []).append(guard)
            elif isinstance(guard, BlockedBy):
                found.setdefault((frozenset(guard.value), None), []).append(guard)
        return found

    @property
    def asks_for_kinds(self) -> bool:
        """Whether it depends on the kind of the slot."""
        return any(isinstance(guard, Kind) for guard in plain_guards(self.all_guards))

    def reads(self) -> tuple[str, ...]:
        """The columns of the slot and the rows that it reads, the stage first, as the oracle itself looks them up."""
        found: dict[str, None] = {STAGE: None}
        for guard in _comparing(self.all_guards):
            found |= dict.fromkeys(_asked(guard, self.rules))
        found |= {as_row(guard.name): None for guard in self.all_guards if isinstance(guard, Unless)}
        found |= {feature: None for head in self.heads for feature, _ in head.feature_choices}
        return tuple(found)

    def passing(self, name: str, value: int, stage: int) -> int:
        """How many of its guards, and choices of its heads, a value of a column or a row leaves in a stage."""
        slot, rows = {STAGE: stage, name: value}, {name.removeprefix(ROWS): value}
        place = Place([], [], at=0, slot=slot, rows=rows)
        reading = [guard for guard in _comparing(self.guards) if name in _asked(guard, self.rules)]
        passed = sum(guard.verdict(place, self.rules.scopes[0]) is None for guard in reading)
        for head in self.heads:
            passed += sum(len(by_value.get(value, ())) for feature, by_value in head.feature_choices if feature == name)
        return passed

    def is_legal(self, one: Situation, slot: int) -> bool:
        """Whether the oracle permits an op in a slot, some choice of a head in it, or the slot as a second one."""
        if self.op is not None:
            return any(self.judge(one, slot))
        choices = one.in_slot(self.heads[0], next_to(slot, len(one.slots)))
        return choices[slot] if isinstance(self.heads[0], SlotHead) else any(self.judge(one, slot))

    def judge(self, one: Situation, slot: int) -> list[bool]:
        """What the oracle says in a slot: one verdict of an op; of a head one a choice, there and in the next slot."""
        if self.op is None:
            return [*one.in_slot(self.heads[0], slot), *one.in_slot(self.heads[0], next_to(slot, len(one.slots)))]
        return [one.alone(self.op) if self.free else one.reason(self.op, slot) is None]

    def computed(self, masks: ActionMasks, slots: Tensor) -> Tensor:
        """The same from masks, for a slot of each environment: bool ``[envs, n]``."""
        each = torch.arange(len(slots))
        if self.op is not None:
            return (masks["op"] if self.free else masks.slot_by_op[each, :, slots])[:, [self.op.id]]
        choices = masks.by_slot(self.heads[0].name)
        return torch.cat([choices[each, slots], choices[each, (slots + 1) % choices.shape[-2]]], -1)


def next_to(slot: int, slots: int) -> int:
    """Another slot, from which a slot is a second one."""
    return (slot + 1) % slots


def subjects_of(rules: MaskRules) -> list[Subject]:
    """The heads with choices by slot, those of slots among them, and then the ops, which need their choices."""
    used = {name for op in rules.op_rules for name in op.uses}
    subjects = []
    for head in rules.heads:
        if isinstance(head, SlotHead) and head.name in used:
            legal = rules.target_scopes[head.name].legal
            subjects.append(Subject(rules, f"head {head.name}", head.judges, legal, (head,)))
        elif head.dynamic and head.name in used:
            subjects.append(Subject(rules, f"head {head.name}", (), frozenset(rules.stages), (head,)))
    for op in rules.op_rules:
        heads = tuple(rules.head(name) for name in op.uses if rules.head(name).dynamic)
        subjects.append(Subject(rules, op.name, rules.gates[op.id], rules.legal_stages(op.id), heads, op))
    return subjects


def _comparing(guards: Sequence[Guard]) -> Iterator[Bounded]:
    """The guards that compare one column or one row; those of short forms in their place."""
    for guard in plain_guards(guards):
        for one in guard.as_guards():
            if isinstance(one, Bounded) and not isinstance(one, Count):
                yield one


class _Asked(dict[str, int]):
    """A mapping that has 0 under every name, and remembers which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> int:
        self.names.append(name)
        return 0


def _asked(guard: Guard, rules: MaskRules) -> list[str]:
    """The columns and rows that the verdict of a guard looks up."""
    slot, rows = _Asked(), _Asked()
    guard.verdict(Place([], [], at=0, slot=slot, rows=rows), rules.scopes[0])
    return [*slot.names, *map(as_row, rows.names)]


# -- what is tried ----------------------------------------------------------------------------------------------------


def numbers_of(guards: Sequence[Guard]) -> list[int]:
    """How many others are tried in the stages that guards count: each bound with its neighbours, none and one."""
    tried = {0, 1}
    for guard in guards:
        if isinstance(guard, Count):
            ends = [end for stage in guard.bounds.by_stage or (None,) for end in guard.bounds.ends(stage)]
            tried |= {end + step for end in ends if end is not None for step in (-1, 0, 1)}
    return sorted(number for number in tried if number >= 0)


def tried_values(rules: MaskRules) -> dict[str, list[int]]:
    """The values of each column of a slot, and of each row, that are tried.

    Every stage, every value of an enum, every value that a guard compares with, as it says and as the engine has it,
    each with its neighbours, and for other integers 0 and the ends of int32. Integers that stand for a bool are among
    them: -1 and 2 are True in a row, and neither in a feature.
    """
    domains = {STAGE: rules.stages, AGE: int, **rules.features}
    domains |= {as_row(name): domain for name, domain in rules.row_features.items()}
    found: dict[str, set[int]] = {name: {*(values_of(domain) or (0,))} for name, domain in domains.items()}
    for part in _parts(rules):
        if isinstance(part, (InSlot, InRow)):
            name = part.reads if isinstance(part, InSlot) else as_row(part.reads)
            found[name] |= {end for run in part.runs for end in run if end is not None}
    for guard in _comparing([guard for subject in subjects_of(rules) for guard in subject.all_guards]):
        compared, *_ = _asked(guard, rules)  # the stage beside it tells which of its bounds are meant
        found[compared] |= set(guard.bounds.numbers)
    for feature, by_value in (pair for head in rules.heads for pair in head.feature_choices):
        found[feature] |= {int(value) for value in by_value}
    tried = {name: {value + step for value in known for step in (-1, 0, 1)} for name, known in found.items()}
    for name, domain in domains.items():
        tried[name] |= {INT32[0], INT32[-1]} if domain is int else set()
    return {name: sorted(value for value in values if value in INT32) for name, values in tried.items()}


def _parts(rules: MaskRules) -> Iterator[Any]:
    whole = [part for _, part in parts_of(rules.op_rules, rules.scopes)]
    whole += [part for _, part in parts_of_targets(rules.slot_heads, rules.target_scopes)]
    for part in whole:
        yield from plain_parts(part)


@dataclass(frozen=True)
class Slots:
    """The slots of the engine that is verified: groups of equal kinds, of equal size.

    Args:
        ids: their names.
        kinds: kind -> its slots, by name.
        groups: the slots of each group, by number. The first and the last of a group are judged, those between them
            are others.
        kinds_of: the kinds of each group.
    """

    ids: tuple[str, ...]
    kinds: dict[str, tuple[str, ...]]
    groups: tuple[tuple[int, ...], ...]
    kinds_of: tuple[frozenset[str], ...]

    @property
    def numbers(self) -> dict[str, list[int]]:
        """Kind -> its slots, by number."""
        return {kind: [self.ids.index(slot) for slot in slots] for kind, slots in self.kinds.items()}


def build_slots(rules: MaskRules, subjects: Sequence[Subject]) -> Slots:
    """Slots of no kind, of each kind, and of every set of kinds that a slot of the rules has; others enough for all.

    A quota is tried at its bound, so an engine is as wide as the highest number that is counted, for each set of kinds:
    a quota of 1,000 slots makes it 1,003 slots a set, and verify that much slower.
    """
    kinds = rules.kinds
    sets = [frozenset(kind for kind in kinds if slot in kinds[kind]) for slots in kinds.values() for slot in slots]
    kinds_of = tuple(dict.fromkeys([frozenset(), *(frozenset((kind,)) for kind in kinds), *sets]))
    others = max(sum(max(numbers_of(guards)) for guards in subject.counts.values()) for subject in subjects)
    size = 2 + max(1, others) + max(len(subject.targets) for subject in subjects)
    groups = tuple(tuple(range(at * size, (at + 1) * size)) for at in range(len(kinds_of)))
    ids = tuple(f"s{at}" for at in range(size * len(kinds_of)))
    members = {
        kind: tuple(ids[slot] for group, own in zip(groups, kinds_of) if kind in own for slot in group)
        for kind in kinds
    }
    return Slots(ids, members, groups, kinds_of)
