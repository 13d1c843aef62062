"""Memory: what a call takes, what there is, and whether it was short."""

import ctypes
from pathlib import Path

import torch

from esper_masks.rollout.networks.memory import told_bytes

SHORT = ("can't allocate memory", "out of memory", "not enough memory", "Cannot allocate memory", "bad_alloc")


def start_of_peak(device: str) -> int | None:
    """Forget the peak so far; returns the bytes that the process holds, None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    held = held_bytes()  # a call would take what earlier ones left to the allocator, and show none
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return held


def end_of_peak(device: str, before: int | None) -> int | None:
    """The most bytes that were held since ``start_of_peak``, beyond those that it gave."""
    if before is None:
        return None
    if device == "cuda":
        return torch.cuda.max_memory_allocated() - before
    return max(0, told_bytes("/proc/self/status", "VmHWM") - before)


def held_bytes() -> int | None:
    """The bytes that the process holds, less what the allocator gives back; None where the system does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        return told_bytes("/proc/self/status", "VmRSS")
    except (OSError, ValueError, AttributeError):
        return None


def out_of_memory(words: str) -> bool:
    """Whether the words of an error mean that memory was short."""
    return any(short in words for short in SHORT)
