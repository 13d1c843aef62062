"""ActionMasks: words in, bools out, rows selected and joined, constraints added."""

import copy
import pickle
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import esper_masks as em
from tests.helpers import HERE, as_bools, assert_same_masks, assert_same_words, random_states, seeded
from tests.strategies import Case, cases, random_cases

NEWER = em.MaskEngine(em.ruleset("esper-2026-06"))


def newer(batch: int = 40, seed: int = 0) -> em.ActionMasks:
    return NEWER(random_states(NEWER, batch, seed, stages=range(0, 11)))


def test_it_is_a_mapping_in_head_order() -> None:
    masks = newer()
    assert isinstance(masks, Mapping)
    assert list(masks) == list(NEWER.rules.head_names)
    assert len(masks) == 8
    assert set(dict(masks)) == set(masks.keys())
    assert "op" in masks
    with pytest.raises(KeyError, match="no head 'opp'; the heads are slot, blueprint"):
        masks["opp"]
    assert masks != newer()  # identity; a comparison by value would read the device
    assert "ActionMasks(shape=(40,)" in repr(masks)


def test_flat_is_the_heads_side_by_side() -> None:
    masks = newer()
    assert masks.flat().shape == (40, 3 + 13 + 4 + 3 + 3 + 4 + 5 + 6)
    assert torch.equal(masks.flat(), torch.cat([masks[head] for head in masks], -1))


@given(case=cases(max_slots=3))
def test_words_bits_and_identities(case: Case) -> None:
    masks = case.masks()
    ops = range(len(masks.layout.ops))
    bits = torch.stack([(masks.slot_words >> op) & 1 for op in ops], -2).bool()
    assert torch.equal(masks.slot_by_op, bits)
    assert torch.equal(masks["op"], torch.stack([(masks.op_words >> op) & 1 for op in ops], -1).bool())
    any_slot = masks.slot_by_op.any(-1)
    any_slot[..., 0] = True  # WAIT
    assert torch.equal(masks["op"], any_slot)
    assert torch.equal(masks.count(), masks.joint().sum(-1))
    assert torch.equal(masks.forced, masks.joint().sum(-1) == 1)


@given(case=cases(max_slots=4))
def test_from_words_and_from_bools_give_the_same_masks(case: Case) -> None:
    masks = case.masks()
    layout = masks.layout
    assert_same_words(em.ActionMasks.from_words(layout, masks.slot_words), masks)
    narrow = masks.slot_words.to(torch.int8)
    again = em.ActionMasks.from_words(layout, narrow, masks.op_words.to(torch.uint8))
    assert_same_words(again, masks)
    assert_same_masks(again, as_bools(masks))
    given_bools = em.ActionMasks.from_bools(layout, dict(masks), masks.slot_by_op)
    assert_same_words(given_bools, masks)
    assert_same_masks(given_bools, as_bools(masks))


@pytest.mark.parametrize("name", em.rulesets())
@pytest.mark.parametrize("slots", [1, 3])
def test_any_words_mean_one_set_of_actions(name: str, slots: int) -> None:
    """Words from elsewhere may contradict each other: an action is legal where all of them permit it."""
    engine = em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(slots)])
    generator = seeded(slots)
    words = torch.randint(2 ** len(engine.layout.ops), (300, slots + 1), generator=generator)
    every = engine.joint_actions.decode(torch.arange(engine.joint_actions.size))  # [actions, heads]
    op = every[:, engine.layout.head_names.index("op")]
    for op_words in (None, words[:, -1]):
        masks = em.ActionMasks.from_words(engine.layout, words[:, :-1], op_words)
        joint = masks.joint()
        assert torch.equal(masks.permits(every.unsqueeze(1).expand(-1, 300, -1)).T, joint)
        assert torch.equal(masks.count(), joint.sum(-1))
        legal = torch.stack([joint[:, op == i].any(-1) for i in range(len(engine.layout.ops))], -1)
        assert torch.equal(masks["op"], legal)
        if op_words is not None:
            assert not (masks.op_words & ~op_words).any()
        dist = em.FactoredCategorical(torch.zeros(300, masks.flat().shape[-1]), masks, validate="flag")
        assert torch.equal(dist.faults != 0, ~joint.any(-1))  # nothing else is at fault


