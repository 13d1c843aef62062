"""The processes of a training, as torchrun starts them, and what they tell one another."""

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
class Processes:
    """The processes of a training, as one of them sees them; by default this process is the only one.

    Args:
        rank: the number of this process.
        size: how many processes there are.
        local_rank: the number of this process among those of its machine, and with it the number of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Processes":
        """As torchrun describes them, by variables of the environment.

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
        """The device of this process: each process of a machine has a CUDA device of its own.

        Raises:
            ValueError: one CUDA device for several processes.
        """
        if self.size > 1 and name.startswith("cuda:"):
            raise ValueError(f"{name} would be the device of all {self.size} processes; cuda gives each its own")
        return f"cuda:{self.local_rank}" if name == "cuda" and self.size > 1 else name

    def share(self, number: int, what: str) -> int:
        """This process's share of a number of things.

        Raises:
            ValueError: they cannot be divided evenly.
        """
        if number % self.size:
            raise ValueError(f"{number} {what} cannot be divided evenly among {self.size} processes")
        return number // self.size

    def seed(self, seed: int, use: str) -> int:
        """A seed for this process and this use, unlike that of any other process or use."""
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
        """A module whose gradients are means over processes; its parameters become those of the first process."""
        # buffers are tables, the same everywhere; torch 2.13 has another name for leaving them alone
        parameters = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        settings: dict[str, Any] = {name: False, "device_ids": [device] if device.type == "cuda" else None}
        return DistributedDataParallel(module, **settings)

    # -- all processes call these, in the same order ----------------------------------------------------------------

    def sum(self, values: Tensor) -> Tensor:
        """Sums over processes, in a tensor of its own where there are several."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Means over processes."""
        return self.sum(values) / self.size

    def most(self, number: int, device: torch.device) -> int:
        """The largest number of any process."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def agreed(self, number: int, device: torch.device) -> int:
        """The number of the first process, below ``2**53``."""
        first = torch.tensor(float(number if self.rank == 0 else 0), dtype=torch.float64, device=device)
        return int(self.sum(first))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()
