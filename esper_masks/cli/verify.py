"""The command ``esper-masks verify``."""

import argparse
import json
import sys
from functools import partial

from rich.console import Console
from rich.progress import Progress, TaskID

from esper_masks.cli.common import INTERRUPTED, RULE_NAMES, find_rules, print_wrapped
from esper_masks.inspection.verify import Verification, verify
from esper_masks.rulesets import rulesets


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{RULE_NAMES} (default: all that ship)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead")


def run(options: argparse.Namespace) -> int:
    """Lint a rule set, and compare engine, whole actions, explanations and the loop oracle at every bound of every op
    and head, and at random. Exit code 1 where something disagrees.
    """
    found = [find_rules(name) for name in options.names or rulesets()]  # a wrong name must not cost the work before it
    results: list[Verification] = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        for rules in found:
            task = bar.add_task(rules.name)
            results.append(verify(rules, partial(_advance, bar, task)))
            if not options.json:
                bar.stop()
                _print_verification(results[-1])
                bar.start()
            if results[-1].interrupted:
                break
    if options.json:
        print(json.dumps([result.to_json() for result in results], indent=2))
    if any(result.interrupted for result in results):
        return INTERRUPTED
    return 0 if all(result.agrees for result in results) else 1


def _advance(bar: Progress, task: TaskID, done: float, of: int) -> None:
    bar.update(task, completed=done, total=of)


def _print_verification(result: Verification) -> None:
    state = "DISAGREE" if result.disagreements else "interrupted" if result.interrupted else "all agree"
    settings = f" under {result.settings} settings of its switches" if result.settings > 1 else ""
    print(f"{result.rules}: {state}: {result.environments:,} environments{settings},")
    print(f"  {result.verdicts:,} verdicts of the oracle")
    for line in result.disagreements:
        print_wrapped(f"  {line}")
    for note in result.notes:
        print(f"  note: {note}")
