"""Memory: what a call takes, what there is, and whether it was short."""

import ctypes
from pathlib import Path

import torch

SHORT = ("can't allocate memory", "out of memory", "not enough memory", "Cannot allocate memory", "bad_alloc")


def start_of_peak(device: str) -> int | None:
    """Forget the peak so far; returns the bytes that the process holds, None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or a call would take what earlier ones left to the allocator, and show none
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except (OSError, ValueError, AttributeError):
        return None


def end_of_peak(device: str, before: int | None) -> int | None:
    """The most bytes that were held since ``start_of_peak``, beyond those that it gave."""
    if before is None:
        return None
    return torch.cuda.max_memory_allocated() - before if device == "cuda" else max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(name)]
    return int(line.split()[1]) * 1024


def free_memory(device: str) -> int | None:
    """Bytes that are free; None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def out_of_memory(words: str) -> bool:
    """Whether the words of an error mean that memory was short."""
    return any(short in words for short in SHORT)
