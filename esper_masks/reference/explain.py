"""Why an action is masked: the first rule that forbids each op in each slot of one environment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from esper_masks.reference.lifecycle import SlotRow, forbids, stage_name
from esper_masks.rules import MaskRules
from esper_masks.rules.fields import name_of
from esper_masks.rules.names import SLOT

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
    """

    rules: str
    ops: tuple[str, ...]
    slot_ids: tuple[str, ...]
    holds: tuple[str, ...]
    reasons: tuple[tuple[str | None, ...], ...]
    without_slot: tuple[str, ...]

    def reason(self, op: str, slot: str) -> str | None:
        """The first rule that forbids an op in a slot; None if it is legal there.

        Raises:
            KeyError: an unknown op or slot.
        """
        for name, known in ((op, self.ops), (slot, self.slot_ids)):
            if name not in known:
                raise KeyError(f"{name!r} is none of {', '.join(known)}")
        return self.reasons[self.ops.index(op)][self.slot_ids.index(slot)]

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


def explain(
    rules: MaskRules,
    slots: Sequence[SlotRow],
    slot_ids: Sequence[str],
    *,
    enabled: Sequence[bool] | None = None,
    total_seeds: int | None = None,
    max_seeds: int = 0,
) -> Explanation:
    """Explain one environment by the rules themselves; see ``reference.forbids`` for the arguments."""
    settings: dict[str, Any] = {"enabled": enabled, "total_seeds": total_seeds, "max_seeds": max_seeds}
    reasons = tuple(
        tuple(forbids(rules, op, slots, slot, slot_ids=slot_ids, **settings) for slot in range(len(slots)))
        for op in rules.op_rules
    )
    always = tuple(op.name for op in rules.op_rules if op.always and SLOT not in op.uses)
    holds = tuple(_describe(rules, row) for row in slots)
    return Explanation(rules.name, rules.op_names, tuple(slot_ids), holds, reasons, always)


def _describe(rules: MaskRules, row: SlotRow) -> str:
    if row[0] == rules.empty:
        return f"{stage_name(rules, row[0])} (empty)"
    names = [stage_name(rules, row[0]), f"age {row[1]}"]
    names += [f"{feature} {name_of(rules.features[feature], value)}" for feature, value in zip(rules.features, row[2:])]
    return ", ".join(names)
