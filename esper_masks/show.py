"""A rule set as people read it: which op where and behind which gates, the heads, the lifecycle as a diagram."""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from esper_masks.layout import build_layout
from esper_masks.layout_tables import actions_per_op
from esper_masks.rules import Head, MaskRules, Op

ALWAYS, GATED, PLAIN, NEVER = "always", "gated", "yes", "."
# ink and ground of a cell, colours of Okabe and Ito; the words say the same
COLOURS = {ALWAYS: ("black", "#56B4E9"), GATED: ("black", "#E69F00"), PLAIN: ("white", "#0072B2")}


def describe(rules: MaskRules) -> dict[str, Any]:
    """All there is to a rule set, as one JSON-able object. Ops and heads are as they stand before switches are set."""
    resolved = rules.resolve()
    slots = rules.slot_ids or ("slot0",)
    return {
        "rules": rules.name,
        "fingerprint": rules.fingerprint,
        "slots": list(slots),
        "whole_actions": sum(actions_per_op(build_layout(resolved, slots))),
        "empty": rules.empty.name,
        "stages": {stage.name: int(stage) for stage in rules.stages},
        "transitions": {stage.name: [to.name for to in rules.transitions[stage]] for stage in rules.stages},
        "features": {name: {value.name: int(value) for value in values} for name, values in rules.features.items()},
        "switches": {name: list(values) for name, values in rules.switches.items()},
        "ops": {op.name: _op(rules, op) for op in rules.op_rules},
        "heads": {head.name: _head(head) for head in rules.heads},
    }


def _op(rules: MaskRules, op: Op) -> dict[str, Any]:
    return {
        "index": int(op.id),
        "stages": [] if op.always else [stage.name for stage in rules.stages if stage in rules.legal_stages(op.id)],
        "enters": None if op.enters is None else op.enters.name,
        "moves": {source.name: to.name for source, to in op.moves.items()},
        "acts_in": [stage.name for stage in op.acts_in],
        "gates": list(gates(op)),
        "uses": list(op.uses),
    }


def _head(head: Head) -> dict[str, Any]:
    legal = head.legal
    return {
        "choices": list(head.choices),
        "legal": {str(value): list(choices) for value, choices in legal.items()}
        if isinstance(legal, Mapping)
        else legal and list(legal),
        "while_closed": head.closed and list(head.closed),
        "opened_by": [op.name for op in head.opened_by],
        "by_op": {op.name: list(choices) for op, choices in head.by_op.items()},
        "canonical": head.canonical or (head.choices[0] if head.choices else None),
    }


def gates(op: Op) -> Iterator[str]:
    """What an op needs beside a stage, a sentence each."""
    if op.always:
        yield "always legal"
    if op.disabled:
        yield "never legal"
    if op.min_age is not None:
        yield f"age >= {op.min_age}"
    waived = f", unless {op.waived_by}" if op.waived_by else ""
    for feature, value in op.requires.items():
        yield f"{feature} {value.name}{waived}"
    if op.seed_limit:
        yield "below the seed limit"
    if op.blocked_by:
        yield f"no enabled slot in {', '.join(stage.name for stage in op.blocked_by)}"
    if op.disabled_by:
        yield f"never with {op.disabled_by}"


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
        if op["gates"]:
            console.print(f"{name}: {'; '.join(op['gates'])}", soft_wrap=False)
    console.print("\nHeads, in order, and the ops that use them")
    console.print(_head_table(rules, facts))
    for name, values in rules.switches.items():
        console.print(f"switch {name}: {', '.join(map(str, values))} (default {values[0]})")


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _stage_table(rules: MaskRules) -> Table:
    table = _table()
    table.add_column("stage", no_wrap=True)
    for op in rules.op_rules:
        table.add_column(op.name.replace("_", "\n"), justify="center", no_wrap=True)
    for stage in rules.stages:
        said = [verdict(rules, op, stage) for op in rules.op_rules]
        cells = [Text(word, " on ".join(COLOURS.get(word, ()))) for word in said]
        table.add_row(f"{int(stage):>2} {stage.name}", *cells)
    return table


