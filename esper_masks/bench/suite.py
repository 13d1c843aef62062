"""All rows, one process after another, and the result they make."""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import torch

import esper_masks as em
from esper_masks.bench.cases import SAME_WORK, SCALING, USUAL, Case, Settings
from esper_masks.bench.libraries import LIBRARIES, Library
from esper_masks.bench.memory import out_of_memory

Row = dict[str, Any]  # the fields of a Case, and what measure() gives, or {"error": ...}
Measure = Callable[[Case, Settings, Path], Row]  # how a row is measured; ``run_row`` is one way
TIMES = ("ns_per_env", *(f"ns_per_env_{name}" for name in ("median", "q1", "q3")))
LIMITS = ("limit_ns_per_env", "share_of_limit")
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


class BenchError(ValueError):
    """Input that a run cannot start with."""


class CheckError(RuntimeError):
    """Outputs of a row were not what they should be, or its process ended by something else than want of memory."""


def run_row(case: Case, settings: Settings, warm: Path) -> Row:
    """Measure one row in a process of its own.

    Args:
        case: the row.
        settings: how.
        warm: a folder for what the compiler looks up once on a machine, so that not every row has to; the first row
            that is compiled fills it.

    Raises:
        CheckError: with what the process said.
    """
    with tempfile.TemporaryDirectory() as folder:  # made here, since a process that is killed leaves its own behind
        if case.is_built:
            if not any(warm.iterdir()):
                code = f"from esper_masks.bench.measure import first_graph; first_graph({settings.device!r})"
                python_in(warm, "-c", code)
            copytree(warm, folder, dirs_exist_ok=True)
        argument = json.dumps([asdict(case), asdict(settings)])
        done = python_in(folder, "-m", "esper_masks.bench.measure", argument)
    last = last_line(done)
    if done.returncode in KILLED or (done.returncode and out_of_memory(last)):  # killed: what the system does then
        return {**asdict(case), "error": "out of memory"}
    if done.returncode:
        raise CheckError(f"{case.title}: ended with exit code {done.returncode}: {last}")
    made = json.loads(done.stdout.splitlines()[-1])
    if "wrong" in made:
        raise CheckError(f"{case.title}: outputs are wrong: {made['wrong']}")
    return {**asdict(case), **made}


def python_in(folder: str | Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A process of Python that compiles into a folder, keeps code there, and loads none that another one kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}  # it unmakes checks
    environment = {**kept, "TORCHINDUCTOR_CACHE_DIR": str(folder), "ESPER_MASKS_CACHE": os.path.join(folder, "kept")}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The end of what a process said of its errors."""
    [*_, last] = ["it said nothing", *done.stderr.strip().splitlines()]
    return last


_measure: Measure = run_row


@contextmanager
def measured_by(measure: Measure) -> Iterator[None]:
    """Inside, every run measures its rows by another function than ``run_row``: for tests of what is made of rows."""
    global _measure
    before, _measure = _measure, measure
    try:
        yield
    finally:
        _measure = before


def run(cases: Sequence[Case], settings: Settings, live: Callable[[Row], None] | None = None) -> dict[str, Any]:
    """Measure rows, one after another.

    Ctrl-C keeps the rows that were measured, and ``"interrupted"`` in the result is True.

    Raises:
        CheckError: see ``run_row``.
    """
    about = machine(settings.device, cases)  # before the run: files may change under it
    with tempfile.TemporaryDirectory() as warm:
        taken = take((_measure(case, settings, Path(warm)) for case in cases), live)
    return {**about, "device": settings.device, **taken, "rows": with_ratios(taken["rows"])}


def take(rows: Iterable[Row], live: Callable[[Row], None] | None = None) -> dict[str, Any]:
    """The result of taking rows as they are made. Ctrl-C keeps those that were made, and ``"interrupted"`` is True."""
    began, taken, interrupted = time.perf_counter(), list[Row](), False
    try:
        for row in rows:
            taken.append(row)
            if live:
                live(row)
    except KeyboardInterrupt:
        interrupted = True
    return {"interrupted": interrupted, "seconds": round(time.perf_counter() - began, 1), "rows": taken}


def missing(cases: Sequence[Case]) -> dict[str, str]:
    """Libraries that rows need and that are not installed: their names in ``case.way``, and in the registry."""
    return {name: library.package for name, library in _needed(cases).items() if find_spec(library.module) is None}


def _needed(cases: Sequence[Case]) -> dict[str, Library]:
    names = dict.fromkeys(case.way.split()[0] for case in cases)
    return {name: LIBRARIES[name] for name in names if name in LIBRARIES and LIBRARIES[name].module}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows with ``x_usual``: how many times what is usual takes for the same work and rules, at ``x_usual_batch``.

    That is the first way of ``USUAL`` that did the same, at the row's own batch or the nearest that was measured.
    """
    timed = [row for row in rows if "ns_per_env" in row]
    usual_ones = [row for row in timed if row["way"] in USUAL]
    for row in timed:
        if same := [usual for usual in usual_ones if all(usual[name] == row[name] for name in SAME_WORK)]:
            size = row["batch"].bit_length()
            usual = min(same, key=lambda one: (USUAL.index(one["way"]), abs(one["batch"].bit_length() - size)))
            row |= {"x_usual": usual["ns_per_env"] / row["ns_per_env"], "x_usual_batch": usual["batch"]}
    return list(rows)


def machine(device: str, cases: Sequence[Case] = (), scripts: Sequence[str] = ()) -> dict[str, Any]:
    """What the figures belong to: no name and no path of a machine.

    Args:
        device: "cpu" or "cuda".
        cases: rows, whose libraries are named with their versions.
        scripts: files of the checkout that measure too; a change in one of them counts as one of the package.
    """
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
            **{library.package: version(library.package) for library in _needed(cases).values()},
        },
        "commit": _commit(scripts),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit(scripts: Sequence[str]) -> dict[str, Any] | None:
    """Of the package's checkout, and whether the package or a script differs from it; None where there is none."""
    package = Path(__file__).parents[1]
    if not (package.parent / "pyproject.toml").exists():
        return None
    try:
        changes = _git(package, "status", "--porcelain", ".", *scripts)
        return {"id": _git(package, "rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def load(path: str | Path) -> dict[str, Any]:
    """A result file.

    Raises:
        BenchError: a file that is none.
        OSError: one that cannot be read.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        result.setdefault("group", SCALING)  # the only one that there was
        for row in result["rows"]:
            row.setdefault("memory", "fresh")  # what it was before there was a choice
        if not _is_result(result):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BenchError(f"{path} is no result of esper-masks bench") from None
    return {**result, "rows": with_ratios(result["rows"])}


def _is_result(result: Any) -> bool:
    """Whether all is there that a report reads; what is not may raise as well."""
    about = {"cpu", "cores", "gpu"} <= set(result["machine"]) and {"esper_masks", "torch"} <= set(result["versions"])
    commit = result.get("commit") or {"id": "", "dirty": False}
    return about and all(map(_is_row, result["rows"])) and isinstance(commit["id"], str) and "dirty" in commit


def _is_row(row: Row) -> bool:
    case = case_of(row)
    is_case = case.limit_bytes * case.batch > 0
    if "error" in row:
        return is_case
    above_zero = (*TIMES, *(LIMITS if case.has_limit else ()))
    return is_case and {"peak_bytes", "compile_s", *LIMITS} <= set(row) and all(row[name] > 0 for name in above_zero)


def case_of(row: Row) -> Case:
    return Case(**{field.name: row[field.name] for field in fields(Case)})