@pytest.mark.parametrize("name", em.rulesets())
@pytest.mark.parametrize("restricts", [False, True])
def test_comparisons_find_what_lookups_find(name: str, restricts: bool) -> None:
    engine = em.MaskEngine(em.ruleset(name))
    masks = engine(random_states(engine, 400, stages=range(11)))
    sizes = torch.tensor([head.size for head in engine.layout.heads])
    if restricts:
        kept = {head.name: torch.rand(400, head.size) < 0.7 for head in engine.layout.heads if head.name != "op"}
        masks = masks.restrict(**kept)
    actions = (torch.rand(400, len(sizes)) * (sizes + 2)).int() - 1  # some are no choice
    actions[:200] = engine.joint_actions.decode(torch.randint(engine.joint_actions.size, (200,))).int()
    legal, acts = masks.acts_on(actions.unbind(-1))
    assert legal.any()
    assert torch.equal(legal, masks.permits(actions))
    op, slot = (actions[:, engine.layout.head_names.index(head)] for head in ("op", "slot"))
    uses = (engine.layout.head("slot").users >> op.clamp_min(0) & 1) != 0
    assert torch.equal(acts.T, (legal & uses).unsqueeze(-1) & (slot.unsqueeze(-1) == torch.arange(acts.shape[0])))


def test_from_bools_without_pairs_takes_every_legal_op_in_every_legal_slot() -> None:
    layout = em.MaskEngine(em.ruleset("esper-2025-12")).layout
    op = torch.tensor([[True, False, True, False], [False, False, False, True], [False] * 4])
    slot = torch.tensor([[True, False, True], [False, True, False], [True] * 3])
    masks = em.ActionMasks.from_bools(layout, {"op": op, "slot": slot})
    assert torch.equal(masks["op"], op)
    assert torch.equal(masks["slot"], slot)
    assert torch.equal(masks.slot_by_op, op[:, :, None] & slot[:, None, :])
    assert masks.count().tolist() == [1 + 2, 1, 0]
    assert masks.forced.tolist() == [False, True, False]


