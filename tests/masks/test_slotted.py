"""Heads that depend on the slot, second slots, guards, head masks, constraints and packing: all against the oracle."""

import copy
import dataclasses
import pickle
import re
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import esper_masks as em
from esper_masks import reference
from esper_masks.actions.packing import build_packings, packed_width
from tests.helpers import HOST_READS, OpRecorder, as_bools, assert_near, assert_same_masks
from tests.masks.hand import BERTHS, Act, Pod
from tests.masks.slotted import SlottedCase, assert_as_expected, slotted_cases, slotted_rules


@settings(max_examples=300)
@given(slotted_cases())
def test_engine_equals_the_oracle(case: SlottedCase) -> None:
    masks = case.masks()
    assert_as_expected(case, masks, case.expected())


@settings(max_examples=150)
@given(slotted_cases())
def test_whole_actions_agree(case: SlottedCase) -> None:
    """``joint``, ``count``, ``permits``, ``acts_on`` and the op mask say the same of every whole action."""
    masks, codec = case.masks(), case.engine.joint_actions
    joint = masks.joint()
    assert torch.equal(masks.count(), joint.sum(-1))
    assert torch.equal(masks.forced, joint.sum(-1) == 1)
    actions = codec.decode(torch.arange(codec.size))
    assert torch.equal(codec.encode(actions), torch.arange(codec.size))
    batch = len(masks.op_words)
    each = actions.unsqueeze(1).expand(-1, batch, -1)
    assert torch.equal(masks.permits(each), joint.T)
    names = masks.layout.head_names
    legal, acts = masks.expand(each.shape[:-1]).acts_on(each.unbind(-1))
    assert torch.equal(legal, joint.T)
    slots = torch.arange(len(masks.layout.slot_ids)).view(-1, 1, 1)
    uses = torch.tensor([masks.layout.slot_users >> op & 1 for op in actions[:, names.index("op")].tolist()]) != 0
    chosen = actions[:, names.index("slot")].view(1, -1, 1)
    assert torch.equal(acts, (slots == chosen) & uses.view(1, -1, 1) & joint.T)
    op_of = actions[:, names.index("op")]
    for op in range(len(masks.layout.ops)):  # an op that is legal can be completed
        assert torch.equal(masks["op"][:, op], joint[:, op_of == op].any(-1))
    for name in names:
        if name not in ("slot", "op"):
            assert masks[name].any(-1).all()
            at, users = names.index(name), masks.layout.head(name).users
            if dict(masks.dynamic).get(at):
                for choice in range(masks.layout.head(name).size):
                    used = torch.tensor([users >> op & 1 for op in op_of.tolist()]) != 0
                    taken = joint[:, used & (actions[:, at] == choice)].any(-1)
                    canonical = choice == masks.layout.head(name).canonical
                    none = ~joint[:, used].any(-1)
                    assert torch.equal(masks[name][:, choice], taken | (none & canonical))


@settings(max_examples=150)
@given(slotted_cases())
def test_packed_masks_are_the_masks(case: SlottedCase) -> None:
    masks = case.masks()
    packed = masks.pack()
    assert packed.dtype == torch.int32
    assert packed.shape[:-1] == masks.shape
    again = em.ActionMasks.from_packed(masks.layout, packed)
    whole = ("slot", "op", "slot_by_op", "joint")
    assert_same_masks(again, {name: as_bools(masks)[name] for name in whole})
    assert_same_masks(again, as_bools(masks))  # no more than four heads can be by slot
    for at, _ in masks.dynamic:
        name = masks.layout.head_names[at]
        assert torch.equal(again.by_slot(name), masks.by_slot(name))
    packed.zero_()
    assert_same_masks(again, {name: as_bools(masks)[name] for name in whole})
    for form in masks._tables.packings:
        if form.holds(
            dict.fromkeys(masks.choices, False) | {masks.layout.head_names[at]: w for at, w in masks.dynamic},
            masks.slot_mask is not None,
        ):
            wide = masks.pack(form.width)
            assert wide.shape[-1] == form.width
            assert_same_masks(
                em.ActionMasks.from_packed(masks.layout, wide), {name: as_bools(masks)[name] for name in whole}
            )


