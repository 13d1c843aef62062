"""What is random within compiled code: known answers, uniform and independent numbers, every bit of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from esper_masks.distributions.noise import ROUNDS, NoiseKey, keyed_uniforms, threefry


def signed(*words: int) -> tuple[Tensor, Tensor]:
    one, two = torch.tensor(words, dtype=torch.int64).to(torch.int32)
    return one, two


@pytest.mark.parametrize(
    ("key", "counter", "rounds", "expected"),
    [  # known answers, published with the generator
        ((0, 0), (0, 0), 20, (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, 20, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 20, (0xC4923A9C, 0x483DF7A0)),
        ((0, 0), (0, 0), ROUNDS, (0x9D1C5EC6, 0x8BD50731)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, ROUNDS, (0xFD36D048, 0x2D17272C)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), ROUNDS, (0xBA3E4725, 0xF27D669E)),
    ],
)
def test_known_answers(key: Any, counter: Any, rounds: int, expected: Any) -> None:
    assert [int(word) for word in threefry(signed(*key), signed(*counter), rounds)] == [
        int(w) for w in signed(*expected)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("heads", [1, 3, 4])
def test_keyed_uniforms_are_uniform_and_independent(dtype: torch.dtype, heads: int) -> None:
    torch.manual_seed(0)
    made = keyed_uniforms(NoiseKey.draw(), (200_000, heads), dtype)
    other = keyed_uniforms(NoiseKey.draw(), (200_000, heads), dtype)
    assert len(made) == heads
    for noise in made:
        assert (noise.shape, noise.dtype) == ((200_000,), dtype)
        assert ((noise >= 0) & (noise < 1)).all()
        counts = torch.histc(noise, bins=100, min=0, max=1)
        assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-square with 99 degrees of freedom: p < 0.0001
    places = torch.stack([*made, *other, *[noise.roll(1) for noise in made]]).corrcoef()
    assert (places - torch.eye(3 * heads, dtype=dtype)).abs().max() < 0.012


def test_a_row_draws_by_its_number() -> None:
    key = NoiseKey.draw()
    whole = keyed_uniforms(key, (6, 7, 3), torch.float32)
    assert [noise.shape for noise in whole] == [(6, 7)] * 3
    for noise, part in zip(whole, keyed_uniforms(key, (10, 3), torch.float32), strict=True):
        assert torch.equal(noise.flatten()[:10], part)
    assert keyed_uniforms(key, (0, 2), torch.float32)[1].shape == (0,)
    assert keyed_uniforms(key, (2,), torch.float32)[1].shape == ()


def test_every_bit_of_a_double_is_drawn() -> None:
    (noise,) = keyed_uniforms(NoiseKey.draw(), (10_000, 1), torch.float64)
    bits = (noise * 2**53).long()
    assert torch.equal(bits.double() * 2**-53, noise)
    share = torch.stack([(bits >> i & 1).double().mean() for i in range(53)])
    assert ((share - 0.5).abs() < 0.03).all()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("numbers", [1, 4, 5])
def test_which_word_is_which_number(stacked: bool, numbers: int) -> None:
    """Or runs of a seed would change."""
    first, second = signed(0x13198A2E, 0x03707344)
    key = NoiseKey(torch.stack([first, second]).view(torch.float32))
    slabs = keyed_uniforms(key, (2, 3, numbers), stacked=stacked)
    made = slabs[0] if stacked else torch.stack(slabs)
    assert made.shape == (numbers, 2, 3)
    pairs = (numbers + 1) // 2
    for number in range(numbers):
        pair, word = (number % pairs, number // pairs) if stacked else (number // 2, number % 2)
        for row in range(6):
            drawn = threefry((first, second), signed(row, pair))[word]
            assert made[number].flatten()[row] == (int(drawn) & 0xFFFFFF) / 2**24
