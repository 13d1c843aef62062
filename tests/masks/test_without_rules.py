"""Layouts without rules: their masks against enumeration, and every wrong argument by name."""

import re
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import esper_masks as em
from tests.helpers import as_bools, assert_same_masks, seeded

GAME = em.ActionLayout.of(
    op=("NOOP", "MOVE", "ATTACK", "SHOUT"),
    slot=3,
    heads={"direction": 4, "target": ("a", "b"), "tone": 3},
    uses={"MOVE": ("slot", "direction"), "ATTACK": ("slot", "direction", "target"), "SHOUT": ("tone",)},
    by_op={"direction": {"ATTACK": (0, "2")}},
)


def test_the_parts_of_a_layout() -> None:
    assert GAME.head_names == ("slot", "direction", "target", "tone", "op")
    assert GAME.logit_size == 3 + 4 + 2 + 3 + 4
    assert GAME.head("target").choices == ("a", "b")
    assert GAME.head("direction").choices == ("0", "1", "2", "3")
    assert em.JointActions(GAME).size == 1 + 3 * 4 + 3 * 2 * 2 + 3
    assert (
        em.ActionLayout.of(
            ["NOOP", "MOVE", "ATTACK", "SHOUT"],
            3,
            {"direction": 4, "target": ["a", "b"], "tone": 3},
            {"MOVE": ["slot", "direction"], "ATTACK": ["slot", "direction", "target"], "SHOUT": ["tone"]},
            {"direction": {"ATTACK": [2, 0]}},
        )
        == GAME
    )


@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans())
def test_masks_are_what_every_given_mask_permits(seed: int, by_slot: bool, pairs: bool, as_numpy: bool) -> None:
    generator, batch = seeded(seed), 5
    masks = {
        "op": (batch, 4),
        "slot": (batch, 3),
        "direction": (batch, 3, 4) if by_slot else (batch, 4),
        "target": (batch, 3, 2),
        "tone": (batch, 3),
    }
    given = {name: torch.rand(shape, generator=generator) < 0.6 for name, shape in masks.items()}
    slot_by_op = torch.rand(batch, 4, 3, generator=generator) < 0.7
    legal = torch.zeros(batch, em.JointActions(GAME).size, dtype=torch.bool)
    uses = {0: (), 1: ("slot", "direction"), 2: ("slot", "direction", "target"), 3: ("tone",)}
    for index, action in enumerate(em.JointActions(GAME).decode(torch.arange(legal.shape[1])).tolist()):
        values = dict(zip(GAME.head_names, action))
        for row in range(batch):
            fits = bool(given["op"][row, values["op"]])
            for name in uses[values["op"]]:
                mask = given[name][row]
                mask = mask[values["slot"]] if name != "slot" and mask.ndim == 2 else mask
                fits = fits and bool(mask[values[name]])
                if name == "slot" and pairs:
                    fits = fits and bool(slot_by_op[row, values["op"], values["slot"]])
            legal[row, index] = fits
    told: Any = {name: mask.to(torch.int8).numpy() for name, mask in given.items()} if as_numpy else given
    made = em.ActionMasks.from_bools(GAME, told, slot_by_op if pairs else None)
    if as_numpy:
        for array in told.values():
            array[...] = 0
    assert torch.equal(made.joint(), legal)
    assert torch.equal(made.count(), legal.sum(-1))
    assert torch.equal(made["slot"], given["slot"])
    actions = em.JointActions(GAME).decode(torch.arange(legal.shape[1]))
    assert torch.equal(made.permits(actions.unsqueeze(1).expand(-1, batch, -1)), legal.T)
    assert torch.equal(made["op"], torch.stack([legal[:, actions[:, -1] == op].any(-1) for op in range(4)], -1))
    again = em.ActionMasks.from_packed(GAME, made.pack())
    assert_same_masks(again, {name: as_bools(made)[name] for name in ("slot", "op", "slot_by_op", "joint")})
    words = em.ActionMasks.from_words(GAME, made.slot_words, made.op_words)
    assert torch.equal(words.op_words, made.op_words)


