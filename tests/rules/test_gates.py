"""Each gate by a truth table written by hand: the oracle's reason, the engine's bit and the drop-in's bit."""

import dataclasses
import pickle
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

import esper_masks as em
from esper_masks import reference
from esper_masks.compat.environment import OneEnvironment
from esper_masks.inspection.describe import sentences
from esper_masks.inspection.subjects import tried_values
from esper_masks.inspection.verify import verify
from esper_masks.rules.bounds import Runs
from esper_masks.rules.gates import GATES, gates_of, lift
from tests.held.charging import RULES
from tests.helpers import assert_same_masks, random_states

Kiln = IntEnum("Kiln", "COLD HOT CRACKED GONE", start=0)
Lid = IntEnum("Lid", "SHUT OPEN", start=0)
Do = IntEnum("Do", "WAIT FIRE", start=0)


def kilns(**gates: Any) -> em.MaskRules:
    """FIRE acts in a COLD kiln, behind the gates."""
    return em.MaskRules(
        name="kilns",
        stages=Kiln,
        transitions={
            Kiln.COLD: [Kiln.HOT],
            Kiln.HOT: [Kiln.COLD, Kiln.CRACKED],
            Kiln.CRACKED: [Kiln.GONE],
            Kiln.GONE: [],
        },
        empty=Kiln.GONE,
        features={"lid": Lid},
        switches={"strike": [False, True]},
        op_rules=[em.Op(Do.WAIT, always=True), em.Op(Do.FIRE, acts_in=[Kiln.COLD], uses=["slot"], **gates)],
        heads=[em.Head("slot"), em.Head("op")],
        slot_ids=["one", "two"],
    )


TRUTH: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [  # fields of the op, the state, the reason
    ({}, {"age": -5}, None),
    ({"min_age": 3}, {"age": 2}, "age 2 < 3"),
    ({"min_age": 3}, {"age": 3}, None),
    ({"min_age": 3}, {"age": 4}, None),
    ({"min_age": 0}, {"age": -1}, "age -1 < 0"),
    ({"max_age": 3}, {"age": 2}, None),
    ({"max_age": 3}, {"age": 3}, None),
    ({"max_age": 3}, {"age": 4}, "age 4 > 3"),
    ({"max_age": 0}, {"age": -1}, None),
    ({"max_age": 0}, {"age": 1}, "age 1 > 0"),
    ({"min_age": 3, "max_age": 3}, {"age": 2}, "age 2 < 3"),
    ({"min_age": 3, "max_age": 3}, {"age": 3}, None),
    ({"min_age": 3, "max_age": 3}, {"age": 4}, "age 4 > 3"),
    ({"requires": {"lid": Lid.OPEN}}, {"lid": 0}, "lid SHUT, needs OPEN"),
    ({"requires": {"lid": Lid.OPEN}}, {"lid": 1}, None),
    ({"requires": {"lid": Lid.SHUT}}, {"lid": 0}, None),
    ({"requires": {"lid": Lid.SHUT}}, {"lid": 7}, "lid 7, needs SHUT"),
    ({"requires": {"lid": Lid.OPEN}, "waived_by": "strike"}, {"lid": 0}, "lid SHUT, needs OPEN"),
    ({"requires": {"lid": Lid.OPEN}, "waived_by": "strike"}, {"lid": 0, "strike": True}, None),
    ({"seed_limit": True}, {"total": 1, "limit": 2}, None),
    ({"seed_limit": True}, {"total": 2, "limit": 2}, "seed limit 2 of 2"),
    ({"seed_limit": True}, {"total": 3, "limit": 2}, "seed limit 3 of 2"),
    ({"seed_limit": True}, {"total": 3, "limit": 0}, None),
    ({"seed_limit": True}, {"total": 3, "limit": -1}, None),
    ({"blocked_by": [Kiln.CRACKED]}, {"other": Kiln.HOT}, None),
    ({"blocked_by": [Kiln.CRACKED]}, {"other": Kiln.CRACKED}, "slot two is CRACKED, which blocks it everywhere"),
    ({"blocked_by": [Kiln.CRACKED]}, {"other": Kiln.CRACKED, "other_enabled": False}, None),
    ({"blocked_by": [Kiln.CRACKED, Kiln.HOT]}, {"other": Kiln.HOT}, "slot two is HOT, which blocks it everywhere"),
    ({"disabled": True}, {}, "a rule switch disables it"),
    ({"disabled_by": "strike"}, {}, None),
    ({"disabled_by": "strike"}, {"strike": True}, "a rule switch disables it"),
    ({"min_age": 3, "requires": {"lid": Lid.OPEN}}, {"age": 2, "lid": 0}, "age 2 < 3"),
    ({"seed_limit": True, "requires": {"lid": Lid.OPEN}}, {"total": 2, "limit": 2}, "lid SHUT, needs OPEN"),
    (
        {"seed_limit": True, "blocked_by": [Kiln.CRACKED]},
        {"total": 2, "limit": 2, "other": Kiln.CRACKED},
        "seed limit 2 of 2",
    ),
]


