"""How a row is measured: compiled apart, then run as often as its length allows."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from esper_masks.bench.rows import Step


def compiled(
    function: Step, first_run: Callable[[Step], Any], options: dict[str, Any] | None = None
) -> tuple[Step, float]:
    """A function compiled to one graph, and the seconds that its first run took, which a program waits for once."""
    _start_compiler()
    torch.compiler.reset()
    step = torch.compile(function, fullgraph=True, options=options)
    start = time.perf_counter()
    first_run(step)
    return step, time.perf_counter() - start


@cache
def _start_compiler() -> None:
    """The first graph of a process takes some ten seconds more, whichever it is."""
    torch.compile(lambda x: x + 1)(torch.zeros(8))


def measure(benchmark: Any, run: Callable[[], Any]) -> None:
    """As many rounds as pytest-benchmark likes, or a few of what takes long; it has run once before, to be checked."""
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    if seconds > 0.05:
        benchmark.pedantic(run, rounds=3 if seconds > 2 else min(20, max(5, int(1 / seconds))), iterations=1)
    else:
        benchmark(run)