@given(st.integers(0, 10_000))
def test_independent_heads(seed: int) -> None:
    layout = em.ActionLayout.multi_discrete({"a": 4, "b": ("x", "y"), "c": 40})
    assert layout.head_names == ("a", "b", "c")
    assert layout.logit_size == 46
    a, c = torch.rand(6, 4, generator=seeded(seed)) < 0.5, torch.rand(6, 40, generator=seeded(seed + 1)) < 0.1
    masks = em.ActionMasks.from_bools(layout, {"a": a, "c": c.numpy()})
    legal = (a[:, :, None, None] & torch.ones(2, 1, dtype=torch.bool) & c[:, None, None, :]).flatten(1)
    assert torch.equal(masks.joint(), legal)
    assert torch.equal(masks.count(), legal.sum(-1))
    actions = torch.tensor(list(product(range(4), range(2), range(40))))
    assert torch.equal(em.JointActions(layout).decode(torch.arange(320)), actions)
    assert torch.equal(em.JointActions(layout).encode(actions), torch.arange(320))
    assert torch.equal(masks.permits(actions.unsqueeze(1).expand(-1, 6, -1)), legal.T)
    some = legal.any(-1)
    assert torch.equal(masks["a"][some], a[some])
    assert torch.equal(masks["c"][some], c[some])
    assert masks["b"].all()
    assert masks.flat().shape == (6, 46)
    assert_same_masks(em.ActionMasks.from_packed(layout, masks.pack()), {**masks, "joint": masks.joint()})
    assert_same_masks(masks.select(torch.tensor([5, 0])), {"a": masks["a"][[5, 0]]})
    assert_same_masks(em.ActionMasks.cat([masks, masks]), {"joint": torch.cat([legal, legal])})
    with pytest.raises(KeyError, match="no head 'op'; the heads are a, b, c"):
        masks["op"]


def test_counts_of_limited_masks_never_leave_what_an_int64_holds() -> None:
    """2.4e18 whole actions have a number; 33 times as many have none."""
    wide = {f"h{at}": 64 for at in range(9)}
    layout = em.ActionLayout.of(op=("GO",), slot=4, heads={"node": 33, **wide}, uses={"GO": ("slot", "node", *wide)})
    nodes = torch.zeros(1, 4, 33, dtype=torch.bool)
    nodes[0, 0], nodes[0, 2, :5] = True, True
    some = {"op": torch.ones(1, 1, dtype=torch.bool), "slot": torch.ones(1, 4, dtype=torch.bool)}
    narrow = torch.arange(64) < 7
    for limits, expected in (
        ({}, 4 * 33 * 64**9),
        ({"node": nodes}, 38 * 64**9),
        ({"h3": narrow[None]}, 132 * 7 * 64**8),
    ):
        assert em.ActionMasks.from_bools(layout, {**some, **limits}).count().tolist() == [expected]
    both = em.ActionMasks.from_bools(layout, {**some, "node": nodes, "h0": narrow[None]})
    assert both.count().tolist() == [38 * 7 * 64**8]


def test_counts_beyond_an_int64_are_exact_where_few_actions_are_left() -> None:
    for heads in (36, 40, 62):
        layout = em.ActionLayout.multi_discrete({f"h{at}": 3 for at in range(heads)})
        one = {name: torch.tensor([[True, False, False], [True, True, False]]) for name in layout.head_names}
        masks = em.ActionMasks.from_bools(layout, one)
        assert masks.count().tolist() == [1, 2**heads]
        assert masks.forced.tolist() == [True, False]


def test_as_many_heads_as_a_fault_word_has_bits() -> None:
    layout = em.ActionLayout.multi_discrete({f"h{at}": 2 for at in range(62)})
    masks = em.ActionMasks.from_bools(layout, {"h61": torch.zeros(1, 2, dtype=torch.bool)})
    dist = em.FactoredCategorical(torch.zeros(1, 124), masks, validate="flag")
    assert dist.faults.tolist() == [1 << 61]
    free = em.ActionMasks.from_bools(layout, {"h61": torch.tensor([[True, False]])})
    illegal = torch.ones(1, 62, dtype=torch.int64)
    assert em.FactoredCategorical(torch.zeros(1, 124), free).action_faults(illegal).tolist() == [1 << 62]


def test_a_layout_that_is_too_large_to_number_still_masks() -> None:
    layout = em.ActionLayout.multi_discrete({f"h{i}": 100 for i in range(12)})
    masks = em.ActionMasks.from_bools(layout, {"h3": torch.ones(2, 100, dtype=torch.bool)})
    assert masks["h7"].shape == (2, 100)
    assert masks.count().tolist() == [1e24, 1e24]
    with pytest.raises(ValueError, match="more than an int64 can number"):
        masks.joint()