@settings(max_examples=100)
@given(slotted_cases(constraints=False), st.data())
def test_restrict_in_any_order(case: SlottedCase, data: st.DataObject) -> None:
    """What the engine is given at once, masks take one by one in any order; and rows that are selected keep it."""
    masks = case.masks()
    layout, slots = masks.layout, len(masks.layout.slot_ids)
    slotless = layout.all_ops & ~layout.slot_users
    constraints = {}
    for head in layout.heads:
        by_slot = head.name not in ("slot", "op") and not head.users & slotless and data.draw(st.booleans())
        shape = data.draw(st.sampled_from([(), (1,), tuple(masks.shape)]))
        axes = (data.draw(st.sampled_from([1, slots])), head.size) if by_slot else (head.size,)
        seed = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
        constraints[f"{head.name}_by_slot" if by_slot else head.name] = torch.rand(*shape, *axes, generator=seed) < 0.7
    whole = masks.restrict(**constraints)
    assert_as_expected(
        case, whole, SlottedCase(case.engine, case.states, {**case.given, "restrict": constraints}).expected()
    )
    one_by_one = masks
    for name in data.draw(st.permutations(list(constraints))):
        one_by_one = one_by_one.restrict(**{name: constraints[name]})
    assert_same_masks(one_by_one, as_bools(whole))


@settings(max_examples=100)
@given(slotted_cases())
def test_rows_of_masks(case: SlottedCase) -> None:
    masks, plain = case.masks(), SlottedCase(case.engine, case.states, {"row": case.given["row"]}).masks()
    bools = as_bools(masks)
    rows = len(masks.op_words)
    index = torch.arange(rows).flip(0)
    assert_same_masks(masks.select(index), {name: mask[index] for name, mask in bools.items()})
    assert_same_masks(masks.at((..., index)), {name: mask[index] for name, mask in bools.items()})
    assert_same_masks(masks.at(slice(1, None)), {name: mask[1:] for name, mask in bools.items()})
    assert_same_masks(masks.expand((2, rows)), {name: mask.expand(2, *mask.shape) for name, mask in bools.items()})
    steps = em.ActionMasks.stack([masks, masks])
    assert_same_masks(steps.select(1), bools)
    both, whole = em.ActionMasks.cat([masks, plain]), as_bools(plain)
    for name in ("slot", "op", "slot_by_op", "joint"):
        assert torch.equal(as_bools(both)[name], torch.cat([bools[name], whole[name]])), name
    assert_same_masks(torch.utils._pytree.tree_map(lambda t: t, masks), bools)


@settings(max_examples=60)
@given(slotted_cases(constraints=False))
def test_from_bools_takes_heads_by_slot(case: SlottedCase) -> None:
    masks = case.masks()
    wide = {masks.layout.head_names[at] for at, by_slot in masks.dynamic if by_slot}
    given = {name: masks.by_slot(name) if name in wide else masks[name] for name in masks}
    assert_same_masks(em.ActionMasks.from_bools(masks.layout, given, masks.slot_by_op), as_bools(masks))
    as_int8 = {name: mask.to(torch.int8).numpy() for name, mask in given.items()}
    again = em.ActionMasks.from_bools(masks.layout, as_int8, masks.slot_by_op.to(torch.int8))
    for array in as_int8.values():
        array[...] = 0
    assert_same_masks(again, as_bools(masks))


@settings(max_examples=40)
@given(slotted_cases(rules=slotted_rules(sizes=(33, 40, 62)), max_slots=3))
def test_words_of_64_bits(case: SlottedCase) -> None:
    masks = case.masks()
    assert masks.slot_words.dtype == masks.op_words.dtype == torch.int64
    assert_as_expected(case, masks, case.expected(joint=False))
    again = em.ActionMasks.from_packed(masks.layout, masks.pack())
    assert torch.equal(again.slot_words, masks.slot_words)
    assert torch.equal(again.op_words, masks.op_words)


@settings(max_examples=15)
@given(slotted_cases(max_slots=64))
def test_many_slots(case: SlottedCase) -> None:
    assert_as_expected(case, case.masks(), case.expected(joint=False))


