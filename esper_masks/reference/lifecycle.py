"""The oracle of the masks: the same results by plain loops over Python ints, one environment at a time.

It reads the rules and nothing else of this package, and of a gate only its verdict in plain Python. So a wrong table, a
wrong bit or a wrong reduction disagrees with it. It is written to be read, not to be fast; ``bench`` holds the loops
that are written to be fast.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from esper_masks.rules import Head, MaskRules, Op
from esper_masks.rules.gates import Place
from esper_masks.rules.names import OP, SLOT

SlotRow = Sequence[int]  # stage, age, *features
Action = tuple[int, ...]  # one value per head
Result = dict[str, list[Any]]


def forbids(
    rules: MaskRules,
    op: Op,
    slots: Sequence[SlotRow],
    slot: int,
    *,
    enabled: Sequence[bool] | None = None,
    total_seeds: int | None = None,
    max_seeds: int = 0,
    slot_ids: Sequence[str] | None = None,
) -> str | None:
    """Why an op is illegal in a slot of one environment: the first rule that forbids it, or None if it is legal.

    Args:
        rules: resolved rules.
        op: one of ``rules.op_rules``.
        slots: stage, age and further features of every slot.
        slot: index of the slot in question.
        enabled: one bool a slot; None for all.
        total_seeds: seeds germinated so far; needed only under a limit.
        max_seeds: the limit; 0 or less for none.
        slot_ids: names of the slots, for the reason; None for their numbers.
    """
    enabled = [True] * len(slots) if enabled is None else enabled
    if not enabled[slot]:
        return "the slot is not enabled"
    if op.always:
        return None
    if op.disabled:
        return "a rule switch disables it"
    stage, stages = slots[slot][0], rules.legal_stages(op.id)
    if stage not in stages:
        *most, last = [s.name for s in sorted(stages)] or ["none"]
        needed = f"{', '.join(most)} or {last}" if most else last
        return f"stage {stage_name(rules, stage)}, needs {needed}"
    features = dict(zip(rules.feature_names, slots[slot]))
    place = Place(features, slots, enabled, slot_ids, total_seeds, max_seeds)
    return next((reason for gate in rules.gates[op.id] if (reason := gate.verdict(place))), None)


def slot_by_op(
    rules: MaskRules,
    slots: Sequence[SlotRow],
    *,
    enabled: Sequence[bool] | None = None,
    total_seeds: int | None = None,
    max_seeds: int = 0,
) -> list[list[bool]]:
    """Which op is legal in which slot of one environment: ops × slots bools."""
    return [
        [
            forbids(rules, op, slots, i, enabled=enabled, total_seeds=total_seeds, max_seeds=max_seeds) is None
            for i in range(len(slots))
        ]
        for op in rules.op_rules
    ]


def head_masks(rules: MaskRules, by_op: Sequence[Sequence[bool]], enabled: Sequence[bool]) -> Result:
    """One list of bools per head, and ``slot_by_op``, of one environment whose ``slot_by_op`` is known."""
    legal_ops = [op for op in rules.op_rules if (op.always and SLOT not in op.uses) or any(by_op[op.id])]
    masks: Result = {"slot_by_op": list(by_op)}
    for head in rules.heads:
        if head.name == SLOT:
            masks[SLOT] = list(enabled)
        elif head.name == OP:
            masks[OP] = [op in legal_ops for op in rules.op_rules]
        else:
            legal = head_choices(head, rules, legal_ops)
            masks[head.name] = [choice in legal for choice in head.choices]
    return masks


def head_choices(head: Head, rules: MaskRules, legal_ops: Sequence[Op]) -> set[str]:
    """The legal choices of a head, given the ops that are legal in the environment."""
    if head.by_op:
        legal = {choice for op in legal_ops if op.id in head.by_op for choice in head.by_op[op.id]}
        return legal or set(head.closed or (canonical_choice(head),))
    if head.closed is not None:
        openers = head.opened_by or tuple(op.id for op in rules.op_rules if head.name in op.uses)
        if not any(op.id in openers for op in legal_ops):
            return set(head.closed)
    return set(head.open_choices)


def canonical_choice(head: Head) -> str:
    return head.choices[0] if head.canonical is None else head.canonical


def canonical_value(head: Head) -> int:
    """The value of a head while the op ignores it; 0 for the slot."""
    return 0 if head.name == SLOT else head.choices.index(canonical_choice(head))


def permitted(head: Head, op: Op) -> Sequence[str]:
    """The choices that the rules leave to an op that uses the head."""
    return head.by_op[op.id] if head.by_op else head.open_choices


def joint_actions(rules: MaskRules, slots: int) -> Iterator[Action]:
    """Every whole action that some state allows, in index order: op by op, then the heads in order.

    Heads that the op ignores hold their canonical value. Rules must be resolved.
    """
    for op in rules.op_rules:
        if op.disabled:
            continue
        values: list[Sequence[int]] = []
        for head in rules.heads:
            if head.name == OP:
                values.append([int(op.id)])
            elif head.name not in op.uses:
                values.append([canonical_value(head)])
            elif head.name == SLOT:
                values.append(range(slots))
            else:
                values.append([i for i, choice in enumerate(head.choices) if choice in permitted(head, op)])
        yield from product(*values)


def joint_mask(rules: MaskRules, masks: Mapping[str, Any], slots: int) -> list[bool]:
    """Legality of every whole action of ``joint_actions``, from the ``head_masks`` of one environment."""
    op_at, slot_at = rules.head_names.index(OP), rules.head_names.index(SLOT)
    return [
        masks["slot_by_op"][a[op_at]][a[slot_at]] if SLOT in rules.op_rules[a[op_at]].uses else masks[OP][a[op_at]]
        for a in joint_actions(rules, slots)
    ]


def masks(
    rules: MaskRules,
    states: Any,
    total_seeds: Any = None,
    *,
    max_seeds: Any = 0,
    enabled: Any = None,
    joint: bool = False,
    **switches: object,
) -> Result:
    """All masks of every environment of a batch, as nested lists.

    Args:
        rules: a rule set.
        states: ``[batch][slots][features]``, a tensor or nested sequences of ints.
        total_seeds: ``[batch]`` ints; needed only under a limit.
        max_seeds: an int, or ``[batch]`` ints.
        enabled: ``[slots]`` or ``[batch][slots]`` bools.
        joint: also give ``"joint"``, ``[batch][whole actions]``.
        switches: rule switches.

    Returns: head name -> ``[batch][n]`` bools; ``"slot_by_op"`` -> ``[batch][ops][slots]``.
    """
    rules = rules.resolve(**switches)
    states, totals, limits, enables = (_lists(value) for value in (states, total_seeds, max_seeds, enabled))
    result: Result = {name: [] for name in (*rules.head_names, "slot_by_op", *(["joint"] if joint else []))}
    for env, slots in enumerate(states):
        on = enables[env] if enables and isinstance(enables[0], list) else enables
        on = [True] * len(slots) if on is None else on
        total = None if totals is None else totals[env]
        limit = limits[env] if isinstance(limits, list) else limits
        by_op = slot_by_op(rules, slots, enabled=on, total_seeds=total, max_seeds=limit)
        one = head_masks(rules, by_op, on)
        if joint:
            one["joint"] = joint_mask(rules, one, len(slots))
        for name, value in one.items():
            result[name].append(value)
    return result


def stage_name(rules: MaskRules, stage: int) -> str:
    """The name of a stage, or the integer with a note that it is none."""
    try:
        return rules.stages(stage).name
    except ValueError:
        return f"{stage} (no stage of {rules.name})"


def _lists(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
