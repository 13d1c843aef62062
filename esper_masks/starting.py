"""What is set before torch is imported: how Ctrl-C ends the command, how threads wait, and what becomes of memory.

**Ctrl-C** ends the command without a traceback even while torch is imported, which takes seconds. Whatever runs
``esper_masks.cli`` imports the package first, and the package imports torch, so nothing further up could catch a
``KeyboardInterrupt``; and within the imports of extension modules it is not always one that arrives.

**Threads** of ``esper-masks train`` and ``evaluate`` wait for each other briefly, and then asleep. Threads that wait
actively keep cores from whoever they wait for: beside one other busy process, two threads on two cores lose seven
tenths of their speed and more. By default GNU's OpenMP turns 300,000 times before a thread sleeps, some milliseconds.
With 1,000 times, a few microseconds, two threads are as fast alone, and keep 0.57 of it beside a busy process; with
none (``OMP_WAIT_POLICY=passive``) they are a fifth slower alone, and keep 0.79. OpenMP reads the number when torch
loads it, so it is set before torch. It is set for these two commands alone: not for programs that import the package,
not for what ``bench`` measures, and not where the user has said how threads wait.

**Memory** that these two commands free stays with the process, see ``keep_freed_memory``.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

COMMANDS = ("train", "evaluate")
POLICY = ("GOMP_SPINCOUNT", "1000")
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which a user says something else
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of ``mallopt``
KEPT, LARGE = 1 << 30, 32 << 20  # bytes; a block of LARGE, glibc's limit, is always the system's own


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


def is_long(argv: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether it is one of the commands that run for long."""
    return is_command(argv, whole) and bool({*argv[1:2]} & {*COMMANDS})


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


def wait_briefly(argv: Sequence[str], whole: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Set how threads wait if the process was started as one of the commands.

    Args:
        argv: see ``is_command``.
        whole: see ``is_command``.
        environ: variables of the environment.
    """
    if is_long(argv, whole) and not {*CHOSEN} & {*environ}:
        environ.update([POLICY])


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Keep memory that tensors on a CPU have freed, up to a GiB of it, for those that come next.

    A training step allocates tens of megabytes and frees them. By default glibc gives them back to the system each
    time, and the next step asks for them again, page by page: a third of the time of a population of CNN hosts.
    ``esper-masks train`` and ``evaluate`` call this by themselves; in a program of one's own it is called once, before
    the training. It changes the whole process, until its end.

    Args:
        environ: variables of the environment. With ``MALLOC_...`` or ``GLIBC_TUNABLES`` a user has said something else.

    Returns: whether glibc takes it; False without glibc, and where the user has said something else.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(*pair) for pair in ((MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, KEPT)))


begin()
wait_briefly(sys.argv, sys.orig_argv, os.environ)
if is_long(sys.argv, sys.orig_argv):
    keep_freed_memory()
