"""How the threads of ``esper-masks train`` and ``evaluate`` wait for each other: asleep instead of actively.

Threads that wait actively keep cores from whoever they wait for: beside one other busy process, two threads on two
cores lose nine tenths of their speed. OpenMP reads the policy when torch loads it, so this module comes before torch.
It sets it for these two commands alone: not for programs that import the package, not for what ``bench`` measures, and
not where the user has set it.
"""

import os
import sys
from collections.abc import MutableMapping, Sequence

from esper_masks.starting import is_command

COMMANDS = ("train", "evaluate")
POLICY = ("OMP_WAIT_POLICY", "passive")
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which a user says something else


def wait_asleep(argv: Sequence[str], whole: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Set the policy if the process was started as one of the commands.

    Args:
        argv: as of ``is_command``.
        whole: as of ``is_command``.
        environ: variables of the environment.
    """
    if is_command(argv, whole) and {*argv[1:2]} & {*COMMANDS} and not {*CHOSEN} & {*environ}:
        environ.update([POLICY])


wait_asleep(sys.argv, sys.orig_argv, os.environ)
