"""A batch in pieces that stay in a CPU's cache.

Compiled code for a head of many choices writes numbers for all choices of all rows before it reads them again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from esper_masks.decision_rows import Decision
from esper_masks.layout import ActionLayout
from esper_masks.softmax import UNROLLED_ROW

NUMBERS = 1 << 19  # in a piece, for one head: 2 MiB


def pieces(layout: ActionLayout, batch: Sequence[int], arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of each piece, none if the batch is to stay whole.

    Args:
        layout: heads.
        batch: leading shape of the states.
        arguments: of a step: tensors ``[*batch, ...]``, pytrees of such, ``enabled`` ``[slots]``, or no tensors.
    """
    widest = max(head.size for head in layout.heads)
    number = math.prod(batch) * widest // NUMBERS
    if widest <= UNROLLED_ROW or number < 2 or batch[0] < 2:
        return
    enabled = arguments["enabled"]
    same = {"enabled"} if isinstance(enabled, Tensor) and enabled.ndim == 1 else set()  # for all rows
    of_rows = {name: argument for name, argument in arguments.items() if name not in same}
    leaves = [leaf for leaf in tree_leaves(of_rows) if isinstance(leaf, Tensor)]
    if any(leaf.shape[:1] != batch[:1] for leaf in leaves):
        return  # which is an error that names what came whole
    size = -(-batch[0] // number)
    for start in range(0, batch[0], size):
        yield {**arguments, **tree_map_only(Tensor, itemgetter(slice(start, start + size)), of_rows)}


def joined(made: Sequence[Decision]) -> Decision:
    """One decision of those of the pieces, in memory as each of them: ``[width, *batch]``."""
    actions, log_probs, words, entropies = zip(*made)

    def wide(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.movedim(-1, 0) for part in parts], 1).movedim(0, -1)

    entropy = None if entropies[0] is None else torch.cat(entropies)
    return Decision(wide(actions), torch.cat(log_probs), wide(words), entropy)
