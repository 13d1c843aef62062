"""The command line: ``esper-masks``, also ``python -m esper_masks``."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.resources import as_file, files
from io import TextIOWrapper

from esper_masks import starting
from esper_masks.bench.suite import BenchError, CheckError
from esper_masks.bench_cli import add_command as add_bench
from esper_masks.calibrate_cli import add_command as add_calibrate
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.evaluate_cli import add_command as add_evaluate
from esper_masks.rules_cli import DEFAULT_RULES, RULES_HELP, add_commands, console, count, find_rules, reason_of
from esper_masks.telemetry import Replay
from esper_masks.train_cli import add_command as add_train
from esper_masks.verify_cli import add_command as add_verify

SAMPLE = "esper_masks/data/sample.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code: 0 done, 1 wrong results, 2 bad input, 130 interrupted."""
    starting.done()
    parser = argparse.ArgumentParser(prog="esper-masks", description="Action masks for lifecycle controllers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_replay(commands.add_parser("replay", help="judge event logs of real runs against a rule set"))
    add_commands(commands)
    add_verify(commands)
    add_bench(commands.add_parser("bench", help="measure masks and decisions against loops and other libraries"))
    add_train(commands)
    add_evaluate(commands)
    add_calibrate(commands)
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a log may hold what the terminal cannot show
    try:
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader went away, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RulesError, SlotStateError, BenchError, OSError) as error:
        print(f"esper-masks {options.command}: {reason_of(error)}", file=sys.stderr)
        return 2
    except CheckError as error:
        print(f"esper-masks {options.command}: {error}", file=sys.stderr)
        return 1


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Judge every op and every stage transition of event logs against a rule set. Prints each finding with its "
        "file, line and reason, then a summary. Without a FILE it replays the sample that ships with the package."
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="a log, one JSON object a line; - for standard input")
    parser.add_argument("--rules", default=DEFAULT_RULES, metavar="NAME", help=RULES_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--max-findings",
        type=count,
        default=10_000,
        metavar="N",
        help="findings of each kind to keep (default: 10000); all are counted",
    )
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    replay = Replay(find_rules(options.rules), options.max_findings)
    with as_file(files("esper_masks") / "data" / "sample.jsonl") as sample:
        paths = options.files or [str(sample)]
        for path in paths:  # a wrong path must not cost the work on the files before it
            _check_readable(path)
        code = _read_all(replay, paths)
    if options.json:
        print(json.dumps(replay.report.to_json(), indent=2))
        return code
    if not options.files:
        print(f"no file given, so this replays the sample that ships with the package: {SAMPLE}\n")
    replay.report.print(console())
    return code


def _read_all(replay: Replay, paths: Sequence[str]) -> int:
    """Read every file; whatever stops the reading, what was read before it is judged."""
    try:
        for path in paths:
            with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
                replay.read(stream, path)
    except (KeyboardInterrupt, OSError) as error:
        replay.report.interrupted = True
        replay.finish()
        if isinstance(error, KeyboardInterrupt):
            return 130
        print(f"esper-masks replay: {reason_of(error)}", file=sys.stderr)
        return 2
    return 0


def _check_readable(path: str) -> None:
    if path == "-":
        if sys.stdin is None:
            raise OSError(errno.EBADF, "is closed", "standard input")
        return
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    os.stat(path)
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
