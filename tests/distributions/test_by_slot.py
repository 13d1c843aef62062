"""Heads that depend on the slot, wide words and layouts without ops, against enumeration in both forms."""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import kl_divergence

import esper_masks as em
from esper_masks import reference
from esper_masks.actions.layout import ActionLayout
from esper_masks.distributions import forms
from tests.conftest import UNROLLED
from tests.enumeration import (
    PENDING,
    READY,
    assert_equals_row,
    cluster,
    divergence,
    head_of,
    independent,
    layout_of,
    random_layout,
    random_logits,
    random_masks,
    row_of,
)
from tests.helpers import HOST_READS, NONDETERMINISM, OpRecorder, assert_near, chi_square_is_plausible
from tests.masks.slotted import SlottedCase, slotted_cases

pytestmark = [
    pytest.mark.usefixtures("form"),
    pytest.mark.parametrize("form", ["stacked", "quick", *UNROLLED], indirect=True),
]
BATCH = 3


def forms_of(rng: random.Random, layout: ActionLayout, wide: Sequence[str]) -> tuple[list[str], list[str]]:
    """Heads whose logits depend on the op, and on the slot."""
    by_slot = [name for name in wide if rng.random() < 0.5]
    by_op = [name for name in layout.head_names if name not in ("op", *by_slot) and rng.random() < 0.3]
    return by_op, by_slot


def floors_of(rng: random.Random, layout: ActionLayout) -> dict[str, float | None]:
    return {name: rng.choice([None, 0.01, 0.2, 0.6]) for name in layout.head_names if rng.random() < 0.5}


# -- enumeration -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31))
def test_random_layouts_equal_enumeration(seed: int) -> None:
    """Heads limited in rows and in slots, in any order, with logits of every form, floors or none, some of them bad."""
    rng = random.Random(seed)
    layout, wide = random_layout(rng)
    masks = random_masks(rng, layout, wide, BATCH)
    by_op, by_slot = forms_of(rng, layout, wide)
    logits, floors = random_logits(layout, masks.shape, by_op, by_slot, seed), floors_of(rng, layout)
    for _ in range(rng.choice([0, 0, 1, 3])):
        values = logits[rng.choice(layout.head_names)].view(-1)
        values[rng.randrange(len(values))] = rng.choice([-math.inf, math.nan, math.inf, 50.0, -1e4, -1e30, -1e300])
    dist = em.FactoredCategorical(logits, masks, by_slot=by_slot, min_prob=floors, validate="flag")
    noise = torch.rand(BATCH, len(masks), dtype=torch.float64)
    drawn = dist.sample(noise=noise)
    for env in range(BATCH):
        assert_equals_row(dist, row_of(masks, logits, env, by_slot, floors), env, noise, drawn)
    with forms.use("stacked"):
        plain = em.FactoredCategorical(logits, masks, by_slot=by_slot, min_prob=floors, validate="flag")
    any_action = torch.randint(-1, max(head.size for head in layout.heads) + 1, (50, BATCH, len(masks)))
    assert_near(dist.head_log_probs(any_action), plain.head_log_probs(any_action))  # legal or not


@given(st.integers(0, 2**31))
def test_divergence_of_any_two_forms_equals_enumeration(seed: int) -> None:
    """Either may have logits, and choices, of each op or of each slot where the other has not."""
    rng = random.Random(seed)
    layout, wide = random_layout(rng)
    masks = random_masks(rng, layout, wide, BATCH)
    other = rng.choice([masks, random_masks(rng, layout, wide, BATCH)])
    dists, rows = [], []
    for at, legal in enumerate((masks, other)):
        by_op, by_slot = forms_of(rng, layout, wide)
        logits, floors = random_logits(layout, masks.shape, by_op, by_slot, seed + at), floors_of(rng, layout)
        dists.append(em.FactoredCategorical(logits, legal, by_slot=by_slot, min_prob=floors))
        rows.append([row_of(legal, logits, env, by_slot, floors) for env in range(BATCH)])
    for p, q, ours, theirs in ((*dists, *rows), (*reversed(dists), *reversed(rows))):
        assert_near(kl_divergence(p, q), [divergence(*pair) for pair in zip(ours, theirs)])
    assert_near(kl_divergence(dists[0], dists[0]), [0.0] * BATCH)


