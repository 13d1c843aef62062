"""The processes of a training, as torchrun starts them, and what they say to one another."""

import gc
import hashlib
import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """One process among those of a training; by default the only one.

    Args:
        rank: which of them.
        size: how many there are.
        local_rank: which of those on this machine, and with it the number of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def told(cls, environ: Mapping[str, str] = os.environ) -> "World":
        """As torchrun tells it by variables of the environment.

        Raises:
            ValueError: some of the variables are there and others are not.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        there = [name for name in names if name in environ]
        if not there:
            return cls()
        if len(there) < len(names):
            raise ValueError(f"the environment has {', '.join(there)}, but torchrun sets {', '.join(names)}")
        return cls(*(int(environ[name]) for name in names))

    def device(self, name: str) -> str:
        """The device of this process: of CUDA devices one for each process of a machine.

        Raises:
            ValueError: the same one for all of several processes.
        """
        if self.size > 1 and name.startswith("cuda:"):
            raise ValueError(f"{name} would be the device of all {self.size} processes; cuda gives each its own")
        return f"cuda:{self.local_rank}" if name == "cuda" and self.size > 1 else name

    def share(self, number: int, what: str) -> int:
        """This process's part of a number of things.

        Raises:
            ValueError: they cannot be divided evenly.
        """
        if number % self.size:
            raise ValueError(f"{number} {what} cannot be divided evenly among {self.size} processes")
        return number // self.size

    def seed(self, seed: int, use: str) -> int:
        """A seed of its own for each process and use."""
        digest = hashlib.sha256(f"{seed} {self.rank} {use}".encode()).digest()
        return int.from_bytes(digest[:4], "little")  # torch's generator of a CPU heeds 32 bits of a seed

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Meet the other processes, and leave them at the end: by NCCL for CUDA devices, by gloo for others."""
        if self.size == 1:
            yield
            return
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        yield  # after an error the others may be waiting for this process, and to part from them might never end
        gc.collect()  # an averaged module that is part of a cycle would outlive the group, and abort the process
        dist.destroy_process_group()

    def averaged(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with gradients that are means over processes; its parameters become those of the first one."""
        # buffers are tables, the same everywhere; torch 2.13 has another name for leaving them alone
        parameters = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        settings: dict[str, Any] = {name: False, "device_ids": [device] if device.type == "cuda" else None}
        return DistributedDataParallel(module, **settings)

    # -- all processes call these, in the same order ----------------------------------------------------------------

    def sum(self, values: Tensor) -> Tensor:
        """Sums over processes, in a tensor of its own."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Means over processes."""
        return self.sum(values) / self.size

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        return self.most(int(flag), device) > 0

    def most(self, number: int, device: torch.device) -> int:
        """The largest number that any process has."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def agreed(self, number: int, device: torch.device) -> int:
        """A number below ``2**53``: that of the first process."""
        told = torch.tensor(float(number if self.rank == 0 else 0), dtype=torch.float64, device=device)
        return int(self.sum(told))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()
