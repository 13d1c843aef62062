"""A method that is quick to compile."""

import torch
from torch import Tensor


class Sums(torch.nn.Module):
    def add(self, inputs: tuple[Tensor, Tensor, bool]) -> Tensor:
        one, other, wide = inputs
        made = one * 2 + other
        return made.double() if wide else made
