"""The parts of masks side by side in one int32 tensor, and back; ``actions.packing`` says where each stands."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.actions.layout import ActionLayout, choice_words
from esper_masks.actions.packing import Packing


class Parts(NamedTuple):
    """What masks hold."""

    slot_words: Tensor  # ``[..., slots]``
    op_words: Tensor | None  # ``[...]``
    slot_mask: Tensor | None  # int32 ``[..., k]``, the slots as choice words
    choices: Mapping[str, Tensor]  # head -> int32 ``[..., k]`` or ``[..., slots, k]``


def join_parts(form: Packing, parts: Parts) -> Tensor:
    """int32 ``[..., words]``, whose memory is batch-last."""
    made = [as_int32(parts.slot_words)]
    if form.op and parts.op_words is not None:
        made.append(as_int32(parts.op_words.unsqueeze(-1)))
    if form.slot_mask and parts.slot_mask is not None:
        made.append(parts.slot_mask)
    for name, by_slot in form.choices.items():
        words = parts.choices[name]
        made.append(words.flatten(-2) if by_slot else words)
    if padding := form.width - sum(part.shape[-1] for part in made):
        made.append(made[0].new_zeros(()).expand(*made[0].shape[:-1], padding))
    return torch.cat([part.movedim(-1, 0) for part in made]).movedim(0, -1)


def split_parts(form: Packing, layout: ActionLayout, packed: Tensor) -> Parts:
    """What ``join_parts`` was given, as views."""
    slots, per_word, at = len(layout.slot_ids), form.per_word, 0

    def words(number: int) -> Tensor:
        nonlocal at
        at += number
        return packed[..., at - number : at]

    slot_words = from_int32(words(slots * per_word), layout.word_dtype)
    op_words = from_int32(words(per_word), layout.word_dtype).squeeze(-1) if form.op else None
    slot_mask = words(choice_words(slots)) if form.slot_mask else None
    choices = {}
    for name, by_slot in form.choices.items():
        size = choice_words(layout.head(name).size)
        own = words(size * (slots if by_slot else 1))
        choices[name] = own.view(*own.shape[:-1], slots, size) if by_slot else own
    return Parts(slot_words, op_words, slot_mask, choices)


def as_int32(words: Tensor) -> Tensor:
    """Words ``[..., n]`` as int32 ``[..., n]`` or, for int64, ``[..., 2 n]``, the lower half of each first."""
    if words.dtype == torch.int32:
        return words
    halves = torch.stack([words.to(torch.int32), (words >> 32).to(torch.int32)])  # of the lower, what exceeds it is cut
    return halves.movedim(0, -1).flatten(-2)


def from_int32(words: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``as_int32`` was given."""
    if dtype == torch.int32:
        return words
    low, high = words[..., ::2], words[..., 1::2]
    return high.long() << 32 | low.long() & 0xFFFFFFFF
