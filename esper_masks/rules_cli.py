"""The commands that tell of rule sets: ``esper-masks explain`` and ``show``."""

import argparse
import errno
import importlib.util
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import torch
from rich.console import Console

from esper_masks.engine import MaskEngine
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.explain import Explanation
from esper_masks.rule_checks import INT32
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset, rulesets
from esper_masks.show import describe, difference, mermaid, show, show_difference
from esper_masks.slots import SlotState
from esper_masks.telemetry.events import clean

DEFAULT_RULES = "esper-2025-12"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RULE_NAMES = f"{', '.join(rulesets())}; or module:NAME or path/to/file.py:NAME for rules of your own"
RULES_HELP = f"{RULE_NAMES} (default: {DEFAULT_RULES})"


def find_rules(name: str) -> MaskRules:
    """Rules that ship with the package, ``module:NAME``, or ``path/to/file.py:NAME``.

    A module may lie in the working directory; a file finds its neighbours as a script does.

    Raises:
        RulesError: an unknown name, a module or file that does not import, or one that has no such rules.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon and not _is_file(name):
        return ruleset(name)
    if not attribute or not colon:
        raise RulesError(f"{name!r} lacks the name that the rules have in it; write {module or name}:NAME")
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of our output
            imported = _import(module)
    except (Exception, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise RulesError(f"{_kind(module)} does not import: {type(error).__name__}: {reason}") from None
    if not hasattr(imported, attribute):
        there = [key for key, value in vars(imported).items() if isinstance(value, MaskRules)]
        raise RulesError(f"{_kind(module)} has no {attribute}; rules in it: {', '.join(there) or 'none'}")
    found = getattr(imported, attribute)
    if not isinstance(found, MaskRules):
        raise RulesError(f"{name} is a {type(found).__name__}, wanted MaskRules")
    return found


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
        # under its path: a module of another folder may have its name
        spec = importlib.util.spec_from_file_location(module, module)
        assert spec is not None  # it ends in .py
        assert spec.loader is not None
        imported = importlib.util.module_from_spec(spec)
        sys.modules[module] = imported  # where dataclasses look themselves up
        spec.loader.exec_module(imported)
        return imported
    finally:
        sys.path.remove(folder)


def add_commands(commands: Any) -> None:
    """Add the two commands to a parser's."""
    _add_explain(commands.add_parser("explain", help="say why each op is legal or masked in a state"))
    _add_show(commands.add_parser("show", help="print a rule set, or the difference of two"))


