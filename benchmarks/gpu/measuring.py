"""Seconds of a call, its kernels, and the same as one CUDA graph."""

import math
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

WARM_UP = 3  # calls before a capture: compiled code is made, and libraries have their memory
BLOCKS, BLOCK_S = 5, 0.02  # that a call is timed for: next to a block, waiting for the device takes no time


def seconds(run: Callable[[], Any], device: str) -> float:
    """Of a call, the median of some blocks of calls; it has run before."""

    def block(calls: int) -> float:
        wait(device)
        began = perf_counter()
        for _ in range(calls):
            run()
        wait(device)
        return (perf_counter() - began) / calls

    calls = max(1, math.ceil(BLOCK_S / block(1)))
    return statistics.median(block(calls) for _ in range(BLOCKS))


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def captured(run: Callable[[], Any], generators: Sequence[torch.Generator] = ()) -> Callable[[], Any]:
    """A function as one CUDA graph; each call overwrites what the one before gave.

    Args:
        run: reads and writes the same memory at every call.
        generators: that it draws from, beside torch's own.
    """
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        made = run()

    def replay() -> Any:
        graph.replay()
        return made

    return replay


def launches(run: Callable[[], Any], device: str) -> int:
    """How many kernels, copies and fills a call launches; for a CPU, how many of torch's ops."""
    run()
    wait(device)
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        run()
        wait(device)
    events = seen.events()
    assert events is not None
    if on_gpu:
        return sum(e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False) for e in events)
    return sum(e.name.startswith("aten::") and not e.cpu_children for e in events)
