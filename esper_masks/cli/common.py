"""What commands share: finding rules, kinds of arguments, the console, words for errors."""

import argparse
import errno
import importlib.util
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from types import ModuleType
from typing import Any, TextIO

from rich.console import Console

from esper_masks.errors import RulesError
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset, rulesets
from esper_masks.telemetry.events import clean

DEFAULT_RULES = "esper-2025-12"
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RULE_NAMES = f"{', '.join(rulesets())}; or module:NAME or path/to/file.py:NAME for rules of your own"
RULES_HELP = f"{RULE_NAMES} (default: {DEFAULT_RULES})"


class CommandError(ValueError):
    """What ends a command with a line and exit code 2."""


def find_rules(name: str) -> MaskRules:
    """Rules that ship with the package, ``module:NAME``, or ``path/to/file.py:NAME``.

    A module may lie in the working directory; a file finds its neighbours as a script does.

    Raises:
        RulesError: an unknown name, a module or file that does not import, or one that has no such rules.
    """
    if ":" not in name and not _is_file(name):
        return ruleset(name)
    found = find_in_code(name, "rules", lambda value: isinstance(value, MaskRules))
    if not isinstance(found, MaskRules):
        raise RulesError(f"{name} is a {type(found).__name__}, wanted MaskRules")
    return found


def find_in_code(name: str, what: str, is_one: Callable[[Any], bool]) -> Any:
    """Whatever has a name in a module or file, ``module:NAME`` or ``path/to/file.py:NAME``.

    Args:
        name: both names.
        what: what is looked for, for errors.
        is_one: whether something is of that kind, for a list of what there is.

    Raises:
        RulesError: a module or file that does not import, or one without such a name.
    """
    module, colon, attribute = name.rpartition(":")
    if not attribute or not colon:
        raise RulesError(f"{name!r} lacks the name that the {what} have in it; write {module or name}:NAME")
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of our output
            imported = _import(module)
    except (Exception, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise RulesError(f"{_kind(module)} does not import: {type(error).__name__}: {reason}") from None
    if not hasattr(imported, attribute):
        there = ", ".join(key for key, value in vars(imported).items() if is_one(value))
        raise RulesError(f"{_kind(module)} has no {attribute}; {what} in it: {there or 'none'}")
    return getattr(imported, attribute)


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _kind(module: str) -> str:
    return f"{'file' if _is_file(module) else 'module'} {clean(module, 4096)}"


def _import(module: str) -> ModuleType:
    folder = os.path.dirname(os.path.abspath(module)) if _is_file(module) else os.getcwd()
    sys.path.insert(0, folder)
    try:
        if not _is_file(module):
            return importlib.import_module(module)
        # under its whole path: a module of another folder may have its name
        module = os.path.realpath(module)
        if module in sys.modules:  # what else is named in the file is of the same rules
            return sys.modules[module]
        spec = importlib.util.spec_from_file_location(module, module)
        assert spec is not None  # it ends in .py
        assert spec.loader is not None
        imported = importlib.util.module_from_spec(spec)
        sys.modules[module] = imported  # where dataclasses look themselves up
        try:
            spec.loader.exec_module(imported)
        except BaseException:
            del sys.modules[module]
            raise
        return imported
    finally:
        sys.path.remove(folder)


def print_wrapped(line: str) -> None:
    """Print a line at the terminal's width; the rest of a longer line is indented below."""
    print(textwrap.fill(line, shutil.get_terminal_size().columns, subsequent_indent="    "))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error of a reader that went away; rich would end the program with exit code 1."""
        raise  # rich calls it where it caught the error


def console() -> Console:
    """Standard output, without markup in names; 80 columns where it is no terminal."""
    return _Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def reason_of(error: Exception) -> str:
    """What to print about an error: its reason, the name of an unusable file, and what to do if the disk is full."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = f"{clean(str(error.filename), 4096)}: " if error.filename else ""
    return f"{name}{error.strerror}{'; make room, or name another place' * (error.errno in NO_ROOM)}"


def tell(name: str, reason: str) -> None:
    """Say on standard error what went wrong in a command, if anybody can still be told."""
    with suppress(OSError):
        print(f"{name}: {reason}", file=sys.stderr)
    discard(sys.stderr)


def discard(stream: TextIO) -> bool:
    """Whether what is printed to a stream is lost; if so, nothing more is tried, at the exit of Python neither."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def count(text: str) -> int:
    """The value of a flag: 0, 1, 2 and so on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)


def positive(text: str) -> int:
    """The value of a flag: 1, 2 and so on."""
    if not count(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return int(text)


def output(text: str) -> str:
    """The value of a flag: a file to write; ``-`` is standard output."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is empty")
    return "/dev/stdout" if text == "-" else text
