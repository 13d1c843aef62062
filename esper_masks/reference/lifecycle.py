"""The oracle of the masks: the same results by plain loops over Python ints, one environment at a time.

It reads the rules and nothing else of this package, and of a gate only its verdict in plain Python. So a wrong table, a
wrong bit or a wrong reduction disagrees with it. It is written to be read, not to be fast; ``bench`` holds the loops
that are written to be fast.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from esper_masks.reference.situation import (
    Situation,
    SlotRow,
    canonical_value,
    head_choices,
    permitted,
)
from esper_masks.rules import MaskRules, Op, SlotHead
from esper_masks.rules.names import BY_SLOT, OP, SLOT, SLOT_BY_OP

Action = tuple[int, ...]  # one value per head
Result = dict[str, list[Any]]


def forbids(rules: MaskRules, op: Op, slots: Sequence[SlotRow], slot: int, **given: Any) -> str | None:
    """Why an op is illegal in a slot of one environment: the first rule that forbids it, or None if it is legal.

    Args:
        rules: resolved rules.
        op: one of ``rules.op_rules``.
        slots: stage, age and further features of every slot.
        slot: index of the slot in question.
        given: the other fields of ``reference.Situation``.
    """
    return Situation(rules, slots, **given).reason(op, slot)


def slot_by_op(rules: MaskRules, slots: Sequence[SlotRow], **given: Any) -> list[list[bool]]:
    """Which op is legal in which slot of one environment: ops × slots bools. See ``forbids`` for the arguments."""
    one = Situation(rules, slots, **given)
    return [[one.reason(op, slot) is None for slot in range(len(slots))] for op in rules.op_rules]


def head_masks(rules: MaskRules, by_op: Sequence[Sequence[bool]], enabled: Sequence[bool]) -> Result:
    """One list of bools per head, and ``slot_by_op``, of one environment whose ``slot_by_op`` is known.

    It is all there is to the masks of rules whose heads do not depend on slots, and whose ops act in slots unless they
    are always legal.

    Args:
        rules: resolved rules.
        by_op: see ``slot_by_op``.
        enabled: one bool a slot.

    Raises:
        ValueError: other rules, whose masks ``masks`` gives.
    """
    if any(head.dynamic for head in rules.heads) or not all(op.in_slot or op.always for op in rules.op_rules):
        raise ValueError(f"the masks of {rules.name} do not follow from slot_by_op; reference.masks gives them")
    legal_ops = [op for op in rules.op_rules if (op.always and not op.in_slot) or any(by_op[op.id])]
    masks: Result = {SLOT_BY_OP: list(by_op)}
    for head in rules.heads:
        if head.name == SLOT:
            masks[SLOT] = list(enabled)
        elif head.name == OP:
            masks[OP] = [op in legal_ops for op in rules.op_rules]
        else:
            legal = head_choices(head, rules, legal_ops)
            masks[head.name] = [choice in legal for choice in head.choices]
    return masks


def joint_actions(rules: MaskRules, slots: int) -> Iterator[Action]:
    """Every whole action that some state allows, in index order: op by op, then the heads in order.

    Heads that the op ignores hold their canonical value. What kinds, distinctness, masks and states forbid has its
    number all the same: numbers are static. Rules must be resolved.
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
            elif head.name == SLOT or isinstance(head, SlotHead):
                values.append(range(slots))
            else:
                values.append(permitted(head, op, len(head.choices)))
        yield from product(*values)


def joint_mask(rules: MaskRules, masks: Mapping[str, Any], slots: int) -> list[bool]:
    """Legality of every whole action of ``joint_actions``, from the ``masks`` of one environment."""
    return [is_legal(rules, masks, action) for action in joint_actions(rules, slots)]