# -- explain ----------------------------------------------------------------------------------------------------------


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say for each slot and op whether it is legal, or the first rule that forbids it. Slots that are not given are "
        "empty. Example: esper-masks explain mid=BLENDING:0 late=TRAINING:4 --total-seeds 2 --max-seeds 2"
    )
    parser.add_argument(
        "slots", nargs="*", metavar="SLOT=STAGE[:AGE[:FEATURE...]]", help="what a slot holds, by names or integers"
    )
    parser.add_argument("--rules", default=DEFAULT_RULES, metavar="NAME", help=RULES_HELP)
    parser.add_argument("--slot-ids", metavar="A,B,...", help="names of the slots (default: those of the rules)")
    parser.add_argument("--enabled", metavar="A,B,...", help="slots that count (default: all)")
    add = parser.add_argument
    add("--total-seeds", type=int, default=0, metavar="N", help="seeds germinated so far (default: %(default)s)")
    add("--max-seeds", type=count, default=0, metavar="N", help="seed limit; 0 is none (default: %(default)s)")
    parser.add_argument("--switch", action="append", default=[], metavar="NAME=VALUE", help="set a rule switch")
    parser.add_argument(
        "--states", metavar="FILE", help='a JSON list of environments, each {slot: null | {"stage": ..., "age": ...}}'
    )
    parser.add_argument("--env", type=int, default=0, metavar="I", help="which of them (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    rules = find_rules(options.rules)
    names = None if options.slot_ids is None else options.slot_ids.split(",")
    enabled = None if options.enabled is None else options.enabled.split(",")
    engine = MaskEngine(rules, names, enabled=enabled, max_seeds=options.max_seeds, **_switches(rules, options.switch))
    if options.states is not None and options.slots:
        raise RulesError("give the slots either as arguments or in a file of states")
    batch = [_without_repeats(_slot(rules, text) for text in options.slots)]
    if options.states is not None:
        batch = _read_states(rules, options.states)
    if options.total_seeds not in INT32:
        raise SlotStateError(f"total seeds {options.total_seeds} is no 32-bit integer")
    totals = torch.full((len(batch),), options.total_seeds, dtype=torch.int32)
    explanation = engine.explain(engine.pack_slots(batch), options.env, totals)
    if options.json:
        print(json.dumps(explanation.to_json(), indent=2))
    else:
        _print_explanation(explanation)
    return 0


def _print_explanation(explanation: Explanation) -> None:
    print(f"under {explanation.rules}")
    for slot, holds in zip(explanation.slot_ids, explanation.holds):
        print(f"  {slot}: {holds}")
    print()
    for line in explanation.lines():
        print_wrapped(line)


def print_wrapped(line: str) -> None:
    """Print a line at the terminal's width, what does not fit indented below."""
    print(textwrap.fill(line, shutil.get_terminal_size().columns, subsequent_indent="    "))


def _switches(rules: MaskRules, settings: list[str]) -> dict[str, Any]:
    """``name=value`` with values as they are printed; names and values are those of the rules."""
    given = _without_repeats((setting.partition("=")[0], setting.partition("=")[2]) for setting in settings)
    known = {name: {str(value): value for value in values} for name, values in rules.switches.items()}
    switches = {name: known.get(name, {}).get(value, value) for name, value in given.items()}
    rules.resolve(**switches)  # refuses others, an engine's own arguments among them
    return switches


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise SlotStateError(f"{name!r} is given twice")
        found[name] = value
    return found


def _slot(rules: MaskRules, text: str) -> tuple[str, SlotState | None]:
    slot, equals, held = text.partition("=")
    if not equals or not held:
        raise SlotStateError(f"{text!r} is not of the form SLOT=STAGE[:AGE[:FEATURE...]]")
    values = held.split(":")
    if len(values) > len(rules.feature_names):
        raise SlotStateError(f"{text!r} has {len(values)} values; {rules.name} has {', '.join(rules.feature_names)}")
    return slot, _state(rules, dict(zip(rules.feature_names, values)))


def _state(rules: MaskRules, values: Mapping[str, Any]) -> SlotState | None:
    """A slot from names or integers by feature."""
    if "stage" not in values:
        raise SlotStateError(f"a slot has no stage: {dict(values)}")
    enums: dict[str, Any] = {"stage": rules.stages, **rules.features}
    numbers = {}
    for name, value in values.items():
        if name not in rules.feature_names:
            raise SlotStateError(f"no feature {name!r}; {rules.name} has {', '.join(rules.feature_names)}")
        members = enums[name].__members__ if name in enums else {}
        if isinstance(value, str) and value in members:
            numbers[name] = int(members[value])
        elif re.fullmatch("-?[0-9]{1,12}", str(value)):
            numbers[name] = int(value)
        else:
            raise SlotStateError(
                f"{name} {value!r} is no integer" + (f" and none of {', '.join(members)}" * bool(members))
            )
    return (
        None if numbers["stage"] == rules.empty else SlotState(numbers.pop("stage"), numbers.pop("age", 0), **numbers)
    )


def _read_states(rules: MaskRules, path: str) -> list[dict[str, SlotState | None]]:
    with open(path, encoding="utf-8") as file:
        try:
            environments = json.load(file, object_pairs_hook=_without_repeats)
        except SlotStateError as error:
            raise SlotStateError(f"{path}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise SlotStateError(f"{path} is no JSON: {error}") from None
    if not isinstance(environments, list) or not all(isinstance(env, dict) for env in environments):
        raise SlotStateError(f"{path} does not hold a list of environments, each an object of slots")
    for env in environments:
        for slot, held in env.items():
            if held is not None and not isinstance(held, dict):
                raise SlotStateError(f"{path}: slot {slot!r} holds {held!r}; wanted null or an object of features")
    return [{slot: None if held is None else _state(rules, held) for slot, held in env.items()} for env in environments]


# -- show -------------------------------------------------------------------------------------------------------------


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the table of stages and ops of a rule set, its gates, heads and size, or what differs in two."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=RULES_HELP)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--mermaid", action="store_true", help="print the lifecycle as a Mermaid state diagram")
    instead.add_argument("--diff", nargs=2, metavar=("A", "B"), help="print what differs between two rule sets")
    over_time = "print how often ops are legal in a random episode, of rules that have an environment"
    instead.add_argument("--over-time", action="store_true", help=over_time)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    if options.diff:
        if options.name is not None:
            raise RulesError(
                f"--diff compares the two rule sets behind it, and {options.name} is a third: leave it out"
            )
        first, second = map(find_rules, options.diff)
        if options.json:
            changes = {path: [a, b] for path, a, b in difference(first, second)}
            print(json.dumps(changes, indent=2, default=str))
        else:
            show_difference(first, second, console())
        return 0
    rules = find_rules(DEFAULT_RULES if options.name is None else options.name)
    if options.over_time:
        from esper_masks.over_time_cli import over_time, print_over_time  # which loads the environment

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


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader went away: raised like any write's, where rich would end the program with exit code 1."""
        raise  # rich calls it where it caught the error


def console() -> Console:
    """Standard output, without markup in names; 80 columns where it is no terminal."""
    return _Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def reason_of(error: Exception) -> str:
    """What to tell of an error; of a file that cannot be used its name too, and of one without room the way out."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = f"{clean(str(error.filename), 4096)}: " if error.filename else ""
    return f"{name}{error.strerror}{'; make room, or name another place' * (error.errno in NO_ROOM)}"


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
