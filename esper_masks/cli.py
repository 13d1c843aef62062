"""The command line: ``esper-masks``, also ``python -m esper_masks``."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

import esper_masks
from esper_masks import starting
from esper_masks.bench.suite import BenchError, CheckError
from esper_masks.bench_cli import add_command as add_bench
from esper_masks.calibrate_cli import add_command as add_calibrate
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.evaluate_cli import add_command as add_evaluate
from esper_masks.rules_cli import (
    DEFAULT_RULES,
    NO_ROOM,
    RULES_HELP,
    add_commands,
    console,
    count,
    find_rules,
    reason_of,
)
from esper_masks.telemetry import Replay
from esper_masks.telemetry.log_files import LOG_HELP, LogFiles, open_logs
from esper_masks.train_cli import add_command as add_train
from esper_masks.verify_cli import add_command as add_verify

SAMPLE = "esper_masks/data/sample.jsonl"
ILLEGAL, INTERRUPTED = 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns: the exit code: 0 done, 1 wrong results, 2 input that cannot be used, 3 illegal events where that was asked
        for, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
    """
    starting.done()
    _open_streams()
    name, code, ended = "esper-masks", 0, []
    try:
        try:
            options = _parser().parse_args(arguments)
            name = f"esper-masks {options.command}"
            with _ended_like_interrupted(options.command) as ended:
                code = options.run(options)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError as error:
        if error.filename is not None:
            return _fail(name, error)
        _discard(sys.stdout)  # the reader went away, as in `| head`
    except OSError as error:
        if _discard(sys.stdout) or (error.filename is None and error.errno in NO_ROOM):  # all other files have names
            error = OSError(error.errno, error.strerror, "standard output")
        return _fail(name, error)
    except (RulesError, SlotStateError, BenchError) as error:
        return _fail(name, error)
    except CheckError as error:
        return _fail(name, error, 1)
    return 128 + ended[0] if ended and code == INTERRUPTED else code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="esper-masks", description="Action masks for lifecycle controllers.")
    parser.add_argument("--version", action="version", version=f"esper-masks {esper_masks.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_replay(commands.add_parser("replay", help="judge event logs of real runs against a rule set"))
    add_commands(commands)
    add_verify(commands)
    add_bench(commands.add_parser("bench", help="measure masks and decisions against loops and other libraries"))
    add_train(commands)
    add_evaluate(commands)
    add_calibrate(commands)
    return parser


def _open_streams() -> None:
    """Standard streams that are there, and that print whatever a log holds."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as we run
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> bool:
    """Whether what is printed to a stream is lost; if so, nothing more is tried, at the exit of Python neither."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _fail(name: str, error: Exception, code: int = 2) -> int:
    with suppress(OSError):
        print(f"{name}: {reason_of(error)}", file=sys.stderr)
    _discard(sys.stderr)
    return code


@contextmanager
def _ended_like_interrupted(command: str) -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what was done is told and kept. Yields those that came."""
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    # a training ends after an update and saves, in its own way; what is ignored, as under nohup, stays so
    other = command == "train" or threading.current_thread() is not threading.main_thread()  # which has no handlers
    numbers = () if other else (signal.SIGTERM, signal.SIGHUP)
    default = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in default:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Judge every op and every stage transition of event logs against a rule set. Prints each finding with its "
        "file, line and reason, then a summary. Without a FILE it replays the sample that ships with the package."
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help=LOG_HELP)
    parser.add_argument("--rules", default=DEFAULT_RULES, metavar="NAME", help=RULES_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--fail-on-illegal", action="store_true", help=f"exit code {ILLEGAL} where an event is illegal")
    parser.add_argument(
        "--max-findings",
        type=count,
        default=10_000,
        metavar="N",
        help="findings of each kind to keep, all of which are counted (default: %(default)s)",
    )
    parser.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    replay = Replay(find_rules(options.rules), options.max_findings)
    with as_file(files("esper_masks") / "data" / "sample.jsonl") as sample:
        paths = options.files or [str(sample)]
        code = _read_all(replay, paths, open_logs(paths, "replay"))
    report = replay.report
    if options.fail_on_illegal and code == 0 and report.illegal_events:
        code = ILLEGAL
    with suppress(BrokenPipeError):  # who wants the exit code alone has it
        if options.json:
            print(json.dumps(report.to_json(), indent=2))
            return code
        if not options.files:
            print(f"no file given, so this replays the sample that ships with the package: {SAMPLE}\n")
        report.print(console())
    return code


def _read_all(replay: Replay, paths: Sequence[str], logs: LogFiles) -> int:
    """Read every file; whatever stops the reading, what was read before it is judged."""
    try:
        for path in paths:
            with logs.open(path) as stream:
                replay.read(stream, path)
    except (KeyboardInterrupt, OSError) as error:
        replay.report.interrupted = True
        replay.finish()
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        print(f"esper-masks replay: {reason_of(error)}", file=sys.stderr)
        return 2
    return 0
