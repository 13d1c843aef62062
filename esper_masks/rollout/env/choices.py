"""Choices between few numbers as chains of ``where``: gathers are not vectorized, and numbers need no copy."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def is_any(values: Tensor, of: Sequence[int]) -> Tensor:
    """Whether each value is one of some numbers, without a copy of the numbers to the device."""
    return reduce(torch.logical_or, [values == one for one in of]) if of else torch.zeros_like(values, dtype=torch.bool)


def value_of(choice: Tensor, choices: Sequence[int], values: Sequence[float]) -> Tensor:
    """The value that belongs to each choice, float32; 0 for those that are not among the choices."""
    found = torch.zeros_like(choice, dtype=torch.float32)
    for number in choices:
        found = torch.where(choice == number, float(values[number]), found)
    return found


def one_of(index: Tensor, values: Sequence[float]) -> Tensor:
    """The value at each index, float32; the first one for an index that is none."""
    found = torch.full_like(index, values[0], dtype=torch.float32)
    for at, value in enumerate(values[1:], 1):
        found = torch.where(index == at, float(value), found)
    return found


def one_hot(values: Tensor, of: Sequence[int]) -> list[Tensor]:
    """For each of some numbers which values are that one, float32."""
    return [(values == one).float() for one in of]
