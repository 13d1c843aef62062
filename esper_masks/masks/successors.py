"""What whole actions make of slot states: the edges that ops take, and the features that they set.

A *change* is what ops do to the slot that one head names: to that of the head ``slot`` by the edges and ``sets`` of the
op, to a second slot by ``moves`` and ``sets`` of its head. Edges are one table over pairs of op and stage, so that one
lookup a slot finds them; by comparisons, compiled code for ``esper-2026-06`` takes fourteen times as long. For
``esper-2025-12``, in which stages reach to 10, the pair (CULL 2, BLENDING 4) is at 2 * 13 + 1 + 4 = 31:

    op           -1 (no stage)   0       1                2            3            4            ...   11 (no stage)
    WAIT 0       STAYS           STAYS   STAYS            STAYS        STAYS        STAYS              STAYS
    GERMINATE 1  STAYS           STAYS   2 (GERMINATED)   STAYS        STAYS        STAYS              STAYS
    CULL 2       STAYS           STAYS   STAYS            8 (CULLED)   8 (CULLED)   8 (CULLED)         STAYS
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.masks.stage_words import ABOVE, BELOW
from esper_masks.rules import MaskRules
from esper_masks.rules.names import OP, SLOT

STAYS = -1  # no edge is taken
INT16 = range(-(2**15), 2**15)


class Setting(NamedTuple):
    """A value that ops give to a feature of a slot; ops that give the same one are one step."""

    column: int
    value: int
    ops: int  # a bit each


class Change(NamedTuple):
    """What ops do to the slot that a head names."""

    head: str
    edges: tuple[int, ...]  # the stage that is entered, or STAYS: see above
    sets: tuple[Setting, ...]


class Changes(NamedTuple):
    """All that ops do to slots, in numbers, so that a compiler sees constants."""

    of_heads: tuple[Change, ...]  # that of the head ``slot`` first
    ops: int
    last: int  # the highest stage
    empty: int
    wide: tuple[tuple[str, int], ...]  # features, and the values set, that int16 does not hold


def build_changes(rules: MaskRules) -> Changes:
    """The changes of resolved rules."""
    own = [(rules.edges(op.id), op.sets) if SLOT in op.uses else ({}, {}) for op in rules.op_rules]
    made = [_change(rules, SLOT, own)]
    for head in rules.slot_heads:
        if head.moves or head.sets:
            parts = [(head.moves, head.sets) if head.name in op.uses else ({}, {}) for op in rules.op_rules]
            made.append(_change(rules, head.name, parts))
    settings = [setting for change in made for setting in change.sets]
    wide = [(rules.feature_names[one.column], one.value) for one in settings if one.value not in INT16]
    return Changes(tuple(made), len(rules.op_rules), int(max(rules.stages)), int(rules.empty), tuple(wide))


def _change(rules: MaskRules, head: str, parts: Sequence[tuple[Mapping[Any, IntEnum], Mapping[str, Any]]]) -> Change:
    """The change of a head, from the edges and the values of each op."""
    stages = range(-BELOW, max(rules.stages) + 1 + ABOVE)
    edges = [int(moves[stage]) if stage in moves else STAYS for moves, _ in parts for stage in stages]
    ops: dict[tuple[int, int], int] = {}
    for at, (_, sets) in enumerate(parts):
        for feature, value in sets.items():
            key = rules.feature_names.index(feature), int(value)
            ops[key] = ops.get(key, 0) | 1 << at
    return Change(head, tuple(edges), tuple(Setting(*key, word) for key, word in ops.items()))


def take(
    states: Tensor, values: Mapping[str, Tensor], legal: Tensor, changes: Changes, tables: Sequence[Tensor]
) -> Tensor:
    """What legal actions make of states; see ``MaskEngine.successors``.

    Args:
        states: integer ``[..., slots, features]``.
        values: head -> int64 ``[*sample, ...]``.
        legal: bool ``[*sample, ...]``; nothing changes where it is False.
        changes: those of the rules.
        tables: the edges of each head, int32.

    Returns: ``[*sample, ..., slots, features]`` of the dtype of the states, in their memory layout.
    """
    ahead = (slice(None), *[None] * (legal.ndim - states.ndim + 2))
    before = [column.movedim(-1, 0)[ahead] for column in states.unbind(-1)]  # [slots, *1, ...]
    stage, op = before[0], values[OP].clamp(0, changes.ops - 1)
    slots = torch.arange(len(stage), device=states.device).view(-1, *[1] * legal.ndim)
    acting = [legal & (values[change.head] == slots) for change in changes.of_heads]  # [slots, *sample, ...]
    known = stage.clamp(-BELOW, changes.last + ABOVE).int() + BELOW
    pair = op.int() * (BELOW + changes.last + 1 + ABOVE) + known
    after, begins = stage, torch.zeros_like(acting[0])
    for acts, table in zip(acting, tables):
        target = table[pair]
        moves = acts & (target != STAYS)
        after = torch.where(moves, target.to(states.dtype), after)
        begins = begins | moves & ((stage == changes.empty) | (target == changes.empty))
    columns = [after, *(torch.where(begins, 0, column) for column in before[1:])]
    op_bit, occupied = torch.ones_like(op) << op, after != changes.empty
    for acts, change in zip(acting, changes.of_heads):
        for column, value, ops in change.sets:
            given = acts & occupied & ((op_bit & ops) != 0)
            columns[column] = torch.where(given, value, columns[column])
    # bits that flip: the result of an operation whose first operand are the states has their memory layout
    flips = torch.stack([old ^ new for old, new in zip(before, columns)])  # [features, slots, *sample, ...]
    return states ^ flips.movedim((0, 1), (-1, -2))
