"""What an action makes of one environment, by a plain reading of the rules: one slot and one feature at a time."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from esper_masks.reference.lifecycle import Action, is_legal
from esper_masks.reference.situation import Situation, SlotRow
from esper_masks.rules import MaskRules, Op, SlotHead
from esper_masks.rules.names import OP, SLOT, STAGE


def successor(rules: MaskRules, slots: Sequence[SlotRow], action: Action, **given: Any) -> tuple[list[list[int]], bool]:
    """What the slots of one environment hold after an action, and whether it is legal; if not, nothing changes.

    Args:
        rules: resolved rules.
        slots: stage, age and further features of every slot.
        action: one integer per head.
        given: the other fields of ``reference.Situation``.
    """
    if not is_legal(rules, Situation(rules, slots, **given).masks(), action):
        return [list(row) for row in slots], False
    return after(rules, slots, action), True


def after(rules: MaskRules, slots: Sequence[SlotRow], action: Action) -> list[list[int]]:
    """What slots hold after a legal action; see ``successor``.

    Edges are taken first, from the stages that there were; then features are set, in slots that are not empty now.
    """
    values = dict(zip(rules.head_names, action))
    op = rules.op_rules[values[OP]]
    made = [dict(zip(rules.feature_names, map(int, row))) for row in slots]
    sets: list[tuple[int, Mapping[str, Any]]] = []
    for name in op.uses:
        head, slot = rules.head(name), values[name]
        if name == SLOT:
            target = _edge(rules, op, slots[slot][0])
            sets.append((slot, op.sets))
        elif isinstance(head, SlotHead):
            target = head.moves.get(slots[slot][0])
            sets.append((slot, head.sets))
        else:
            continue
        if target is not None:
            if rules.empty in (slots[slot][0], target):
                made[slot] = dict.fromkeys(rules.feature_names, 0)
            made[slot][STAGE] = int(target)
    for slot, values_set in sets:
        if made[slot][STAGE] != rules.empty:
            made[slot] |= {feature: int(value) for feature, value in values_set.items()}
    return [list(row.values()) for row in made]


def _edge(rules: MaskRules, op: Op, stage: int) -> IntEnum | None:
    """Where an op takes a slot of a stage; None where it stays."""
    if stage in op.moves:
        return op.moves[stage]
    return op.enters if op.enters in rules.transitions.get(stage, ()) else None