@pytest.mark.parametrize("slots", [33, 64])
def test_a_second_slot_among_many(slots: int) -> None:
    """Targets beyond the first choice word, sign bits among them: masks, packed masks, actions and their scores."""
    engine = em.MaskEngine(BERTHS, [f"s{at}" for at in range(slots)])
    generator = torch.Generator().manual_seed(slots)
    states = torch.randint(0, 3, (5, slots, 3), generator=generator)
    states[0], states[1] = torch.tensor([1, 0, 7]), torch.tensor([2, 9, 0])  # no target; every slot is one
    states[2, :] = torch.tensor([1, 0, 7])
    states[2, [0, slots - 1]] = torch.tensor([2, 5, 0])  # each is the only target of the other
    case = SlottedCase(engine, states, {"row": {"night": torch.zeros(5, dtype=torch.bool)}})
    masks = case.masks()
    assert_as_expected(case, masks, case.expected(joint=False))
    again = em.ActionMasks.from_packed(masks.layout, masks.pack())
    assert_same_masks(again, as_bools(masks))
    names, swap = masks.layout.head_names, int(Act.SWAP)
    other = torch.tensor([at == names.index("other") for at in range(len(names))])
    logits = {head.name: torch.zeros(5, head.size) for head in masks.layout.heads}
    logits["op"][:, swap] = 100.0
    for held in (masks, again):
        dist = em.FactoredCategorical(logits, held)
        actions = dist.sample((200,))
        slot, target, op = (actions[..., names.index(name)] for name in ("slot", "other", "op"))
        assert (op[:, 1:] == swap).all()
        assert (op[:, 0] != swap).all()
        legal = masks.by_slot("other")[torch.arange(5), slot, target]
        assert (legal & (slot != target))[op == swap].all()
        assert {*zip(slot[:, 2].tolist(), target[:, 2].tolist())} == {(0, slots - 1), (slots - 1, 0)}
        left = masks.by_slot("other").sum(-1)[torch.arange(5), slot]
        scores = dist.head_log_probs(actions)[..., other].squeeze(-1)[op == swap]
        torch.testing.assert_close(scores, -left[op == swap].float().log())
        assert dist.legal(actions).all()


# -- one set of rules, by hand ----------------------------------------------------------------------------------------


ENGINE = em.MaskEngine(BERTHS)
#                        stage, age, size of a, b, c
STATES = torch.tensor(
    [
        [[1, 0, 0], [1, 0, 3], [1, 0, 90_000]],
        [[1, 0, 1], [1, 0, -1], [2, 9, 0]],
        [[2, 1, 0], [2, 2, 0], [0, 5, 0]],
        [[2, 2, 0], [2, 2, 0], [2, 0, 0]],
    ]
)
NIGHT = {"night": torch.tensor([False, True, False, True])}


def test_masks_by_hand() -> None:
    masks = ENGINE(STATES, row=NIGHT)
    assert masks.slot_by_op[:, Act.BIND].tolist() == [[True] * 3, [False] * 3, [False] * 3, [False] * 3]
    assert masks.slot_by_op[:, Act.SWAP].tolist() == [
        [False] * 3,
        [False] * 3,  # c is the only one that is bound, and no other than itself
        [True, False, False],  # a with b; b's only partner a is too young
        [True, True, True],
    ]
    assert masks.by_slot("node")[:2].tolist() == [
        [[True, True, False], [False, False, True], [True, False, True]],
        [[False] * 3, [False] * 3, [True, True, False]],
    ]
    assert masks["node"].tolist() == [[True] * 3, [True, False, False], [True, False, False], [True, False, False]]
    assert masks.by_slot("other")[3].tolist() == [[False, True, False], [True, False, False], [True, True, False]]
    assert masks["other"].tolist() == [
        [True, False, False],  # no swap: the canonical slot
        [True, False, False],
        [False, True, False],
        [True, True, False],
    ]
    assert masks["op"][:, Act.DRAIN].tolist() == [False, True, False, True]
    assert masks.count().tolist() == [1 + 2 + 1 + 2, 1 + 2, 1 + 1 * 2, 1 + 4 * 2 + 2]
    closed = torch.zeros(4, 3, dtype=torch.bool)
    alone = ENGINE(STATES, row=NIGHT, enabled=closed)  # DRAIN needs no slot
    assert alone["op"].tolist() == [[True, False, False, night] for night in NIGHT["night"].tolist()]
    kept = torch.tensor([True, False, True])
    assert masks.restrict(slot=kept).by_slot("other").equal(masks.by_slot("other"))  # the first slot alone
    assert masks.restrict(slot=kept, other=kept)["other"][3].tolist() == [True, False, False]


