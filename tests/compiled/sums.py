"""A method that is quick to compile."""

from typing import Any

import torch
from torch import Tensor


class Sums(torch.nn.Module):
    def add(self, one: Tensor, other: Tensor, wide: bool, out: Any, *, fused: bool = False) -> Tensor:
        made = one * 2 + other
        return made.double() if wide else made
