"""What is printed about rules, masks and policies, with rich."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from esper_masks.inspection.describe import ALWAYS, COLOURS, choice_limits, describe, difference, verdict
from esper_masks.rollout.training.trained import Returns
from esper_masks.rules import Head, MaskRules, SlotHead
from esper_masks.rules.fields import name_of, values_of

WHITE, BLUE = (255, 255, 255), (0, 114, 178)  # of cells: never legal, always
DARK = 0.55  # share from which a number is white


def show(rules: MaskRules, console: Console) -> None:
    """Print a rule set at the console's width."""
    facts = describe(rules)
    console.print(f"{rules.name}: {len(rules.stages)} stages, {len(rules.op_rules)} ops, {len(rules.heads)} heads")
    switches = f", {', '.join(f'{name}={values[0]}' for name, values in rules.switches.items())}" * bool(rules.switches)
    console.print(f"{facts['whole_actions']:,} whole actions with slots {', '.join(facts['slots'])}{switches}\n")
    console.print("Which op is legal in which stage; 'gated': where its gates pass too")
    widths = [max(map(len, (ALWAYS, *op.name.split("_")))) for op in rules.op_rules]
    if sum(widths) + 2 * len(widths) + 6 + max(len(stage.name) for stage in rules.stages) <= console.width:
        console.print(_stage_table(rules))
    else:  # too many ops for columns
        for name, op in facts["ops"].items():
            console.print(f"  {name}: {', '.join(op['stages']) or ', '.join(op['gates'])}")
        console.print()
    for name, op in facts["ops"].items():
        if notes := [*op["gates"], *_told_sets(op)]:
            console.print(f"{name}: {'; '.join(notes)}", soft_wrap=False)
    console.print("\nHeads, in order, and the ops that use them")
    console.print(_head_table(rules, facts))
    for kind, domains in (("feature", rules.features), ("row", rules.row_features)):
        for name, domain in domains.items():
            known = values_of(domain)
            told = "a number" if known is None else ", ".join(name_of(domain, value) for value in known)
            console.print(f"{kind} {name}: {told}")
    for name, slots in rules.kinds.items():
        console.print(f"kind {name}: {', '.join(slots) or 'no slot'}")
    for name, values in rules.switches.items():
        console.print(f"switch {name}: {', '.join(map(str, values))} (default {values[0]})")


def _table(*columns: Column) -> Table:
    return Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _stage_table(rules: MaskRules) -> Table:
    ops = [Column(name.replace("_", "\n"), justify="center", no_wrap=True) for name in rules.op_names]
    table = _table(Column("stage", no_wrap=True), *ops)
    for stage in rules.stages:
        said = [verdict(rules, op, stage) for op in rules.op_rules]
        cells = [Text(word, " on ".join(COLOURS.get(word, ()))) for word in said]
        table.add_row(f"{int(stage):>2} {stage.name}", *cells)
    return table


def _head_table(rules: MaskRules, facts: Mapping[str, Any]) -> Table:
    choices_of, used_by = Column("choices", overflow="fold", ratio=3), Column("used by", overflow="fold", ratio=2)
    table = _table(Column("head", no_wrap=True), choices_of, used_by)
    sizes = {"slot": facts["slots"], "op": rules.op_names}
    for head in rules.heads:
        users = ["all"] if head.name == "op" else [op.name for op in rules.op_rules if head.name in op.uses]
        choices = facts["slots"] if isinstance(head, SlotHead) else sizes.get(head.name, head.choices)
        notes = list(_target_notes(facts["heads"][head.name]) if isinstance(head, SlotHead) else _notes(head))
        notes = [", ".join(choices), *notes]
        table.add_row(f"{head.name} ({len(choices)})", "\n".join(notes), ", ".join(users) or "none")
    return table


def _notes(head: Head) -> Iterator[str]:
    if isinstance(head.legal, Mapping):
        yield from (f"{head.switch} {value}: {', '.join(legal)}" for value, legal in head.legal.items())
    elif head.legal is not None:
        yield f"legal: {', '.join(head.legal)}"
    if head.closed is not None:
        yield f"while closed: {', '.join(head.closed)}"
    yield from choice_limits(head)


def _target_notes(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'another slot' if facts['distinct'] else 'a slot'} in {', '.join(facts['stages'])}"
    yield from facts["gates"]
    if facts["moves"]:
        yield f"moves: {', '.join(f'{source} to {to}' for source, to in facts['moves'].items())}"
    yield from _told_sets(facts)


def _told_sets(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["sets"]:
        yield f"sets: {', '.join(f'{feature} {value}' for feature, value in facts['sets'].items())}"


def show_difference(first: MaskRules, second: MaskRules, console: Console) -> None:
    """Print what differs, side by side."""
    if first.fingerprint == second.fingerprint:
        console.print(f"{first.name} and {second.name} are the same")
        return
    table = _table(*(Column(title, overflow="fold", ratio=1) for title in ("", first.name, second.name)))
    for path, a, b in difference(first, second):
        if path not in ("rules", "fingerprint"):
            table.add_row(path, _brief(a), _brief(b))
    console.print(table)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        known = {key: entry for key, entry in value.items() if entry not in (None, [], {})}
        return "; ".join(f"{key}: {_brief(entry)}" for key, entry in known.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def print_over_time(facts: dict[str, Any], console: Console) -> None:
    """Print what ``over_time`` gives: a row an epoch, and cells shaded by their share."""
    console.print(f"{facts['rules']}: {facts['environments']:,} environments, legal actions at random")
    console.print("At each epoch: percent in which an op is legal, and in which one whole action")
    console.print("alone is (forced); and how many are on average")
    names = ("epoch", *facts["legal"], "forced", "actions")
    table = _table(*(Column(name.replace("_", "\n"), justify="right", no_wrap=True) for name in names))
    shares = [*facts["legal"].values(), facts["forced"]]
    for epoch, count in enumerate(facts["legal_actions"]):
        table.add_row(str(epoch), *(_shaded(share[epoch]) for share in shares), f"{count:.1f}")
    console.print(table)


def _shaded(share: float) -> Text:
    red, green, blue = (round(w + share * (b - w)) for w, b in zip(WHITE, BLUE))
    return Text(f"{100 * share:.0f}", f"{'white' if share > DARK else 'black'} on rgb({red},{green},{blue})")


def policy_table(results: Mapping[str, Returns]) -> Table:
    """The return of each policy, the best first."""
    table = Table("policy", Column("return of an episode, mean ± standard error", justify="right"), box=SIMPLE)
    for name, returns in sorted(results.items(), key=lambda item: -item[1].mean):
        table.add_row(name, f"{returns.mean:.2f} ± {returns.standard_error:.2f}")
    return table
