"""How the threads of ``esper-masks train`` and ``evaluate`` wait for each other: briefly, and then asleep.

Threads that wait actively keep cores from whoever they wait for: beside one other busy process, two threads on two
cores lose seven tenths of their speed and more. By default GNU's OpenMP turns 300,000 times before a thread sleeps,
some milliseconds. With 1,000 times, a few microseconds, two threads are as fast alone, and keep 0.57 of it beside a
busy process; with none (``OMP_WAIT_POLICY=passive``) they are a fifth slower alone, and keep 0.79. OpenMP reads the
number when torch loads it, so this module comes before torch. It is set for these two commands alone: not for programs
that import the package, not for what ``bench`` measures, and not where the user has said how threads wait.
"""

import os
import sys
from collections.abc import MutableMapping, Sequence

from esper_masks.starting import is_command

COMMANDS = ("train", "evaluate")
POLICY = ("GOMP_SPINCOUNT", "1000")
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which a user says something else


def wait_briefly(argv: Sequence[str], whole: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Set how threads wait if the process was started as one of the commands.

    Args:
        argv: as of ``is_command``.
        whole: as of ``is_command``.
        environ: variables of the environment.
    """
    if is_command(argv, whole) and {*argv[1:2]} & {*COMMANDS} and not {*CHOSEN} & {*environ}:
        environ.update([POLICY])


wait_briefly(sys.argv, sys.orig_argv, os.environ)