@given(slotted_cases(), st.integers(0, 2**31))
def test_rules_of_any_make_equal_the_oracle(case: SlottedCase, seed: int) -> None:
    """Heads by stage and feature, second slots, head masks and constraints, as an engine gives them."""
    rng, masks, expected = random.Random(seed), case.masks(), case.expected(joint=False)
    layout = masks.layout
    alone = [head.name for head in layout.heads if head.users & ~layout.slot_users or head.name == "slot"]
    by_op, by_slot = forms_of(rng, layout, [name for name in layout.head_names if name not in alone])
    logits, floors = random_logits(layout, masks.shape, by_op, by_slot, seed), floors_of(rng, layout)
    dist = em.FactoredCategorical(logits, masks, by_slot=by_slot, min_prob=floors, validate="flag")
    noise = torch.rand(*masks.shape, len(masks), dtype=torch.float64)
    drawn, every = dist.sample(noise=noise), dist.enumerate_support()
    every = every[torch.randperm(len(every))[:100]]
    scores, legal = dist.log_prob(every), dist.legal(every)
    for env in range(len(drawn)):
        one = {name: mask[env] for name, mask in expected.items()}
        rows = {name: x[env].tolist() for name, x in logits.items()}
        joint = reference.Joint(case.engine.rules, one, rows, by_slot=by_slot, min_prob=floors)
        assert {name for at, name in enumerate(masks) if int(dist.faults[env]) >> at & 1} == joint.faults
        assert legal[:, env].tolist() == [joint.legal(action) for action in every[:, env].tolist()]
        if joint.faults:
            continue
        assert_near(scores[:, env], [joint.log_prob(action) for action in every[:, env].tolist()])
        assert_near(dist.raw_entropy()[env], joint.raw_entropy())
        assert_near(dist.entropy()[env], joint.entropy())
        assert_near(dist.head_entropies()[env], joint.head_entropies())
        assert dist.mode[env].tolist() == joint.mode()
        if min(joint.edge_distances(noise[env].tolist())) > 1e-9:
            assert drawn[env].tolist() == joint.sample(noise[env].tolist())


@given(st.integers(0, 2**31), st.integers(32, 62))
def test_more_ops_than_an_int32_has_bits(seed: int, ops: int) -> None:
    rng = random.Random(seed)
    layout, wide = random_layout(rng, ops)
    masks = random_masks(rng, layout, wide, 1)
    assert masks.slot_words.dtype == torch.int64
    by_op, by_slot = forms_of(rng, layout, wide)
    logits, noise = random_logits(layout, masks.shape, by_op, by_slot, seed), torch.rand(1, len(masks)).double()
    dist = em.FactoredCategorical(logits, masks, by_slot=by_slot)
    assert_equals_row(dist, row_of(masks, logits, 0, by_slot), 0, noise, dist.sample(noise=noise))


