"""Every way in which a rule set can contradict itself, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

from esper_masks.errors import RulesError
from esper_masks.rules.fields import show
from esper_masks.rules.names import ENGINE_ARGUMENTS, INT32, MASK_NAMES, MAX_STAGE, OP, SLOT, WORD_BITS

if TYPE_CHECKING:
    from esper_masks.rules.model import MaskRules
    from esper_masks.rules.parts import Head, Op


def check_rules(rules: MaskRules) -> None:
    """Raise ``RulesError`` for the first contradiction found in rules whose ops stand in index order."""
    _check_stages(rules)
    _check_heads_present(rules)
    for op in rules.op_rules:
        _check_op(rules, op)
    for head in rules.heads:
        _check_head(rules, head)
    if not any(op.always and SLOT not in op.uses for op in rules.op_rules):
        _fail(
            rules,
            "no op is always legal without a slot, so a row could be left without a legal action; "
            "mark one always=True that does not use 'slot'",
        )
    if len(set(rules.slot_ids)) != len(rules.slot_ids):
        _fail(rules, f"slot ids repeat: {', '.join(rules.slot_ids)}")


def word_bits(rules: MaskRules) -> int:
    """Bits a word needs: one an op, and one for each distinct set of blocking stages."""
    return len(rules.op_rules) + len(blocking_sets(rules))


def blocking_sets(rules: MaskRules) -> tuple[frozenset[IntEnum], ...]:
    """The distinct sets of stages that block some op, in op order."""
    return tuple(dict.fromkeys(frozenset(op.blocked_by) for op in rules.op_rules if op.blocked_by))


def _fail(rules: MaskRules, reason: str) -> NoReturn:
    raise RulesError(f"rules {rules.name!r}: {reason}")


def _names(members: Iterable[IntEnum]) -> str:
    return ", ".join(member.name for member in members)


def _check_stages(rules: MaskRules) -> None:
    stages = rules.stages
    _check_no_alias(rules, stages, "stages")
    for stage in stages:
        if not 0 <= stage <= MAX_STAGE:
            _fail(rules, f"stage {stage.name} = {int(stage)} is outside 0..{MAX_STAGE}")
        if stage not in rules.transitions:
            _fail(rules, f"stage {stage.name} has no entry in transitions; give () if nothing follows it")
    for stage, targets in rules.transitions.items():
        for member in (stage, *targets):
            if not isinstance(member, stages):
                _fail(rules, f"transition {stage.name} -> {member.name}: {member.name} is no stage")
    if not isinstance(rules.empty, stages):
        _fail(rules, f"empty={rules.empty.name} is no stage; the stages are {_names(stages)}")
    for feature, values in rules.features.items():
        if feature in ("stage", "age"):
            _fail(rules, f"feature {feature!r} needs a name of its own")
        _check_no_alias(rules, values, f"feature {feature!r}")
        if not all(int(value) in INT32 for value in values):
            _fail(rules, f"feature {feature!r} has a value that is no 32-bit integer")
        if 0 not in set(values):
            _fail(rules, f"feature {feature!r} has no value 0, which an empty slot holds")
    for switch, choices in rules.switches.items():
        if not choices:
            _fail(rules, f"switch {switch!r} has no values")
        if switch in ENGINE_ARGUMENTS:
            _fail(rules, f"switch {switch!r} has the name of an argument of the engine")


def _check_no_alias(rules: MaskRules, enum: type[IntEnum], what: str) -> None:
    by_value: dict[int, str] = {}
    for name, member in enum.__members__.items():
        if by_value.setdefault(int(member), name) != name:
            _fail(rules, f"{what}: {by_value[int(member)]} and {name} share the index {int(member)}")


def check_ops(rules: MaskRules) -> None:
    """Raise ``RulesError`` unless the ops are those of one enum, numbered from 0 without gaps."""
    if not rules.op_rules:
        _fail(rules, "there are no ops")
    enum = rules.ops
    _check_no_alias(rules, enum, "ops")
    seen: dict[int, Op] = {}
    for op in rules.op_rules:
        if not isinstance(op.id, enum):
            _fail(rules, f"op {op.name} is of {type(op.id).__name__}, the others of {enum.__name__}")
        if int(op.id) in seen:
            _fail(rules, f"two ops with the index {int(op.id)}: {seen[int(op.id)].name} and {op.name}")
        seen[int(op.id)] = op
    for member in enum:
        if int(member) not in seen:
            _fail(rules, f"op {member.name} has no rule")
    if sorted(seen) != list(range(len(seen))):
        _fail(rules, f"op indices must be 0..{len(seen) - 1} without gaps, got {sorted(seen)}")
    if (bits := word_bits(rules)) > WORD_BITS:
        _fail(
            rules,
            f"{len(seen)} ops and {bits - len(seen)} sets of blocking stages need {bits} bits; a word has {WORD_BITS}",
        )


def _check_op(rules: MaskRules, op: Op) -> None:
    where = f"op {op.name}"
    gated = any((op.min_age is not None, op.requires, op.seed_limit, op.blocked_by, op.disabled, op.disabled_by))
    moving = any((op.enters is not None, op.moves, op.acts_in))
    if op.always:
        if gated or moving:
            _fail(rules, f"{where} is always legal, so it can have neither stages nor gates")
    elif op.enters is not None and op.moves:
        _fail(rules, f"{where} has both enters and moves; write the edge of enters into moves")
    if op.waived_by is not None and not op.requires:
        _fail(rules, f"{where} has waived_by={op.waived_by!r} and requires nothing that it could waive")
    for stage in (op.enters, *op.moves, *op.moves.values(), *op.acts_in, *op.blocked_by):
        if stage is not None and not isinstance(stage, rules.stages):
            _fail(rules, f"{where} names {stage.name}, which is no stage; the stages are {_names(rules.stages)}")
    for source, target in op.moves.items():
        if target not in rules.transitions[source]:
            _fail(rules, f"{where} moves {source.name} -> {target.name}, which transitions do not permit")
    for feature, value in op.requires.items():
        if feature not in rules.features:
            known = ", ".join(rules.features) or "none"
            _fail(rules, f"{where} requires feature {feature!r}; the features are: {known}")
        if not isinstance(value, rules.features[feature]):
            allowed = _names(rules.features[feature])
            _fail(rules, f"{where} can never be legal: {feature} is never {value.name}, only {allowed}")
    for switch in (op.waived_by, op.disabled_by):
        if switch is not None and switch not in rules.switches:
            _fail(
                rules, f"{where} names the switch {switch!r}; the switches are: {', '.join(rules.switches) or 'none'}"
            )
    for switch in (op.waived_by, op.disabled_by):
        if switch is not None and sorted(map(repr, rules.switches[switch])) != ["False", "True"]:
            _fail(rules, f"{where} needs {switch!r} to be a switch of False and True, not {rules.switches[switch]}")
    if not op.disabled and not rules.legal_stages(op.id):
        reason = "it names no stage" if not moving else f"no stage moves to {show(op.enters)}"
        _fail(rules, f"{where} can never be legal: {reason}")
    if op.blocked_by and rules.legal_stages(op.id) <= set(op.blocked_by) and not op.disabled:
        _fail(rules, f"{where} can never be legal: every stage it acts in also blocks it")
    for name in op.uses:
        if name == OP or name not in rules.head_names:
            _fail(rules, f"{where} uses {name!r}; it may use {', '.join(n for n in rules.head_names if n != OP)}")


def _check_heads_present(rules: MaskRules) -> None:
    for head in rules.heads:
        if head.name in MASK_NAMES:
            _fail(rules, f"no head can be called {head.name!r}; masks use the name")
    names = rules.head_names
    for name in (SLOT, OP):
        if names.count(name) != 1:
            _fail(rules, f"there must be one head {name!r}, found {names.count(name)}")
    if len(set(names)) != len(names):
        _fail(rules, f"head names repeat: {', '.join(names)}")


def _check_head(rules: MaskRules, head: Head) -> None:
    where = f"head {head.name!r}"
    if head.name in (SLOT, OP):
        if any((head.choices, head.legal, head.closed, head.opened_by, head.by_op, head.canonical)):
            _fail(rules, f"{where} takes its choices and its mask from the slots and the ops; give only its name")
        return
    if not head.choices or len(set(head.choices)) != len(head.choices):
        _fail(rules, f"{where} needs choices with distinct names, got {head.choices}")
    if isinstance(head.legal, Mapping) != (head.switch is not None):
        _fail(rules, f"{where}: a switch and a mapping of its values to choices go together")
    if head.switch is not None and head.switch not in rules.switches:
        _fail(
            rules, f"{where} names the switch {head.switch!r}; the switches are: {', '.join(rules.switches) or 'none'}"
        )
    if isinstance(head.legal, Mapping):
        if head.switch is not None and set(head.legal) != set(rules.switches[head.switch]):
            _fail(rules, f"{where}: legal needs one entry for each value of {head.switch!r}")
        options = tuple(head.legal.values())
    else:
        options = (head.open_choices,)
    users = {op.id for op in rules.op_rules if head.name in op.uses}
    for op in (*head.opened_by, *head.by_op):
        if not isinstance(op, rules.ops):
            _fail(rules, f"{where} names the op {op.name}; the ops are {_names(rules.ops)}")
    if head.by_op and (head.opened_by or head.legal is not None):
        _fail(rules, f"{where}: by_op says all; it goes with neither legal nor opened_by")
    if head.by_op and set(head.by_op) != users:
        _fail(rules, f"{where}: by_op must name exactly the ops that use the head: {_names(sorted(users)) or 'none'}")
    if head.closed is None and head.opened_by:
        _fail(rules, f"{where}: opened_by needs closed, the choices while none of those ops is legal")
    if head.closed is not None and head.opened_by and not users <= set(head.opened_by):
        missing = _names(sorted(users - set(head.opened_by)))
        _fail(rules, f"{where}: {missing} uses the head and does not open it; add it to opened_by or use by_op")
    if head.closed is not None and not (users or head.opened_by):
        _fail(rules, f"{where}: nothing opens it; no op uses it")
    for choices in (*options, *head.by_op.values(), *(() if head.closed is None else (head.closed,))):
        if not choices:
            _fail(rules, f"{where} is left without a legal action")
        for choice in choices:
            if choice not in head.choices:
                _fail(rules, f"{where} has no choice {choice!r}; it has {', '.join(head.choices)}")
    if head.closed is not None and not head.by_op:
        for choices in options:
            if not set(head.closed) <= set(choices):
                _fail(rules, f"{where}: closed {tuple(head.closed)} is not among the legal choices {tuple(choices)}")
    if head.canonical is not None and head.canonical not in head.choices:
        _fail(rules, f"{where}: canonical {head.canonical!r} is no choice of it; it has {', '.join(head.choices)}")