def test_explanations_take_what_masks_take() -> None:
    room = torch.ones(4, 3, 3, dtype=torch.bool)
    room[0, 1, 2] = False
    given: Any = {"row": NIGHT, "head_masks": {"node": room}, "restrict": {"slot_by_op": ~torch.eye(4, 3).bool()}}
    masks = ENGINE(STATES, **given)
    for env in range(4):
        told = ENGINE.explain(STATES, env, **given)
        for op, slot in product(range(4), range(3)):
            legal = told.reason(Act(op).name, "abc"[slot]) is None
            assert legal == masks.slot_by_op[env, op, slot], (env, op, slot)
    told = ENGINE.explain(STATES, 0, **given)
    assert told.reason("BIND", "a", node="n2") == "node n2: size 0 has n0, n1"
    assert told.reason("BIND", "b") == "no choice of node is left by head_masks"
    with pytest.raises(KeyError, match="DRAIN uses no head 'node'; it uses pace"):
        ENGINE.explain(STATES, 1, **given).reason("DRAIN", "a", node="n2")
    fewer: Any = {"row": NIGHT, "restrict": {"node_by_slot": torch.tensor([[False], [True], [True]]).expand(3, 3)}}
    assert ENGINE.explain(STATES, 0, **fewer).reason("BIND", "a") == "restricted by the caller: node_by_slot"


ON = torch.ones(4, 3, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ([ON], "head_masks must be a mapping from head to mask, got list"),
        ({"nodes": ON}, "head_masks has 'nodes'; the heads are node, other, pace"),
        ({"op": ON}, "head_masks has 'op'; the heads are node, other, pace; op and slot go to restrict="),
        (
            {"node_by_slot": ON},
            "head_masks has 'node_by_slot'; the heads are node, other, pace; a mask [..., 3, n] of 'node' ",
        ),
        ({3: ON}, "head_masks has 3; the heads are node, other, pace"),
        ({"node": ON.int()}, "head_masks 'node' must be a bool tensor, got torch.int32"),
        ({"node": [True] * 3}, "head_masks 'node' must be a bool tensor, got list"),
        ({"node": ON[0]}, "head_masks 'node' has shape (3, 3); wanted (4, 3)"),  # as many axes as one for all slots
        (
            {"node": ON[:, :2]},
            "head_masks 'node' has shape (4, 2, 3); wanted (4, 3, 3): the leading axes of the states",
        ),
        ({"node": ON[:1]}, "head_masks 'node' has shape (1, 3, 3); wanted (4, 3, 3)"),
        ({"node": ON[0, 0]}, "head_masks 'node' has shape (3,); wanted (4, 3)"),
        ({"node": ON.to("meta")}, "head_masks 'node' are on meta, the engine is on cpu"),
    ],
)
def test_wrong_head_masks_are_named(masks: Any, says: str) -> None:
    for call in (ENGINE, ENGINE.explain):
        with pytest.raises(em.SlotStateError, match=re.escape(says)):
            call(STATES, row=NIGHT, head_masks=masks)


@pytest.mark.parametrize(
    ("constraints", "error", "says"),
    [
        ([ON], em.SlotStateError, "restrict must be a mapping, with the keywords of masks.restrict, got list"),
        ({"nodes": ON}, KeyError, "no head 'nodes'; there are slot, node, other, pace, op, slot_by_op, and"),
        ({"node": ON}, ValueError, "mask 'node' has shape (4, 3, 3); a mask by slot is called node_by_slot"),
        ({"nodes_by_slot": ON}, KeyError, "no head 'nodes'"),
        ({"node_by_slot": ON[..., :2]}, ValueError, "mask 'node_by_slot' has shape (4, 3, 2); wanted (4, 3, 3)"),
        ({"node_by_slot": ON[:, :2]}, ValueError, "mask 'node_by_slot' has shape (4, 2, 3); wanted (4, 3, 3)"),
        ({"node_by_slot": ON.int()}, ValueError, "mask 'node_by_slot' must be a bool tensor, got torch.int32"),
        ({"slot_by_slot": ON}, ValueError, "the head 'slot' has no choices by slot"),
        ({"op_by_slot": ON}, ValueError, "the head 'op' has no choices by slot"),
        ({"pace_by_slot": ON}, ValueError, "the head 'pace' has no choices by slot: DRAIN uses it without a slot"),
    ],
)
def test_wrong_constraints_are_named(constraints: Any, error: type[Exception], says: str) -> None:
    for call in (ENGINE, ENGINE.explain):
        with pytest.raises(error, match=re.escape(says)):
            call(STATES, row=NIGHT, restrict=constraints)


