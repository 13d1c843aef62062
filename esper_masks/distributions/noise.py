"""Noise: uniforms from torch's generators, or computed from a key and the number of the row."""

import math
from collections.abc import Sequence
from threading import local
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 13
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA

_DRAWN = local()


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

    @classmethod
    def draw_for_now(cls) -> "NoiseKey":
        """The same of torch's own generator, in memory that the next such call of the thread overwrites."""
        if not hasattr(_DRAWN, "key"):
            with torch.inference_mode(False):
                _DRAWN.bits = torch.empty(1, dtype=torch.int64, device="cpu")
                _DRAWN.key = cls(_DRAWN.bits.view(torch.float32))
        _DRAWN.bits.random_(-(1 << 63), None)
        key: NoiseKey = _DRAWN.key
        return key


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
    if stacked and dtype != torch.float32:
        raise ValueError(f"stacked noise is float32, got {dtype}; without stacked=True it may be float64")
    *batch, numbers = shape
    first, second = key.bits.view(torch.int32).unbind()
    double = dtype == torch.float64
    pairs = numbers if double else -(-numbers // 2)  # threefry gives two words: two float32 or one float64
    row = torch.arange(math.prod(batch), dtype=torch.int32, device=key.bits.device).view(batch)
    if stacked:
        place = torch.arange(pairs, dtype=torch.int32, device=row.device).view(-1, *[1] * len(batch))
        words = torch.cat(threefry((first, second), (row.expand(pairs, *batch), place.expand(pairs, *batch))))
        return [unit(words[:numbers])]
    drawn = [threefry((first, second), (row, torch.full_like(row, place))) for place in range(pairs)]
    if double:
        return [((a & 0x7FFFFFF).double() * 2**26 + (b & 0x3FFFFFF).double()) * 2**-53 for a, b in drawn]
    return [unit(word) for pair in drawn for word in pair][:numbers]


def unit(word: Tensor) -> Tensor:
    """24 bits of an int32 as a float32 in [0, 1)."""
    return (word & 0xFFFFFF).float() * 2**-24


def keyed_words(keys: Tensor, purposes: Tensor, number: int) -> Tensor:
    """Pseudo-random words of each row: a function of its key, its purpose and the place of the word there.

    Args:
        keys: int64 ``[batch]``.
        purposes: integers of 32 bits ``[batch]``.
        number: of words.

    Returns: int32 ``[batch, number]``.
    """
    low, high = ((((keys >> shift) & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)).int().unsqueeze(-1) for shift in (0, 32))
    place = torch.arange(-(-number // 2), dtype=torch.int32, device=keys.device)  # threefry gives two words
    return torch.cat(threefry((low, high), (place, purposes.int().unsqueeze(-1))), -1)[:, :number]


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
