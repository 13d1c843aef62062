"""Which samples a host is given when: a function of its key and the epoch, so that no action shifts anybody's data."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from esper_masks.distributions.noise import keyed_words
from esper_masks.rollout.networks.population import Batches
from esper_masks.rollout.networks.tasks import Split, Task

Pool = Literal["train", "test"]
POOLS: tuple[Pool, ...] = get_args(Pool)

# A key is a whole number; from its lowest bit on:
#
#     bits   0-31     32-47    48-51                52-62
#     what   number   round    pool (train 0, ...)  epoch + 1 of a seed's birth; 0 of a host
#
# so that no key of a pool is one of another pool.
ROUND, POOL, BIRTH = 32, 48, 52
ROUNDS, EPOCHS = 1 << 16, (1 << 11) - 2  # at most
DRAWN = 1 << 16  # the first of the purposes that are epochs; those below are the population's
BITS = 24  # of a draw


def keys_of(pool: Pool, numbers: Tensor, rounds: int | Tensor = 0) -> Tensor:
    """Keys of hosts, int64 ``[batch]``.

    Args:
        pool: where they are from.
        numbers: int64 ``[batch]``.
        rounds: of each, int64 ``[batch]``, or of all.
    """
    return numbers + (rounds << ROUND) + (POOLS.index(pool) << POOL)


def numbers_of(keys: Tensor) -> Tensor:
    """Numbers of hosts, int64 ``[batch]``."""
    return keys & (1 << ROUND) - 1


def rounds_of(keys: Tensor) -> Tensor:
    """Rounds of hosts, int64 ``[batch]``."""
    return keys >> ROUND & ROUNDS - 1


def births_of(keys: Tensor, epoch: Tensor) -> Tensor:
    """Keys of seeds that germinate in an epoch, int64 ``[batch]``."""
    return keys + (epoch.long() + 1 << BIRTH)


class Samples:
    """The samples of tasks side by side. The task of a host is its number modulo the tasks.

    Args:
        tasks: as ``find_tasks`` gives them.
        dtype: of inputs.
        device: where everything lives.
    """

    def __init__(self, tasks: Sequence[Task], dtype: torch.dtype, device: torch.device | str):
        self.tasks, self.sizes = tuple(tasks), tasks[0].sizes
        self._splits: dict[Split, tuple[Tensor, Tensor]] = {}
        for split in ("training", "validation", "test"):
            inputs, labels = (torch.stack(parts) for parts in zip(*(task.of(split) for task in tasks)))
            self._splits[split] = inputs.to(device, dtype), labels.to(device)  # [tasks, samples, *shape]

    def tasks_of(self, keys: Tensor) -> Tensor:
        """Number of each host's task, int64 ``[batch]``."""
        return numbers_of(keys) % len(self.tasks)

    def drawn(self, keys: Tensor, epoch: Tensor, steps: int, rows: int) -> Batches:
        """Minibatches of an epoch, drawn from the training split with replacement.

        Args:
            keys: int64 ``[batch]``.
            epoch: int32 ``[batch]``, that of each host.
            steps: of the epoch.
            rows: samples of a minibatch.
        """
        inputs, labels = (part.flatten(0, 1) for part in self._splits["training"])
        size = self.sizes[0]
        words = keyed_words(keys, DRAWN + epoch, steps * rows)
        chosen = (words.long() & (1 << BITS) - 1) * size >> BITS
        chosen = (chosen + self.tasks_of(keys).unsqueeze(-1) * size).view(-1, steps, rows).movedim(1, 0)

        def batch(step: int, hosts: slice) -> tuple[Tensor, Tensor]:
            index = chosen[step, hosts]
            flat = index.flatten()
            x, y = inputs.index_select(0, flat), labels.index_select(0, flat)
            return x.view(*index.shape, *inputs.shape[1:]), y.view(index.shape)

        return batch

    def whole(self, keys: Tensor, split: Split) -> Batches:
        """All samples of a split, for each host those of its task."""
        inputs, labels = self._splits[split]
        tasks = self.tasks_of(keys)
        return lambda step, hosts: (inputs.index_select(0, tasks[hosts]), labels.index_select(0, tasks[hosts]))
