"""``esper-masks show``: a rule set, the difference of two, or masks over an episode."""

import argparse
import json
from typing import Any

import torch

from esper_masks.cli.common import DEFAULT_RULES, RULES_HELP, console, find_rules
from esper_masks.cli.tables import print_over_time, show, show_difference
from esper_masks.errors import RulesError
from esper_masks.inspection.describe import describe, difference, mermaid
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout.env.baselines import random_legal
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rules import MaskRules
from esper_masks.viz.over_time import legal_shares

ENVIRONMENTS = 1024  # of which ``--over-time`` tells


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("name", nargs="?", metavar="NAME", help=RULES_HELP)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--mermaid", action="store_true", help="print the lifecycle as a Mermaid state diagram")
    instead.add_argument("--diff", nargs=2, metavar=("A", "B"), help="print what differs between two rule sets")
    over_time = "print how often ops are legal in a random episode, of rules that have an environment"
    instead.add_argument("--over-time", action="store_true", help=over_time)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Print the table of stages and ops of a rule set, its gates, heads and size, or what differs in two."""
    if options.diff and options.name is not None:
        raise RulesError(f"--diff compares the two rule sets behind it, and {options.name} is a third: leave it out")
    if options.diff:
        first, second = map(find_rules, options.diff)
        if options.json:
            changes = {path: [a, b] for path, a, b in difference(first, second)}
            print(json.dumps(changes, indent=2, default=str))
        else:
            show_difference(first, second, console())
        return 0
    rules = find_rules(DEFAULT_RULES if options.name is None else options.name)
    if options.over_time:
        facts = over_time(rules)
        if options.json:
            print(json.dumps(facts, indent=2))
        else:
            print_over_time(facts, console())
    elif options.mermaid:
        print(json.dumps({"mermaid": mermaid(rules)}) if options.json else mermaid(rules))
    elif options.json:
        print(json.dumps(describe(rules), indent=2, default=str))
    else:
        show(rules, console())
    return 0


def over_time(rules: MaskRules) -> dict[str, Any]:
    """How often each op is legal at each epoch of an episode of legal actions at random, as one JSON-able object.

    Seeds torch's own generator.

    Raises:
        RulesError: the package has no environment for these rules.
    """
    torch.manual_seed(0)
    env = LifecycleEnv(rules, ENVIRONMENTS)
    steps = []
    for _ in range(env.dynamics.episode_length):
        steps.append(env.masks())
        env.step(random_legal(env))
    masks = ActionMasks.stack(steps)
    ops = legal_shares(masks).T.tolist()
    return {
        "rules": rules.name,
        "environments": ENVIRONMENTS,
        "legal": dict(zip(rules.op_names, ops)),
        "legal_actions": masks.count().float().mean(-1).tolist(),
        "forced": masks.forced.float().mean(-1).tolist(),
    }
