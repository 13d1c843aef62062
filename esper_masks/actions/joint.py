"""Whole actions as one index: exact masks for libraries that know a single discrete action only."""

import torch
from torch import Tensor

from esper_masks.actions.layout import ActionLayout
from esper_masks.actions.tables import actions_per_op, layout_tables
from esper_masks.checks import check_actions, check_integer


class JointActions:
    """Every op with the heads it uses, less what no state allows, numbered 0 to ``size - 1``.

    Ops in order; within an op, the heads it uses in head order, the last one fastest.

    Args:
        layout: the engine's ``layout``.
    """

    def __init__(self, layout: ActionLayout):
        self.layout = layout
        self.size = sum(actions_per_op(layout))

    def encode(self, actions: Tensor) -> Tensor:
        """Index of whole actions.

        Args:
            actions: integer ``[..., heads]``. Heads that the op ignores may hold anything.

        Returns: int64 ``[...]``; -1 for an action that no state allows.
        Raises:
            ValueError: not integers, or another number of heads.
        """
        check_actions("actions", actions, torch.Size(), self.layout.head_names)
        return layout_tables(self.layout, actions.device).encode(actions.long())

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
        return layout_tables(self.layout, index.device).decode(index.long())

    def __repr__(self) -> str:
        return f"JointActions(size={self.size}, heads={self.layout.head_names})"
