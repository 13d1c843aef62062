"""Uniforms, and two ways to draw an action of a long row by one; ``MaskedSoftmax.draw`` says what they compute."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def uniforms(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Noise ``[..., heads]`` from torch's generator, a head's side by side in memory."""
    return torch.rand(shape[-1], *shape[:-1], dtype=dtype, device=device).movedim(0, -1)


def random_words(*shape: int) -> Tensor:
    """Random bits of torch's generator for a CPU, int32: two words at a time, in half the time of two uniforms."""
    number = math.prod(shape)
    words = torch.empty((number + 1) // 2, dtype=torch.int64, device="cpu").random_(-(1 << 63), None).view(torch.int32)
    return (words[:number] if number % 2 else words).view(shape)


def uniforms_of(words: Tensor) -> Tensor:
    """Noise ``[..., heads]`` of random bits ``[heads, ...]``: float32, of the 24 bits that ``torch.rand`` takes too."""
    return ((words & 0xFFFFFF).float() * 2**-24).movedim(0, -1)


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
