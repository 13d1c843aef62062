"""Noise: uniforms, keys of uniforms, and ways to draw an action of a long row by one; see ``MaskedSoftmax.draw``."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

ROUNDS = 13
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA


def uniforms(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Noise ``[..., heads]`` from a generator, by default torch's own, a head's side by side in memory."""
    size = shape[-1], *shape[:-1]
    if generator is None:  # given as None, it would make sizes constant to a compiler
        return torch.rand(size, dtype=dtype, device=device).movedim(0, -1)
    return torch.rand(size, dtype=dtype, device=device, generator=generator).movedim(0, -1)


class NoiseKey(NamedTuple):
    """What noise is computed from, where it is used: no memory holds it, and any core computes its part. A pytree.

    For code that is compiled for a CPU, in which torch's own generator draws number by number.
    """

    bits: Tensor  # float32 [2]: 64 random bits, held as floats because compiled code is slow to read integers

    @classmethod
    def draw(cls, generator: torch.Generator | None = None) -> "NoiseKey":
        """A key from a generator for a CPU, by default torch's own."""
        bits = torch.empty(1, dtype=torch.int64, device="cpu").random_(-(1 << 63), None, generator=generator)
        return cls(bits.view(torch.float32))


Noise = Tensor | NoiseKey  # uniforms, or what they are computed from


def keyed_uniforms(
    key: NoiseKey, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, stacked: bool = False
) -> list[Tensor]:
    """Noise ``[..., numbers]`` in slabs: each number is a function of the key, of its row and of its place there.

    As many bits as ``torch.rand`` gives: 24 for float32, 53 for float64.

    Args:
        key: see ``NoiseKey``.
        shape: ``[..., numbers]``, of at most ``2**31`` rows.
        dtype: float32 or float64.
        stacked: one slab ``[numbers, ...]`` of float32, made by few ops, in place of a slab ``[...]`` for each number.
            Both are as good, but they hold other numbers.
    """
    *batch, numbers = shape
    first, second = key.bits.view(torch.int32).unbind()
    double = dtype == torch.float64
    pairs = numbers if double else -(-numbers // 2)  # threefry gives two words: two float32 or one float64
    row = torch.arange(math.prod(batch), dtype=torch.int32, device=key.bits.device).view(batch)
    if stacked:
        place = torch.arange(pairs, dtype=torch.int32, device=row.device).view(-1, *[1] * len(batch))
        words = torch.cat(threefry((first, second), (row.expand(pairs, *batch), place.expand(pairs, *batch))))
        return [_unit(words[:numbers])]
    drawn = [threefry((first, second), (row, torch.full_like(row, place))) for place in range(pairs)]
    if double:
        return [((a & 0x7FFFFFF).double() * 2**26 + (b & 0x3FFFFFF).double()) * 2**-53 for a, b in drawn]
    return [_unit(word) for pair in drawn for word in pair][:numbers]


def _unit(word: Tensor) -> Tensor:
    """24 bits of an int32 as a float32 in [0, 1)."""
    return (word & 0xFFFFFF).float() * 2**-24


def threefry(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor], rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Threefry-2x32, pseudo-random words of numbered places; int32 all.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. With 13 rounds it passes
    TestU01's BigCrush.
    """
    keys = *key, key[0] ^ key[1] ^ PARITY
    one, two = counter[0] + keys[0], counter[1] + keys[1]
    for done in range(1, rounds + 1):
        one = one + two
        left = ROTATIONS[(done - 1) % 8]
        two = (two << left | two >> 32 - left & (1 << left) - 1) ^ one
        if done % 4 == 0:
            step = done // 4
            one, two = one + keys[step % 3], two + keys[(step + 1) % 3] + step
    return one, two


def draw_in_blocks(weights: Callable[[slice], Tensor], number: int, target: Tensor) -> Tensor:
    """What ``draw`` does, block by block and then within one: a compiler has no vectorized running sum.

    Args:
        weights: those of some actions, ``[some, ...]``, from their slice.
        number: how many actions there are.
        target: ``[...]``.
    """
    size = math.isqrt(number - 1) + 1
    starts = range(0, number, size)
    block, before = _walk([weights(slice(start, start + size)).sum(0) for start in starts], target)
    at = torch.arange(len(starts), device=target.device).view(-1, *[1] * target.ndim)
    places = [weights(slice(place, None, size)) for place in range(size)]
    place, _ = _walk([torch.where(block == at[: len(each)], each, 0).sum(0) for each in places], target - before)
    return torch.where(block < 0, -1, block * size + place)


def _walk(weights: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """The last slab with a weight, not more than ``target`` before it, and what is before it; -1 if none has one."""
    place, start, before = torch.full_like(target, -1), torch.zeros_like(target), torch.zeros_like(target)
    for i, w in enumerate(weights):
        passed = (w == 0) | (before > target)
        place, start = torch.where(passed, place, i), torch.where(passed, start, before)
        before = before + w
    return place, start


def draw_in_row(running: Tensor, none: Tensor, target: Tensor) -> Tensor:
    """What ``draw`` does, from the running sum.

    Args:
        running: sum of the weights up to each action, ``[n, ...]``.
        none: bool ``[n, ...]``, actions without a weight.
        target: ``[*sample, ...]``.
    """
    before = pad(running[:-1], (*[0, 0] * (running.ndim - 1), 1, 0))
    index = torch.arange(len(none), device=none.device).view(-1, *[1] * (none.ndim - 1)).expand(none.shape)
    if target.ndim + 1 > none.ndim:
        return _search(before, none, index, target)
    return index.masked_fill((before > target) | none, -1).amax(0)


def _search(before: Tensor, none: Tensor, index: Tensor, target: Tensor) -> Tensor:
    """By a binary search for each of many samples of a row; ``before`` is the running sum without the action's own."""
    sample = target.ndim + 1 - before.ndim
    last = index.masked_fill(none, -1).cummax(0).values.movedim(0, -1)  # action with a weight up to each place
    first = index.masked_fill(none, len(index)).amin(0).unsqueeze(-1)
    samples = target.flatten(0, sample - 1).movedim(0, -1).contiguous()  # [..., samples]
    place = torch.searchsorted(before.movedim(0, -1).contiguous(), samples, right=True) - 1
    place = torch.maximum(place, first).clamp_max(len(index) - 1)
    return last.gather(-1, place).movedim(-1, 0).reshape(target.shape)