def test_a_head_mask_by_slot_needs_ops_that_use_the_slot() -> None:
    with pytest.raises(ValueError, match="the head 'pace' has no choices by slot: DRAIN uses it without a slot"):
        ENGINE(STATES, row=NIGHT, head_masks={"pace": ON[..., :2]})
    with pytest.raises(ValueError, match="the head 'op' has no choices by slot"):
        ENGINE(STATES, row=NIGHT).by_slot("op")
    with pytest.raises(KeyError, match="no head 'nodes'"):
        ENGINE(STATES, row=NIGHT).by_slot("nodes")
    assert ENGINE(STATES, row=NIGHT).by_slot("pace").shape == (4, 3, 2)


def test_rows_of_one_environment_may_be_numbers() -> None:
    assert ENGINE(STATES[1], row={"night": True})["op"].tolist() == [True, False, False, True]
    with pytest.raises(em.SlotStateError, match="row 'night' must be a tensor"):
        ENGINE(STATES, row={"night": True})


RICH = dataclasses.replace(
    BERTHS,
    op_rules=[*BERTHS.op_rules[:3], em.Op(Act.DRAIN, when=(em.Row("money", at_least=2),), uses=("pace",))],
    row_features={"night": bool, "money": int},
)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64"])
@pytest.mark.parametrize("as_numpy", [False, True])
def test_rows_of_every_integer(dtype: str, as_numpy: bool) -> None:
    """Beyond int32 the numbers stay what they are; an array is copied."""
    engine = em.MaskEngine(RICH)
    most = min(np.iinfo(dtype).max, 2**31 + 5) if dtype == "uint32" else np.iinfo(dtype).max
    money = np.array([0, 1, 2, most], dtype)
    given = money if as_numpy else torch.from_numpy(money.copy())
    rich = engine(STATES, row={"money": given})
    assert rich["op"][:, Act.DRAIN].tolist() == [False, False, True, True]
    assert engine(STATES, row={"money": given, "night": given})["op"].equal(rich["op"])
    assert "needs" not in str(engine.explain(STATES, 3, row={"money": given})).split("DRAIN")[1]


def test_rows_that_no_integer_of_torch_holds_are_named() -> None:
    money = torch.tensor([0, 1, 2, 3], dtype=torch.uint64)
    for wide in (money, money.numpy()):
        with pytest.raises(em.SlotStateError, match=r"row 'money' is of torch.uint64, which int64 does not hold"):
            em.MaskEngine(RICH)(STATES, row={"money": wide})


# -- packing ----------------------------------------------------------------------------------------------------------


