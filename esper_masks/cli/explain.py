"""``esper-masks explain``: why each op is legal or masked in a state."""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from esper_masks.cli.common import DEFAULT_RULES, RULES_HELP, count, find_rules, print_wrapped
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.slots import SlotState, domain_of
from esper_masks.rules import MaskRules
from esper_masks.rules.fields import name_of, told_values, values_of
from esper_masks.rules.names import INT32


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    form = "SLOT=STAGE[:AGE[:FEATURE...]]"
    add("slots", nargs="*", metavar=form, help="what a slot holds, by names or integers")
    add("--rules", default=DEFAULT_RULES, metavar="NAME", help=RULES_HELP)
    names = partial(str.split, sep=",")
    add("--slot-ids", type=names, metavar="A,B,...", help="names of the slots (default: those of the rules)")
    add("--enabled", type=names, metavar="A,B,...", help="slots that count (default: all)")
    add("--total-seeds", type=int, default=0, metavar="N", help="seeds germinated so far (default: %(default)s)")
    add("--max-seeds", type=count, default=0, metavar="N", help="seed limit; 0 is none (default: %(default)s)")
    add("--switch", action="append", default=[], metavar="NAME=VALUE", help="set a rule switch")
    add("--row", action="append", default=[], metavar="NAME=VALUE", help="a value of the environment that guards read")
    add(
        "--kind",
        action="append",
        default=[],
        metavar="NAME=A,B,...",
        help="slots of a kind (default, for each kind: those of the rules)",
    )
    states = 'a JSON list of environments, each {slot: null | {"stage": ..., "age": ...}}'
    add("--states", metavar="FILE", help=states)
    add("--env", type=int, default=0, metavar="I", help="which of them (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Say for each slot and op whether it is legal, or the first rule that forbids it. Slots that are not given are
    empty. Example: esper-masks explain mid=BLENDING:0 late=TRAINING:4 --total-seeds 2 --max-seeds 2
    """
    rules = find_rules(options.rules)
    switches = _switches(rules, options.switch)
    engine = MaskEngine(
        rules,
        options.slot_ids,
        enabled=options.enabled,
        max_seeds=options.max_seeds,
        kinds=_kinds(rules, options.slot_ids, options.kind),
        **switches,
    )
    if options.states is not None and options.slots:
        raise RulesError("give the slots either as arguments or in a file of states")
    batch = [_without_repeats(_slot(rules, text) for text in options.slots)]
    if options.states is not None:
        batch = _read_states(rules, options.states)
    if options.total_seeds not in INT32:
        raise SlotStateError(f"total seeds {options.total_seeds} is no 32-bit integer")
    totals = torch.full((len(batch),), options.total_seeds, dtype=torch.int32)
    given = _rows(rules, options.row)
    if missing := [name for name in engine.program.rows if name not in given]:
        wanted = f"--row {missing[0]}=VALUE, {told_values(rules.row_features[missing[0]])}"
        raise SlotStateError(f"row {missing[0]!r} is missing, which guards read: {wanted}")
    rows = {name: torch.full((len(batch),), value) for name, value in given.items()}
    explanation = engine.explain(engine.pack_slots(batch), options.env, totals, row=rows)
    if options.json:
        print(json.dumps(explanation.to_json(), indent=2))
        return 0
    print(f"under {explanation.rules}")
    for slot, holds in zip(explanation.slot_ids, explanation.holds):
        print(f"  {slot}: {holds}")
    print()
    for line in explanation.lines():
        print_wrapped(line)
    return 0


def _switches(rules: MaskRules, settings: list[str]) -> dict[str, Any]:
    """Switches from ``name=value``; names and values are those of the rules, written as they are printed."""
    given = _without_repeats((setting.partition("=")[0], setting.partition("=")[2]) for setting in settings)
    known = {name: {str(value): value for value in values} for name, values in rules.switches.items()}
    switches = {name: known.get(name, {}).get(value, value) for name, value in given.items()}
    rules.resolve(**switches)  # refuses others, an engine's own arguments among them
    return switches


def _rows(rules: MaskRules, settings: list[str]) -> dict[str, int]:
    """Values of the environment from ``name=value``, by names or integers."""
    given = _without_repeats((setting.partition("=")[0], setting.partition("=")[2]) for setting in settings)
    for name in given:
        if name not in rules.row_features:
            raise SlotStateError(f"no row {name!r}; {rules.name} has {', '.join(rules.row_features) or 'none'}")
    return {name: _number(rules.row_features[name], name, value) for name, value in given.items()}


def _kinds(rules: MaskRules, slot_ids: list[str] | None, settings: list[str]) -> dict[str, Sequence[str]] | None:
    """Kinds from ``name=slot,slot``, with those of the rules whose slots there are; None where none is given."""
    given = _without_repeats((setting.partition("=")[0], setting.partition("=")[2]) for setting in settings)
    own = {name: slots for name, slots in rules.kinds.items() if set(slots) <= set(slot_ids or rules.slot_ids)}
    named = {name: [slot for slot in slots.split(",") if slot] for name, slots in given.items()}
    return {**own, **named} if named else None


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
    numbers = {}
    for name, value in values.items():
        if name not in rules.feature_names:
            raise SlotStateError(f"no feature {name!r}; {rules.name} has {', '.join(rules.feature_names)}")
        numbers[name] = _number(domain_of(rules, name), name, value)
    return None if numbers["stage"] == rules.empty else SlotState(**numbers)


def _number(domain: Any, name: str, value: Any) -> int:
    """A value by its name, or an integer."""
    members = {name_of(domain, number): number for number in values_of(domain) or ()}
    if isinstance(value, str) and value in members:
        return int(members[value])
    if re.fullmatch("-?[0-9]{1,12}", str(value)):
        return int(value)
    known = f" and none of {', '.join(members)}" if members else ""
    raise SlotStateError(f"{name} {value!r} is no integer{known}")


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