@given(st.integers(0, 2**31), st.lists(st.sampled_from([1, 2, 3, 35]), min_size=1, max_size=3))
def test_heads_without_an_op(seed: int, sizes: list[int]) -> None:
    rng = random.Random(seed)
    layout = independent({f"h{at}": size for at, size in enumerate(sizes)})
    masks = random_masks(rng, layout, (), BATCH)
    logits, floors = random_logits(layout, masks.shape, seed=seed), floors_of(rng, layout)
    other = random_logits(layout, masks.shape, seed=seed + 1)
    flat = torch.cat(list(logits.values()), -1)
    dist = em.FactoredCategorical(flat, masks, min_prob=floors, validate="flag")
    q = em.FactoredCategorical(other, masks, min_prob=floors, validate="flag")
    noise = torch.rand(BATCH, len(masks), dtype=torch.float64)
    drawn, back = dist.sample(noise=noise), kl_divergence(dist, q)
    for env in range(BATCH):
        empty = [at for at, name in enumerate(masks) if not masks.choices[name][env].any()]
        if empty:
            assert dist.faults[env] == sum(1 << at for at in empty)
            assert not dist.legal(dist.enumerate_support())[:, env].any()
            assert (drawn[env] == -1).all()
            continue
        row = row_of(masks, logits, env, (), floors)
        assert_equals_row(dist, row, env, noise, drawn)
        assert_near(back[env], divergence(row, row_of(masks, other, env, (), floors)))


def test_a_head_without_an_op_is_named_where_it_has_no_choice() -> None:
    layout = independent({"a": 2, "b": 3, "c": 2})
    given = {"a": torch.tensor([[True, False]] * 2), "b": torch.tensor([[False] * 3, [True] * 3])}
    masks = em.ActionMasks.from_bools(layout, given)
    dist = em.FactoredCategorical(torch.zeros(2, 7), masks, validate="flag")
    assert dist.faults.tolist() == [0b010, 0]
    assert dist.sample()[1, 0] == 0
    with pytest.raises(em.InvalidStateMachineError, match=r"1 of 2 rows are faulty: row 0 \(b\)"):
        em.FactoredCategorical(torch.zeros(2, 7), masks)
    with pytest.raises(ValueError, match=r"head 'b' have shape \(2, 1, 3\); wanted \(2, 3\), leading"):
        em.FactoredCategorical({"a": torch.zeros(2, 2), "b": torch.zeros(2, 1, 3), "c": torch.zeros(2, 2)}, masks)


@pytest.mark.parametrize("by_slot", [(), ("node",)])
@pytest.mark.parametrize(("gap", "lacks"), [(-math.inf, False), (-200.0, True)])
def test_divergence_behind_a_slot_whose_probability_underflows(by_slot: Any, gap: float, lacks: bool) -> None:
    """Its log-probability is finite, so that q lacks support there; what is never drawn may lack it."""
    masks, layout = cluster([[PENDING, PENDING]], [[[True] * 3] * 2])
    narrow = masks.restrict(node_by_slot=torch.tensor([[False, True, True], [True] * 3]))
    logits = {name: x.float() for name, x in random_logits(layout, (1,), by_slot=by_slot).items()}
    logits["slot"][:, 0] = gap
    p, q = (em.FactoredCategorical(logits, legal, by_slot=by_slot) for legal in (masks, narrow))
    assert (kl_divergence(p, q) == math.inf) == lacks
    assert kl_divergence(q, p).isfinite().all()


# -- draws -------------------------------------------------------------------------------------------------------------


def test_a_million_forced_binds_choose_a_node_with_room() -> None:
    """Whatever the logits: nodes without room have the large ones."""
    torch.manual_seed(0)
    pods = torch.randint(0, 2, (1000, 4))
    pods[:, 0] = PENDING
    room = torch.rand(1000, 4, 35) < 0.1  # nodes 32 to 34 are in a second word
    room[0], pods[0] = False, PENDING
    room[0, 2, 34] = True  # the only legal node is the last
    masks, _ = cluster(pods.tolist(), room, nodes=35)
    binds = masks["op"][:, 1]
    logits = {"slot": torch.randn(1000, 4), "node": torch.randn(1000, 4, 35) * 3, "op": torch.zeros(1000, 3)}
    logits["node"] = logits["node"] + 20 * ~room
    logits["op"][:, 1] = 100.0
    dist = em.FactoredCategorical(logits, masks, by_slot=("node",))
    bound, seen = 0, torch.zeros(35, dtype=torch.bool)
    while bound < 1_000_000:
        slot, node, op = dist.sample((200,)).unbind(-1)
        assert torch.equal(op == 1, binds.expand(200, -1))
        assert (op == 1).any()
        bound += int((op == 1).sum())
        seen[node[op == 1]] = True
        assert (slot[:, 0] == 2).all()
        assert (node[:, 0] == 34).all()
        env = torch.arange(1000).expand(200, -1)
        assert (room[env, slot, node] & (pods[env, slot] == PENDING))[op == 1].all()
        assert (node[op != 1] == 0).all()
    assert seen.all()


