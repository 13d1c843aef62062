"""Choice words against bits that are set one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper_masks.masks import choices
from esper_masks.masks.choices import pack_choices, unpack_choices
from tests.helpers import seeded

BITS = torch.tensor([1 << c if c < 31 else -(2**31) for c in range(32)], dtype=torch.int32)


@pytest.fixture(params=["small", "large"], autouse=True)
def size_of_masks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask counts as small, or as large."""
    monkeypatch.setattr(choices, "LARGE", 0 if request.param == "large" else 1 << 62)


def one_by_one(mask: Tensor) -> Tensor:
    """The same words, by loops."""
    rows = mask.reshape(-1, mask.shape[-1]).tolist()
    count = -(-mask.shape[-1] // 32)
    words = [
        [sum(1 << c % 32 for c, legal in enumerate(row) if legal and c // 32 == k) for k in range(count)]
        for row in rows
    ]
    return torch.tensor(words, dtype=torch.int64).reshape(*mask.shape[:-1], count).to(torch.int32)


@given(
    st.sampled_from([1, 2, 7, 8, 9, 16, 31, 32, 33, 40, 64, 65, 129]),
    st.sampled_from([(), (0,), (1,), (5,), (3, 4), (2, 3, 8)]),
    st.integers(0, 2**31),
    st.sampled_from(["whole", "batch last", "misaligned", "one row for all", "every second"]),
)
def test_packed_bit_by_bit(size: int, lead: tuple[int, ...], seed: int, memory: str) -> None:
    mask = torch.rand((*lead, size), generator=seeded(seed)) < 0.5
    if memory == "batch last" and lead:
        mask = mask.movedim(-1, 0).contiguous().movedim(0, -1)
    elif memory == "misaligned":
        mask = torch.cat([torch.ones(3, dtype=torch.bool), mask.flatten()])[3:].view(*lead, size)
    elif memory == "one row for all":
        mask = mask.flatten()[:size].expand(*lead, size) if mask.numel() else mask
    elif memory == "every second":
        mask = mask.repeat_interleave(2, -1)[..., ::2]
    words = pack_choices(mask, BITS)
    assert words.dtype == torch.int32
    assert torch.equal(words, one_by_one(mask))
    assert torch.equal(unpack_choices(words, size, BITS), mask)


def test_any_byte_but_0_is_true() -> None:
    """Of bytes that somebody views as bools."""
    mask = torch.tensor([2, 0, 255, 1, 128, 0, 0, 3, 64], dtype=torch.uint8).view(torch.bool)
    assert pack_choices(mask, BITS).tolist() == [0b110011101]


def test_packed_under_vmap() -> None:
    mask = torch.rand(4, 3, 40, generator=seeded(0)) < 0.5
    assert torch.equal(torch.vmap(pack_choices, (0, None))(mask, BITS), one_by_one(mask))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("size", [1, 16, 32, 40, 100])
def test_packed_by_compiled_code(size: int) -> None:
    compiled = torch.compile(pack_choices, fullgraph=True, dynamic=True)
    for batch in (5, 300):
        mask = torch.rand(batch, 3, size, generator=seeded(batch)) < 0.5
        assert torch.equal(compiled(mask, BITS), one_by_one(mask))
