"""``esper-masks bench``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from math import inf
from typing import Any

import torch

from esper_masks.bench import plot, report, suite
from esper_masks.bench.cases import EPOCH, FROM_OBJECTS, GROUPS, QUICK, SCALING, Case, Settings, group
from esper_masks.bench.compare import compare, differences, print_comparison
from esper_masks.bench.suite import BenchError
from esper_masks.cli.common import console, output
from esper_masks.files import check_output, is_standard_output, write_file
from esper_masks.rollout.networks.memory import free_memory

DEVICES = ("cpu", "cuda")
HEEDED = {  # options that make a command of their own, and those that they heed
    "compare": ("json",),
    "source": ("json", "output", "plot"),
    "list": ("group", "json", "rows", "batch", "threads", "device"),
}
FUSED, UNFUSED = 8, 40  # how many times its fewest bytes a row takes at most, inputs and check included, as measured
HOST_BYTES = 1 << 19  # of a network with its samples
LOOP_BYTES = 6000  # what a loop's objects and small tensors take for each environment


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    groups = "scaling, from a centre one axis at a time, masks, distributions, dropin, guards, growth, first-calls, "
    groups += "training or networks (default: %(default)s)"
    parser.add_argument("group", nargs="?", default=SCALING, metavar="GROUP", help=groups)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT", help="only rows whose name has one of these")
    parser.add_argument("--batch", type=int, metavar="N", help="these rows at another batch than the suite's")
    threads = "threads of the CPU for these rows (default: 1, and all cores in a row of its own)"
    parser.add_argument("--threads", type=int, metavar="N", help=threads)
    times = parser.add_mutually_exclusive_group()
    seconds = f"time for each row (default: {Settings.seconds:g})"
    times.add_argument("--seconds", type=float, metavar="S", help=seconds)
    quick = f"{QUICK.seconds:g} s for each row: to see that all rows run"
    times.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--list", action="store_true", help="print the rows instead of measuring them")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    where = "write the result to a file; - is standard output, and then the table goes to standard error"
    parser.add_argument("-o", "--output", type=output, metavar="FILE", help=where)
    parser.add_argument(
        "--plot", type=output, metavar="FILE", help="draw scaling or growth: .png, .svg or .pdf (extra `viz`)"
    )
    parser.add_argument("--from", dest="source", metavar="FILE", help="print or draw a result instead of measuring")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="how many times as fast result B is as A")
    parser.set_defaults(parser=parser)


def run(options: argparse.Namespace) -> int:
    """Measure mask building, decisions and training against loops over environments and other libraries, a group of
    rows at a time. Outputs are checked before they are timed. A group takes three to fifteen minutes on two cores.
    """
    _check_heeded(options.parser, options)  # what is wrong with options is told before anything runs
    if options.compare is not None:
        return _compare(options)
    check_files(options)
    if options.source is not None:
        return _show(options, suite.load(options.source))
    settings, cases = choose_settings(options), choose(options)
    if options.list:
        titles = "\n".join(case.title for case in cases)
        print(json.dumps([asdict(case) for case in cases], indent=1) if options.json else titles)
        return 0
    cases = _installed(cases)
    if options.plot and not any(map(plot.is_drawn, cases)):
        raise BenchError("--plot: none of these rows is in the picture")

    def live(row: suite.Row) -> None:
        print(report.line(row), file=sys.stderr, flush=True)

    result = suite.run(cases, settings, live)
    return _show(options, {"group": options.group, **result})


def check_files(options: argparse.Namespace) -> None:
    """Find out before the work whether its result (``output``) and picture (``plot``) can be written, None for neither.

    Raises:
        BenchError: see ``plot.check_plot``; or one file for both.
        OSError: see ``check_output``; ``source`` is an input.
    """
    if options.plot:
        plot.check_plot(options.plot)
    for path in filter(None, (options.output, options.plot)):
        check_output(path, filter(None, [options.source]))
    if options.plot and options.output and os.path.realpath(options.output) == os.path.realpath(options.plot):
        raise BenchError(f"--plot {options.plot}: the result itself goes there; name another file")


def choose_settings(options: argparse.Namespace) -> Settings:
    """How rows are measured.

    Raises:
        BenchError: an unknown device, one that is not there, or a time that is none.
    """
    if options.device not in DEVICES:
        raise BenchError(f"--device {options.device}: the devices are {' and '.join(DEVICES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch finds no GPU here")
    settings = replace(QUICK if options.quick else Settings(), device=options.device)
    if options.seconds is None:
        return settings
    if not 0 < options.seconds < inf:
        raise BenchError(f"--seconds {options.seconds}: wanted more than 0")
    return replace(settings, seconds=options.seconds)


def choose(options: argparse.Namespace) -> list[Case]:
    """The rows that options ask for.

    Raises:
        BenchError: an unknown group, one that is not measured on the device, no such row, or a batch that memory cannot
            hold.
    """
    if options.group not in (SCALING, *GROUPS):
        raise BenchError(f"{options.group}: the groups are {', '.join((SCALING, *GROUPS))}")
    if options.device == "cuda" and options.group != SCALING:
        raise BenchError(f"--device cuda: {options.group} is measured on a CPU; make gpu measures the rest")
    cases = group(options.group, options.device, os.cpu_count() or 1)
    if options.rows:
        cases = [case for case in cases if any(text in case.title for text in options.rows)]
    if not cases:
        raise BenchError(f"no row is called {' or '.join(options.rows)}; --list prints them")
    for field in ("threads", "batch"):
        number = getattr(options, field)
        if number is not None:
            if number < 1:
                raise BenchError(f"--{field} {number}: wanted 1 or more")
            cases = list(dict.fromkeys(replace(case, **{field: number}) for case in cases))
    if options.batch is not None:
        need, free = max(map(_bytes_per_env, cases)), free_memory(options.device)
        if free is not None and need * options.batch > free:
            raise BenchError(
                f"--batch {options.batch}: takes up to {need * options.batch / 1e9:,.0f} GB, "
                f"{free / 1e9:.0f} are free; {int(free // need):,} would fit"
            )
    return cases


def _bytes_per_env(case: Case) -> int:
    if case.work.startswith(EPOCH):
        return HOST_BYTES
    if "loop" in case.way or "drop-in" in case.way or case.way == FROM_OBJECTS or case.steps > 1:
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


def _check_heeded(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Raises: BenchError: an option that another one would have ignored."""
    flags = {"group": options.group, "source": "--from"}  # where the flag is not the name
    values = {name: value for name, value in vars(options).items() if name != "command"}  # which chose this parser
    given = [name for name, value in values.items() if value != parser.get_default(name)]
    for mode, heeded in HEEDED.items():
        if mode in given and (ignored := [name for name in given if name not in (mode, *heeded)]):
            what = "prints two results" if mode == "compare" else "measures nothing"
            mine, other = (flags.get(name, f"--{name}") for name in (mode, ignored[0]))
            raise BenchError(f"{mine} {what}, so {other} would be ignored; leave one of them out")