def test_widths_of_packed_masks() -> None:
    """slot words, op word (DRAIN needs no slot), slots' mask, node, other, pace: 3, 1, 1, 1 or 3, 1 or 3, 1."""
    masks, layout = ENGINE(STATES, row=NIGHT), ENGINE.layout
    assert [form.width for form in masks._tables.packings] == [3 + 1 + 3 + 3, 3 + 1 + 1 + 3 + 3 + 1]
    assert masks.pack().shape == (4, 10)
    assert masks.restrict(node_by_slot=ON).pack().shape == (4, 10)
    assert masks.restrict(pace=torch.tensor([True, False])).pack().shape == (4, 12)
    assert masks.restrict(op=torch.tensor([True] * 4)).pack().shape == (4, 12)
    assert masks.pack(12).shape == (4, 12)
    assert packed_width(layout) == packed_width(layout, ["slot", "slot_by_op", "node", "other_by_slot"]) == 10
    assert packed_width(layout, ["pace"]) == packed_width(layout, ["op"]) == 12
    older = em.MaskEngine(em.ruleset("esper-2025-12"))
    widths = [form.width for form in older(older.empty_slots(1))._tables.packings]
    assert widths == [3, 3 + 1 + 1 + 1 + 1, 3 + 1 + 1 + 3 + 1, 3 + 1 + 1 + 1 + 3 + 1, 3 + 1 + 1 + 3 + 3]
    assert [len({form.width for form in build_packings(game_of(n))}) for n in (1, 4, 5)] == [3, 17, 8]
    assert packed_width(older.layout, ["blend_by_slot"]) == 10  # padded: 9 is that of blueprint by slot
    assert packed_width(older.layout, ["blend_by_slot", "blueprint_by_slot"]) == 11
    both = ENGINE(STATES[:0], row={"night": NIGHT["night"][:0]}).pack()
    assert both.shape == (0, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.pack(11), "packed masks have 11 words; those of this layout have one of 10, 12"),
        (
            lambda m: m.restrict(pace=torch.tensor([True, False])).pack(10),
            "10 words do not hold choices of node by slot, other by slot, pace; these masks need 12",
        ),
        (lambda m: em.ActionMasks.from_packed(m.layout, m.pack()[:, 1:]), "packed masks have 9 words"),
        (
            lambda m: em.ActionMasks.from_packed(m.layout, m.pack().long()),
            "must be int32 [..., words], got torch.int64",
        ),
        (
            lambda m: packed_width(m.layout, ["nodes"]),
            "there is nothing called 'nodes' to restrict; the heads are slot",
        ),
        (lambda m: packed_width(m.layout, ["pace_by_slot"]), "no packed form holds choices of"),
        (lambda m: em.ActionMasks.from_words(m.layout, m.slot_words), "words do not hold the choices of node, other"),
    ],
)
def test_wrong_packing_is_named(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call(ENGINE(STATES, row=NIGHT))


GAME = em.ActionLayout.of(
    op=("WAIT", "GO"),
    slot=2,
    heads={"way": 3, "tone": 3, "pace": 3},
    uses={"GO": ("slot", "way", "tone", "pace")},
)


def game_of(heads: int) -> em.ActionLayout:
    """One op that uses a slot and so many heads of three choices."""
    names = tuple(f"h{at}" for at in range(heads))
    return em.ActionLayout.of(op=("WAIT", "GO"), slot=2, heads=dict.fromkeys(names, 3), uses={"GO": ("slot", *names)})


@pytest.mark.parametrize("wide", [(), ("h0",), ("h1", "h3"), ("h0", "h1", "h2"), ("h0", "h1", "h2", "h3")])
def test_packed_masks_come_back_with_their_heads_by_slot(wide: tuple[str, ...]) -> None:
    game = game_of(4)
    own = torch.tensor([[[True, True, False], [False, True, True]]])
    some = {"op": torch.ones(1, 2).bool(), "slot": torch.ones(1, 2).bool(), "h2": torch.tensor([[False, True, True]])}
    masks = em.ActionMasks.from_bools(
        game, some | dict.fromkeys(wide, own), torch.tensor([[[True, True], [True, False]]])
    )
    again = em.ActionMasks.from_packed(game, masks.pack())
    assert {game.head_names[at] for at, by_slot in again.dynamic if by_slot} == set(wide)
    assert_same_masks(again, as_bools(masks))
    logits = {head.name: torch.randn(1, head.size) for head in game.heads}
    ours, theirs = (em.FactoredCategorical(logits, held) for held in (masks, again))
    assert torch.equal(ours.head_entropies(), theirs.head_entropies())


def test_what_comes_back_of_packed_heads_by_slot_of_many() -> None:
    """Of five such heads with two by slot all are by slot: mask and own entropy of the others change."""
    game = game_of(5)
    some = {"op": torch.ones(1, 2).bool(), "slot": torch.ones(1, 2).bool()}
    own = torch.tensor([[[True, True, False], [False, True, True]]])
    one, two = ({**some, **dict.fromkeys(names, own)} for names in (["h1"], ["h1", "h2"]))
    logits = {head.name: torch.randn(1, head.size) for head in game.heads}
    for held, by_slot in ((one, {"h1"}), (two, {f"h{at}" for at in range(5)})):
        masks = em.ActionMasks.from_bools(game, held, torch.tensor([[[True, True], [True, False]]]))
        again = em.ActionMasks.from_packed(game, masks.pack())
        assert {game.head_names[at] for at, wide in again.dynamic if wide} == by_slot
        assert again.joint().equal(masks.joint())
        ours, theirs = (em.FactoredCategorical(logits, each) for each in (masks, again))
        every = ours.enumerate_support()
        torch.testing.assert_close(ours.log_prob(every), theirs.log_prob(every))
        torch.testing.assert_close(ours.raw_entropy(), theirs.raw_entropy())
    closed = em.ActionMasks.from_bools(game, two, torch.tensor([[[True, True], [False, False]]]))
    again = em.ActionMasks.from_packed(game, closed.pack())
    assert closed["h4"].tolist() == [[True] * 3]
    assert again["h4"].tolist() == [[True, False, False]]
    assert em.FactoredCategorical(logits, closed).head_entropies()[0, game.head_names.index("h4")] > 0
    assert em.FactoredCategorical(logits, again).head_entropies()[0, game.head_names.index("h4")] == 0


def test_a_form_of_one_head_by_slot_does_not_hold_another() -> None:
    some = {"op": torch.ones(1, 2).bool(), "slot": torch.ones(1, 2).bool()}
    way, tone = (
        em.ActionMasks.from_bools(GAME, {**some, name: torch.ones(1, 2, 3).bool()}) for name in ("way", "tone")
    )
    assert tone.pack().shape[-1] > way.pack().shape[-1]
    for masks, name, width in ((tone, "tone", way.pack().shape[-1]), (way, "way", tone.pack().shape[-1])):
        with pytest.raises(ValueError, match=f"{width} words do not hold choices of {name} by slot.* these masks need"):
            masks.pack(width)


def test_words_that_are_too_narrow_are_refused() -> None:
    wide = em.ActionLayout.of(op=[f"o{i}" for i in range(34)], slot=2, uses={"o1": ("slot",)})
    words = torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"slot_words are torch.int32, 32 bits; 34 ops need torch.int64, so bits were"):
        em.ActionMasks.from_words(wide, words, torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"op_words are torch.int32, 32 bits; 34 ops need torch.int64"):
        em.ActionMasks.from_words(wide, words.long(), torch.zeros(3).int())
    with pytest.raises(ValueError, match=r"slot_words do not tell whether o0, o2, .* is legal, which needs no slot"):
        em.ActionMasks.from_words(wide, words.long())
    masks = em.ActionMasks.from_words(wide, words.long() + 2, torch.full((3,), (1 << 33) + 3))
    assert masks["op"][0].nonzero().flatten().tolist() == [0, 1, 33]
    narrow = em.ActionLayout.of(op=[f"o{i}" for i in range(9)], slot=2, uses={f"o{i}": ("slot",) for i in range(9)})
    with pytest.raises(ValueError, match=r"slot_words are torch.uint8, 8 bits; 9 ops need"):
        em.ActionMasks.from_words(narrow, torch.zeros(3, 2, dtype=torch.uint8))
    for dtype in (torch.int16, torch.int32, torch.int64):
        assert em.ActionMasks.from_words(narrow, torch.full((3, 2), 257, dtype=dtype)).count().tolist() == [4] * 3


