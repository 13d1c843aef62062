"""Running mean and spread, for observations and returns."""

import torch
from torch import Tensor, nn

from esper_masks.rollout.training.processes import Processes

LIMIT = 10.0  # of a normalized number


class RunningMoments(nn.Module):
    """Mean and variance of all rows seen so far, by all processes.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    Args:
        size: numbers of a row.
        device: where the moments live.
        processes: the processes of the training; by default one.
    """

    mean: Tensor  # float64 [size]
    square: Tensor  # float64 [size]: sum of the squared differences from the mean
    count: Tensor  # float64 []

    def __init__(self, size: int, device: torch.device | None = None, processes: Processes | None = None):
        super().__init__()
        self.processes = Processes() if processes is None else processes
        for name, shape in (("mean", (size,)), ("square", (size,)), ("count", ())):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64, device=device))

    def update(self, rows: Tensor) -> None:
        """Take rows ``[..., size]`` into account, as many of each process."""
        self.merge(*self.measure(rows))

    @torch.no_grad()
    def measure(self, rows: Tensor) -> tuple[int, Tensor, Tensor]:
        """How many rows all processes have, their mean, and the sum of squared differences from it, for ``merge``."""
        rows = rows.reshape(-1, len(self.mean))
        variance, own = (part.double() for part in torch.var_mean(rows, 0, correction=0))
        mean = self.processes.mean(own)
        square = self.processes.sum((variance + (own - mean).square()) * len(rows))
        return len(rows) * self.processes.size, mean, square

    @torch.no_grad()
    def merge(self, number: int, mean: Tensor, square: Tensor) -> None:
        """Take rows into account that ``measure`` has measured."""
        total, difference = self.count + number, mean - self.mean
        self.square += square + difference.square() * self.count * number / total
        self.mean += difference * number / total
        self.count.copy_(total)

    @property
    def spread(self) -> Tensor:
        """Standard deviation, float32 ``[size]``; 1 where rows did not differ."""
        variance = self.square / self.count.clamp_min(1)
        return torch.where(variance > 1e-8, variance, 1.0).sqrt().float()

    def forward(self, rows: Tensor) -> Tensor:
        """Rows less the mean, over the spread, within ``±LIMIT``, float32 ``[..., size]``."""
        return self.scale(rows, self.mean.float(), self.spread)

    @staticmethod
    def scale(rows: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """The same by given moments."""
        return ((rows - mean) / spread).clamp(-LIMIT, LIMIT)