def _show(options: argparse.Namespace, result: dict[str, Any]) -> int:
    """Print a result and write it to files, whichever of the two fails."""
    interrupted = bool(result.get("interrupted")) and options.source is None
    aside = options.output is not None and is_standard_output(options.output)
    try:
        with redirect_stdout(sys.stderr) if aside else nullcontext():
            if options.json:
                print(json.dumps(result, indent=1))
            else:
                report.print_result(console(), result)
            sys.stdout.flush()
    finally:
        if result["rows"] or not interrupted:
            _write(options, result, interrupted)
    return 130 if interrupted else 0


def _write(options: argparse.Namespace, result: dict[str, Any], interrupted: bool) -> None:
    if options.output:
        path = beside(options.output) if interrupted else options.output
        write_file(path, f"{json.dumps(result, indent=1)}\n".encode())
    drawn = any("error" not in row and plot.is_drawn(suite.case_of(row)) for row in result["rows"])
    if options.plot and (drawn or not interrupted):
        plot.plot(result, beside(options.plot) if interrupted else options.plot)


def beside(path: str, program: str = "esper-masks bench") -> str:
    """Where what an interrupted run has goes: not over a result that may be whole, which a line says then."""
    if not os.path.isfile(path) or is_standard_output(path):
        return path
    name, ending = os.path.splitext(path)
    other = f"{name}-interrupted{ending}"
    print(f"{program}: {path} is left as it was; what was measured is in {other}", file=sys.stderr)
    return other


def _compare(options: argparse.Namespace) -> int:
    a, b = (suite.load(path) for path in options.compare)
    if options.json:
        print(json.dumps({"rows": compare(a, b), "differences": differences(a, b)}, indent=1))
    else:
        print_comparison(console(), a, b)
    return 0