@pytest.mark.parametrize("by_slot", [(), ("node",)])
def test_frequencies_are_those_of_the_probabilities(by_slot: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    room = [[[True, True, False], [False, True, True], [True, True, True]]]
    masks, layout = cluster([[PENDING, PENDING, READY]], room)
    dist = em.FactoredCategorical(random_logits(layout, (1,), by_slot=by_slot), masks, by_slot=by_slot, min_prob=0.02)
    every = dist.enumerate_support()
    index = em.JointActions(layout).encode(dist.sample((100_000,)))[:, 0]
    counts = torch.bincount(index, minlength=len(every))
    assert chi_square_is_plausible(counts, dist.log_prob(every)[:, 0].exp())
    assert int((counts > 0).sum()) == int(masks.count())


def test_score_and_draw_in_one_pass_are_the_two() -> None:
    rng = random.Random(5)
    for _ in range(20):
        layout, wide = random_layout(rng)
        masks = random_masks(rng, layout, wide, 20)
        dist = em.FactoredCategorical(random_logits(layout, (20,), by_slot=wide), masks, by_slot=wide, min_prob=0.01)
        noise = torch.rand(4, 20, len(masks), dtype=torch.float64)
        action, score = dist.sample_and_log_prob((4,), noise=noise)
        assert torch.equal(action, dist.sample((4,), noise=noise))
        assert torch.equal(score, dist.log_prob(action))
        assert torch.equal(action, torch.stack([dist.sample(noise=each) for each in noise]))
        assert dist.legal(action).all()
        assert not dist.action_faults(action).any()


def test_actions_that_do_not_exist() -> None:
    """A slot or a node beyond the last, a pair that is illegal: -inf, and no other head matters."""
    masks, _ = cluster([[PENDING, READY]], [[[True, True, False], [True, True, True]]])
    logits = {"slot": torch.zeros(1, 2), "node": torch.zeros(1, 2, 3), "op": torch.zeros(1, 3)}
    dist = em.FactoredCategorical(logits, masks, by_slot=("node",))
    actions = [[0, 1, 1], [0, 2, 1], [1, 1, 1], [2, 1, 1], [-1, 1, 1], [0, 3, 1], [0, -1, 1], [1, 9, 2], [5, 5, 0]]
    value = torch.tensor(actions).unsqueeze(1)
    assert dist.legal(value)[:, 0].tolist() == [True, *[False] * 6, True, True]
    assert dist.log_prob(value).isfinite()[:, 0].tolist() == [True, *[False] * 6, True, True]
    assert (dist.action_faults(value)[:, 0] == 8).tolist() == [False, *[True] * 6, False, False]
    assert_near(dist.head_log_probs(value)[:, 0, 1].exp(), [0.5, 0, 0, 1, 1, 0, 0, 1, 1])  # without a slot: ignored


# -- what the words decide ---------------------------------------------------------------------------------------------


def test_a_head_by_slot_counts_only_where_its_op_is_legal() -> None:
    """NaN in the node logits of a ready pod is nothing; of a pending one it is a fault; -inf under the mask is not."""
    masks, _ = cluster([[PENDING, READY]] * 4, [[[True, False, True], [True, True, True]]] * 4)
    node = torch.zeros(4, 2, 3)
    node[0, 1] = math.nan
    node[1, 0, 2] = math.nan
    node[2, 0, 1] = math.nan
    node[3, 0, 0] = node[3, 0, 2] = -math.inf
    leaf = node.requires_grad_()
    logits = {"slot": torch.zeros(4, 2), "node": leaf, "op": torch.zeros(4, 3)}
    dist = em.FactoredCategorical(logits, masks, by_slot=("node",), validate="flag", min_prob=0.01)
    assert dist.faults.tolist() == [0, 0b010, 0, 0b010]
    action = dist.sample()
    assert (action[1::2] == -1).all()
    total = dist.log_prob(action) + dist.raw_entropy() + dist.entropy() + dist.head_entropies().sum(-1)
    total = total + kl_divergence(dist, dist)
    [gradient] = torch.autograd.grad(total.sum(), leaf)
    assert gradient.isfinite().all()
    assert (gradient[:, 1] == 0).all()
    assert (gradient[1::2] == 0).all()
    assert (gradient[:, 0, 1] == 0).all()


def test_no_node_anywhere() -> None:
    """Then BIND is illegal, and the head has neither a fault nor an entropy, whatever its logits."""
    masks, _ = cluster([[PENDING, PENDING]], [[[False] * 3] * 2])
    assert masks["op"].tolist() == [[True, False, False]]
    logits = {"slot": torch.zeros(1, 2), "node": torch.full((1, 3), math.nan), "op": torch.zeros(1, 3)}
    dist = em.FactoredCategorical(logits, masks)
    assert dist.sample().tolist() == dist.mode.tolist() == [[0, 0, 0]]
    assert dist.head_entropies().tolist() == [[0.0] * 3]


def test_a_head_whose_ops_are_all_switched_off_has_no_entropy() -> None:
    """By slot it has no draw at all: neither a fault nor the entropy of another head."""
    node = head_of("node", 3, {1: range(3)}, 3, by_slot=True, dynamic=True)
    layout = dataclasses.replace(layout_of(3, 2, [1, 2], [node]), possible=0b101)
    some = {head.name: torch.ones(1, head.size, dtype=torch.bool) for head in layout.heads}
    masks = em.ActionMasks.from_bools(layout, some)
    assert masks["op"].tolist() == [[True, False, True]]
    dist = em.FactoredCategorical(torch.zeros(1, layout.logit_size), masks)
    entropies = dict(zip(layout.head_names, dist.head_entropies()[0].tolist()))
    assert entropies == {"node": 0.0, "slot": 1.0, "op": 1.0}
    assert dist.faults.tolist() == [0]


def test_a_head_by_slot_that_no_op_uses_has_no_entropy() -> None:
    layout = layout_of(2, 2, [1], [head_of("node", 3, {}, 2)])
    some = {"op": torch.ones(1, 2, dtype=torch.bool), "slot": torch.ones(1, 2, dtype=torch.bool)}
    masks = em.ActionMasks.from_bools(layout, some)
    dist = em.FactoredCategorical(random_logits(layout, (1,), by_slot=["node"]), masks, by_slot=["node"])
    assert dist.head_entropies()[0, 1] == 0
    assert (dist.head_entropies()[0, ::2] > 0).all()
    assert (dist.sample((50,))[..., 1] == 0).all()


def test_floors_are_those_of_each_op_and_slot() -> None:
    """Three nodes in slot 0, two in slot 1, one in slot 2: a floor of 0.4 is possible for two and for one."""
    room = [[[True] * 3, [True, False, True], [False, True, False]]]
    masks, _ = cluster([[PENDING] * 3], room)
    node = torch.tensor([[[math.log(2), 0.0, 0.0]] * 3], dtype=torch.float64)
    logits = {"slot": torch.zeros(1, 3), "node": node, "op": torch.zeros(1, 3)}
    dist = em.FactoredCategorical(logits, masks, by_slot=("node",), min_prob={"node": 0.4})
    actions = torch.tensor([[[0, 0, 1]], [[0, 2, 1]], [[1, 0, 1]], [[1, 2, 1]], [[2, 1, 1]]])
    shares = dist.head_log_probs(actions)[:, 0, 1].exp()
    assert_near(shares, [0.01 * 0.5 + 0.33, 0.01 * 0.25 + 0.33, 0.2 * 2 / 3 + 0.4, 0.2 / 3 + 0.4, 1.0])


def test_head_entropies_are_the_mean_over_legal_pairs() -> None:
    """MOVE and COPY share the draws of a slot: where both are legal it counts twice; one choice has the entropy 0."""
    target = head_of("target", 3, {1: range(3), 2: range(3)}, 3)
    layout = layout_of(3, 3, [1, 2], [target], at=1)
    pairs = torch.tensor([[[True] * 3, [True, True, True], [True, False, False]]])
    own = torch.tensor([[[True, True, False], [False, True, False], [True, True, True]]])
    some = torch.ones(1, 3, dtype=torch.bool)
    masks = em.ActionMasks.from_bools(layout, {"op": some, "slot": some, "target": own}, pairs)
    logits = {"slot": torch.zeros(1, 3), "target": torch.zeros(1, 3, 3, dtype=torch.float64), "op": torch.zeros(1, 3)}
    logits["target"][0, 0, 0] = math.log(3)
    share = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)
    dist = em.FactoredCategorical(logits, masks, by_slot=("target",))
    assert_near(dist.head_entropies()[:, 0], [(2 * share + 0 + 1) / 4])


