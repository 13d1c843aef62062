"""The command line: ``esper-masks``, also ``python -m esper_masks``. One module a command.

entry       ``main``: the commands, exit codes and signals
common      arguments and words that commands share
tables      what is printed about rules, masks and policies
replay      judge logs
explain     why an op is legal or not
show        a rule set, or two
verify      engine and oracle agree
bench       measure
train       train a policy
networks    what ``train --world networks`` adds
evaluate    a policy against baselines
calibrate   measure logs
warm        build compiled steps
"""

from esper_masks.cli.entry import main

__all__ = ["main"]
