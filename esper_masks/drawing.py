"""Two ways to draw an action of a long row; ``MaskedSoftmax.draw`` says what they compute."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def draw_in_blocks(weights: Tensor, target: Tensor) -> Tensor:
    """What ``draw`` does, block by block and then within one: a compiler has no vectorized running sum.

    Args:
        weights: ``[n, ...]``.
        target: ``[...]``.
    """
    size = math.isqrt(len(weights) - 1) + 1
    blocks = -(-len(weights) // size)
    padded = pad(weights, (*[0, 0] * (weights.ndim - 1), 0, blocks * size - len(weights)))
    by_block = padded.view(blocks, size, *weights.shape[1:])
    block, before = _walk(by_block.sum(1).unbind(), target)
    at = torch.arange(blocks, device=weights.device).view(-1, *[1] * weights.ndim)
    place, _ = _walk(torch.where(block == at, by_block, 0).sum(0).unbind(), target - before)
    return torch.where(block < 0, -1, block * size + place)


def _walk(weights: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """The last slab with a weight, not more than ``target`` before it, and what is before it; -1 if none has one."""
    place, start, before = torch.full_like(target, -1), torch.zeros_like(target), torch.zeros_like(target)
    for i, w in enumerate(weights):
        passed = (w == 0) | (before > target)
        place, start = torch.where(passed, place, i), torch.where(passed, start, before)
        before = before + w
    return place, start


def search(before: Tensor, none: Tensor, index: Tensor, target: Tensor) -> Tensor:
    """What ``draw`` does, by a binary search for each of many samples of a row.

    Args:
        before: weights before each action, ``[n, ...]``.
        none: bool ``[n, ...]``, actions without a weight.
        index: number of each action, ``[n, ...]``.
        target: ``[*sample, ...]``.
    """
    sample = target.ndim + 1 - before.ndim
    last = index.masked_fill(none, -1).cummax(0).values.movedim(0, -1)  # action with a weight up to each place
    first = index.masked_fill(none, len(index)).amin(0).unsqueeze(-1)
    samples = target.flatten(0, sample - 1).movedim(0, -1).contiguous()  # [..., samples]
    place = torch.searchsorted(before.movedim(0, -1).contiguous(), samples, right=True) - 1
    place = torch.maximum(place, first).clamp_max(len(index) - 1)
    return last.gather(-1, place).movedim(-1, 0).reshape(target.shape)
