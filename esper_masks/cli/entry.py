"""The command line: ``esper-masks``, also ``python -m esper_masks``."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Protocol

import esper_masks
from esper_masks import starting
from esper_masks.bench.suite import BenchError, CheckError
from esper_masks.cli import bench, calibrate, evaluate, explain, replay, show, train, verify, warm
from esper_masks.cli.common import INTERRUPTED, NO_ROOM, CommandError, discard, reason_of, tell
from esper_masks.errors import RulesError, SlotStateError


class Command(Protocol):
    """The module of a command. The docstring of ``run`` is the description that ``--help`` prints."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, options: argparse.Namespace) -> int: ...


COMMANDS: dict[str, tuple[Command, str]] = {
    "replay": (replay, "judge event logs of real runs against a rule set"),
    "explain": (explain, "say why each op is legal or masked in a state"),
    "show": (show, "print a rule set, or the difference of two"),
    "verify": (verify, "lint a rule set and prove that all masks of it agree"),
    "bench": (bench, "measure masks and decisions against loops and other libraries"),
    "train": (train, "train a policy in the environment, and compare it with baselines"),
    "evaluate": (evaluate, "compare the policy of a checkpoint with baselines"),
    "calibrate": (calibrate, "measure from logs what environments to train in are made of"),
    "warm": (warm, "build compiled steps before a program needs them"),
}


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
            options = build_parser().parse_args(arguments)
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
        discard(sys.stdout)  # the reader went away, as in `| head`
    except OSError as error:
        if discard(sys.stdout) or (error.filename is None and error.errno in NO_ROOM):  # all other files have names
            error = OSError(error.errno, error.strerror, "standard output")
        return _fail(name, error)
    except (RulesError, SlotStateError, BenchError, CommandError) as error:
        return _fail(name, error)
    except CheckError as error:
        return _fail(name, error, 1)
    return 128 + ended[0] if ended and code == INTERRUPTED else code


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all commands."""
    parser = argparse.ArgumentParser(prog="esper-masks", description="Action masks for lifecycle controllers.")
    parser.add_argument("--version", action="version", version=f"esper-masks {esper_masks.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (command, summary) in COMMANDS.items():
        options = commands.add_parser(name, help=summary, description=command.run.__doc__)
        options.set_defaults(run=command.run)
        command.add_options(options)
    return parser


def _open_streams() -> None:
    """Standard streams that are there, and that print whatever a log holds."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as we run
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(name: str, error: Exception, code: int = 2) -> int:
    tell(name, reason_of(error))
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