def test_from_bools_keeps_the_limits_of_the_layout() -> None:
    layout = em.MaskEngine(em.ruleset("esper-2025-12")).layout
    assert layout.logit_size == 3 + 5 + 3 + 4
    every = {head.name: torch.ones(2, head.size, dtype=torch.bool) for head in layout.heads}
    masks = em.ActionMasks.from_bools(layout, every)
    assert masks.flat().shape == (2, layout.logit_size)
    assert masks["blueprint"].tolist() == [[False, True, True, True, True]] * 2
    assert masks.joint().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: em.ActionMasks.from_words(m.layout, m.slot_words[:, :2]), r"shape \(40, 2\); wanted \[..., 3\]"),
        (lambda m: em.ActionMasks.from_words(m.layout, m.slot_words.float()), r"slot_words must be an integer tensor"),
        (lambda m: em.ActionMasks.from_words(m.layout, m["slot"]), r"integer tensor, got torch.bool"),
        (
            lambda m: em.ActionMasks.from_words(m.layout, m.slot_words, m.op_words[:3]),
            rf"op_words are \(3,\) on {HERE}; .* need \(40,\)",
        ),
        (lambda m: em.ActionMasks.from_bools(m.layout, {"op": m["op"]}), r"needs a mask for 'slot'; it was given op"),
        (lambda m: em.ActionMasks.from_bools(m.layout, {**m, "op": m["op"].int()}), r"'op' must be a bool .* > 0.5"),
        (lambda m: em.ActionMasks.from_bools(m.layout, {**m, "tempo": m["op"]}), r"'tempo' has shape \(40, 6\)"),
        (lambda m: em.ActionMasks.from_bools(m.layout, dict(m), m["op"]), r"'slot_by_op' has shape \(40, 6\)"),
        (lambda m: m.restrict(op=torch.ones(5, dtype=torch.bool)), r"'op' has shape \(5,\); wanted \(40, 6\)"),
        (lambda m: m.restrict(op=torch.ones(1, dtype=torch.bool)), r"'op' has shape \(1,\)"),
        (
            lambda m: m.restrict(op=torch.ones(6, dtype=torch.bool, device="meta")),
            rf"'op' is on meta, not on {HERE}",
        ),
        (lambda m: em.ActionMasks.from_bools(m.layout, {**m, "op": [True]}), r"'op' must be a bool tensor, got list"),
        (lambda m: m.restrict(op=torch.ones(6)), r"must be a bool tensor, got torch.float32"),
        (lambda m: m.select(torch.tensor([0.0])), r"select wants int64 \[n\] or bool \[40\], got torch.float32"),
        (lambda m: m.select(torch.tensor([[0]])), r"of shape \(1, 1\)"),
        (lambda m: m.select(0).select(0), r"no leading axis"),
        (lambda m: em.ActionMasks.cat([]), r"no masks to join"),
        (lambda m: em.ActionMasks.cat([m, m], dim=1), r"dim 1 is no leading axis"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(newer())


def test_a_wrong_head_name_in_restrict_or_from_bools() -> None:
    masks = newer()
    with pytest.raises(KeyError, match="no head 'blend'"):
        masks.restrict(blend=torch.ones(3, dtype=torch.bool))
    with pytest.raises(KeyError, match="no head 'blend'"):
        em.ActionMasks.from_bools(masks.layout, {**masks, "blend": masks["op"]})


def test_masks_of_other_rules_do_not_join() -> None:
    other = em.MaskEngine(em.ruleset("esper-2026-06"), topology="transformer")
    with pytest.raises(ValueError, match="masks 1 have another layout"):
        em.ActionMasks.cat([newer(), other(other.empty_slots(2))])
    same = em.MaskEngine(em.ruleset("esper-2026-06"))  # another engine, equal rules
    assert em.ActionMasks.cat([newer(), same(same.empty_slots(2))]).shape == (42,)


def restricted(masks: em.ActionMasks) -> em.ActionMasks:
    generator = seeded(1)
    rows = len(masks.op_words)
    return masks.restrict(
        slot=torch.rand(rows, 3, generator=generator) < 0.7,
        op=torch.rand(rows, 6, generator=generator) < 0.7,
        style=torch.rand(rows, 4, generator=generator) < 0.5,
    )


@pytest.mark.parametrize("make", [newer, lambda *a: restricted(newer(*a))], ids=["plain", "restricted"])
def test_rows_select_cat_stack(make: Any) -> None:
    masks, bools = make(), as_bools(make())

    def same(part: em.ActionMasks, index: Any) -> None:
        assert_same_masks(part, {name: mask[index] for name, mask in bools.items()})

    index = torch.tensor([7, 0, 7, 39])
    same(masks.select(index), index)
    same(masks.select(slice(3, 20, 4)), slice(3, 20, 4))
    same(masks.select(5), 5)
    alive = torch.arange(40) % 3 == 0
    same(masks.select(alive), alive)
    parts = [masks.select(slice(0, 10)), masks.select(slice(10, 40))]
    same(em.ActionMasks.cat(parts), slice(None))
    steps = em.ActionMasks.stack([masks, masks, masks])
    assert steps.shape == (3, 40)
    same(steps.select(1), slice(None))
    assert em.ActionMasks.stack([masks, masks], dim=1).shape == (40, 2)
    same(em.ActionMasks.stack([masks, masks], dim=-1).select(3), [3, 3])
    assert em.ActionMasks.cat([steps, steps], dim=1).shape == (3, 80)
    assert em.ActionMasks.cat([steps, steps], dim=-1).shape == (3, 80)
    assert masks.select(torch.empty(0, dtype=torch.int64)).shape == (0,)
    same(masks.select(-40), 0)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([3, 40]), "select 40 is out of range; wanted 0 to 39: rows of these masks"),
        (torch.tensor([39, -1, 50]), "select -1 is out of range; wanted 0 to 39"),
        (torch.tensor([2**40]), "select 1099511627776 is out of range"),
        (torch.tensor([40], dtype=torch.int32), "select 40 is out of range"),
        (40, "select 40 is out of range; these masks have 40 rows"),
        (-41, "select -41 is out of range"),
    ],
)
@pytest.mark.cpu  # a GPU asserts, which ends its context
def test_rows_outside_are_named(index: Any, message: str) -> None:
    for masks in (newer(), em.ActionMasks.stack([newer()] * 40)):
        with pytest.raises(IndexError, match=message):
            masks.select(index)
    with pytest.raises(IndexError, match="select 0 is out of range; wanted none, there are no rows"):
        newer(0).select(torch.tensor([0]))


def test_plain_and_restricted_masks_join() -> None:
    plain, narrow = newer(), restricted(newer())
    both = em.ActionMasks.cat([plain, narrow])
    expected = {name: torch.cat([as_bools(plain)[name], as_bools(narrow)[name]]) for name in as_bools(plain)}
    assert_same_masks(both, expected)


def test_rows_keep_their_memory_batch_last() -> None:
    masks = newer()
    index = torch.arange(20)
    assert masks.slot_words.stride() == (1, 40)
    assert masks.select(index).slot_words.stride() == (1, 20)
    assert em.ActionMasks.cat([masks, masks]).slot_words.stride() == (1, 80)
    assert em.ActionMasks.stack([masks, masks]).slot_words.stride() == (40, 1, 80)


