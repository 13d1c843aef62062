"""A rule set as people read it: which op where and behind which gates, the heads, the lifecycle as a diagram."""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from esper_masks.actions.layout import build_layout
from esper_masks.actions.tables import actions_per_op
from esper_masks.rules import Head, MaskRules, Op, SlotHead
from esper_masks.rules.fields import name_of, show, values_of
from esper_masks.rules.gates import gates_of

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
        "features": {name: _domain(values) for name, values in rules.features.items()},
        "rows": {name: _domain(values) for name, values in rules.row_features.items()},
        "kinds": {name: list(slot_ids) for name, slot_ids in rules.kinds.items()},
        "switches": {name: list(values) for name, values in rules.switches.items()},
        "ops": {op.name: _op(rules, op) for op in rules.op_rules},
        "heads": {head.name: _head(rules, head) for head in rules.heads},
    }


def _domain(values: Any) -> dict[str, int] | str:
    known = values_of(values)
    return "int" if known is None else {name_of(values, value): value for value in known}


def _op(rules: MaskRules, op: Op) -> dict[str, Any]:
    return {
        "index": int(op.id),
        "stages": []
        if op.always or not op.in_slot
        else [stage.name for stage in rules.stages if stage in rules.legal_stages(op.id)],
        "enters": None if op.enters is None else op.enters.name,
        "moves": {source.name: to.name for source, to in op.moves.items()},
        "acts_in": [stage.name for stage in op.acts_in],
        "gates": list(sentences(op)),
        "sets": _sets(rules, op),
        "uses": list(op.uses),
    }


def _head(rules: MaskRules, head: Head) -> dict[str, Any]:
    if isinstance(head, SlotHead):
        return _slot_head(rules, head)
    legal = head.legal
    return {
        "choices": list(head.choices),
        "legal": {str(value): list(choices) for value, choices in legal.items()}
        if isinstance(legal, Mapping)
        else legal and list(legal),
        "while_closed": head.closed and list(head.closed),
        "opened_by": [op.name for op in head.opened_by],
        "by_op": {op.name: list(choices) for op, choices in head.by_op.items()},
        "by_stage": {stage.name: list(choices) for stage, choices in head.by_stage.items()},
        "by_feature": [
            {feature: {name_of(rules.features[feature], value): list(choices) for value, choices in by_value.items()}}
            for feature, by_value in head.feature_choices
        ],
        "canonical": head.canonical or (head.choices[0] if head.choices else None),
    }


def _slot_head(rules: MaskRules, head: SlotHead) -> dict[str, Any]:
    legal = rules.target_scopes[head.name].legal
    return {
        "slots": True,
        "stages": [stage.name for stage in rules.stages if stage in legal],
        "gates": [sentence for guard in head.judges for sentence in guard.sentences()],
        "distinct": head.distinct,
        "moves": {source.name: to.name for source, to in head.moves.items()},
        "sets": _sets(rules, head),
    }


def _sets(rules: MaskRules, part: Op | SlotHead) -> dict[str, str]:
    return {feature: name_of(rules.features[feature], value) for feature, value in part.sets.items()}


def choice_limits(head: Head) -> Iterator[str]:
    """What a head leaves of its choices under an op, in a stage or by a feature, a sentence each."""
    yield from (f"under {op.name}: {_names(choices)}" for op, choices in head.by_op.items())
    yield from (f"in {stage.name}: {_names(choices)}" for stage, choices in head.by_stage.items())
    for feature, by_value in head.feature_choices:
        yield from (f"{feature} {show(value)}: {_names(choices)}" for value, choices in by_value.items())


def _names(choices: Sequence[str]) -> str:
    return ", ".join(choices) or "none"


def sentences(op: Op) -> Iterator[str]:
    """What an op needs beside a stage, a sentence each."""
    if op.always:
        yield "always legal"
    if op.disabled:
        yield "never legal"
    for gate in gates_of(op):
        yield from gate.sentences()


def verdict(rules: MaskRules, op: Op, stage: IntEnum) -> str:
    """Whether an op is legal in a stage: ``ALWAYS``, ``PLAIN``, ``GATED`` (where its gates pass) or ``NEVER``."""
    legal = stage in rules.legal_stages(op.id)
    if op.always or not legal:
        return ALWAYS if op.always else NEVER
    return GATED if any(sentences(op)) else PLAIN


def takers(rules: MaskRules, stage: IntEnum, to: IntEnum) -> list[str]:
    """Names of the ops that move a seed along an edge of the lifecycle, in their slot or in a second one; none where it
    goes on by itself.
    """
    by_heads = {head.name for head in rules.slot_heads if head.moves.get(stage) == to}

    def takes(op: Op) -> bool:
        return rules.edges(op.id).get(stage) == to or not by_heads.isdisjoint(op.uses)

    return [op.name for op in rules.op_rules if not op.disabled and takes(op)]


def stayers(rules: MaskRules, stage: IntEnum) -> list[str]:
    """Names of the ops that act in a stage without moving the seed."""
    return [op.name for op in rules.op_rules if not op.disabled and stage in op.acts_in]


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