def test_a_second_slot_is_another_one() -> None:
    """A head whose choices are the slots, distinct from the slot of the op."""
    target = head_of("target", 4, {1: range(4)}, 2)
    layout = layout_of(2, 4, [1], [target])
    other = ~torch.eye(4, dtype=torch.bool)
    enabled = torch.tensor([[True, True, False, True], [True, False, False, False], [True] * 4])
    own = other & enabled.unsqueeze(-2)
    masks = em.ActionMasks.from_bools(
        layout, {"op": torch.ones(3, 2, dtype=torch.bool), "slot": enabled, "target": own}
    )
    assert masks["op"].tolist() == [[True, True], [True, False], [True, True]]
    dist = em.FactoredCategorical(random_logits(layout, (3,)), masks)
    target_of, slot, op = dist.sample((2000,)).unbind(-1)
    acts = op == 1
    assert (target_of != slot)[acts].all()
    assert enabled.expand(2000, -1, -1).gather(-1, target_of.unsqueeze(-1)).squeeze(-1)[acts].all()
    assert len({*zip(slot[:, 2][acts[:, 2]].tolist(), target_of[:, 2][acts[:, 2]].tolist())}) == 12


# -- gradients, rows and forms -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("floor", [None, 0.02])
def test_gradients(floor: float | None) -> None:
    masks, layout = cluster([[PENDING, READY, PENDING]] * 2, torch.rand(2, 3, 3) < 0.7)
    logits = random_logits(layout, (2,), by_slot=["node"])
    other = random_logits(layout, (2,), by_op=["slot"], by_slot=["node"], seed=1)
    leaves = [x.requires_grad_() for x in (*logits.values(), *other.values())]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        p = em.FactoredCategorical(dict(zip(logits, values[:3])), masks, by_slot=["node"], min_prob=floor)
        q = em.FactoredCategorical(dict(zip(other, values[3:])), masks, by_slot=["node"], min_prob=floor)
        return p.log_prob(action), p.raw_entropy(), p.entropy(), p.head_entropies(), kl_divergence(p, q)

    action = em.FactoredCategorical(logits, masks, by_slot=["node"]).sample()
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, nondet_tol=NONDETERMINISM)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 6e4])
def test_nothing_under_the_masks_reaches_anything(poison: float) -> None:
    torch.manual_seed(0)
    masks, layout = cluster(torch.randint(0, 2, (40, 3)).tolist(), torch.rand(40, 3, 4) < 0.5, nodes=4)
    clean, other = (random_logits(layout, (40,), by_slot=["node"], seed=seed) for seed in (0, 1))
    binds = masks.slot_by_op[:, 1].unsqueeze(-1)  # [batch, slots, 1]
    alive = {"slot": masks.slot_by_op[:, 1:].any(1), "node": masks.by_slot("node") & binds, "op": masks["op"]}
    action, noise, results = None, torch.rand(40, 3), []
    for dead in (None, poison):
        leaves = {
            name: (x if dead is None else x.masked_fill(~alive[name], dead)).clone().requires_grad_()
            for name, x in clean.items()
        }
        dist = em.FactoredCategorical(leaves, masks, by_slot=["node"], min_prob={"node": 0.02})
        q = em.FactoredCategorical(other, masks, by_slot=["node"])
        action = dist.mode if action is None else action
        outputs = [dist.log_prob(action), dist.raw_entropy(), dist.entropy(), dist.head_entropies()]
        outputs += [kl_divergence(dist, q), kl_divergence(q, dist)]
        gradients = torch.autograd.grad(sum(output.sum() for output in outputs), list(leaves.values()))
        for name, gradient in zip(leaves, gradients):
            assert (gradient[~alive[name]] == 0).all()
        results.append([*outputs, *gradients, dist.sample(noise=noise), dist.mode, dist.faults])
    assert not any(result.isnan().any() for result in results[0])
    assert all(torch.equal(*pair) for pair in zip(*results))


