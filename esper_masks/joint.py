"""Whole actions as one index: exact masks for libraries that know a single discrete action only."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.checks import check_integer
from esper_masks.layout import ActionLayout
from esper_masks.rule_checks import OP, SLOT


class JointTables(NamedTuple):
    """Mixed-radix numbering, op by op. A head the op ignores has one choice, its canonical value."""

    starts: Tensor  # int64 [ops]: index of the op's first whole action
    strides: Tensor  # int64 [ops, heads]
    counts: Tensor  # int64 [ops, heads]: choices of the head under the op
    choices: Tensor  # int64 [ops, heads, width]: value of the k-th choice
    terms: Tensor  # int64 [1 + ops + 1, heads, 1 + width + 1]: what a value adds to the index, -1 if not permitted


def op_counts(layout: ActionLayout) -> tuple[int, ...]:
    """Whole actions of each op; 0 for an op that no state allows."""
    return tuple(
        math.prod(len(head.by_op[op]) for head in layout.heads) if layout.possible >> op & 1 else 0
        for op in range(len(layout.ops))
    )


def build_joint_tables(layout: ActionLayout, device: torch.device) -> JointTables:
    ops, heads = len(layout.ops), len(layout.heads)
    width = max(head.size for head in layout.heads)
    counts = op_counts(layout)
    starts = [sum(counts[:op]) for op in range(ops)]
    strides = [[1] * heads for _ in range(ops)]
    sizes = [[len(head.by_op[op]) for head in layout.heads] for op in range(ops)]
    choices = [[[0] * width for _ in range(heads)] for _ in range(ops)]
    terms = [[[-1] * (width + 2) for _ in range(heads)] for _ in range(ops + 2)]
    for op in range(ops):
        for h, head in enumerate(layout.heads):
            strides[op][h] = math.prod(sizes[op][h + 1 :])
            for rank, value in enumerate(head.by_op[op]):
                choices[op][h][rank] = value
                terms[1 + op][h][1 + value] = rank * strides[op][h] + (starts[op] if head.name == OP else 0)
            if not head.users >> op & 1:
                terms[1 + op][h] = [0] * (width + 2)  # the op ignores the head, so any value means the same action
        if not counts[op]:
            terms[1 + op] = [[-1] * (width + 2) for _ in range(heads)]
    return JointTables(
        *(torch.tensor(t, dtype=torch.int64, device=device) for t in (starts, strides, sizes, choices, terms))
    )


def build_pair_index(layout: ActionLayout, device: torch.device) -> Tensor:
    """Where each whole action's legality stands in ``[ops * slots, ops]``: int64 ``[size]``.

    An op that uses a slot reads its own (op, slot) entry, any other the entry of the op.
    """
    op, slot = _joint_values(layout, OP, device), _joint_values(layout, SLOT, device)
    ops, slots = len(layout.ops), len(layout.slot_ids)
    return torch.where(_uses(layout, SLOT, op), op * slots + slot, ops * slots + op)


def build_joint_values(layout: ActionLayout, device: torch.device) -> dict[str, Tensor]:
    """Each head's value in every whole action, n (one past its choices) where the op ignores it: int64 ``[size]``."""
    op = _joint_values(layout, OP, device)
    return {
        head.name: torch.where(_uses(layout, head.name, op), _joint_values(layout, head.name, device), head.size)
        for head in layout.heads
    }


def _joint_values(layout: ActionLayout, head: str, device: torch.device) -> Tensor:
    codec = JointActions(layout)
    return codec.decode(torch.arange(codec.size, device=device))[:, layout.head_names.index(head)]


def _uses(layout: ActionLayout, head: str, op: Tensor) -> Tensor:
    return ((layout.head(head).users >> op) & 1) != 0


class JointActions:
    """Every op with the heads it uses, less what no state allows, numbered 0 to ``size - 1``.

    Ops in order; within an op, the heads it uses in head order, the last one fastest.

    Args:
        layout: the engine's ``layout``.
    """

    def __init__(self, layout: ActionLayout):
        self.layout = layout
        self.size = sum(op_counts(layout))

    def encode(self, actions: Tensor) -> Tensor:
        """Index of whole actions.

        Args:
            actions: integer ``[..., heads]``. Heads that the op ignores may hold anything.

        Returns: int64 ``[...]``; -1 for an action that no state allows.
        Raises:
            ValueError: not integers, or another number of heads.
        """
        heads = len(self.layout.heads)
        check_integer("actions", actions)
        if actions.ndim < 1 or actions.shape[-1] != heads:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; wanted [..., {heads}], one value for each of "
                f"{', '.join(self.layout.head_names)}"
            )
        tables = self.layout.constants(build_joint_tables, actions.device)
        rows = actions.long().clamp(-1, tables.choices.shape[-1]) + 1  # row 0 and the last are for no value
        op = actions[..., self.layout.head_names.index(OP)].long().clamp(-1, len(self.layout.ops)) + 1
        head = torch.arange(heads, device=actions.device)
        terms = tables.terms[op.unsqueeze(-1), head, rows]  # [..., heads]
        return torch.where((terms < 0).any(-1), -1, terms.sum(-1))

    def decode(self, index: Tensor) -> Tensor:
        """Whole actions of indices.

        Args:
            index: integer ``[...]``.

        Returns: int64 ``[..., heads]``, canonical values in the heads that the op ignores; -1 in every head for an
            index that is not in 0..size - 1.
        Raises:
            ValueError: not integers.
        """
        check_integer("index", index)
        tables = self.layout.constants(build_joint_tables, index.device)
        index = index.long().unsqueeze(-1)  # [..., 1]
        valid = (index >= 0) & (index < self.size)
        index = torch.where(valid, index, 0)
        op = (index >= tables.starts).sum(-1) - 1  # [...]
        rank = (index - tables.starts[op].unsqueeze(-1)) // tables.strides[op] % tables.counts[op]  # [..., heads]
        head = torch.arange(rank.shape[-1], device=index.device)
        return torch.where(valid, tables.choices[op.unsqueeze(-1), head, rank], -1)

    def __repr__(self) -> str:
        return f"JointActions(size={self.size}, heads={self.layout.head_names})"