def test_bytes_and_devices() -> None:
    masks = newer()
    assert masks.nbytes == 40 * 4 * (3 + 1)
    assert masks.to("meta").device.type == "meta"
    assert restricted(masks).to("meta").shape == (40,)
    assert restricted(masks).nbytes == masks.nbytes + 40 * (3 + 4)


def brute_force(masks: em.ActionMasks, constraints: dict[str, Tensor]) -> Tensor:
    """Legal whole actions under constraints, action by action: bool [batch, size]."""
    layout = masks.layout
    codec = em.JointActions(layout)
    legal = masks.joint().clone()
    for index, action in enumerate(codec.decode(torch.arange(codec.size)).tolist()):
        values = dict(zip(layout.head_names, action))
        for name, mask in constraints.items():
            if name == "slot_by_op":
                if layout.head("slot").users >> values["op"] & 1:
                    legal[:, index] &= mask.expand(*masks.shape, -1, -1)[:, values["op"], values["slot"]]
            elif layout.head(name).users >> values["op"] & 1:
                legal[:, index] &= mask.expand(*masks.shape, -1)[:, values[name]]
    return legal


def check_restrict(masks: em.ActionMasks, data: st.DataObject) -> None:
    """Restricted masks equal brute force over whole actions, in any order, and leave every legal op completable."""
    layout = masks.layout
    ops, slots, rows = len(layout.ops), len(layout.slot_ids), len(masks.op_words)
    names = data.draw(st.lists(st.sampled_from([*masks, "slot_by_op"]), unique=True, max_size=4))
    constraints = {}
    for name in names:
        axes = (ops, slots) if name == "slot_by_op" else (layout.head(name).size,)
        shape = data.draw(st.sampled_from([axes, (rows, *axes), (1, *axes)]))
        seed = data.draw(st.integers(0, 1000))
        constraints[name] = torch.rand(shape, generator=seeded(seed)) < 0.6
    narrow = masks.restrict(**constraints)
    legal = brute_force(masks, constraints)
    assert torch.equal(narrow.joint(), legal)
    assert torch.equal(narrow.count(), legal.sum(-1))
    assert torch.equal(narrow.forced, legal.sum(-1) == 1)
    codec = em.JointActions(layout)
    op_of = codec.decode(torch.arange(codec.size))[:, layout.head_names.index("op")]
    for op in range(ops):  # an op that is legal can be completed
        assert torch.equal(narrow["op"][:, op], legal[:, op_of == op].any(-1))
    one_by_one = masks
    for name in reversed(names):
        one_by_one = one_by_one.restrict(**{name: constraints[name]})
    assert_same_masks(one_by_one, as_bools(narrow))
    for name in masks:
        if name not in ("op", "slot"):
            assert narrow[name].any(-1).all()
    assert torch.equal(narrow["slot"], masks["slot"] & constraints.get("slot", torch.tensor(True)))
    assert_same_masks(em.ActionMasks.from_bools(layout, dict(narrow), narrow.slot_by_op), as_bools(narrow))


@given(st.data(), st.integers(0, 50))
def test_restrict_is_exact_in_any_order(data: st.DataObject, seed: int) -> None:
    check_restrict(newer(6, seed), data)


@settings(max_examples=200)
@given(random_cases(), st.data())
def test_restrict_is_exact_under_any_rules(case: Case, data: st.DataObject) -> None:
    check_restrict(case.masks(), data)


def test_a_dropped_wait_does_not_take_the_enabled_slots_along() -> None:
    """The bits of ops that are always legal tell which slots are enabled; a constraint on a head may clear them."""

    class Act(IntEnum):
        WAIT = 0
        GO = 1

    class Stage(IntEnum):
        IDLE = 0
        BUSY = 1

    rules = em.MaskRules(
        name="timed",
        stages=Stage,
        transitions={Stage.IDLE: [Stage.BUSY], Stage.BUSY: []},
        empty=Stage.IDLE,
        op_rules=[em.Op(Act.WAIT, always=True, uses=["steps"]), em.Op(Act.GO, enters=Stage.BUSY, uses=["slot"])],
        heads=[em.Head("slot"), em.Head("steps", ("ONE", "TWO")), em.Head("op")],
    )
    engine = em.MaskEngine(rules, ["a", "b"])
    masks = engine(engine.empty_slots(1)).restrict(steps=torch.tensor([False, False]))
    assert masks["op"].tolist() == [[False, True]]
    assert masks["slot"].tolist() == [[True, True]]


