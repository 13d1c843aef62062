"""``esper-masks bench``."""

import argparse
import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from esper_masks.bench import report, suite
from esper_masks.bench.cases import Case, star
from esper_masks.bench.suite import BenchError
from esper_masks.rules_cli import console

DEVICES = ("cpu", "cuda")
BEYOND_LIMIT = 40  # how many times its fewest bytes a decision takes at most; a guess that refuses the hopeless
LOOP_BYTES = 6000  # what a loop's small tensors take for each environment


def add_command(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Measure mask building and decisions against loops over environments and other libraries: some forty rows, "
        "from a centre one axis at a time. Outputs are checked before they are timed. A whole run takes about half "
        "an hour."
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT", help="only rows whose name has one of these")
    parser.add_argument("--batch", type=int, metavar="N", help="these rows at another batch than the suite's")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="time for each row (default: 1)")
    parser.add_argument("--list", action="store_true", help="print the rows instead of measuring them")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result to a file")
    parser.add_argument("--plot", metavar="FILE", help="draw the scaling: .png, .svg or .pdf (extra `viz`)")
    parser.add_argument("--from", dest="source", metavar="FILE", help="print or draw a result instead of measuring")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="how many times as fast result B is as A")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; what is wrong with its options is a ``BenchError`` or an ``OSError``."""
    if options.compare:
        report.print_comparison(console(), *(suite.load(path) for path in options.compare))
        return 0
    if options.source:
        return _show(options, suite.load(options.source), whole=True)
    cases = choose(options)
    if options.list:
        for case in cases:
            print(f"{case.name}, batch {case.batch:,}")
        return 0
    for path in (options.output, options.plot):
        _check_writable(path)
    if options.plot and find_spec("matplotlib") is None:  # fail before the run, not behind it
        raise BenchError("--plot needs matplotlib: pip install 'esper-masks[viz]'")

    def live(row: suite.Row) -> None:
        print(report.line(row), file=sys.stderr, flush=True)

    result, whole = suite.run(cases, options.device, options.seconds, live)
    if options.output and (whole or result["rows"]):
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return _show(options, result, whole)


def choose(options: argparse.Namespace) -> list[Case]:
    """The rows that options ask for.

    Raises:
        BenchError: an unknown device, one that is not there, no such row, or a batch that memory cannot hold.
    """
    if options.device not in DEVICES:
        raise BenchError(f"--device {options.device}: the devices are {' and '.join(DEVICES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch finds no GPU here")
    if options.seconds <= 0:
        raise BenchError(f"--seconds {options.seconds}: wanted more than 0")
    cases = star(options.device, os.cpu_count() or 1)
    if options.rows:
        cases = [case for case in cases if any(text in f"{case.name}, batch {case.batch:,}" for text in options.rows)]
    if not cases:
        raise BenchError(f"no row is called {' or '.join(options.rows)}; --list prints them")
    if options.batch is not None:
        if options.batch < 1:
            raise BenchError(f"--batch {options.batch}: wanted 1 or more")
        cases = list(dict.fromkeys(replace(case, batch=options.batch) for case in cases))
        need = max(BEYOND_LIMIT * case.limit_bytes + LOOP_BYTES * ("loop" in case.way) for case in cases)
        free = memory(options.device)
        if free is not None and need * options.batch > free:
            raise BenchError(
                f"--batch {options.batch}: takes up to {need * options.batch / 1e9:.0f} GB, {free / 1e9:.0f} are free; "
                f"{int(free // need):,} would fit"
            )
    return cases


def memory(device: str) -> int | None:
    """Bytes that are free; None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _check_writable(path: str | None) -> None:
    """A run of half an hour must not end at a folder that is not there; nothing that is there is touched."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise BenchError(f"cannot write {path}: {'a folder' if target.is_dir() else 'its folder is not there'}")
    if not os.access(target if target.exists() else target.absolute().parent, os.W_OK):
        raise BenchError(f"cannot write {path}: permission denied")


def _show(options: argparse.Namespace, result: dict[str, Any], whole: bool) -> int:
    if options.plot:
        from esper_masks.bench.plot import plot

        plot(result, options.plot)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        report.print_result(console(), result)
    return 0 if whole else 130
