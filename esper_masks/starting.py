"""How the command starts: Ctrl-C ends it without a traceback even while torch is imported, which takes seconds.

Whatever runs ``esper_masks.cli`` imports the package first, and the package imports torch, so nothing further up could
catch a ``KeyboardInterrupt``; and within the imports of extension modules it is not always one that arrives.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_waiting = False  # for the imports, with the system's way to end


def is_command(argv: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether the process was started as ``esper-masks`` or ``python -m esper_masks``, while the package is imported.

    Args:
        argv: ``sys.argv``.
        whole: ``sys.orig_argv``, with Python's own arguments.
    """
    if not 0 < len(argv) <= len(whole):
        return False
    name = whole[-len(argv)]  # of `python -m` the module, whose name is not in argv as long as Python looks for it
    if argv[0] == "-m":
        return name.removeprefix("-m") == "esper_masks"
    return argv[0] == name and Path(name).stem == "esper-masks"


def begin() -> None:
    """From here on SIGINT ends the command at once. Programs that import the package keep what they have."""
    global _waiting
    if is_command(sys.argv, sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _waiting = True


def done() -> None:
    """From here on SIGINT is a ``KeyboardInterrupt`` again, which commands know how to end by."""
    global _waiting
    if _waiting:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _waiting = False


begin()
