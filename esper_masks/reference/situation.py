"""One environment, and what is legal in it: a plain reading of the rules, one op, one slot and one choice at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

from esper_masks.rules import Head, MaskRules, Op, SlotHead
from esper_masks.rules.fields import FrozenMapping, either, name_of
from esper_masks.rules.judged import Place
from esper_masks.rules.names import BY_SLOT, OP, SLOT, SLOT_BY_OP, STAGE

SlotRow = Sequence[int]  # stage, age, *features
NOT_ENABLED = "the slot is not enabled"
MOST_REASONS = 4  # that a sentence gives for slots which are no choice


@dataclass
class Situation:
    """One environment: what its slots hold, and what the caller says of it.

    Args:
        rules: resolved rules.
        slots: stage, age and further features of every slot.
        enabled: one bool a slot; None for all.
        total_seeds: seeds germinated so far; needed only under a limit.
        max_seeds: the limit; 0 or less for none.
        slot_ids: names of the slots, for reasons; None for their numbers.
        row: name -> the value of the environment; all of ``rules.row_features`` that guards read.
        kinds: name -> the slots of that kind, by number; None for those of the rules.
        head_masks: head -> bools of its choices, or those of each slot.
        restrict: head -> bools of its choices; ``slot_by_op`` -> ops × slots bools; and the name of a head with
            ``_by_slot`` behind it -> bools of its choices in each slot.
    """

    rules: MaskRules
    slots: Sequence[SlotRow]
    enabled: Sequence[bool] | None = None
    total_seeds: int | None = None
    max_seeds: int = 0
    slot_ids: Sequence[str] | None = None
    row: Mapping[str, int] = field(default_factory=FrozenMapping)
    kinds: Mapping[str, Sequence[int]] | None = None
    head_masks: Mapping[str, Any] = field(default_factory=FrozenMapping)
    restrict: Mapping[str, Any] = field(default_factory=FrozenMapping)

    def __post_init__(self) -> None:
        rules = self.rules
        self._on = [True] * len(self.slots) if self.enabled is None else list(self.enabled)
        kinds = {kind: [rules.slot_ids.index(slot) for slot in slots] for kind, slots in rules.kinds.items()}
        self._kinds = kinds if self.kinds is None else self.kinds
        self._targets: dict[str, list[str | None]] = {}  # head -> why each slot is no target

    # -- ops ----------------------------------------------------------------------------------------------------------

    def reason(self, op: Op, slot: int) -> str | None:
        """Why an op is illegal in a slot: the first rule, or wish of the caller, that forbids it; None if it is legal.

        Of an op that uses no slot and names no stage: why it is illegal anywhere.
        """
        if not self._on[slot]:
            return NOT_ENABLED
        return self._by_guards(op, slot) or self._by_heads(op, slot) or self._by_restrict(op, slot)

    def reason_everywhere(self, op: Op) -> str | None:
        """Why an op that names no stage and uses no slot is illegal, whether or not a slot is enabled."""
        return self._by_guards(op, None) or self._by_heads(op, None) or self._by_restrict(op, None)

    def alone(self, op: Op) -> bool:
        """Whether an op is legal whatever the slots hold, even with none enabled."""
        return not op.in_slot and self.reason_everywhere(op) is None

    def legal(self, op: Op) -> bool:
        """Whether an op is legal somewhere."""
        return self.alone(op) or any(self.reason(op, slot) is None for slot in range(len(self.slots)))

    def _place(self, slot: int | None) -> Place:
        held = FrozenMapping() if slot is None else dict(zip(self.rules.feature_names, self.slots[slot]))
        return Place(
            self.slots,
            self._on,
            self.slot_ids,
            self.total_seeds,
            self.max_seeds,
            self.row,
            self._kinds,
            slot,
            held,
        )

    def _by_guards(self, op: Op, slot: int | None) -> str | None:
        if op.always:
            return None
        if op.disabled:
            return "a rule switch disables it"
        if op.in_slot and slot is not None and (reason := self._wrong_stage(slot, self.rules.legal_stages(op.id))):
            return reason
        place, scope = self._place(slot if op.in_slot else None), self.rules.scopes[op.id]
        return next((reason for gate in self.rules.gates[op.id] if (reason := gate.verdict(place, scope))), None)

    def _wrong_stage(self, slot: int, stages: Any) -> str | None:
        stage = self.slots[slot][0]
        if stage in stages:
            return None
        return f"stage {stage_name(self.rules, stage)}, needs {either(s.name for s in sorted(stages))}"

    def _by_heads(self, op: Op, slot: int | None) -> str | None:
        options = [(head, self.by_rules(head, slot, op)) for head in self._wanted(op)]
        for head, by_rules in options:
            if not any(by_rules):
                return self._none_left(head, slot, op)
        for head, by_rules in options:
            if not any(self._and_masks(head, slot, by_rules)):
                return f"no choice of {head.name} is left by head_masks"
        return None

    def _none_left(self, head: Head, slot: int | None, op: Op) -> str:
        """Why the rules leave no choice of a head: the table that has none, or those that have none in common.

        Of a head of slots, why each is none.
        """
        if isinstance(head, SlotHead):
            each: dict[str, list[str]] = {}
            for target in range(len(self.slots)):
                each.setdefault(str(self._no_target(head, slot, target)), []).append(self._place(target).where)
            first, rest = list(each.items())[:MOST_REASONS], list(each.values())[MOST_REASONS:]
            told = [f"{', '.join(slots)}: {why}" for why, slots in first] + [f"{sum(map(len, rest))} more"] * bool(rest)
            return f"no choice of {head.name}: {'; '.join(told)}"
        tables = list(self._tables(head, slot, op))
        empty = [table for table in tables if not table[1]]
        named = empty[:1] or [table for table in tables if not set(head.choices) <= set(table[1])]
        why = "; ".join(starmap(_has, named))
        return f"no choice of {head.name}{why and ': '}{why}"

    def _wanted(self, op: Op) -> Iterator[Head]:
        """The heads that an op uses and that may be without a choice."""
        for name in op.uses:
            head = self.rules.head(name)
            if head.dynamic or name in self.head_masks:
                yield head

    def _by_restrict(self, op: Op, slot: int | None) -> str | None:
        for at, (name, mask) in enumerate(self.restrict.items()):
            if name == OP:
                permitted = mask[op.id]
            elif name == SLOT:
                permitted = slot is None or mask[slot] or (SLOT not in op.uses and not op.always)
            elif name == SLOT_BY_OP:
                permitted = slot is None or SLOT not in op.uses or mask[op.id][slot]
            elif self._head_of(name) in op.uses:
                permitted = any(self.left(self.rules.head(self._head_of(name)), slot, op, until=at + 1))
            else:
                permitted = True
            if not permitted:
                return f"restricted by the caller: {name}"
        return None

    def _head_of(self, name: str) -> str:
        """The head that a constraint is on."""
        return name if name in self.rules.head_names else name.removesuffix(BY_SLOT)

    # -- choices ------------------------------------------------------------------------------------------------------

    def size(self, head: Head) -> int:
        """How many choices a head has, other than that of the op and of its slot."""
        return len(self.slots) if isinstance(head, SlotHead) else len(head.choices)

    def by_rules(self, head: Head, slot: int | None, op: Op | None = None) -> list[bool]:
        """What the rules leave of a head in a slot, under an op or, with None, under any that uses it."""
        if isinstance(head, SlotHead):
            return [self._no_target(head, slot, target) is None for target in range(len(self.slots))]
        return [self._why_not(head, slot, op, choice) is None for choice in head.choices]

    def left(self, head: Head, slot: int | None, op: Op | None = None, until: int | None = None) -> list[bool]:
        """What rules, head masks and ``restrict``, or the first constraints in it, leave of a head in a slot.

        See ``by_rules``.
        """
        options = self._and_masks(head, slot, self.by_rules(head, slot, op))
        for name in [*self.restrict][:until]:
            if self._head_of(name) == head.name:
                options = [on and kept for on, kept in zip(options, self._of_slot(self.restrict[name], slot))]
        return options

    def is_by_slot(self, head: Head) -> bool:
        """Whether a head has choices of its own in each slot, by the rules or by what the caller gives."""
        wide = head.name in self.head_masks and isinstance(self.head_masks[head.name][0], Sequence)
        return head.by_slot or wide or f"{head.name}{BY_SLOT}" in self.restrict

    def _and_masks(self, head: Head, slot: int | None, options: Sequence[bool]) -> list[bool]:
        if head.name not in self.head_masks:
            return list(options)
        return [on and kept for on, kept in zip(options, self._of_slot(self.head_masks[head.name], slot))]

    @staticmethod
    def _of_slot(mask: Sequence[Any], slot: int | None) -> Sequence[bool]:
        """The mask of a slot: its own, or that of all."""
        if not isinstance(mask[0], Sequence):
            return mask
        if slot is None:
            raise ValueError("a head that an op uses without a slot has no mask of each slot")
        own: Sequence[bool] = mask[slot]
        return own

    def _why_not(self, head: Head, slot: int | None, op: Op | None, choice: str) -> str | None:
        """The first table of the rules that does not have a choice."""
        for what, choices in self._tables(head, slot, op):
            if choice not in choices:
                return _has(what, choices)
        return None

    def _tables(self, head: Head, slot: int | None, op: Op | None) -> Iterator[tuple[str, Sequence[str]]]:
        yield "the head", head.open_choices
        if head.by_op and op is not None:
            yield op.name, head.by_op[op.id]
        elif head.by_op:
            yield "the ops", [choice for choices in head.by_op.values() for choice in choices]
        if slot is not None:
            held = dict(zip(self.rules.feature_names, self.slots[slot]))
            if head.by_stage:
                yield f"stage {stage_name(self.rules, held[STAGE])}", head.by_stage.get(held[STAGE], ())
            for feature, by_value in head.feature_choices:
                named = name_of(self.rules.features[feature], held[feature])
                yield f"{feature} {named}", by_value.get(held[feature], ())

    def _no_target(self, head: SlotHead, slot: int | None, target: int) -> str | None:
        """Why a slot is no choice of a head of slots, for an op in a slot."""
        if head.name not in self._targets:
            self._targets[head.name] = [self._never_target(head, at) for at in range(len(self.slots))]
        if (reason := self._targets[head.name][target]) is not None:
            return reason
        return f"another slot than {self._place(slot).where} is needed" if head.distinct and slot == target else None

    def _never_target(self, head: SlotHead, target: int) -> str | None:
        if not self._on[target]:
            return NOT_ENABLED
        scope, place = self.rules.target_scopes[head.name], self._place(target)
        reasons = (guard.verdict(place, scope) for guard in head.judges)
        return self._wrong_stage(target, scope.legal) or next((reason for reason in reasons if reason), None)

    def choice_reason(self, op: Op, slot: int | None, head: Head, choice: int) -> str | None:
        """Why an op in a slot cannot take a choice of a head, by that head alone; None if it can."""
        if isinstance(head, SlotHead):
            reason = self._no_target(head, slot, choice)
        else:
            reason = self._why_not(head, slot, op, head.choices[choice])
        if reason is not None:
            return reason
        if head.name in self.head_masks and not self._of_slot(self.head_masks[head.name], slot)[choice]:
            return "masked by the caller"
        for name, mask in self.restrict.items():
            if self._head_of(name) == head.name and not self._of_slot(mask, slot)[choice]:
                return f"restricted by the caller: {name}"
        return None

    # -- masks --------------------------------------------------------------------------------------------------------

    def masks(self) -> dict[str, list[Any]]:
        """One list of bools per head, ``slot_by_op``, and ``NAME_by_slot`` for the heads that have choices by slot."""
        rules, slots = self.rules, range(len(self.slots))
        pairs = [[self.reason(op, slot) is None for slot in slots] for op in rules.op_rules]
        legal = [self.alone(op) or any(own) for op, own in zip(rules.op_rules, pairs)]
        made: dict[str, list[Any]] = {SLOT_BY_OP: pairs}
        for head in rules.heads:
            if head.name == SLOT:
                kept = self.restrict.get(SLOT, self._on)
                made[SLOT] = [on and keep for on, keep in zip(self._on, kept)]
            elif head.name == OP:
                made[OP] = legal
            elif self.is_by_slot(head):
                made[head.name] = self._taken(head, pairs)
                made[f"{head.name}{BY_SLOT}"] = [self.in_slot(head, slot) for slot in slots]
            else:
                made[head.name] = self._whole(head, [op for op, on in zip(rules.op_rules, legal) if on])
        return made

    def _users(self, head: Head) -> list[Op]:
        return [op for op in self.rules.op_rules if head.name in op.uses]

    def _taken(self, head: Head, pairs: Sequence[Sequence[bool]]) -> list[bool]:
        """The choices that some legal whole action takes; the canonical one alone if there is none."""
        taken = [False] * self.size(head)
        for op in self._users(head):
            for slot, on in enumerate(pairs[op.id]):
                if on:
                    taken = [one or other for one, other in zip(taken, self.left(head, slot, op))]
        return taken if any(taken) else only(canonical_value(head), len(taken))

    def in_slot(self, head: Head, slot: int) -> list[bool]:
        """What is left of a head in a slot, under any op that uses it and whether or not one is legal there."""
        of_ops = [permitted(head, op, self.size(head)) for op in self._users(head)]
        return [on and any(c in own for own in of_ops) for c, on in enumerate(self.left(head, slot))]

    def _whole(self, head: Head, legal_ops: Sequence[Op]) -> list[bool]:
        """The mask of a head that has the same choices in every slot."""
        if isinstance(head, SlotHead):
            used = any(head.name in op.uses for op in legal_ops)
            return self._or_canonical(head, [used and on for on in self.left(head, None)])
        names = head_choices(head, self.rules, legal_ops)
        options = [choice in names for choice in head.choices]
        options = self._and_masks(head, None, options)
        if head.name in self.restrict:
            options = [on and kept for on, kept in zip(options, self.restrict[head.name])]
        return self._or_canonical(head, options)

    @staticmethod
    def _or_canonical(head: Head, options: list[bool]) -> list[bool]:
        return options if any(options) else only(canonical_value(head), len(options))


def _has(what: str, choices: Sequence[str]) -> str:
    return f"{what} has {', '.join(choices) or 'none'}"


def only(choice: int, size: int) -> list[bool]:
    """The mask with one choice."""
    return [at == choice for at in range(size)]


def head_choices(head: Head, rules: MaskRules, legal_ops: Sequence[Op]) -> set[str]:
    """The legal choices of a head that depends on no slot, given the ops that are legal in the environment."""
    if head.by_op:
        legal = {choice for op in legal_ops if op.id in head.by_op for choice in head.by_op[op.id]}
        return legal & set(head.open_choices) or set(head.closed or (canonical_choice(head),))
    if head.closed is not None:
        openers = head.opened_by or tuple(op.id for op in rules.op_rules if head.name in op.uses)
        if not any(op.id in openers for op in legal_ops):
            return set(head.closed)
    return set(head.open_choices)


def canonical_choice(head: Head) -> str:
    return head.choices[0] if head.canonical is None else head.canonical


def canonical_value(head: Head) -> int:
    """The value of a head while the op ignores it; 0 where the choices are slots."""
    return head.choices.index(canonical_choice(head)) if head.choices else 0


def permitted(head: Head, op: Op, size: int) -> list[int]:
    """The choices that the rules leave to an op that uses the head, in some state; all slots of a head of slots."""
    if not head.choices:
        return list(range(size))
    left = set(head.open_choices) & set(head.by_op[op.id] if head.by_op else head.choices)
    for by_value in ([head.by_stage] if head.by_stage else []) + [by_value for _, by_value in head.feature_choices]:
        left &= {choice for choices in by_value.values() for choice in choices}
    return [at for at, choice in enumerate(head.choices) if choice in left]


def stage_name(rules: MaskRules, stage: int) -> str:
    """The name of a stage, or the integer with a note that it is none."""
    try:
        return rules.stages(stage).name
    except ValueError:
        return f"{stage} (no stage of {rules.name})"
