"""The parts of a run, each in a process of its own under a time limit; without torch, which may be what fails."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[2]
LOG = "log.txt"
DEVICE = "device"  # the only check of a part where there is none
SLOWER = 20  # times that a CPU may take: there a graph builds for a minute, and two cores do all of it
CHILD = (sys.executable, "-m", "benchmarks.gpu.child")

Result = dict[str, Any]  # what is written of a part


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        letter: by which it is asked for.
        name: of its file.
        title: for people.
        limit: seconds that it may take on a GPU.
        command: what runs. It is given a file for what it has to tell, a line of JSON each, then the options.
    """

    letter: str
    name: str
    title: str
    limit: float
    command: tuple[str, ...]

    @property
    def file(self) -> str:
        return f"{self.letter}-{self.name}.json"


def own(letter: str, name: str, title: str, limit: float) -> Part:
    """A part of this package: the module ``benchmarks.gpu.<name>``."""
    return Part(letter, name, title, limit, (*CHILD, name))


PARTS = (  # whatever takes part later has a row in one of these, and the limits together stay below five minutes
    own("a", "tests", "tests with their tensors on the device", 65),
    own("b", "decisions", "masks and decisions", 100),
    own("c", "rollouts", "no synchronization, and a whole rollout in one CUDA graph", 38),
    own("d", "speed", "environment, training and networks", 55),
    own("e", "training", "NCCL, and policies in bfloat16", 40),
)


def run_part(part: Part, folder: Path, options: Sequence[str], limit: float, cache: str) -> Result:
    """Run a part to its end or to its limit; gives what it told.

    Args:
        part: which.
        folder: what the part prints goes to the log there.
        options: for its command.
        limit: seconds; then it is killed, with all that it started.
        cache: a folder for compiled code, which the parts share.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}  # it unmakes checks
    environment.setdefault("OMP_NUM_THREADS", "1")  # threads of a CPU wait actively, while other jobs build
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
    with tempfile.TemporaryDirectory() as scratch, (folder / LOG).open("ab") as log:
        told = Path(scratch) / "told.jsonl"
        log.write(f"\n===== {part.letter}, {part.title} =====\n".encode())
        log.flush()
        command, began = [*part.command, str(told), *options], perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:  # of an interrupted run, too
            _end(process)
        result = {"part": part.letter, "title": part.title, "options": list(options)}
        result |= {"seconds": perf_counter() - began, "limit": limit, "exit_code": code, **_read(told)}
    result["verdict"] = verdict(result)
    return result


def without_device(result: Result) -> bool:
    """Whether a part did not begin, since the device is not there."""
    return [check["name"] for check in result["checks"]] == [DEVICE]


def write_result(part: Part, folder: Path, result: Result) -> None:
    """Write a part's file, in place of one of a run before."""
    (folder / part.file).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its group; one that the driver holds is not waited for."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _read(told: Path) -> Result:
    """What a part told; the last line of one that was killed may be half a line."""
    made: Result = {"environment": {}, "checks": [], "cells": []}
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.exists() else []
    for line in lines:
        with suppress(json.JSONDecodeError):
            one = json.loads(line)
            kind = one.pop("kind")
            if kind == "environment":
                made["environment"] = one
            else:
                made[kind].append(one)
    return made


def verdict(result: Result) -> str:
    """What a person wants to know of a part; "passed" if all is well."""
    failed = sum(bool(check["error"]) for check in result["checks"])
    number = len(result["checks"])
    if result["exit_code"] is None:
        return f"stopped at its limit of {result['limit']:.0f} s; of its checks {number} had ended, {failed} had failed"
    if failed:
        return f"failed: {failed} of {number} checks"
    if result["exit_code"]:
        return f"failed: ended with exit code {result['exit_code']}; of its checks {number} had passed"
    return "passed" if number else "failed: it checked nothing"


def found(folder: Path, parts: Sequence[Part]) -> list[Result]:
    """The results in a folder, of this run and of those before."""
    results = []
    for part in parts:
        with suppress(OSError, json.JSONDecodeError):
            results.append(json.loads((folder / part.file).read_text(encoding="utf-8")))
    return results