def is_legal(rules: MaskRules, masks: Mapping[str, Any], action: Action) -> bool:
    """Whether one environment permits an action, by its ``masks``; any integers, which do not count where ignored."""
    values = dict(zip(rules.head_names, action))
    if values[OP] not in range(len(rules.op_rules)):
        return False
    op, slots = rules.op_rules[values[OP]], len(masks[SLOT])
    if any(values[name] not in permitted(rules.head(name), op, slots) for name in op.uses):
        return False
    if not (masks[SLOT_BY_OP][op.id][values[SLOT]] if SLOT in op.uses else masks[OP][op.id]):
        return False
    for name in op.uses:
        if name == SLOT:
            continue
        by_slot = masks.get(f"{name}{BY_SLOT}")
        if not (masks[name] if by_slot is None else by_slot[values[SLOT]])[values[name]]:
            return False
    return True


def masks(
    rules: MaskRules,
    states: Any,
    total_seeds: Any = None,
    *,
    max_seeds: Any = 0,
    enabled: Any = None,
    row: Mapping[str, Any] | None = None,
    kinds: Mapping[str, Sequence[int]] | None = None,
    head_masks: Mapping[str, Any] | None = None,
    restrict: Mapping[str, Any] | None = None,
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
        row: name -> ``[batch]`` ints or bools; all of ``rules.row_features`` that guards read.
        kinds: name -> the slots of that kind, by number; None for those of the rules.
        head_masks: head -> bools, ``[batch][n]`` or ``[batch][slots][n]``.
        restrict: head -> bools that broadcast to ``[batch][n]``, ``slot_by_op`` to ``[batch][ops][slots]``, a head with
            ``_by_slot`` behind its name to ``[batch][slots][n]``.
        joint: also give ``"joint"``, ``[batch][whole actions]``.
        switches: rule switches.

    Returns: head name -> ``[batch][n]`` bools; ``"slot_by_op"`` -> ``[batch][ops][slots]``; of a head with choices of
        its own in each slot, with ``_by_slot`` behind its name, ``[batch][slots][n]``.
    """
    rules = rules.resolve(**switches)
    states, totals, limits, enables = (_lists(value) for value in (states, total_seeds, max_seeds, enabled))
    rows = {name: _lists(values) for name, values in (row or {}).items()}
    own = {name: _lists(values) for name, values in (head_masks or {}).items()}
    slots = len(states[0]) if states else 0
    limited = {
        name: _spread(_lists(mask), (len(states), *_axes(rules, name, slots)))
        for name, mask in (restrict or {}).items()
    }
    result: Result = {}
    for env, held in enumerate(states):
        one = Situation(
            rules,
            held,
            enabled=enables[env] if enables and isinstance(enables[0], list) else enables,
            total_seeds=None if totals is None else totals[env],
            max_seeds=limits[env] if isinstance(limits, list) else limits,
            row={name: int(values[env]) for name, values in rows.items()},
            kinds=kinds,
            head_masks={name: values[env] for name, values in own.items()},
            restrict={name: values[env] for name, values in limited.items()},
        ).masks()
        if joint:
            one["joint"] = joint_mask(rules, one, slots)
        for name, value in one.items():
            result.setdefault(name, []).append(value)
    return result or {name: [] for name in (*rules.head_names, SLOT_BY_OP, *(["joint"] if joint else []))}


def _axes(rules: MaskRules, name: str, slots: int) -> tuple[int, ...]:
    """The axes of a constraint behind the batch."""
    ops = len(rules.op_rules)
    if name == SLOT_BY_OP:
        return ops, slots
    wide = name not in rules.head_names
    head = rules.head(name.removesuffix(BY_SLOT) if wide else name)
    size = {SLOT: slots, OP: ops}.get(head.name, slots if isinstance(head, SlotHead) else len(head.choices))
    return (slots, size) if wide else (size,)


def _spread(value: Any, shape: Sequence[int]) -> Any:
    """Nested lists broadcast to a shape."""
    depth, inner = 0, value
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0]
    for _ in range(len(shape) - depth):
        value = [value]
    return _repeated(value, shape)


def _repeated(value: Any, shape: Sequence[int]) -> Any:
    if not shape:
        return value
    items = list(value) * shape[0] if len(value) == 1 else value
    return [_repeated(item, shape[1:]) for item in items]


def _lists(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
