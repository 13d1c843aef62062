"""Hosts to which nothing is done, beside those that a controller grows: what their seeds are measured against."""

from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.rollout.networks.population import Networks, Population
from esper_masks.rollout.networks.samples import ROUND, Samples, numbers_of, rounds_of
from esper_masks.rollout.networks.tasks import Split


class Course(NamedTuple):
    """What came of hosts after each epoch, and in the first row before any."""

    loss: Tensor  # [epochs + 1, batch]: nats, on validation
    accuracy: Tensor  # [epochs + 1, batch]
    host: Tensor  # [parameters, batch]: after the last epoch


class Twins:
    """The same hosts without seeds: same beginnings, same data. A round of them is trained when it is first asked for.

    On a CPU a host that gets no seed is its twin to the last bit.

    Args:
        population: trains them.
        samples: what they are given.
        epochs: of their training.
        steps: of an epoch.
        rows: samples of a step.
    """

    def __init__(self, population: Population, samples: Samples, epochs: int, steps: int, rows: int):
        self.population, self.samples = population, samples
        self.epochs, self.steps, self.rows = epochs, steps, rows
        self._rounds: dict[int, tuple[Tensor, Course]] = {}  # round -> numbers, and what came of them

    def of(self, keys: Tensor) -> dict[int, Course]:
        """What came of the twins of hosts, round by round of those that some host is in."""
        numbers = numbers_of(keys)
        return {int(each): self._course(int(each), numbers, keys) for each in set(rounds_of(keys).tolist())}

    def losses(self, keys: Tensor, epoch: Tensor) -> Tensor:
        """Losses of twins after so many epochs, on validation, ``[batch]``.

        Args:
            keys: int64 ``[batch]``.
            epoch: int ``[batch]``.
        """
        at, rounds = epoch.long().unsqueeze(0), rounds_of(keys)
        made = torch.zeros(len(keys), dtype=self.population.dtype, device=keys.device)
        for each, course in self.of(keys).items():
            made = torch.where(rounds == each, course.loss.gather(0, at).squeeze(0), made)
        return made

    def final(self, keys: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        """Losses and accuracies of twins after the last epoch, ``[batch]`` both."""
        rounds = rounds_of(keys)
        made = torch.zeros(2, len(keys), dtype=self.population.dtype, device=keys.device)
        for each, course in self.of(keys).items():
            last = torch.stack(self._evaluate(self._alone(course.host), keys, split))
            made = torch.where(rounds == each, last, made)
        return made[0], made[1]

    def _course(self, number: int, numbers: Tensor, keys: Tensor) -> Course:
        known = self._rounds.get(number)
        if known is None or not torch.equal(known[0], numbers):
            pool = keys - numbers - (rounds_of(keys) << ROUND)
            self._rounds[number] = numbers, self._train(pool + numbers + (number << ROUND))
        return self._rounds[number][1]

    def _train(self, keys: Tensor) -> Course:
        population, batch = self.population, len(keys)
        networks = population.fresh(keys)
        none = torch.full((population.slots, batch), -1, dtype=torch.int32, device=keys.device)
        alpha = torch.zeros(none.shape, dtype=torch.float32, device=keys.device)
        told = [self._evaluate(networks, keys, "validation")]
        for epoch in range(self.epochs):
            drawn = self.samples.drawn(keys, torch.full_like(keys, epoch), self.steps, self.rows)
            networks, _ = population.train(networks, none, alpha, none > 0, drawn, self.steps)
            told.append(self._evaluate(networks, keys, "validation"))
        loss, accuracy = (torch.stack(parts) for parts in zip(*told))
        return Course(loss, accuracy, networks.host)

    def _alone(self, host: Tensor) -> Networks:
        """Hosts without seeds."""
        seeds = host.new_zeros(self.population.slots, max(self.population.seed_parameters), host.shape[1])
        return Networks(host, torch.zeros_like(host), seeds, seeds)

    def _evaluate(self, networks: Networks, keys: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        none = torch.full((self.population.slots, len(keys)), -1, dtype=torch.int32, device=keys.device)
        alpha = torch.zeros(none.shape, dtype=torch.float32, device=keys.device)
        loss, accuracy = self.population.evaluate(networks, none, alpha, self.samples.whole(keys, split))
        return bounded(loss), accuracy


LOSS_LIMIT = 10.0  # nats


def bounded(loss: Tensor) -> Tensor:
    """Losses as they are told: that of a host that has diverged is a number, too."""
    return loss.nan_to_num(LOSS_LIMIT, LOSS_LIMIT).clamp(max=LOSS_LIMIT)
