"""The command line: ``esper-masks``, also ``python -m esper_masks``. One module a command.

entry    ``main``: the commands, exit codes and signals
common   arguments and words that commands share
tables   what is printed of rules
"""

from esper_masks.cli.entry import main

__all__ = ["main"]