def test_an_op_without_a_slot_keeps_where_it_came_from() -> None:
    """`slot_by_op` of an op that uses no slot says where the state allows it; a round trip once opened every slot."""

    class Act(IntEnum):
        WAIT = 0
        FLUSH = 1

    class Stage(IntEnum):
        EMPTY = 0
        FULL = 1

    rules = em.MaskRules(
        name="tanks",
        stages=Stage,
        transitions={Stage.EMPTY: [Stage.FULL], Stage.FULL: [Stage.EMPTY]},
        empty=Stage.EMPTY,
        op_rules=[em.Op(Act.WAIT, always=True), em.Op(Act.FLUSH, enters=Stage.EMPTY)],
        heads=[em.Head("slot"), em.Head("op")],
    )
    engine = em.MaskEngine(rules, ["a", "b"])
    masks = engine(engine.pack_slots([{"b": em.SlotState(Stage.FULL)}, {}]))
    assert masks.slot_by_op[:, 1].tolist() == [[False, True], [False, False]]
    assert masks["op"][:, 1].tolist() == [True, False]
    assert_same_masks(em.ActionMasks.from_bools(masks.layout, dict(masks), masks.slot_by_op), as_bools(masks))
    nowhere = masks.restrict(slot_by_op=torch.zeros(2, 2, dtype=torch.bool))
    assert torch.equal(nowhere["op"], masks["op"])  # it takes no slot, so no slot can be forbidden to it
    assert torch.equal(nowhere["slot"], masks["slot"])
    assert torch.equal(nowhere.slot_by_op, masks.slot_by_op)
    elsewhere = masks.restrict(slot=torch.tensor([True, False]))
    assert torch.equal(elsewhere["op"], masks["op"])
    assert_same_masks(em.ActionMasks.from_words(masks.layout, elsewhere.slot_words), as_bools(elsewhere))


def test_an_op_that_no_state_allows_stays_illegal() -> None:
    layout = em.MaskEngine(em.ruleset("esper-2026-06"), disable_advance=True).layout
    every = {head.name: torch.ones(1, head.size, dtype=torch.bool) for head in layout.heads}
    masks = em.ActionMasks.from_bools(layout, every)
    assert masks["op"].tolist() == [[True] * 5 + [False]]
    assert masks.count().tolist() == masks.joint().sum(-1).tolist() == [1540]
    assert not masks.slot_by_op[:, 5].any()
    advance = {name: mask & (torch.arange(6) == 5) if name == "op" else mask for name, mask in every.items()}
    only = em.ActionMasks.from_bools(layout, advance)
    assert not only["op"].any()
    assert not only.joint().any()
    words = em.ActionMasks.from_words(layout, torch.full((1, 3), 63), torch.tensor([63]))
    assert not words.slot_by_op[:, 5].any()
    assert words["op"].tolist() == [[True] * 5 + [False]]


def test_forced_wait() -> None:
    masks = newer()
    frozen = torch.arange(40) < 10
    only_wait = torch.arange(6) == 0
    waiting = masks.restrict(op=only_wait | ~frozen[:, None])
    assert waiting.forced[:10].all()
    assert waiting["op"][:10].tolist() == [[True] + [False] * 5] * 10
    assert torch.equal(waiting.op_words[10:], masks.op_words[10:])
    assert torch.equal(waiting["slot"], masks["slot"])


def test_a_row_with_nothing_left() -> None:
    nothing = newer().restrict(op=torch.zeros(6, dtype=torch.bool))
    assert not nothing["op"].any()
    assert not nothing.joint().any()
    assert nothing.count().eq(0).all()
    assert not nothing.forced.any()


def test_copies_and_pickles() -> None:
    for masks in (newer(), restricted(newer())):
        for other in (pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks)):
            assert_same_masks(other, as_bools(masks))
            assert other.layout == masks.layout
    engine = pickle.loads(pickle.dumps(NEWER))
    assert_same_masks(engine(engine.empty_slots(3)), as_bools(NEWER(NEWER.empty_slots(3))))
    assert copy.deepcopy(NEWER).layout == NEWER.layout


def test_a_file_of_masks_is_read_without_running_code(tmp_path: Any) -> None:
    for masks in (newer(), restricted(newer())):
        torch.save({"masks": masks}, tmp_path / "masks.pt")
        other = torch.load(tmp_path / "masks.pt", weights_only=True)["masks"]
        assert isinstance(other, em.ActionMasks)
        assert other.layout == masks.layout
        assert_same_masks(other, as_bools(masks))
