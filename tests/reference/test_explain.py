"""Reasons: hand-written ones, and agreement with the masks."""

import pytest
import torch
from hypothesis import given, settings

import esper_masks as em
from tests.helpers import random_states
from tests.strategies import Case, random_cases

OLDER = em.MaskEngine(em.ruleset("esper-2025-12"))
NEWER = em.MaskEngine(em.ruleset("esper-2026-06"))
ONE = OLDER.pack_slots([{"mid": em.SlotState(4, 0), "late": em.SlotState(6, 3)}])


def test_reasons_by_hand() -> None:
    explained = OLDER.explain(ONE, 0, torch.tensor([2]), max_seeds=2)
    assert str(explained).splitlines() == [
        "WAIT: legal",
        "GERMINATE early: seed limit 2 of 2",
        "GERMINATE mid: stage BLENDING, needs DORMANT",
        "GERMINATE late: stage PROBATIONARY, needs DORMANT",
        "CULL early: stage DORMANT, needs GERMINATED, TRAINING, BLENDING or PROBATIONARY",
        "CULL mid: age 0 < 1",
        "CULL late: legal",
        "FOSSILIZE early: stage DORMANT, needs PROBATIONARY",
        "FOSSILIZE mid: stage BLENDING, needs PROBATIONARY",
        "FOSSILIZE late: legal",
    ]
    assert explained.reason("CULL", "mid") == "age 0 < 1"
    assert explained.reason("CULL", "late") is None
    assert (explained.legal("CULL"), explained.legal("GERMINATE"), explained.legal("WAIT")) == (True, False, True)
    assert explained.holds == ("DORMANT (empty)", "BLENDING, age 0", "PROBATIONARY, age 3")
    with pytest.raises(KeyError, match="'PRUNE' is none of WAIT, GERMINATE"):
        explained.reason("PRUNE", "mid")


def test_a_reason_that_all_slots_share_stands_alone() -> None:
    lines = str(OLDER.explain(OLDER.empty_slots(1), 0, torch.tensor([2]), max_seeds=2)).splitlines()
    assert "GERMINATE: seed limit 2 of 2" in lines


def test_reasons_of_the_newer_rules() -> None:
    states = NEWER.pack_slots([{"r0c1": em.SlotState(6, 9, 1), "r0c2": em.SlotState(3, 2)}])
    explained = NEWER.explain(states, enabled=torch.tensor([True, True, True]))
    assert "PRUNE r0c1: alpha_mode UP, needs HOLD" in str(explained).splitlines()
    assert explained.reason("GERMINATE", "r0c0") == "slot r0c2 is TRAINING, which blocks it everywhere"
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), disable_advance=True, enabled=["r0c1"])
    explained = engine.explain(states)
    assert explained.reason("ADVANCE", "r0c1") == "a rule switch disables it"
    assert explained.reason("WAIT", "r0c0") == "the slot is not enabled"
    assert explained.legal("WAIT")


@given(random_cases())
@settings(max_examples=40)
def test_it_agrees_with_the_masks_of_any_rules(case: Case) -> None:
    masks = case.masks()
    for env in range(len(case.states)):
        explained = case.engine.explain(
            case.states, env, case.total_seeds, max_seeds=case.max_seeds, enabled=case.enabled
        )
        legal = [[reason is None for reason in row] for row in explained.reasons]
        assert legal == masks.slot_by_op[env].tolist()
        assert [explained.legal(op) for op in explained.ops] == masks["op"][env].tolist()


def test_any_leading_shape_and_limits_of_each() -> None:
    states = random_states(OLDER, 6).reshape(2, 3, 3, 2)
    totals, limits = torch.arange(6).reshape(2, 3), torch.full((2, 3), 3)
    on = torch.rand(2, 3, 3) < 0.5
    masks = OLDER(states, totals, max_seeds=limits, enabled=on)
    explained = OLDER.explain(states, (1, 2), totals, max_seeds=limits, enabled=on)
    assert [[r is None for r in row] for row in explained.reasons] == masks.slot_by_op[1, 2].tolist()
    for env in (2, (2, 0), (0, 3), (0, -1), (0, 0, 0), "0", None, 1.5, True):
        with pytest.raises(em.SlotStateError, match="there is no environment"):
            OLDER.explain(states, env, totals)
    with pytest.raises(em.SlotStateError, match="needs total_seeds"):
        OLDER.explain(states, (0, 0), max_seeds=2)
