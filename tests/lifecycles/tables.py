"""What a case of a truth table says, and what an engine and the oracle answer to it.

A case is data: names of stages, features and choices, no member of an enum. So a table says nothing that it took from
the rules.
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks import reference
from tests.helpers import ROOT

S = em.SlotState
LIFECYCLES = ROOT / "docs" / "lifecycles"
ANY_SLOT = "*"
Changes = Mapping[str, Any]
Verdict = bool | tuple[str, ...]  # whether it is legal, or the choices of a head


def module_of(name: str) -> Any:
    """The file of an example, ``docs/lifecycles/servers.py``, as a module."""
    spec = importlib.util.spec_from_file_location(f"lifecycles_{name}", LIFECYCLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where a compiler looks for it
    spec.loader.exec_module(module)
    return module


def example(name: str) -> em.MaskRules:
    """The rule set of an example: ``SERVERS`` of ``docs/lifecycles/servers.py``."""
    rules: em.MaskRules = getattr(module_of(name), name.upper())
    return rules


@dataclass(frozen=True)
class Case:
    """One state of an environment, a question about it, and the answer.

    Args:
        ask: "OP", "OP slot", "OP slot head=choice", or "OP slot head=?" for all choices.
        slots: what the slots hold; those that are not named are empty.
        want: True where it is legal, else why not; the choices for "?".
        fact: of the page, or "contract" for what this library promises.
        row: values that differ from those of the table.
        enabled: the enabled slots; None for all.
        switches: those that are not at their default.
        head_masks: head -> slot, or "*" for a head without a slot -> the choices that the caller leaves.
    """

    ask: str
    slots: Mapping[str, em.SlotState]
    want: bool | str | tuple[str, ...]
    fact: str
    row: Mapping[str, int] = field(default_factory=dict)
    enabled: tuple[str, ...] | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    head_masks: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def op(self) -> str:
        return self.ask.split()[0]

    @property
    def slot(self) -> str | None:
        """The slot in question; None for an op that uses none."""
        return next((word for word in self.ask.split()[1:] if "=" not in word), None)

    @property
    def choice(self) -> tuple[str, str] | None:
        """The head in question, and the choice or "?"."""
        return next(((*word.split("="),) for word in self.ask.split() if "=" in word), None)  # type: ignore[misc]

    @property
    def verdict(self) -> Verdict:
        """The answer without its words."""
        return self.want if isinstance(self.want, tuple) else self.want is True


@dataclass(frozen=True)
class Table:
    """All that one rule set must say.

    ``legal``, ``opening`` and ``closing`` are whole families of cases, by hand as well. A change is a mapping with any
    of ``row``, ``age``, ``features``, ``others`` (other slots) and ``switches``.

    Args:
        name: of the rule set.
        row: the values that a case does not name.
        cases: one by one.
        slot: which is judged in the families.
        legal: stage -> the ops that are legal there, with every guard open; those that use no slot left out.
        opening: op -> what has to be changed so that its guards are open.
        closing: ops, a change, and the answer after it, in every stage of each op; OP@STAGE is that stage alone.
        base: what holds in all of these.
    """

    name: str
    row: Mapping[str, int]
    cases: Sequence[Case]
    slot: str
    legal: Mapping[str, str]
    opening: Mapping[str, Changes]
    closing: Sequence[tuple[str, Changes, bool | str]]
    base: Changes = field(default_factory=dict)

    def every_case(self, rules: em.MaskRules) -> list[Case]:
        """The cases, and those of the families."""
        return [*self.cases, *self._families(rules)]

    def _families(self, rules: em.MaskRules) -> Iterator[Case]:
        ops = [op.name for op in rules.op_rules if "slot" in op.uses]
        for stage in (stage.name for stage in rules.stages):
            for op in ops:
                yield self._case(op, stage, {}, op in self.legal.get(stage, "").split())
        for names, change, want in self.closing:
            for name in names.split():
                op, _, only = name.partition("@")
                for stage, legal in self.legal.items():
                    if op in legal.split() and only in ("", stage):
                        yield self._case(op, stage, change, want)

    def _case(self, op: str, stage: str, change: Changes, want: bool | str) -> Case:
        made: dict[str, Any] = {"age": 0, "features": {}, "row": {}, "others": {}, "switches": {}}
        for changes in (self.base, self.opening.get(op, {}), change):
            for key, value in changes.items():
                made[key] = value if key == "age" else {**made[key], **value}
        held = S(stage, made["age"], **made["features"])
        slots = {self.slot: held, **made["others"]}
        return Case(f"{op} {self.slot}", slots, want, "family", made["row"], switches=made["switches"])


# -- what engine and oracle answer ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The cases under one setting of the switches as one batch, with what an engine is given."""

    switches: Mapping[str, Any]
    engine: em.MaskEngine
    cases: Sequence[Case]
    states: Tensor
    given: Mapping[str, Any]


