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
        first, count = rows[:1], len(rows)  # twice over the rows, at a tenth of what torch takes for a variance
        apart = rows - first  # 0 where they do not differ, however large they are
        own = apart.mean(0)
        square = apart.sub_(own).square_().sum(0).double()
        own = first.sum(0).double() + own.double()
        mean = self.processes.mean(own)
        square = self.processes.sum(square + (own - mean).square() * count)
        return count * self.processes.size, mean, square

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

    def scale_(self, rows: Tensor) -> None:
        """The same, written to the rows."""
        rows.sub_(self.mean.float()).div_(self.spread).clamp_(-LIMIT, LIMIT)

    @staticmethod
    def scale(rows: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Rows by given moments."""
        return ((rows - mean) / spread).clamp(-LIMIT, LIMIT)
