"""The process of a part, and those of its jobs: ``python -m benchmarks.gpu.child PART FILE --device NAME``."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Timer

import torch

from benchmarks.gpu.parts import CHILD, DEVICE, PARTS, SLOWER
from benchmarks.gpu.report import Report

READY, GO = "ready", "go"
BUILDING = 0.75  # of a part's limit: then a job that still builds is given up, and the others are measured


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("told")
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--job", nargs="+", default=[])
    options = parser.parse_args(arguments)
    told = Report(options.told)
    if options.device == "cuda" and not torch.cuda.is_available():
        told.check(DEVICE, f"torch {torch.__version__} finds no CUDA device here")
        return 1
    module = importlib.import_module(f"benchmarks.gpu.{options.part}")
    if not options.job:
        told.environment(options.device)
        module.run(told, options.device, options.quick)
        return 0
    with told.piece(f"job: {' '.join(options.job)}"):
        work = module.work(told, options.device, options.quick, *options.job)
        next(work)
        print(READY, flush=True)
        sys.stdin.readline()
        next(work, None)
    return 0


def in_turn(told: Report, part: str, device: str, quick: bool, jobs: Sequence[Sequence[str]]) -> None:
    """A process for each job: on the machine of a GPU, which has many cores, they build at once and measure in turn.

    A job is ``work(told, device, quick, *job)`` of the part's module: a generator that builds, yields once, and
    measures. One that crashes is a failed check of its own.
    """
    groups = [jobs] if device == "cuda" else [[job] for job in jobs]
    longest = BUILDING * next((p.limit for p in PARTS if p.name == part), 60) * (1 if device == "cuda" else SLOWER)
    one_each = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    for group in groups:
        options = ["--device", device, *(["--quick"] if quick else [])]
        workers = [
            subprocess.Popen(
                [*CHILD, part, str(told.path), *options, "--job", *job],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=one_each,
            )
            for job in group
        ]
        with ThreadPoolExecutor(len(workers)) as threads:
            list(threads.map(partial(_wait_until_built, longest), workers))
        for job, worker in zip(group, workers):
            said, _ = worker.communicate(GO if worker.poll() is None else None)
            print(said, end="", flush=True)
            if worker.returncode:
                killed = f": it built for more than {longest:.0f} s, or memory was short"
                why = killed if worker.returncode == -signal.SIGKILL else ""
                told.check(f"job: {' '.join(job)}", f"its process ended with exit code {worker.returncode}{why}")


def _wait_until_built(longest: float, worker: "subprocess.Popen[str]") -> None:
    """Until a worker is ready or has ended, which it does after so many seconds."""
    timer = Timer(longest, worker.kill)
    timer.start()
    assert worker.stdout is not None
    while (line := worker.stdout.readline()) and line.strip() != READY:
        print(line, end="", flush=True)
    timer.cancel()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
