"""What a decision and its evaluation give for each row, and the narrowest form of a decision in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.layout import ActionLayout


class Decision(NamedTuple):
    """Whole actions of a batch, what they were drawn with and what was legal. A pytree."""

    actions: Tensor  # integer [..., heads]; -1 in all heads of a row that did not act: inactive, or faulty
    log_prob: Tensor  # [...]
    slot_words: Tensor  # integer [..., slots]; ActionMasks.from_words makes the masks of them
    raw_entropy: Tensor | None = None  # [...], nats; None where nobody asks for it


class Evaluation(NamedTuple):
    """What an update needs to know of given actions."""

    log_prob: Tensor  # [...]
    raw_entropy: Tensor  # [...], nats
    head_entropies: Tensor | None  # [..., heads], in [0, 1]; None unless they are asked for
    faults: Tensor  # int64 [...], a bit for each head; raise_on_fault reads it


torch.serialization.add_safe_globals([Decision, Evaluation])


def action_dtype(layout: ActionLayout) -> torch.dtype:
    """The narrowest signed integers that hold -1 and every choice."""
    most = max(head.size for head in layout.heads)
    return torch.int8 if most <= 1 << 7 else torch.int16 if most <= 1 << 15 else torch.int32


def compiled_dtype(place: Tensor) -> torch.dtype:
    """What compiled code gives for a place: for int16 it would compute all that is in the loop one by one."""
    return torch.int32 if place.dtype == torch.int16 else place.dtype


def word_dtype(layout: ActionLayout) -> torch.dtype:
    """The narrowest integers with a bit for every op."""
    return torch.uint8 if len(layout.ops) <= 8 else torch.int16 if len(layout.ops) <= 16 else torch.int32


def batch_last(shape: Sequence[int], width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized ``[*shape, width]``, in memory ``[width, *shape]``."""
    return torch.empty((width, *shape), dtype=dtype, device=device).movedim(0, -1)


def allocate_decision(
    layout: ActionLayout,
    shape: Sequence[int],
    device: torch.device,
    *,
    entropy: bool = True,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype] | None = None,
) -> Decision:
    """Uninitialized memory for the decisions of ``shape`` rows.

    Args:
        layout: heads, ops and slots.
        shape: leading shape.
        device: where.
        entropy: whether there is a place for it.
        dtypes: of the actions, the words and the rest; by default the narrowest there are.
    """
    actions, words, real = (action_dtype(layout), word_dtype(layout), torch.float32) if dtypes is None else dtypes
    return Decision(
        actions=batch_last(shape, len(layout.heads), actions, device),
        log_prob=torch.empty(tuple(shape), dtype=real, device=device),
        slot_words=batch_last(shape, len(layout.slot_ids), words, device),
        raw_entropy=torch.empty(tuple(shape), dtype=real, device=device) if entropy else None,
    )


def check_out(out: Decision, layout: ActionLayout, batch: Sequence[int], device: torch.device) -> None:
    """Raise ``ValueError`` unless there is memory of the right shape for the decisions of a batch."""
    if not isinstance(out, Decision):
        raise ValueError(f"out must be a Decision, got {type(out).__name__}; DecisionStep.allocate makes one")
    shapes = ((*batch, len(layout.heads)), tuple(batch), (*batch, len(layout.slot_ids)), tuple(batch))
    for name, place, shape in zip(Decision._fields, out, shapes):
        if place is None and name == "raw_entropy":
            continue
        if not isinstance(place, Tensor) or place.shape != shape or place.device != device:
            got = f"{tuple(place.shape)} on {place.device}" if isinstance(place, Tensor) else type(place).__name__
            raise ValueError(f"{name} of out is {got}; wanted {shape} on {device}")
        if place.dtype.is_floating_point != (name in ("log_prob", "raw_entropy")) or place.dtype == torch.bool:
            raise ValueError(f"{name} of out cannot be {place.dtype}; DecisionStep.allocate makes what fits")
