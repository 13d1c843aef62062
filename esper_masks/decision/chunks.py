"""A batch in chunks that stay in a CPU's cache.

Eager code writes a value for each choice of each row before it reads them again, and so does compiled code for a head
of many choices.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from esper_masks.actions.draws import Dynamic, Heads, build_draws
from esper_masks.actions.layout import ActionLayout
from esper_masks.decision.given import over_rows
from esper_masks.decision.rows import Decision, allocate_decision, is_double
from esper_masks.distributions.forms import is_crowded, is_long, of_decision, runs

CHUNK_VALUES = 1 << 19  # of one such result in a chunk: 2 MiB of float32


def values_per_row(layout: ActionLayout, by_slot: Heads = (), dynamic: Dynamic | None = None) -> tuple[int, int]:
    """How many values of such a result one row has: of all draws, padded to the widest; compiled, of a long head or of
    a family of draws.

    Args:
        layout: heads and ops.
        by_slot: see ``build_draws``.
        dynamic: see ``build_draws``.

    Returns: of eager code, and of compiled.
    """
    draws = build_draws(layout, (), by_slot, dynamic)
    stacked = max(draw.size for draw in draws) * len(draws)
    crowded = is_crowded(draws)
    tensors = [(draws[run.start], len(run)) for run in runs(draws)]
    long = max([draw.size * number for draw, number in tensors if number > 1 or is_long(draw, crowded)], default=0)
    eager, compiled = (stacked if of_decision(draws, how) == "stacked" else long for how in (False, True))
    return eager, compiled


def chunks(
    number: int, batch: torch.Size, layout: ActionLayout, arguments: Mapping[str, Any]
) -> list[tuple[slice, dict[str, Any]]]:
    """The rows of each chunk along the first axis, and its arguments; no chunk if the batch is to stay whole.

    Args:
        number: of chunks.
        batch: leading shape of the states.
        layout: of the engine.
        arguments: of a step: tensors ``[*batch, ...]``, pytrees of such, ``enabled`` ``[slots]``, ``restrict``, or no
            tensors.
    """
    if "restrict" in arguments:
        try:
            arguments = {**arguments, "restrict": over_rows(arguments["restrict"], batch, layout)}
        except (AttributeError, KeyError, RuntimeError, ValueError):
            return []  # an error that names it
    enabled = arguments["enabled"]
    same = {"enabled"} if isinstance(enabled, Tensor) and enabled.ndim == 1 else set()  # for all rows
    of_rows = {name: argument for name, argument in arguments.items() if name not in same}
    leaves = [leaf for leaf in tree_leaves(of_rows) if isinstance(leaf, Tensor)]
    if batch[0] < 2 or any(leaf.shape[: len(batch)] != batch for leaf in leaves):
        return []  # an error that names what came whole, or something that is broadcast
    rows = -(-batch[0] // number)
    slices = [slice(start, start + rows) for start in range(0, batch[0], rows)]
    return [(part, {**arguments, **tree_map_only(Tensor, itemgetter(part), of_rows)}) for part in slices]


def fresh_decision(
    layout: ActionLayout, batch: Sequence[int], logits: Any, device: torch.device, words: int | None
) -> Decision:
    """Memory as a step makes it that is given none."""
    real = torch.float64 if is_double(logits) else torch.float32
    with torch.inference_mode(False):  # an update may need what a rollout decided
        return allocate_decision(
            layout, batch, device, integers=(torch.int64, layout.word_dtype), real=real, words=words
        )