def test_any_leading_shape_and_some_rows() -> None:
    torch.manual_seed(0)
    masks, layout = cluster(torch.randint(0, 2, (12, 3)).tolist(), torch.rand(12, 3, 3) < 0.6)
    logits = random_logits(layout, (12,), by_slot=["node"])
    noise = torch.rand(5, 12, 3, dtype=torch.float64)
    plain = em.FactoredCategorical(logits, masks, by_slot=("node",))
    drawn = plain.sample((5,), noise=noise)
    stacked = em.ActionMasks.stack([masks.at(slice(at, at + 4)) for at in (0, 4, 8)])
    shaped = {name: x.unflatten(0, (3, 4)) for name, x in logits.items()}
    dist = em.FactoredCategorical(shaped, stacked, by_slot=("node",))
    assert torch.equal(dist.sample((5,), noise=noise.unflatten(1, (3, 4))).flatten(1, 2), drawn)
    assert torch.equal(dist.log_prob(drawn.unflatten(1, (3, 4))).flatten(1), plain.log_prob(drawn))
    for name in ("raw_entropy", "entropy", "head_entropies"):
        assert torch.equal(getattr(dist, name)().flatten(0, 1), getattr(plain, name)())
    assert torch.equal(dist[1, 2:].sample((5,), noise=noise[:, 6:8]), drawn[:, 6:8])
    assert torch.equal(plain.expand((2, 12)).mode[1], plain.mode)
    one = em.FactoredCategorical({name: x[7] for name, x in logits.items()}, masks.select(7), by_slot=("node",))
    assert one.sample((2,), noise=noise[:2, 7]).tolist() == drawn[:2, 7].tolist()
    empty = em.FactoredCategorical({name: x[:0] for name, x in logits.items()}, masks.at(slice(0, 0)), by_slot=["node"])
    assert empty.sample((2,)).shape == (2, 0, 3)
    assert empty.head_entropies().shape == (0, 3)


