"""Whether a long training stays as fast as it began, in memory that does not grow.

``python -m benchmarks.endurance -o FILE``: 20 million steps, and a row for each million of them. Of each, the steps a
second by the clock and by the time that the processor gave the training: on a machine with other work the two differ.
``--beside 1`` keeps another process busy meanwhile, on the one core that the training then has. No update ends early,
so that every million has as many optimizer steps.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from time import perf_counter, process_time
from typing import Any

import torch

import esper_masks as em
from esper_masks.bench.memory import held_bytes
from esper_masks.bench.suite import machine, take
from esper_masks.cli.common import INTERRUPTED, output, positive
from esper_masks.files import write_file
from esper_masks.rollout import PPOConfig
from esper_masks.rollout.training.train import TrainSettings, build
from esper_masks.starting import keep_freed_memory

PROGRAM = "python -m benchmarks.endurance"
STEPS = 20_000_000  # of all environments
EVERY = 1_000_000  # steps of a row
BUSY = """
import os, sys, threading
threading.Thread(target=lambda: os._exit(len(sys.stdin.read())), daemon=True).start()  # with whoever started it
while True: pass
"""


def rows(settings: TrainSettings, steps: int, every: int) -> Iterator[dict[str, Any]]:
    """Train.

    Args:
        settings: of the training, under ``esper-2025-12``.
        steps: of all environments.
        every: steps of a row; the first row has what is compiled as well.

    Yields: ``env_steps`` so far; ``steps_per_s`` and ``steps_per_cpu_s`` since the row before; ``held_bytes`` by the
        process; ``return_mean`` of the last iteration.
    """
    ppo = build(em.ruleset("esper-2025-12"), settings, PPOConfig(horizon=steps, target_kl=math.inf))
    while ppo.env_steps < steps:
        began, wall, cpu = ppo.env_steps, perf_counter(), process_time()
        while ppo.env_steps < min(began + every, steps):
            figures = ppo.iterate()
        made = ppo.env_steps - began
        yield {
            "env_steps": ppo.env_steps,
            "steps_per_s": made / (perf_counter() - wall),
            "steps_per_cpu_s": made / (process_time() - cpu),
            "held_bytes": held_bytes(),
            "return_mean": figures["return_mean"],
        }


def main(arguments: Sequence[str]) -> int:
    """Returns: the exit code: 0 done, 130 interrupted."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition("\n")[0])
    where = "write the result as JSON; - is standard output"
    parser.add_argument("-o", "--output", type=output, metavar="FILE", help=where, required=True)
    parser.add_argument("--steps", type=positive, metavar="N", default=STEPS, help="in all (default: %(default)s)")
    parser.add_argument("--every", type=positive, metavar="N", default=EVERY, help="of a row (default: %(default)s)")
    parser.add_argument("--envs", type=positive, metavar="N", default=TrainSettings.envs, help="environments")
    parser.add_argument("--compile", action="store_true", help="compile the steps")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="processes that keep the cores busy")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = TrainSettings(envs=options.envs, compile=options.compile)
    if options.beside and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    others = [subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) for _ in range(options.beside)]
    try:
        taken = take(rows(settings, options.steps, options.every), lambda row: print(json.dumps(row), file=sys.stderr))
    finally:
        for other in others:
            other.kill()
            other.wait()
    about = {"envs": options.envs, "compile": options.compile, "beside": options.beside}
    result = {"group": "endurance", "device": "cpu", **about, **machine("cpu", scripts=["benchmarks/endurance.py"])}
    content = json.dumps({**result, **taken}, indent=1) + "\n"
    write_file(options.output, content.encode())
    return INTERRUPTED if taken["interrupted"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
