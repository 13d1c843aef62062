"""``esper-masks bench``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import torch

from esper_masks.bench import plot, report, suite
from esper_masks.bench.cases import Case, star
from esper_masks.bench.compare import compare, differences, print_comparison
from esper_masks.bench.memory import free_memory
from esper_masks.bench.suite import BenchError
from esper_masks.rules_cli import console

DEVICES = ("cpu", "cuda")
FUSED, UNFUSED = 8, 40  # how many times its fewest bytes a row takes at most, inputs and check included, as measured
LOOP_BYTES = 6000  # what a loop's objects and small tensors take for each environment


def add_command(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Measure mask building and decisions against loops over environments and other libraries: some fifty rows, "
        "from a centre one axis at a time. Outputs are checked before they are timed. A whole run takes about half "
        "an hour."
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT", help="only rows whose name has one of these")
    parser.add_argument("--batch", type=int, metavar="N", help="these rows at another batch than the suite's")
    threads = "threads of the CPU for these rows (default: 1, and all cores in a row of its own)"
    parser.add_argument("--threads", type=int, metavar="N", help=threads)
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="time for each row (default: 1)")
    parser.add_argument("--list", action="store_true", help="print the rows instead of measuring them")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result to a file")
    parser.add_argument("--plot", metavar="FILE", help="draw the scaling: .png, .svg or .pdf (extra `viz`)")
    parser.add_argument("--from", dest="source", metavar="FILE", help="print or draw a result instead of measuring")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="how many times as fast result B is as A")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; what is wrong with its options is a ``BenchError`` or an ``OSError``, before anything runs."""
    if options.compare:
        return _compare(options)
    if options.plot:
        plot.check_plot(options.plot)
    for path in (options.output, options.plot):
        _check_writable(path)
    if options.source:
        return _show(options, suite.load(options.source))
    cases = choose(options)
    if options.list:
        names = [f"{case.name}, batch {case.batch:,}" for case in cases]
        print(json.dumps([asdict(case) for case in cases], indent=1) if options.json else "\n".join(names))
        return 0
    cases = _installed(cases)
    if options.plot and not any(map(plot.is_drawn, cases)):
        raise BenchError("--plot: none of these rows is in the picture")

    def live(row: suite.Row) -> None:
        print(report.line(row), file=sys.stderr, flush=True)

    return _show(options, suite.run(cases, options.device, options.seconds, live))


def choose(options: argparse.Namespace) -> list[Case]:
    """The rows that options ask for.

    Raises:
        BenchError: an unknown device, one that is not there, no such row, or a batch that memory cannot hold.
    """
    if options.device not in DEVICES:
        raise BenchError(f"--device {options.device}: the devices are {' and '.join(DEVICES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch finds no GPU here")
    if not 0 < options.seconds < inf:
        raise BenchError(f"--seconds {options.seconds}: wanted more than 0")
    cases = star(options.device, os.cpu_count() or 1)
    if options.rows:
        cases = [case for case in cases if any(text in f"{case.name}, batch {case.batch:,}" for text in options.rows)]
    if not cases:
        raise BenchError(f"no row is called {' or '.join(options.rows)}; --list prints them")
    if options.threads is not None:
        if options.threads < 1:
            raise BenchError(f"--threads {options.threads}: wanted 1 or more")
        cases = list(dict.fromkeys(replace(case, threads=options.threads) for case in cases))
    if options.batch is not None:
        if options.batch < 1:
            raise BenchError(f"--batch {options.batch}: wanted 1 or more")
        cases = list(dict.fromkeys(replace(case, batch=options.batch) for case in cases))
        need, free = max(map(_bytes_per_env, cases)), free_memory(options.device)
        if free is not None and need * options.batch > free:
            raise BenchError(
                f"--batch {options.batch}: takes up to {need * options.batch / 1e9:,.0f} GB, "
                f"{free / 1e9:.0f} are free; {int(free // need):,} would fit"
            )
    return cases


def _bytes_per_env(case: Case) -> int:
    if "loop" in case.way:
        return UNFUSED * case.limit_bytes + LOOP_BYTES
    fused = case.way in ("compiled", "cuda-graph") and case.step == "forward"
    return (FUSED if fused else UNFUSED) * case.limit_bytes


def _installed(cases: Sequence[Case]) -> list[Case]:
    """Without the rows of libraries that are not there, which are named.

    Raises:
        BenchError: where none is left.
    """
    absent = suite.missing(cases)
    present = [case for case in cases if case.way.split()[0] not in absent]
    said = f"{' and '.join(absent.values())} not installed (pip install 'esper-masks[sb3,torchrl]')"
    if not present:
        raise BenchError(said)
    if absent:
        print(f"{said}: {len(cases) - len(present)} rows are left out", file=sys.stderr)
    return present


def _check_writable(path: str | None) -> None:
    """A run of half an hour must not end at a folder that is not there; nothing that is there is touched."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise BenchError(f"cannot write {path}: {'a folder' if target.is_dir() else 'its folder is not there'}")
    if not os.access(target if target.exists() else target.absolute().parent, os.W_OK):
        raise BenchError(f"cannot write {path}: permission denied")


def _show(options: argparse.Namespace, result: dict[str, Any]) -> int:
    """Print a result first, so that a file that cannot be written costs no figures."""
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        report.print_result(console(), result)
    interrupted = bool(result.get("interrupted")) and not options.source
    nothing = interrupted and not result["rows"]
    if options.output and interrupted and Path(options.output).exists():
        print(f"esper-masks bench: {options.output} is left as it was", file=sys.stderr)
    elif options.output and not nothing:
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot and not nothing:
        plot.plot(result, options.plot)
    return 130 if interrupted else 0


def _compare(options: argparse.Namespace) -> int:
    a, b = (suite.load(path) for path in options.compare)
    if options.json:
        print(json.dumps({"rows": compare(a, b), "differences": differences(a, b)}, indent=1))
    else:
        print_comparison(console(), a, b)
    return 0