def test_logits_of_the_slot_by_op_beside_a_head_by_slot() -> None:
    masks, layout = cluster([[PENDING, READY, PENDING]], [[[True, True, False]] * 3])
    logits = random_logits(layout, (1,), by_op=["slot"], by_slot=["node"])
    assert logits["slot"].shape == logits["node"].shape == (1, 3, 3)  # shapes alone do not tell
    dist = em.FactoredCategorical(logits, masks, by_slot=["node"])
    noise = torch.rand(1, 3, dtype=torch.float64)
    assert_equals_row(dist, row_of(masks, logits, 0, ["node"]), 0, noise, dist.sample(noise=noise))
    by_op = em.FactoredCategorical(logits, masks)
    assert_equals_row(by_op, row_of(masks, logits, 0), 0, noise, by_op.sample(noise=noise))
    assert not torch.equal(by_op.raw_entropy(), dist.raw_entropy())


def test_nothing_reads_the_device_and_the_batch_adds_no_op() -> None:
    counts = []
    for batch in (2, 300):
        torch.manual_seed(0)
        masks, layout = cluster(torch.randint(0, 2, (batch, 3)).tolist(), torch.rand(batch, 3, 4) < 0.6, nodes=4)
        logits = random_logits(layout, (batch,), by_slot=["node"])
        em.FactoredCategorical(logits, masks, by_slot=["node"], min_prob=0.01)
        with OpRecorder() as recorder:
            dist = em.FactoredCategorical(logits, masks, by_slot=["node"], min_prob=0.01, validate="flag")
            action = dist.sample()
            dist.log_prob(action), dist.raw_entropy(), dist.entropy(), dist.head_entropies(), dist.mode, dist.faults
            kl_divergence(dist, dist)
        assert not any(name in op for op in recorder.ops for name in HOST_READS)
        counts.append(recorder.ops)
    assert counts[0] == counts[1]


