"""Uniforms, and ways to draw an action of a long row by one; ``MaskedSoftmax.draw`` says what they compute."""

import math
from collections.abc import Callable, Sequence

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


def random_key(generator: torch.Generator | None = None) -> Tensor:
    """64 bits of a generator for a CPU, by default torch's own, as float32 ``[2]``."""
    bits = torch.empty(1, dtype=torch.int64, device="cpu").random_(-(1 << 63), None, generator=generator)
    return bits.view(torch.float32)


def counted_uniforms(key: Tensor, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Noise ``[...]`` a head, of the number of the row: it needs no memory, and any core may compute it.

    As many bits each as ``torch.rand`` gives: 24 for float32, 53 for float64.

    Args:
        key: of ``random_key``.
        shape: ``[..., heads]``, of at most ``2**31`` rows.
        dtype: of the noise.
    """
    *batch, heads = shape
    first, second = key.view(torch.int32).unbind()
    row = torch.arange(math.prod(batch), dtype=torch.int32, device=key.device).view(batch)
    double = dtype == torch.float64
    pairs = [
        threefry((first, second), (row, torch.full_like(row, i))) for i in range(heads if double else -(-heads // 2))
    ]
    if double:
        made = [((a & 0x7FFFFFF).double() * 2**26 + (b & 0x3FFFFFF).double()) * 2**-53 for a, b in pairs]
    else:
        made = [_unit(word) for pair in pairs for word in pair][:heads]
    return made


def counted_slab(key: Tensor, number: int, rows: int) -> Tensor:
    """As good noise, other numbers, as one float32 tensor ``[number, rows]``: few ops for many numbers of a row."""
    first, second = key.view(torch.int32).unbind()
    pairs = -(-number // 2)
    row = torch.arange(rows, dtype=torch.int32, device=key.device).expand(pairs, rows)
    at = torch.arange(pairs, dtype=torch.int32, device=key.device).unsqueeze(-1).expand(pairs, rows)
    words = torch.cat(threefry((first, second), (row, at)))
    return _unit(words[:number])


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
