"""Whether a training outlives what kills it: ``python -m benchmarks.kills -n 100``.

A training is begun, killed (SIGKILL) after a random time that is often within the writing of a checkpoint, and gone on
with, again and again in one folder. Each time the newest checkpoint must load, hold at least as many steps as before,
and be gone on with.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from esper_masks.rollout.training import checkpoint

# a checkpoint every iteration: more kills meet one
FLAGS = ("--envs", "20", "--width", "8", "--steps", "1000000000", "--save-every", "1")


def kill_once(folder: Path, seconds: float) -> int:
    """Go on with the training of a folder, or begin one, kill it, and give the steps of the newest checkpoint."""
    begun = bool(checkpoint.found(folder))
    resume = ("--resume",) if begun else ()
    command = [sys.executable, "-m", "esper_masks", "train", *FLAGS, "--logdir", str(folder), *resume]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        first, deadline = checkpoint.found(folder)[-1:], time.monotonic() + 120
        while checkpoint.found(folder)[-1:] == first and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)  # until it has begun to learn
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    if process.returncode != -signal.SIGKILL:
        raise AssertionError(f"it ended by itself ({process.returncode}): {errors.decode()[-500:]}")
    steps: int = checkpoint.load(folder)["env_steps"]
    return steps


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description="See the module.")
    parser.add_argument("-n", type=int, default=100, help="how often (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    options = parser.parse_args(arguments)
    times, steps, parts = random.Random(options.seed), -1, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.n):
            now = kill_once(folder, times.uniform(0, 0.2))
            if now < steps:
                raise AssertionError(
                    f"after kill {number} the newest checkpoint has {now} steps, before it had {steps}"
                )
            steps, parts = now, parts + len(list(folder.glob(".checkpoint-*.part")))
            print(f"kill {number + 1}: {steps:,} steps", flush=True)
    print(f"{options.n} kills, {parts} of them within a write; every checkpoint loaded and was gone on with")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
