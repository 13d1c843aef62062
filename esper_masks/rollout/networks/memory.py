"""Whether there is memory for so many hosts, asked before they are made."""

from pathlib import Path

import torch

from esper_masks.rollout.networks.population import Population


def check_memory(population: Population, hosts: int, beside: int = 0) -> None:
    """Raises: ValueError: so many hosts do not fit into what is free; it says how many would.

    Args:
        population: would train them.
        hosts: how many.
        beside: bytes that each takes outside the population.
    """
    free, each = free_memory(population.device), population.bytes_per_host() + beside
    if free is not None and hosts * each > free:
        raise ValueError(
            f"{hosts:,} hosts need {hosts * each / 1e9:.3g} GB, {each / 1e6:.3g} MB each, and {free / 1e9:.3g} GB are "
            f"free: {free // each:,} would fit"
        )


def free_memory(device: torch.device | str) -> int | None:
    """Bytes that are free on a device; None where the system does not tell. What other processes are about to take, or
    a container may not, it does not know.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return told_bytes("/proc/meminfo", "MemAvailable")
    except (OSError, ValueError):
        return None


def told_bytes(path: str, name: str) -> int:
    """Bytes that the system tells, in a line such as ``VmRSS:  4096 kB``."""
    [line] = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024