# -- cost and memory --------------------------------------------------------------------------------------------------


def test_the_batch_changes_no_op_and_nothing_reads_the_device() -> None:
    def ops_of(batch: int) -> list[str]:
        states = STATES[:1].expand(batch, 3, 3)
        room = torch.ones(batch, 3, 3, dtype=torch.bool)
        given: Any = {"row": {"night": torch.zeros(batch, dtype=torch.bool)}, "head_masks": {"node": room}}
        restrict = {"other_by_slot": torch.ones(3, 3, dtype=torch.bool)}
        with OpRecorder() as recorder:
            masks = ENGINE(states, **given, restrict=restrict)
            packed = em.ActionMasks.from_packed(ENGINE.layout, masks.pack())
            for one in (masks, packed):
                for name in one:
                    one[name]
                one.by_slot("node"), one.joint(), one.count(), one.forced
        return recorder.ops

    ops = ops_of(2)
    assert ops == ops_of(1000)
    assert len(ops_of(0)) <= len(ops)  # without rows nothing is copied
    assert [op for op in ops if any(name in op for name in HOST_READS)] == []


def test_memory_stays_batch_last() -> None:
    states = torch.zeros(3, 3, 40).permute(2, 1, 0).int()
    states[..., 0] = 1
    masks = ENGINE(states, row={"night": torch.zeros(40, dtype=torch.bool)})
    assert masks.slot_words.stride(0) == masks.choices["node"].stride(0) == masks.choices["other"].stride(0) == 1
    assert masks.pack().stride(0) == 1
    again = em.ActionMasks.from_packed(ENGINE.layout, masks.pack())
    assert again.slot_words.stride(0) == again.choices["node"].stride(0) == 1
    index = torch.arange(20)
    for part in (masks.select(index), em.ActionMasks.cat([masks, masks])):
        assert part.choices["node"].stride(0) == part.choices["other"].stride(0) == 1
    assert masks.nbytes == 40 * 4 * (3 + 1 + 3 + 3)
    assert masks.to("meta").choices["node"].device.type == "meta"


def test_vmap_gives_the_same() -> None:
    masks = ENGINE(STATES, row=NIGHT, head_masks={"node": ON})
    each = torch.vmap(lambda s, n, m: ENGINE(s, row={"night": n}, head_masks={"node": m}))(STATES, NIGHT["night"], ON)
    assert_same_masks(each, as_bools(masks))
    joint = torch.vmap(lambda m: (m.joint(), m.count(), m.pack()))(masks)
    for ours, other in zip(joint, (masks.joint(), masks.count(), masks.pack())):
        assert torch.equal(ours, other)


