"""The command ``esper-masks calibrate``."""

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout

from rich.box import SIMPLE
from rich.table import Column, Table

from esper_masks.cli.common import CommandError, console, output
from esper_masks.files import check_output, is_standard_output
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.measure import Measurement
from esper_masks.telemetry.log_files import LOG_HELP, STDIN, open_logs


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=LOG_HELP)
    where = "where to write the statistics; - is standard output, and then the tables go to standard error"
    parser.add_argument("-o", "--output", type=output, required=True, metavar="FILE", help=where)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> int:
    """Measure from event logs, for each blueprint, how many accuracy points its seeds won, how they ended and how many
    parameters they add; and how many epochs seeds spend in each stage. The file sets the distributions of an
    environment; without one it has those that ship with the package.
    """
    measurement, logs = Measurement(), open_logs(options.files, "calibrate")
    check_output(options.output, [0 if path == STDIN else path for path in options.files])
    for path in options.files:
        with logs.open(path) as stream:
            measurement.read(stream)
    made = measurement.calibration()
    if not any(entry.improvement.seeds for entry in made.blueprints.values()):
        raise CommandError(f"no seed ended in these logs ({measurement.lines} lines), so there is nothing to measure")
    aside = is_standard_output(options.output)
    made.save(options.output)
    with redirect_stdout(sys.stderr) if aside else nullcontext():
        _print(made, measurement, options)
    return 0


def _print(made: Calibration, measurement: Measurement, options: argparse.Namespace) -> None:
    if options.json:
        counts = {"files": len(options.files), "lines": measurement.lines, "malformed": measurement.malformed}
        print(json.dumps(json.loads(made.to_json()) | counts))
        return
    outcomes = sorted({outcome for entry in made.blueprints.values() for outcome in entry.by_outcome})
    columns = [Column(name, justify="right") for name in ("seeds", "parameters", "all", *outcomes)]
    title = "improvement in accuracy points, mean ± spread (seeds)"
    table = Table("blueprint", *columns, box=SIMPLE, title=title, title_justify="left")
    for name, entry in sorted(made.blueprints.items(), key=lambda item: -item[1].improvement.mean):
        parts = [entry.improvement, *(entry.by_outcome.get(outcome) for outcome in outcomes)]
        points = [f"{part.mean:.2f} ± {part.spread:.2f} ({part.seeds})" if part else "" for part in parts]
        table.add_row(name, str(entry.seeds), f"{entry.params:,}", *points)
    title = "epochs in a stage, and how many seeds"
    stages = Table(box=SIMPLE, title=title, title_justify="left", show_header=False)
    for stage, seeds in sorted(made.dwell.items()):
        stages.add_row(stage, ", ".join(f"{epochs}: {number}" for epochs, number in sorted(seeds.items())))
    out = console()
    out.print(table)
    out.print(stages)
    if measurement.malformed or measurement.unusable:
        print(f"{measurement.malformed} lines are malformed, {measurement.unusable} germinations lack data")
    print(f"{len(measurement.seeds)} seeds of {len(options.files)} logs: {options.output}")