def batches(rules: em.MaskRules, table: Table, cases: Sequence[Case]) -> Iterator[Batch]:
    """All cases, a batch for each setting of the switches."""
    settings = {repr(sorted(case.switches.items())): case.switches for case in cases}
    for key, switches in settings.items():
        some = [case for case in cases if repr(sorted(case.switches.items())) == key]
        engine = em.MaskEngine(rules, **switches)
        states = engine.pack_slots([dict(case.slots) for case in some])
        yield Batch(switches, engine, some, states, _given(engine, table, some))


def _given(engine: em.MaskEngine, table: Table, cases: Sequence[Case]) -> dict[str, Any]:
    rows = [{**table.row, **case.row} for case in cases]
    given: dict[str, Any] = {
        "enabled": torch.tensor(
            [[case.enabled is None or slot in case.enabled for slot in engine.slot_ids] for case in cases]
        )
    }
    if table.row:
        given["row"] = {
            name: torch.tensor([row[name] for row in rows], dtype=torch.bool if domain is bool else torch.int32)
            for name, domain in engine.rules.row_features.items()
        }
    masks = {}
    for head in {head: None for case in cases for head in case.head_masks}:
        names = choices_of(engine, head)
        masks[head] = torch.ones(len(cases), len(engine.slot_ids), len(names), dtype=torch.bool)
        for env, case in enumerate(cases):
            for slot, left in case.head_masks.get(head, {}).items():
                at = slice(None) if slot == ANY_SLOT else engine.slot_ids.index(slot)
                masks[head][env, at] = torch.tensor([name in left for name in names])
        if any(ANY_SLOT in case.head_masks.get(head, {}) for case in cases):
            masks[head] = masks[head][:, 0]
    return {**given, **({"head_masks": masks} if masks else {})}


def choices_of(engine: em.MaskEngine, head: str) -> tuple[str, ...]:
    """The names of a head's choices; of one that chooses a slot, the slots."""
    return tuple(getattr(engine.rules.head(head), "choices", ())) or tuple(engine.slot_ids)


def answers(batch: Batch, engine: em.MaskEngine | None = None) -> list[Verdict]:
    """What the engine of a batch says to each case, or another one."""
    masks = (engine or batch.engine)(batch.states, **batch.given)
    op_mask, slot_by_op = masks["op"].tolist(), masks.slot_by_op.tolist()
    by_slot: dict[str, list[Any]] = {}
    made: list[Verdict] = []
    for env, case in enumerate(batch.cases):
        op = batch.engine.rules.ops[case.op]
        if case.slot is None:
            made.append(op_mask[env][op])
            continue
        slot = batch.engine.slot_ids.index(case.slot)
        legal = slot_by_op[env][op][slot]
        if case.choice is None:
            made.append(legal)
            continue
        head, choice = case.choice
        if head not in by_slot:
            by_slot[head] = masks.by_slot(head).tolist()
        left = tuple(n for n, ok in zip(choices_of(batch.engine, head), by_slot[head][env][slot]) if ok and legal)
        made.append(left if choice == "?" else choice in left)
    return made


def oracle(batch: Batch) -> list[Verdict]:
    """What the oracle says to each case, by its own masks."""
    given = {name: _listed(value) for name, value in batch.given.items()}
    expected = reference.masks(batch.engine.rules, batch.states.tolist(), **given)
    made: list[Verdict] = []
    for env, case in enumerate(batch.cases):
        op = batch.engine.rules.ops[case.op]
        if case.slot is None:
            made.append(expected["op"][env][op])
            continue
        slot = batch.engine.slot_ids.index(case.slot)
        legal = expected["slot_by_op"][env][op][slot]
        if case.choice is None:
            made.append(legal)
            continue
        head, choice = case.choice
        names = choices_of(batch.engine, head)
        by_slot = f"{head}_by_slot" in expected
        mask = expected[f"{head}_by_slot"][env][slot] if by_slot else expected[head][env]
        left = tuple(n for n, ok in zip(names, mask) if ok and legal)
        made.append(left if choice == "?" else choice in left)
    return made


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(one) for name, one in value.items()}
    return value.tolist()


def reason(batch: Batch, env: int) -> str | None:
    """What ``explain`` says to a case."""
    case = batch.cases[env]
    explained = batch.engine.explain(batch.states, env, **batch.given)
    if case.slot is None and explained.legal(case.op):
        return None
    slot = case.slot or batch.engine.slot_ids[0]
    wanted = {} if case.choice is None or case.choice[1] == "?" else dict([case.choice])
    told: str | None = explained.reason(case.op, slot, **wanted)
    return told


def wrong(batch: Batch, rules: em.MaskRules | None = None) -> Iterator[str]:
    """The cases to which the engine, or one of other rules, gives another answer."""
    engine = None if rules is None else em.MaskEngine(rules, **batch.switches)
    for case, said in zip(batch.cases, answers(batch, engine)):
        if said != case.verdict:
            yield f"{case}: {said}"