def test_copies_and_files(tmp_path: Any) -> None:
    masks = ENGINE(STATES, row=NIGHT, restrict={"pace": torch.tensor([True, False])})
    for other in (pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks)):
        assert_same_masks(other, as_bools(masks))
    torch.save(masks, tmp_path / "masks.pt")
    assert_same_masks(torch.load(tmp_path / "masks.pt", weights_only=True), as_bools(masks))
    engine = pickle.loads(pickle.dumps(ENGINE))
    assert_same_masks(engine(STATES, row=NIGHT), as_bools(ENGINE(STATES, row=NIGHT)))


@pytest.mark.parametrize("transform", ["vmap", "grad", "vmap of grad"])
def test_tables_are_made_under_a_transform_and_outlive_it(transform: str) -> None:
    """In the first use of a layout: here of logits by op and by slot, and of heads that are limited."""
    game = game_of(2)
    some = {"op": torch.ones(4, 2).bool(), "slot": torch.ones(4, 2).bool(), "h0": torch.ones(4, 2, 3).bool()}
    masks = em.ActionMasks.from_bools(game, {**some, "h1": torch.ones(4, 3).bool()})
    sizes = {"slot": (2, 2), "h0": (2, 3), "h1": (3,), "op": (2,)}
    logits = {name: torch.randn(4, *shape, dtype=torch.float64) for name, shape in sizes.items()}

    def entropy(logits: Any, masks: Any) -> torch.Tensor:
        return em.FactoredCategorical(logits, masks, by_slot=("h0",), validate="off").raw_entropy()

    expected = entropy(logits, em.ActionMasks.from_bools(game_of(2), {**some, "h1": torch.ones(4, 3).bool()}))
    if transform == "vmap":
        assert_near(torch.vmap(entropy)(logits, masks), expected)
    else:
        slope = torch.func.grad(lambda logits, masks: entropy(logits, masks).sum())
        made = torch.vmap(slope)(logits, masks) if "vmap" in transform else slope(logits, masks)
        assert all(part.isfinite().all() for part in made.values())
    assert_near(entropy(logits, masks), expected)


def test_why_a_second_slot_has_no_choice() -> None:
    told = ENGINE.explain(STATES, 1, row=NIGHT)
    assert told.reason("SWAP", "c") == (
        "no choice of other: a, b: stage PENDING, needs BOUND; c: another slot than c is needed"
    )


def test_of_many_reasons_against_a_second_slot_four_are_told() -> None:
    engine = em.MaskEngine(BERTHS, [f"s{at}" for at in range(12)])
    slots = [[2, 2, 0], [2, 0, 0], [2, 1, 0], [1, 0, 0], [1, 0, 0], *[[0, 0, 0]] * 7]
    told = engine.explain(torch.tensor([slots]), row={"night": torch.tensor([True])}).reason("SWAP", "s0")
    assert told == (
        "no choice of other: s0: another slot than s0 is needed; s1: age 0 < 2; s2: age 1 < 2; "
        "s3, s4: stage PENDING, needs BOUND; 7 more"
    )


def test_of_a_second_slot_nothing_is_taken_where_no_legal_op_uses_it() -> None:
    """Whether or not it has to be another one, which makes it a head by slot."""
    ops = tuple(op if op.id != Act.SWAP else dataclasses.replace(op, moves={}) for op in BERTHS.op_rules)
    alike = em.SlotHead("other", when=(em.Feature("stage", in_=(Pod.BOUND,)),))
    heads = tuple(alike if head.name == "other" else head for head in BERTHS.heads)
    rules = dataclasses.replace(BERTHS, op_rules=ops, heads=heads)
    engine = em.MaskEngine(rules)
    no_swap = {"op": torch.tensor([True, True, False, True])}
    for restrict, expected in (({}, [True, True, True]), (no_swap, [True, False, False])):
        masks = engine(STATES[3:], row={"night": torch.tensor([True])}, restrict=restrict)
        assert masks["other"].tolist() == [expected]
        wanted = reference.masks(rules, STATES[3:], row={"night": [True]}, restrict=restrict)
        assert masks["other"].tolist() == wanted["other"]
        entropy = em.FactoredCategorical(torch.zeros(1, engine.layout.logit_size), masks).head_entropies()
        assert bool(entropy[0, engine.layout.position("other")] > 0) == (restrict == {})
