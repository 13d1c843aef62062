"""Why an action is masked: the first rule that forbids each op in each slot of one environment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_masks.reference.situation import Situation, SlotRow, stage_name
from esper_masks.rules import MaskRules, Op, SlotHead
from esper_masks.rules.fields import name_of
from esper_masks.rules.names import OP, SLOT

LEGAL = "legal"


@dataclass(frozen=True)
class Explanation:
    """Every op in every slot of one environment: legal, or the first rule that forbids it.

    Args:
        rules: name of the rules.
        ops: names of the ops.
        slot_ids: names of the slots.
        holds: what each slot holds, in words.
        reasons: one row an op, one entry a slot; None where the op is legal.
        without_slot: ops that are legal whatever the slots hold.
        situation: the environment itself, which knows of single choices.
    """

    rules: str
    ops: tuple[str, ...]
    slot_ids: tuple[str, ...]
    holds: tuple[str, ...]
    reasons: tuple[tuple[str | None, ...], ...]
    without_slot: tuple[str, ...]
    situation: Situation | None = field(default=None, repr=False, compare=False)

    def reason(self, op: str, slot: str, **choices: str) -> str | None:
        """The first rule that forbids an op in a slot; None if it is legal there.

            told.reason("BIND", "pod0")                 # why not at all
            told.reason("BIND", "pod0", node="n14")     # that, or why not with this choice

        Args:
            op: its name.
            slot: its name.
            choices: head -> the name of a choice, or of a slot, for heads that the op uses.

        Raises:
            KeyError: an unknown op, slot or choice, or a head that the op does not use.
        """
        at, place = _index(op, self.ops), _index(slot, self.slot_ids)
        if (reason := self.reasons[at][place]) is not None or not choices:
            return reason
        if self.situation is None:
            raise ValueError("this explanation is of a version that knew of no choices; explain the state again")
        rules = self.situation.rules
        names = [name for name in rules.op_rules[at].uses if name not in (SLOT, OP)]
        if other := [name for name in choices if name not in names]:
            raise KeyError(f"{op} uses no head {other[0]!r}; it uses {', '.join(names) or 'none but op and slot'}")
        asked = {names.index(name): (rules.head(name), choice) for name, choice in choices.items()}
        for head, choice in (asked[order] for order in sorted(asked)):
            number = _index(choice, self.slot_ids if isinstance(head, SlotHead) else tuple(head.choices))
            reason = self.situation.choice_reason(rules.op_rules[at], place, head, number)
            if reason is not None:
                return f"{head.name} {choice}: {reason}"
        return None

    def legal(self, op: str) -> bool:
        """Whether an op is legal somewhere."""
        return op in self.without_slot or None in self.reasons[self.ops.index(op)]

    def lines(self) -> Iterator[str]:
        """One line for each op and reason, slots with the same reason together, no slots where it is that of all."""
        for op, reasons in zip(self.ops, self.reasons):
            if op in self.without_slot:
                yield f"{op}: {LEGAL}"
                continue
            for reason in dict.fromkeys(reasons):
                slots = [slot for slot, own in zip(self.slot_ids, reasons) if own == reason]
                where = "" if len(slots) == len(self.slot_ids) and reason is not None else f" {', '.join(slots)}"
                yield f"{op}{where}: {reason or LEGAL}"

    def to_json(self) -> dict[str, Any]:
        """What ``esper-masks explain --json`` prints."""
        return {
            "rules": self.rules,
            "slots": dict(zip(self.slot_ids, self.holds)),
            "legal": {op: self.legal(op) for op in self.ops},
            "reasons": {op: dict(zip(self.slot_ids, row)) for op, row in zip(self.ops, self.reasons)},
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())


def explain(rules: MaskRules, slots: Sequence[SlotRow], slot_ids: Sequence[str], **given: Any) -> Explanation:
    """Explain one environment by the rules themselves; see ``reference.Situation`` for the arguments."""
    one = Situation(rules, slots, slot_ids=slot_ids, **given)

    def of(op: Op) -> tuple[str | None, ...]:
        if not op.in_slot and (reason := one.reason_everywhere(op)):
            return (reason,) * len(slots)
        return tuple(one.reason(op, slot) for slot in range(len(slots)))

    reasons = tuple(of(op) for op in rules.op_rules)
    alone = tuple(op.name for op in rules.op_rules if one.alone(op))
    holds = tuple(_describe(rules, row) for row in slots)
    return Explanation(rules.name, rules.op_names, tuple(slot_ids), holds, reasons, alone, one)


def _index(name: str, known: Sequence[str]) -> int:
    if name not in known:
        raise KeyError(f"{name!r} is none of {', '.join(known) or 'none'}")
    return tuple(known).index(name)


def _describe(rules: MaskRules, row: SlotRow) -> str:
    if row[0] == rules.empty:
        return f"{stage_name(rules, row[0])} (empty)"
    names = [stage_name(rules, row[0]), f"age {row[1]}"]
    names += [f"{feature} {name_of(rules.features[feature], value)}" for feature, value in zip(rules.features, row[2:])]
    return ", ".join(names)