NAMES = {"op": ("NOOP", "GO"), "slot": 2, "heads": {"way": 3}, "uses": {"GO": ("slot", "way")}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"op": 3}, "op must be the names of the ops, got 3"),
        ({"op": "GO"}, "'op' must be a number of choices, or names that differ, got 'GO'"),
        ({"op": ("GO", "GO")}, "names that differ"),
        ({"op": ()}, "names that differ"),
        ({"op": tuple(f"o{i}" for i in range(63)), "uses": {"o1": ("way",)}}, "63 ops; a word has bits for 62"),
        ({"slot": 0}, "'slot' needs at least one choice, got 0"),
        ({"slot": True}, "'slot' must be a number of choices"),
        ({"slot": ("a", "a")}, "'slot' must be a number of choices, or names that differ"),
        ({"heads": {"way": -1}}, "'way' needs at least one choice, got -1"),
        ({"heads": ["way"]}, "heads must be a mapping, got"),
        ({"heads": {"op": 3}}, "no head can be called 'op'"),
        ({"heads": {"joint": 3}}, "no head can be called 'joint'"),
        ({"heads": {"way_by_slot": 3}}, "no head can be called 'way_by_slot'"),
        ({"heads": {f"h{i}": 2 for i in range(61)}}, "61 heads; there may be 60 beside op and slot"),
        ({"uses": {"RUN": ("way",)}}, "uses names the op 'RUN'; the ops are NOOP, GO"),
        ({"uses": {"GO": ("way", "op")}}, "uses['GO'] names the head 'op'; it may use slot, way"),
        ({"uses": {"GO": ("way", "way")}}, "uses['GO'] must be names of heads, each once"),
        ({"uses": {"GO": "way"}}, "uses['GO'] must be names of heads, each once, got 'way'"),
        ({"uses": {"GO": ("slot",)}}, "no op uses the head 'way'"),
        ({"by_op": {"way": {"NOOP": (0,)}}}, "by_op['way'] names the op 'NOOP'; the ops that use the head are GO"),
        ({"by_op": {"way": {"GO": ()}}}, "by_op['way']['GO'] must be some choices, got ()"),
        ({"by_op": {"way": {"GO": (3,)}}}, "by_op['way']['GO'] has 3; the choices are 0, 1, 2"),
        ({"by_op": {"why": {"GO": (0,)}}}, "by_op names the head 'why'; the heads are way"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        em.ActionLayout.of(**{**NAMES, **change})


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ({}, "heads must be a mapping"),
        (3, "heads must be a mapping"),
        ({"slot": 3}, "no head can be called 'slot'"),
        ({f"h{i}": 2 for i in range(63)}, "63 heads; there may be 62$"),
    ],
)
def test_wrong_independent_heads_are_named(heads: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        em.ActionLayout.multi_discrete(heads)


EVERY = {head.name: torch.ones(2, head.size, dtype=torch.bool) for head in GAME.heads}


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ({"slot": EVERY["slot"]}, "from_bools needs a mask for 'op'; it was given slot"),
        ({}, "from_bools needs a mask for each of op, slot; it was given none"),
        ({**EVERY, "tone": torch.ones(2, 3, 3, dtype=torch.bool)}, "'tone' has no choices by slot: SHOUT uses it"),
        ({**EVERY, "tone": torch.ones(2, 4, dtype=torch.bool)}, r"'tone' has shape \(2, 4\); wanted \(2, 3\)"),
        ({**EVERY, "target": torch.ones(2, 2, 2, dtype=torch.bool)}, r"'target' has shape .* wanted \(2, 3, 2\)"),
        ({**EVERY, "target": torch.ones(2, 2)}, "must be a bool tensor, got torch.float32"),
        ({**EVERY, "target": np.ones((2, 2), np.int32)}, "must be a bool tensor, got ndarray of int32"),
    ],
)
def test_wrong_masks_are_named(masks: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        em.ActionMasks.from_bools(GAME, masks)


def test_an_op_that_uses_nothing_is_legal_unless_the_mask_of_ops_forbids_it() -> None:
    """However little the other masks leave."""
    nothing = {name: torch.zeros(2, GAME.head(name).size, dtype=torch.bool) for name in GAME.head_names}
    masks = em.ActionMasks.from_bools(GAME, nothing | {"op": torch.tensor([[True] * 4, [False] + [True] * 3])})
    assert masks["op"].tolist() == [[True, False, False, False], [False] * 4]
    dist = em.FactoredCategorical(torch.zeros(2, GAME.logit_size), masks, validate="flag")
    assert dist.mode[0, -1] == 0
    assert dist.faults.tolist() == [0, 1 << len(GAME.heads) - 1]