@pytest.mark.parametrize(("gates", "state", "reason"), TRUTH)
def test_the_truth_of_each_gate(gates: dict[str, Any], state: dict[str, Any], reason: str | None) -> None:
    given = {"age": 5, "lid": 0, "other": Kiln.HOT, "other_enabled": True, "total": 0, "limit": 0, "strike": False}
    at = SimpleNamespace(**given | state)
    engine = em.MaskEngine(kilns(**gates), strike=at.strike)
    rules, slots, enabled = engine.rules, [[0, at.age, at.lid], [int(at.other), 0, 0]], [True, at.other_enabled]
    counts: dict[str, Any] = {"total_seeds": at.total, "max_seeds": at.limit}
    fire = rules.op_rules[Do.FIRE]
    assert reference.forbids(rules, fire, slots, 0, enabled=enabled, slot_ids=engine.slot_ids, **counts) == reason
    for dtype in (torch.int16, torch.int32, torch.int64):
        states, totals = torch.tensor([slots] * 2, dtype=dtype), torch.tensor([at.total] * 2, dtype=dtype)
        limits = [at.limit, torch.tensor([at.limit] * 2)] if "seed_limit" in gates else [0]
        for limit in limits:
            masks = engine(states, totals, max_seeds=limit, enabled=torch.tensor(enabled))
            assert masks.slot_by_op[:, Do.FIRE, 0].tolist() == [reason is None] * 2
            assert masks.slot_by_op[:, Do.WAIT, 0].all()
    names = ["stage", "seed_age_epochs", "lid"]
    seeds = {slot: SimpleNamespace(**dict(zip(names, row))) for slot, row in zip(engine.slot_ids, slots)}
    on = [slot for slot, counted in zip(engine.slot_ids, enabled) if counted]
    one = OneEnvironment(engine, pairs=True).masks(seeds, on, at.total, at.limit, device=None)
    assert one["slot_by_op"][:, 0].tolist() == [True, reason is None]


def test_every_field_of_an_op_is_a_gate_s_or_says_where_it_acts() -> None:
    """A gate whose ``fields`` lack one of its own could not be lifted."""
    names = [field for gate in GATES for field in gate.fields]
    others = ["id", "always", "enters", "moves", "acts_in", "disabled", "uses", "when", "sets"]
    assert sorted(names + others) == sorted(field.name for field in dataclasses.fields(em.Op))
    bare = em.Op(Do.FIRE, acts_in=[Kiln.COLD])
    assert not any([*gates_of(bare), *sentences(bare)])
    [_, fire] = kilns(**EVERY, waived_by="strike", disabled_by="strike").op_rules
    assert [type(gate) for gate in gates_of(fire)] == list(GATES)


EVERY = {"min_age": 3, "max_age": 8, "requires": {"lid": Lid.OPEN}, "seed_limit": True, "blocked_by": [Kiln.CRACKED]}


def test_sentences_come_in_the_order_of_reasons() -> None:
    [_, fire] = kilns(**EVERY, waived_by="strike", disabled_by="strike").op_rules
    assert list(sentences(fire)) == [
        "age >= 3",
        "age <= 8",
        "lid OPEN, unless strike",
        "below the seed limit",
        "no enabled slot in CRACKED",
        "never with strike",
    ]


def test_a_gate_is_lifted_when_it_reads_what_is_not_known() -> None:
    rules = kilns(**EVERY)
    [_, fire] = rules.op_rules
    known = {"stage": ["blocked_by"], "age": ["min_age", "max_age"], "lid": ["requires"], "seed limit": ["seed_limit"]}
    for kept in ({"stage", "age"}, {"stage"}, {"lid", "seed limit"}, set()):
        fields = {field: EVERY[field] for fact in kept for field in known[fact]}
        assert lift(fire, rules.scopes[1], kept) == kilns(**fields).op_rules[1]


def test_verify_tries_both_ages_and_their_neighbours() -> None:
    rules = kilns(min_age=3, max_age=8)
    assert tried_values(rules)["age"] == [-(2**31), -1, 0, 1, 2, 3, 4, 7, 8, 9, 2**31 - 1]
    assert verify(rules).agrees


def shifted(runs: Runs, off: int) -> Runs:
    return tuple((None if a is None else a + off, None if b is None else b + off) for a, b in runs)


@pytest.mark.parametrize("field", ["min_age", "max_age", "requires"])
@pytest.mark.parametrize("off", [-40, -1, 1, 40])
def test_verify_finds_arithmetic_that_is_off(field: str, off: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries the values that the arithmetic has, which need not be those of the verdict."""
    rules = kilns(**{field: EVERY[field]})
    [gate] = gates_of(rules.op_rules[Do.FIRE])
    parts = [part._replace(runs=shifted(part.runs, off)) for part in gate.closes(rules.scopes[Do.FIRE])]
    monkeypatch.setattr(type(gate), "closes", lambda self, scope: iter(parts))
    assert verify(rules).disagreements


@pytest.mark.parametrize("field", list(EVERY))
def test_verify_finds_arithmetic_that_is_left_out(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = kilns(**{field: EVERY[field]})
    [gate] = gates_of(rules.op_rules[Do.FIRE])
    monkeypatch.setattr(type(gate), "closes", lambda self, scope: iter(()))
    assert verify(rules).disagreements


def test_rules_that_were_pickled_before_a_field_have_its_default() -> None:
    held = pickle.loads((Path(__file__).parents[1] / "held" / "own-rules.pickle").read_bytes())
    for op in held.op_rules:
        assert "max_age" not in vars(op)
        assert op.max_age is None
    assert held == RULES
    assert held.fingerprint == RULES.fingerprint


def broken(*arguments: Any) -> NoReturn:
    raise AssertionError("this side must not be asked")


def of_every_gate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for gate in GATES:
        monkeypatch.setattr(gate, name, broken)


@pytest.mark.parametrize("name", em.rulesets())
def test_oracle_and_engine_share_no_side_of_a_gate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = em.MaskEngine(em.ruleset(name))
    states = random_states(engine, 20)
    by_op = [reference.slot_by_op(engine.rules, slots) for slots in states.tolist()]
    with monkeypatch.context() as patch:
        of_every_gate("closes", patch)
        assert [reference.slot_by_op(engine.rules, slots) for slots in states.tolist()] == by_op
    of_every_gate("verdict", monkeypatch)
    assert_same_masks(em.MaskEngine(em.ruleset(name))(states), {"slot_by_op": by_op}, states)