def verdict(rules: MaskRules, op: Op, stage: IntEnum) -> str:
    """Whether an op is legal in a stage: ``ALWAYS``, ``PLAIN``, ``GATED`` (where its gates pass) or ``NEVER``."""
    legal = stage in rules.legal_stages(op.id)
    if op.always or not legal:
        return ALWAYS if op.always else NEVER
    return GATED if any(gates(op)) else PLAIN


def takers(rules: MaskRules, stage: IntEnum, to: IntEnum) -> list[str]:
    """Names of the ops that move a seed along an edge of the lifecycle; none where it goes on by itself."""
    return [op.name for op in rules.op_rules if not op.disabled and to in (op.enters, op.moves.get(stage))]


def stayers(rules: MaskRules, stage: IntEnum) -> list[str]:
    """Names of the ops that act in a stage without moving the seed."""
    return [op.name for op in rules.op_rules if not op.disabled and stage in op.acts_in]


def _head_table(rules: MaskRules, facts: Mapping[str, Any]) -> Table:
    table = _table()
    table.add_column("head", no_wrap=True)
    table.add_column("choices", overflow="fold", ratio=3)
    table.add_column("used by", overflow="fold", ratio=2)
    sizes = {"slot": facts["slots"], "op": rules.op_names}
    for name, head in facts["heads"].items():
        choices = sizes.get(name, head["choices"])
        notes = [", ".join(choices)]
        if isinstance(head["legal"], dict):
            notes += [
                f"{rules.head(name).switch} {value}: {', '.join(legal)}" for value, legal in head["legal"].items()
            ]
        elif head["legal"] is not None:
            notes.append(f"legal: {', '.join(head['legal'])}")
        if head["while_closed"] is not None:
            notes.append(f"while closed: {', '.join(head['while_closed'])}")
        notes += [f"under {op}: {', '.join(legal)}" for op, legal in head["by_op"].items()]
        users = [op.name for op in rules.op_rules if name in op.uses]
        table.add_row(
            f"{name} ({len(choices)})", "\n".join(notes), "all" if name == "op" else ", ".join(users) or "none"
        )
    return table


def mermaid(rules: MaskRules) -> str:
    """The lifecycle as a Mermaid state diagram: edges bear the ops that take them, the others happen by themselves."""
    names = {stage: stage.name if _is_plain(stage.name) else f"stage{int(stage)}" for stage in rules.stages}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{stage.name}" as {name}' for stage, name in names.items() if name != stage.name]
    lines.append(f"    [*] --> {names[rules.empty]}")
    met = {to for targets in rules.transitions.values() for to in targets}
    for stage in rules.stages:
        if not rules.transitions[stage] and stage not in met and stage != rules.empty:
            lines.append(f"    {names[stage]}")
        for to in rules.transitions[stage]:
            ops = takers(rules, stage, to)
            lines.append(f"    {names[stage]} --> {names[to]}{': ' + ', '.join(ops) if ops else ''}")
    for stage in rules.stages:
        if ops := stayers(rules, stage):
            lines.append(f"    note right of {names[stage]}: {', '.join(ops)} without moving")
    return "\n".join(lines)


def _is_plain(name: str) -> bool:
    return name.isidentifier() and name.lower() not in ("note", "state", "end", "direction", "default", "class")


def difference(first: MaskRules, second: MaskRules) -> list[tuple[str, Any, Any]]:
    """What differs between two rule sets: path, what the first has, what the second has; None where one lacks it."""
    return list(_differences("", describe(first), describe(second)))


def _differences(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _differences(f"{path}.{key}" if path else key, a.get(key), b.get(key))
    elif a != b:
        yield path, a, b


def show_difference(first: MaskRules, second: MaskRules, console: Console) -> None:
    """Print what differs, side by side."""
    if first.fingerprint == second.fingerprint:
        console.print(f"{first.name} and {second.name} are the same")
        return
    table = _table()
    for title in ("", first.name, second.name):
        table.add_column(title, overflow="fold", ratio=1)
    for path, a, b in difference(first, second):
        if path not in ("rules", "fingerprint"):
            table.add_row(path, _brief(a), _brief(b))
    console.print(table)


def _brief(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return (
            "; ".join(f"{key}: {_brief(entry)}" for key, entry in value.items() if entry not in (None, [], {})) or "-"
        )
    return (
        ", ".join(map(str, value)) or "-" if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    )
