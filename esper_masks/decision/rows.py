"""What a decision and its evaluation give for each row, and the narrowest form of a decision in memory."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.actions.layout import ActionLayout
from esper_masks.compiled.methods import copy_into

HOW_WIDE = "make the buffer, or allocate, with the names of what is given in head_masks= and restrict="


class Decision(NamedTuple):
    """Whole actions of a batch, what they were drawn with and what was legal. A pytree."""

    actions: Tensor  # integer [..., heads]; -1 in all heads of a row that did not act: inactive, or faulty
    log_prob: Tensor  # [...]
    # integer [..., slots]: where packed is None, ActionMasks.from_words makes the masks of them, which else would lack
    # what was taken from heads; None in rows of a buffer that keeps packed words
    slot_words: Tensor | None
    raw_entropy: Tensor | None = None  # [...], nats; None where nobody asks for it
    # int32 [..., words]: ActionMasks.from_packed makes the masks of it; None where slot words hold them
    packed: Tensor | None = None


class Evaluation(NamedTuple):
    """What an update needs to know of given actions."""

    log_prob: Tensor  # [...]
    raw_entropy: Tensor  # [...], nats
    head_entropies: Tensor | None  # [..., heads], in [0, 1]; None unless they are asked for
    faults: Tensor  # int64 [...], a bit for each head, 1 << heads for an illegal action; raise_on_fault reads it


def action_dtype(layout: ActionLayout) -> torch.dtype:
    """The narrowest signed integers that hold -1 and every choice."""
    most = max(head.size for head in layout.heads)
    return torch.int8 if most <= 1 << 7 else torch.int16 if most <= 1 << 15 else torch.int32


def compiled_dtype(place: Tensor) -> torch.dtype:
    """What compiled code gives for a place.

    For int16 it would compute all that is in the loop one by one, and bytes of several heads it would put together by a
    call of its own, of which no code is kept for the next process.
    """
    return place.dtype if place.dtype == torch.int64 else torch.int32


def word_dtype(layout: ActionLayout) -> torch.dtype:
    """The narrowest integers with a bit for every op."""
    ops = len(layout.ops)
    return torch.uint8 if ops <= 8 else torch.int16 if ops <= 16 else layout.word_dtype


def is_double(logits: Any) -> bool:
    """Whether what is computed from logits, a tensor or a mapping of tensors, is float64."""
    parts = logits.values() if isinstance(logits, Mapping) else (logits,)
    return any(isinstance(part, Tensor) and part.dtype == torch.float64 for part in parts)


def batch_last(shape: Sequence[int], width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized ``[*shape, width]``, in memory ``[width, *shape]``."""
    return torch.empty((width, *shape), dtype=dtype, device=device).movedim(0, -1)


def allocate_decision(
    layout: ActionLayout,
    shape: Sequence[int],
    device: torch.device,
    *,
    entropy: bool = True,
    integers: tuple[torch.dtype, torch.dtype] | None = None,
    real: torch.dtype | None = None,
    words: int | None = None,
) -> Decision:
    """Uninitialized memory for the decisions of ``shape`` rows.

    Args:
        layout: heads, ops and slots.
        shape: leading shape.
        device: where.
        entropy: whether there is a place for it.
        integers: dtypes of the actions and the words; by default the narrowest there are.
        real: dtype of the rest; by default float64 where torch's default dtype is that, else float32.
        words: packed words of a row; None where slot words hold the masks.

    Raises:
        ValueError: a dtype that cannot hold log-probabilities: the ratio of an update needs fp32.
    """
    of_actions, of_words = (action_dtype(layout), word_dtype(layout)) if integers is None else integers
    if real is None:
        real = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    if real not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {real!r}")
    return Decision(
        actions=batch_last(shape, len(layout.heads), of_actions, device),
        log_prob=torch.empty(tuple(shape), dtype=real, device=device),
        slot_words=batch_last(shape, len(layout.slot_ids), of_words, device),
        raw_entropy=torch.empty(tuple(shape), dtype=real, device=device) if entropy else None,
        packed=None if words is None else batch_last(shape, words, torch.int32, device),
    )


def write(out: Decision, made: Decision) -> None:
    """Write a decision where there is a place for it.

    Raises:
        ValueError: it has packed masks, and there is no place for them.
    """
    if made.packed is not None and out.packed is None:
        raise ValueError(f"out has no packed words, and the masks need {made.packed.shape[-1]}: {HOW_WIDE}")
    copy_into(out, made)


def check_out(
    out: Decision, layout: ActionLayout, batch: Sequence[int], device: torch.device, double: bool, words: int | None
) -> None:
    """Raise ``ValueError`` unless there is memory of the right shape, and as wide, for the decisions of a batch.

    Args:
        out: the memory.
        layout: heads, ops and slots.
        batch: leading shape.
        device: where it must be.
        double: whether log-probabilities are float64.
        words: packed words that are needed; None where slot words hold the masks.
    """
    if not isinstance(out, Decision):
        raise ValueError(f"out must be a Decision, got {type(out).__name__}; DecisionStep.allocate makes one")
    room = out.packed.shape[-1] if isinstance(out.packed, Tensor) else 0
    if words is not None and room < words:
        raise ValueError(f"out has {room} packed words a row, and the masks need {words}: {HOW_WIDE}")
    shapes = (*batch, len(layout.heads)), tuple(batch), (*batch, len(layout.slot_ids)), tuple(batch), (*batch, room)
    optional = "raw_entropy", "slot_words" if room else "packed"
    for name, place, shape in zip(Decision._fields, out, shapes):
        if place is None and name in optional:
            continue
        if not isinstance(place, Tensor) or place.shape != shape or place.device != device:
            got = f"{tuple(place.shape)} on {place.device}" if isinstance(place, Tensor) else type(place).__name__
            raise ValueError(f"{name} of out is {got}; wanted {shape} on {device}")
        wrong = place.dtype == torch.bool or (name == "packed" and place.dtype != torch.int32)
        if place.dtype.is_floating_point != (name in ("log_prob", "raw_entropy")) or wrong:
            raise ValueError(f"{name} of out cannot be {place.dtype}; DecisionStep.allocate makes what fits")
        if double and place.dtype.is_floating_point and place.dtype != torch.float64:
            raise ValueError(
                f"{name} of out is {place.dtype}, and of float64 logits it is torch.float64: make the buffer, or "
                "allocate, with dtype=torch.float64"
            )
