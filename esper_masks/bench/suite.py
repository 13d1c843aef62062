"""All rows, one process after another, and the result they make."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

import esper_masks as em
from esper_masks.bench.cases import LOOPS, Case

Row = dict[str, Any]  # the fields of a Case, and what measure() gives or {"error": ...}
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


class BenchError(ValueError):
    """Input that a run cannot start with."""


class CheckError(RuntimeError):
    """Outputs of a row were not what they should be, or its process died of something else than memory."""


def run_row(case: Case, device: str, seconds: float) -> Row:
    """Measure one row in a process of its own.

    Raises:
        CheckError: with the last lines of what the process said.
    """
    argument = json.dumps({**asdict(case), "device": device, "seconds": seconds})
    command = [sys.executable, "-m", "esper_masks.bench.measure", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode in KILLED:  # as the system does with who takes the last of its memory
        return {**asdict(case), "error": "out of memory"}
    if done.returncode:
        raise CheckError(f"{case.name}, batch {case.batch:,}: {' '.join(done.stderr.split()[-40:])}")
    return {**asdict(case), **json.loads(done.stdout.splitlines()[-1])}


def run(
    cases: Sequence[Case], device: str, seconds: float, live: Callable[[Row], None] | None = None
) -> tuple[dict[str, Any], bool]:
    """Measure rows; returns the result, and whether all rows are in it: Ctrl-C keeps those that were measured.

    Raises:
        CheckError: as of ``run_row``.
    """
    rows: list[Row] = []
    whole = True
    try:
        for case in cases:
            rows.append(run_row(case, device, seconds))
            if live:
                live(rows[-1])
    except KeyboardInterrupt:
        whole = False
    return {**machine(device), "device": device, "rows": with_ratios(rows)}, whole


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows with ``x_loop``: how many times the loop of the same work and rules takes, at ``x_loop_batch``.

    The loop's batch is the row's own, or the nearest that was measured.
    """
    loops = [row for row in rows if row["way"] == LOOPS[0] and "error" not in row]
    for row in rows:
        same = [loop for loop in loops if (loop["work"], loop["rules"]) == (row["work"], row["rules"])]
        same = [loop for loop in same if loop["slots"] == row["slots"] and row["step"] == "forward"]
        if same and "error" not in row:
            nearest = min(same, key=lambda loop: abs(loop["batch"].bit_length() - row["batch"].bit_length()))
            row["x_loop"] = nearest["ns_per_env"] / row["ns_per_env"]
            row["x_loop_batch"] = nearest["batch"]
    return list(rows)


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to: no name and no path of a machine."""
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "system": platform.system(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        },
        "versions": {
            "esper_masks": em.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> dict[str, Any] | None:
    """Of the checkout that the package is in; None where it is installed elsewhere."""
    folder = Path(__file__).parents[2]
    if not (folder / "pyproject.toml").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        dirt = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"id": head.stdout.strip(), "dirty": bool(dirt.stdout.strip())}


def load(path: str | Path) -> dict[str, Any]:
    """A result file.

    Raises:
        BenchError: a file that is none.
        OSError: one that cannot be read.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        names = {field.name for field in fields(Case)}
        if not all(names <= set(row) for row in result["rows"]) or not {"machine", "versions"} <= set(result):
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"{path} is no result of esper-masks bench") from None
    return dict(result)


def case_of(row: Row) -> Case:
    return Case(**{field.name: row[field.name] for field in fields(Case)})
