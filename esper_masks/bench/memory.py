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
        return _told("/proc/self/status", "VmRSS")
    except (OSError, ValueError, AttributeError):
        return None


def end_of_peak(device: str, before: int | None) -> int | None:
    """The most bytes that were held since ``start_of_peak``, beyond those that it gave."""
    if before is None:
        return None
    if device == "cuda":
        return torch.cuda.max_memory_allocated() - before
    return max(0, _told("/proc/self/status", "VmHWM") - before)


def free_memory(device: str) -> int | None:
    """Bytes that are free; None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        return _told("/proc/meminfo", "MemAvailable")
    except (OSError, ValueError):
        return None


def _told(path: str, name: str) -> int:
    """Bytes that the system tells, in a line such as ``VmRSS:  4096 kB``."""
    [line] = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def out_of_memory(words: str) -> bool:
    """Whether the words of an error mean that memory was short."""
    return any(short in words for short in SHORT)