# -- arguments that do not fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by_slot", "message"),
    [
        ("node", r"by_slot='node'; wanted the names of heads whose logits depend on the slot: some of node, zone"),
        (("slot",), r"by_slot=\('slot',\); wanted the names of heads"),
        (("node", "op"), r"by_slot=\('node', 'op'\); wanted the names of heads"),
        (["nodes"], r"by_slot=\['nodes'\]; wanted the names of heads"),
        (("zone",), r"by_slot names 'zone', which OP2 uses without a slot"),
    ],
)
def test_heads_that_cannot_be_by_slot(by_slot: Any, message: str) -> None:
    heads = [head_of("node", 3, {1: range(3)}, 3), head_of("zone", 2, {1: range(2), 2: range(2)}, 3)]
    layout = layout_of(3, 2, [1], heads)
    some = {"op": torch.ones(1, 3, dtype=torch.bool), "slot": torch.ones(1, 2, dtype=torch.bool)}
    masks = em.ActionMasks.from_bools(layout, some)
    with pytest.raises(ValueError, match=message):
        em.FactoredCategorical(random_logits(layout, (1,)), masks, by_slot=by_slot)


def test_logits_that_are_not_by_slot() -> None:
    masks, layout = cluster([[PENDING, READY]], [[[True] * 3] * 2])
    with pytest.raises(
        ValueError, match=r"flat logits have no room for slots; give a mapping, .*\[..., 2, n\] for node"
    ):
        em.FactoredCategorical(torch.zeros(1, 8), masks, by_slot=["node"])
    with pytest.raises(ValueError, match=r"head 'node' have shape \(1, 3\); wanted \(1, 2, 3\), leading axes"):
        em.FactoredCategorical(random_logits(layout, (1,)), masks, by_slot=["node"])
    with pytest.raises(ValueError, match=r"head 'node' have a row for each slot: say by_slot=\('node',\)"):
        em.FactoredCategorical(random_logits(layout, (1,), by_slot=["node"]), masks)
    alone = independent({"a": 2})
    with pytest.raises(ValueError, match=r"by_slot=\['a'\]; .*: none, as this layout has no such head"):
        em.FactoredCategorical(
            {"a": torch.zeros(2)}, em.ActionMasks.from_bools(alone, {"a": torch.ones(2).bool()}), by_slot=["a"]
        )
