"""Whole actions as one index."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import esper_masks as em
from esper_masks import reference
from esper_masks.actions.tables import layout_tables
from tests.helpers import random_states, switch_settings

SIZES = {"esper-2025-11": 43, "esper-2025-12": 43, "esper-2026-06": 1543}


@pytest.mark.parametrize("name", em.rulesets())
@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_numbering_equals_the_oracle(name: str, slots: int) -> None:
    rules = em.ruleset(name)
    for setting in switch_settings(rules):
        engine = em.MaskEngine(rules, [f"s{i}" for i in range(slots)], **setting)
        codec = engine.joint_actions
        expected = list(reference.joint_actions(engine.rules, slots))
        assert codec.size == len(expected)
        index = torch.arange(codec.size)
        actions = codec.decode(index)
        assert actions.dtype == torch.int64
        assert [tuple(action) for action in actions.tolist()] == expected
        assert torch.equal(codec.encode(actions), index)
        if slots == 3 and setting == {key: values[0] for key, values in rules.switches.items()}:
            assert codec.size == SIZES[name]


@pytest.mark.parametrize("name", em.rulesets())
def test_joint_mask_equals_the_oracle(name: str) -> None:
    engine = em.MaskEngine(em.ruleset(name))
    states = random_states(engine, 60)
    expected = reference.masks(engine.rules, states, joint=True)["joint"]
    assert engine(states).joint().tolist() == expected


def test_what_is_no_whole_action_is_minus_one() -> None:
    codec = em.MaskEngine(em.ruleset("esper-2025-12")).joint_actions
    wait, germinate, cull = [2, 4, 1, 0], [1, 2, 0, 1], [2, -9, 99, 2]
    assert codec.encode(torch.tensor(wait)) == 0  # heads that the op ignores may hold anything
    assert codec.encode(torch.tensor(cull)) == codec.encode(torch.tensor([2, 0, 0, 2]))
    illegal = [
        [1, 0, 0, 1],
        [3, 1, 0, 1],
        [-1, 1, 0, 1],
        [0, 5, 0, 1],
        [0, 1, 3, 1],
        [0, 0, 0, 4],
        [0, 0, 0, -1],
        [3, 0, 0, 2],
    ]
    assert codec.encode(torch.tensor([germinate, *illegal])).tolist()[1:] == [-1] * len(illegal)
    index = torch.tensor([-1, -(2**40), codec.size, 2**40])
    assert codec.decode(index).tolist() == [[-1] * 4] * 4
    assert codec.decode(torch.tensor(codec.size - 1)).tolist() == [2, 0, 0, 3]


def test_a_disabled_op_has_no_whole_action() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), disable_advance=True)
    codec = engine.joint_actions
    assert codec.encode(torch.tensor([0, 0, 2, 1, 2, 0, 0, 5])) == -1
    assert not (codec.decode(torch.arange(codec.size))[:, -1] == 5).any()


@given(st.lists(st.integers(0, 42), max_size=6), st.sampled_from([torch.int16, torch.int32, torch.int64]))
def test_any_shape_and_integer_dtype(values: list[int], dtype: torch.dtype) -> None:
    codec = em.MaskEngine(em.ruleset("esper-2025-12")).joint_actions
    index = torch.tensor([values, values], dtype=dtype).reshape(2, 1, len(values))
    actions = codec.decode(index)
    assert actions.shape == (2, 1, len(values), 4)
    assert torch.equal(codec.encode(actions.to(dtype)), index.long())


@pytest.mark.parametrize("bad", [torch.zeros(4), torch.zeros(4, dtype=torch.bool)])
def test_not_integers(bad: torch.Tensor) -> None:
    codec = em.MaskEngine(em.ruleset("esper-2025-12")).joint_actions
    with pytest.raises(ValueError, match="actions must be an integer tensor, got torch"):
        codec.encode(bad)
    with pytest.raises(ValueError, match="index must be an integer tensor"):
        codec.decode(bad)


def test_wrong_number_of_heads() -> None:
    codec = em.MaskEngine(em.ruleset("esper-2025-12")).joint_actions
    with pytest.raises(ValueError, match=r"shape \(2, 3\); wanted \[..., 4\], one value for each of slot, blueprint"):
        codec.encode(torch.zeros(2, 3, dtype=torch.int64))


def test_a_joint_space_too_large_to_keep() -> None:
    """Millions of whole actions cost an engine nothing until they are asked for, and are then the same."""
    rules = em.ruleset("esper-2026-06")
    wide = em.MaskEngine(rules, [f"s{i}" for i in range(600)])
    assert wide.joint_actions.size == 1 + 600 * 514
    assert layout_tables(wide.layout, wide.device).whole is None
    states = random_states(wide, 2)
    masks = wide(states).restrict(style=torch.tensor([True, False, True, False]))
    assert torch.equal(masks.joint().sum(-1), masks.count())
    narrow = em.MaskEngine(rules)
    kept = layout_tables(narrow.layout, narrow.device)
    assert kept.whole is not None
    assert torch.equal(kept.whole, kept._whole_actions())


def test_more_whole_actions_than_an_int64_can_number() -> None:
    """Masks need no numbering; who asks for one is told."""
    base = em.ruleset("esper-2025-12")
    extra = [em.Head(f"h{i}", [f"c{j}" for j in range(256)]) for i in range(9)]
    ops = [
        dataclasses.replace(op, uses=("slot", *(head.name for head in extra)))
        if op.name == "GERMINATE"
        else dataclasses.replace(op, uses=op.uses)
        for op in base.op_rules
    ]
    rules = dataclasses.replace(base, op_rules=ops, heads=(em.Head("slot"), *extra, em.Head("op")))
    engine = em.MaskEngine(rules)
    masks = engine(engine.empty_slots(2))
    assert masks["op"].tolist() == [[True, True, False, False]] * 2
    assert engine.joint_actions.size == 1 + 3 * 256**9 + 6
    assert masks.count().tolist() == [1.0 + 3 * 256.0**9] * 2
    joint = em.FactoredCategorical(torch.zeros(2, 3 + 9 * 256 + 4, dtype=torch.float64), masks)
    assert torch.allclose(joint.raw_entropy(), torch.tensor(math.log(2) + math.log(3 * 256.0**9) / 2).double())
    assert (joint.entropy() < 1).all()
    assert joint.legal(joint.sample()).all()
    for ask in (masks.joint, lambda: engine.joint_actions.decode(torch.tensor(0))):
        with pytest.raises(ValueError, match="whole actions, more than an int64 can number"):
            ask()
