"""One row, in a process of its own: ``python -m esper_masks.bench.measure '[{"batch": 4096, ...}, {"seconds": 1}]'``.

A process a row has a peak of memory that is its own, code that nobody compiled before (``suite`` gives it a folder for
that), and a library that changes torch's switches for itself alone; and where it runs out of memory, the others go on.
"""

import json
import statistics
import sys
import time
import timeit
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer, timer

from esper_masks.bench import first_call
from esper_masks.bench.cases import FIRST_CALL, Case, Run, Settings
from esper_masks.bench.memory import end_of_peak, out_of_memory, start_of_peak
from esper_masks.bench.ways import prepare
from esper_masks.starting import keep_freed_memory

FEWEST = 3  # blocks, however long one takes: a spread is not seen in one


def measure(case: Case, settings: Settings) -> dict[str, Any]:
    """Check the outputs of a row, then time it.

    Returns: ``ns_per_env`` (fastest block; of a training for each step of an environment), ``_median``, ``_q1`` and
        ``_q3`` of it, ``blocks``; ``compile_s``, how much longer than later ones the first call took, None where
        nothing is compiled; ``peak_bytes``, what was held at most over the timed calls (with a CUDA graph over the
        first call), outputs included, beyond their inputs and what calls before had left, None where the system does
        not tell; ``copy_gb_per_s`` of copying as many bytes as the limit has, ``limit_ns_per_env`` and
        ``share_of_limit``, None where ``Case.has_limit`` is False; and figures that the check gives. A first call is a
        block, ``compile_s`` is all that the fastest took, and its memory is not measured.
    Raises:
        AssertionError: outputs that are not what they should be.
    """
    device = settings.device
    torch.manual_seed(0)
    if case.trains:  # of ours and of others
        keep_freed_memory()
    if case.is_built:
        first_graph(device)
    if case.work == FIRST_CALL:
        seconds = first_call.measure(case, FEWEST)
        nothing = dict.fromkeys(("peak_bytes", "copy_gb_per_s", "limit_ns_per_env", "share_of_limit"))
        return {**_spread([t / case.batch * 1e9 for t in seconds]), "compile_s": min(seconds), **nothing}
    run, verify = prepare(case, device)
    start, before = time.perf_counter(), start_of_peak(device)
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    first, peak = time.perf_counter() - start, end_of_peak(device, before)
    more = verify(result) or {}
    del result
    bandwidth = copied(case, settings) if case.has_limit else None
    calls, before = case.batch * case.steps, start_of_peak(device)
    blocks = [t / calls * 1e9 for t in times(run, case.threads, settings.seconds)]
    if case.way != "cuda-graph":  # which keeps what its capture took
        peak = end_of_peak(device, before)
    spread = _spread(blocks)
    limit = None if bandwidth is None else case.limit_bytes / bandwidth
    return {
        **spread,
        "compile_s": max(0.0, first - spread["ns_per_env_median"] * calls / 1e9) if case.is_built else None,
        "peak_bytes": peak,
        "copy_gb_per_s": bandwidth,
        "limit_ns_per_env": limit,
        "share_of_limit": None if limit is None else limit / min(blocks),
        **more,
    }


def _spread(blocks: Sequence[float]) -> dict[str, Any]:
    q1, median, q3 = statistics.quantiles(blocks, n=4, method="inclusive")
    times = {"ns_per_env": min(blocks), "ns_per_env_median": median, "ns_per_env_q1": q1, "ns_per_env_q3": q3}
    return {**times, "blocks": len(blocks)}


def copied(case: Case, settings: Settings) -> float:
    """Bandwidth of a copy of the bytes of the limit, in GB/s read and written."""
    source = torch.empty(max(1, case.limit_bytes * case.batch // 2), dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(times(lambda: target.copy_(source), case.threads, settings.seconds / 5)) / 1e9


def first_graph(device: str) -> None:
    """Compile something: the first graph of a process takes some seconds more, and the first of a folder many."""
    torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))


def times(run: Run, threads: int, seconds: float) -> list[float]:
    """Seconds of a call, block by block; at least ``FEWEST`` blocks."""
    measured = Timer("run()", globals={"run": run}, num_threads=threads).blocked_autorange(min_run_time=seconds)
    blocks, calls = list(measured.times), measured.number_per_run
    while len(blocks) < FEWEST:  # torch's timer would run what is slow three times for each
        blocks.append(timeit.Timer(run, timer=timer).timeit(calls) / calls)
    return blocks


def main(argument: str) -> int:
    """Print the measurements of a row as JSON, or ``{"error": "out of memory"}``, or ``{"wrong": ...}``.

    Args:
        argument: the fields of the case, and those of the settings, as a list in JSON.
    """
    fields, how = json.loads(argument)
    case, settings = Case(**fields), Settings(**how)
    torch.set_num_threads(case.threads)
    try:
        made = measure(case, settings)
    except AssertionError as error:
        made = {"wrong": f"{' '.join(str(error).split())} ({_place(error)})".strip()}
    except Exception as error:
        if not isinstance(error, MemoryError) and not out_of_memory(str(error)):
            raise
        made = {"error": "out of memory"}
    print(json.dumps(made))
    return 0


def _place(error: BaseException) -> str:
    """The line of this package that an error comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == Path(__file__).parent]
    return f"{frames[-1].name}: {frames[-1].line}" if frames else type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
