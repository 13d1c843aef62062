"""The distribution of whole actions: against enumeration and the loop oracle, in both forms."""

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

import esper_masks as em
from esper_masks import reference
from esper_masks.reference.joint import joint_kl
from tests.conftest import UNROLLED
from tests.enumeration import head_of, layout_of
from tests.helpers import (
    NONDETERMINISM,
    as_bools,
    assert_near,
    chi_square_is_plausible,
    random_states,
    seeded,
    switch_settings,
)
from tests.strategies import Case, random_cases

pytestmark = [
    pytest.mark.usefixtures("form"),
    pytest.mark.parametrize("form", ["stacked", "quick", *UNROLLED], indirect=True),
]
NAMES = em.rulesets()
LOWEST = torch.finfo(torch.float64).min


def make(name: str, batch: int, slots: int = 3, **switches: object) -> tuple[em.MaskEngine, em.ActionMasks]:
    engine = em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(slots)], **switches)
    states = random_states(engine, batch, stages=range(11))
    states[: batch // 4] = engine.empty_slots(batch // 4)  # so that GERMINATE is legal somewhere
    return engine, engine(states)


def random_logits(
    masks: em.ActionMasks, by_op: Sequence[str] = (), dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    generator = seeded(seed)
    layout = masks.layout
    return {
        head.name: torch.randn(
            *masks.shape, *((len(layout.ops),) if head.name in by_op else ()), head.size, generator=generator
        ).to(dtype)
        for head in layout.heads
    }


def flat(logits: Mapping[str, Tensor]) -> Tensor:
    return torch.cat(list(logits.values()), -1)


def oracle(
    engine: em.MaskEngine, masks: em.ActionMasks, logits: Mapping[str, Tensor], env: int, **settings: Any
) -> Any:
    one = {name: mask[env].tolist() for name, mask in as_bools(masks).items() if name != "joint"}
    rows = {name: values[env].double().tolist() for name, values in logits.items()}
    return reference.Joint(engine.rules, one, rows, **settings)


def all_actions(engine: em.MaskEngine) -> Tensor:
    return engine.joint_actions.decode(torch.arange(engine.joint_actions.size))


def assert_equals_oracle(
    dist: em.FactoredCategorical, joint: Any, env: int, actions: Tensor, noise: Tensor, drawn: Tensor
) -> None:
    """Everything that one row gives."""
    names = dist.masks.layout.head_names
    row = dist[env]
    assert {names[h] for h in range(len(names)) if int(row.faults) >> h & 1} == joint.faults
    assert row.legal(actions).tolist() == [joint.legal(action) for action in actions.tolist()]
    if joint.faults:
        assert drawn[env].tolist() == row.mode.tolist() == [-1] * len(names)
        assert row.log_prob(actions[0]) == row.raw_entropy() == row.entropy() == row.head_entropies().sum() == 0
        return
    assert_near(row.log_prob(actions), [joint.log_prob(action) for action in actions.tolist()])
    assert_near(row.raw_entropy(), joint.raw_entropy())
    assert_near(row.entropy(), joint.entropy())
    assert_near(row.head_entropies(), joint.head_entropies())
    action = joint.mode()
    assert row.mode.tolist() == action
    assert_near(row.head_log_probs(torch.tensor(action)), joint.head_log_probs(action))
    uniforms = noise[env].tolist()
    if min(joint.edge_distances(uniforms)) > 1e-9:
        assert drawn[env].tolist() == joint.sample(uniforms)


CONDITIONS: list[tuple[tuple[str, ...], Any]] = [
    ((), None),
    (("slot",), 0.01),
    (("slot", "every other"), {"op": 0.05}),
    ((), 0.3),  # more than some heads' choices, and some rows' slots, can have
    (("slot", "every other"), {"op": 0.9, "slot": 0.4, "blend": None}),
]


@pytest.mark.parametrize(("by_op", "floor"), CONDITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_equals_enumeration(name: str, by_op: tuple[str, ...], floor: Any) -> None:
    for setting in switch_settings(em.ruleset(name)):
        engine, masks = make(name, 12 if not setting else 3, **setting)
        if isinstance(floor, dict):
            floor = {head: value for head, value in floor.items() if head in masks}
        if len(by_op) > 1:
            by_op = tuple(name for name in masks if name != "op")
        logits, other = random_logits(masks, by_op), random_logits(masks, by_op[:1], seed=5)
        dist = em.FactoredCategorical(logits, masks, min_prob=floor)
        q = em.FactoredCategorical(other, masks, min_prob=floor)
        noise = torch.rand(*masks.shape, len(masks), dtype=torch.float64)
        drawn, divergence, actions = dist.sample(noise=noise), kl_divergence(dist, q), all_actions(engine)
        back = kl_divergence(q, dist)  # one of them may have logits for each op where the other has not
        actions = actions if len(actions) < 100 else actions[torch.randperm(len(actions))[:200]]
        for env in range(len(divergence)):
            joint = oracle(engine, masks, logits, env, min_prob=floor)
            assert_equals_oracle(dist, joint, env, actions, noise, drawn)
            theirs = oracle(engine, masks, other, env, min_prob=floor)
            assert_near(divergence[env], joint_kl(joint, theirs))
            assert_near(back[env], joint_kl(theirs, joint))


@pytest.mark.parametrize("name", NAMES)
def test_log_probs_over_every_whole_action_sum_to_one(name: str) -> None:
    """The brute force in tensors, over every legal whole action of many rows."""
    engine, masks = make(name, 60)
    logits, other = random_logits(masks), random_logits(masks, seed=3)
    p, q = em.FactoredCategorical(flat(logits), masks), em.FactoredCategorical(flat(other), masks)
    actions, legal = all_actions(engine).unsqueeze(1).expand(-1, 60, -1), masks.joint().T
    log_p, log_q = p.log_prob(actions), q.log_prob(actions)
    assert torch.equal(log_p > -math.inf, legal)
    assert torch.equal(p.legal(actions), legal)
    probs = log_p.exp()
    assert_near(probs.sum(0), [1.0] * 60)
    assert_near(p.raw_entropy(), -(probs * log_p.masked_fill(~legal, 0)).sum(0))
    assert_near(kl_divergence(p, q), (probs * (log_p - log_q).masked_fill(~legal, 0)).sum(0))
    assert_near(p.entropy() * masks.count().clamp_min(2).double().log(), p.raw_entropy())
    assert torch.equal(masks.count(), legal.sum(0))
    assert (p.entropy() <= 1 + 1e-9).all()


value = st.one_of(st.floats(-3, 3), st.sampled_from([-math.inf, -1e4, -1e30, -1e38, LOWEST, 50.0, math.nan, math.inf]))


@given(random_cases(), st.data())
def test_random_rules_equal_the_oracle(case: Case, data: st.DataObject) -> None:
    """Rules of any make, restricted masks, any logits, heads with logits for each op, a floor or none."""
    engine, masks = case.engine, case.masks()
    layout = masks.layout
    extra = [head for head in layout.heads if head.name not in ("slot", "op")]
    if extra and data.draw(st.booleans()):
        head = data.draw(st.sampled_from(extra))
        keep = data.draw(st.lists(st.booleans(), min_size=head.size, max_size=head.size))
        masks = masks.restrict(**{head.name: torch.tensor(keep)})
    by_op = data.draw(st.lists(st.sampled_from([n for n in layout.head_names if n != "op"]), unique=True))
    logits = random_logits(masks, by_op, seed=data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(0, 2))):
        values = logits[data.draw(st.sampled_from(layout.head_names))].view(-1)
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(value)
    each = st.sampled_from([None, 0.0, 0.1, 0.3, 0.7])
    floor = data.draw(st.one_of(each, st.dictionaries(st.sampled_from(layout.head_names), each)))
    dist = em.FactoredCategorical(logits, masks, min_prob=floor, validate="flag")
    noise = torch.rand(*masks.shape, len(masks), dtype=torch.float64)
    drawn, actions = dist.sample(noise=noise), all_actions(engine)
    for env in range(len(drawn)):
        joint = oracle(engine, masks, logits, env, min_prob=floor)
        assert_equals_oracle(dist, joint, env, actions, noise, drawn)


def test_choices_that_depend_on_the_op() -> None:
    """Both ops are legal and neither may take the other's choices."""
    stage, act = IntEnum("Stage", "ON", start=0), IntEnum("Act", "WAIT LEFT RIGHT", start=0)
    rules = em.MaskRules(
        name="turns",
        stages=stage,
        transitions={stage.ON: ()},
        empty=stage.ON,
        op_rules=[em.Op(act.WAIT, always=True), *(em.Op(op, acts_in=[stage.ON], uses=["how"]) for op in list(act)[1:])],
        heads=[
            em.Head("slot"),
            em.Head("how", [*"ABC"], by_op={act.LEFT: ["A"], act.RIGHT: ["B", "C"]}, closed=["C"]),
            em.Head("op"),
        ],
    )
    engine = em.MaskEngine(rules, ["s"])
    masks = engine(engine.empty_slots(50))
    assert masks["how"][0].tolist() == [True, True, True]
    logits = random_logits(masks)
    dist = em.FactoredCategorical(logits, masks)
    noise = torch.rand(50, 3, dtype=torch.float64)
    drawn = dist.sample(noise=noise)
    assert dist.legal(drawn).all()
    crossed = torch.tensor([[0, 1, 1], [0, 0, 2], [0, 2, 1]])
    assert (dist.log_prob(crossed.unsqueeze(1).expand(-1, 50, -1)) == -math.inf).all()
    for env in range(50):
        assert_equals_oracle(dist, oracle(engine, masks, logits, env), env, all_actions(engine), noise, drawn)
    shut = masks.restrict(op=torch.tensor([True, False, False]))
    assert shut["how"][0].tolist() == [False, False, True]
    assert_near(em.FactoredCategorical(logits, shut).head_entropies()[:, 1], [0.0] * 50)


def test_an_action_of_probability_zero_gives_no_gradient() -> None:
    _engine, masks = make("esper-2025-12", 8)
    logits = random_logits(masks)
    logits["op"][:, 0] = -math.inf
    leaves = {name: x.requires_grad_() for name, x in logits.items()}
    dist = em.FactoredCategorical(leaves, masks, validate="flag")
    wait = torch.zeros(8, 4, dtype=torch.int64)
    acts = dist.faults == 0  # where only WAIT is legal nothing is left
    assert acts.any()
    score = dist.log_prob(wait)
    assert (score[acts] == -math.inf).all()
    [gradient] = torch.autograd.grad(score[acts].sum(), leaves["op"])
    assert (gradient == 0).all()


# -- what must not matter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["esper-2025-12", "esper-2026-06"])
def test_nothing_under_the_masks_reaches_anything(name: str, dtype: torch.dtype) -> None:
    _engine, masks = make(name, 40)
    clean, other = random_logits(masks, dtype=dtype), random_logits(masks, dtype=dtype, seed=1)
    slots = masks.slot_by_op[:, 1:].any(1)  # no other slot can be drawn
    dead = {head: ~(slots if head == "slot" else masks[head]) for head in masks}
    action = em.FactoredCategorical(clean, masks).mode
    noise = torch.rand(40, len(masks))

    def everything(poison: float | None) -> list[Tensor]:
        results = []
        for floor in (None, 0.01):
            leaves = {
                head: (x if poison is None else x.masked_fill(dead[head], poison)).clone().requires_grad_()
                for head, x in clean.items()
            }
            dist = em.FactoredCategorical(leaves, masks, min_prob=floor)
            q = em.FactoredCategorical(other, masks, min_prob=floor)
            outputs = [dist.log_prob(action), dist.raw_entropy(), dist.entropy(), dist.head_entropies()]
            outputs += [kl_divergence(dist, q), kl_divergence(q, dist)]
            for output in outputs:
                gradients = torch.autograd.grad(output.sum(), list(leaves.values()), retain_graph=True)
                for head, gradient in zip(leaves, gradients):
                    assert gradient.dtype == dtype
                    assert (gradient[dead[head]] == 0).all()
                results += gradients
            results += [*outputs, dist.sample(noise=noise), dist.mode, dist.faults]
        return results

    expected = everything(None)
    assert not any(result.isnan().any() for result in expected)
    for poison in (math.nan, math.inf, -math.inf, 6e4, -6e4):
        for ours, result in zip(everything(poison), expected, strict=True):
            assert torch.equal(ours, result)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_that_the_op_ignores_adds_nothing(name: str) -> None:
    _engine, masks = make(name, 200)
    leaves = {head: x.requires_grad_() for head, x in random_logits(masks).items()}
    dist = em.FactoredCategorical(leaves, masks)
    action = dist.sample()
    scores = dist.head_log_probs(action)
    gradients = torch.autograd.grad(dist.log_prob(action).sum(), list(leaves.values()))
    for at, head in enumerate(masks.layout.heads):
        ignored = (torch.tensor(head.users) >> action[:, -1] & 1) == 0
        assert (scores[ignored, at] == 0).all()
        assert (gradients[at][ignored] == 0).all()
        assert (action[ignored, at] == head.canonical).all()
        anything = action.clone()
        anything[ignored, at] = 99
        assert torch.equal(dist.log_prob(anything), dist.log_prob(action))
        assert dist.legal(anything).all()


@pytest.mark.slow
@pytest.mark.parametrize("floor", [None, 0.02])
def test_gradients(floor: float | None) -> None:
    _engine, masks = make("esper-2025-12", 4, slots=2)
    logits = flat(random_logits(masks)).requires_grad_()
    other = flat(random_logits(masks, seed=2)).requires_grad_()

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        p = em.FactoredCategorical(x, masks, min_prob=floor)
        q = em.FactoredCategorical(y, masks, min_prob=floor)
        return p.log_prob(action), p.raw_entropy(), p.entropy(), p.head_entropies(), kl_divergence(p, q)

    action = em.FactoredCategorical(logits, masks, min_prob=floor).sample()
    assert torch.autograd.gradcheck(function, (logits, other), check_forward_ad=True, nondet_tol=NONDETERMINISM)


def test_divergence_where_supports_differ() -> None:
    engine, masks = make("esper-2026-06", 30)
    narrow = masks.restrict(op=torch.arange(6) != 1, alpha_speed=torch.tensor([True, False, True, True]))
    logits = random_logits(masks)
    p, q = em.FactoredCategorical(logits, masks), em.FactoredCategorical(logits, narrow)
    lacking = (masks.joint() & ~narrow.joint()).any(-1)
    assert lacking.any()
    assert not lacking.all()
    assert torch.equal(kl_divergence(p, q) == math.inf, lacking)
    assert kl_divergence(q, p).isfinite().all()
    leaf = flat(logits).requires_grad_()
    [gradient] = torch.autograd.grad(kl_divergence(em.FactoredCategorical(leaf, masks), q).sum(), leaf)
    assert gradient.isfinite().all()  # rows without support too
    expected = [joint_kl(oracle(engine, narrow, logits, env), oracle(engine, masks, logits, env)) for env in range(30)]
    assert_near(kl_divergence(q, p), expected)
    with pytest.raises(ValueError, match="p has batch"):
        kl_divergence(p, q[:3])
    with pytest.raises(ValueError, match="other heads, ops or slots"):
        kl_divergence(p, em.FactoredCategorical(torch.zeros(30, 15), make("esper-2025-12", 30)[1]))


@pytest.mark.parametrize("floor", [0.0, {"slot": 0.01}])
def test_divergence_behind_an_op_whose_probability_underflows(floor: Any) -> None:
    """Its log-probability is finite, so that q lacks support, however little weighs on it."""
    _engine, masks = make("esper-2025-12", 8)
    logits = random_logits(masks, dtype=torch.float32)
    logits["op"][:, 1] = -200.0  # GERMINATE
    narrow = masks.restrict(blueprint=torch.tensor([True, True, False, True, True]))
    p, q = (em.FactoredCategorical(logits, legal, min_prob=floor) for legal in (masks, narrow))
    lacking = (masks.joint() & ~narrow.joint()).any(-1)
    assert lacking.any()
    assert torch.equal(kl_divergence(p, q) == math.inf, lacking)
    logits["op"][:, 1] = -math.inf
    p, q = (em.FactoredCategorical(logits, legal, min_prob=floor) for legal in (masks, narrow))
    assert (kl_divergence(p, q) == 0).all()


def test_support() -> None:
    engine, masks = make("esper-2025-12", 6)
    dist = em.FactoredCategorical(torch.zeros(6, 15), masks)
    assert dist.support.check(dist.sample()).all()
    assert not dist.support.check(torch.tensor([[3, 0, 0, 0], [0, 0, -1, 0]])).any()
    every = dist.enumerate_support()
    assert every.shape == (engine.joint_actions.size, 6, 4)
    assert torch.equal(every[:, 2], all_actions(engine))
    assert torch.equal(dist.legal(every).T, masks.joint())
    assert_near(dist.log_prob(every).exp().sum(0), torch.ones(6))
    narrow = dist.enumerate_support(expand=False)
    assert torch.equal(narrow.expand(-1, 6, -1), every)
    for function in (dist.log_prob, dist.head_log_probs, dist.legal, dist.action_faults):
        assert torch.equal(function(narrow), function(every))


def test_what_has_no_generator_and_no_gradient_says_what_has() -> None:
    _engine, masks = make("esper-2025-12", 6)
    dist, generator = em.FactoredCategorical(torch.zeros(6, 15), masks), torch.Generator()
    message = r"sampling takes no generator; .*: noise=torch.rand\(\(2, 6, 4\), generator=generator"
    for function in (dist.sample, dist.sample_and_log_prob):
        with pytest.raises(TypeError, match=message):
            function((2,), generator=generator)
    with pytest.raises(NotImplementedError, match=r"actions are discrete .* sum over enumerate_support\(\)"):
        dist.rsample()


# -- stored actions ---------------------------------------------------------------------------------------------------


@given(random_cases(), st.data())
def test_action_faults_of_random_rules_are_those_of_the_oracle(case: Case, data: st.DataObject) -> None:
    """Rules of any make, restricted masks, heads with logits for each op, whole actions of any values."""
    engine, masks = case.engine, case.masks()
    layout = masks.layout
    extra = [head for head in layout.heads if head.name not in ("slot", "op")]
    if extra and data.draw(st.booleans()):
        head = data.draw(st.sampled_from(extra))
        keep = data.draw(st.lists(st.booleans(), min_size=head.size, max_size=head.size))
        masks = masks.restrict(**{head.name: torch.tensor(keep)})
    by_op = data.draw(st.lists(st.sampled_from([n for n in layout.head_names if n != "op"]), unique=True))
    logits = random_logits(masks, by_op)
    values = logits[data.draw(st.sampled_from(layout.head_names))].view(-1)
    values[data.draw(st.integers(0, len(values) - 1))] = data.draw(value)
    active = torch.rand(masks.shape) < 0.8
    dist = em.FactoredCategorical(logits, masks, active=active, validate=data.draw(st.sampled_from(["flag", "off"])))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    most = max(head.size for head in layout.heads)
    actions = torch.randint(-1, most + 1, (8, *masks.shape, len(masks)), generator=generator)
    every = all_actions(engine)
    picked = every[torch.randint(len(every), (8, *masks.shape), generator=generator)]
    actions = torch.cat([actions, picked])  # few of the first are legal
    words, names = dist.action_faults(actions), layout.head_names
    assert words.dtype == torch.int64
    assert torch.equal(dist.action_faults(actions[0]), words[0])
    for env in range(len(active)):
        joint = oracle(engine, masks, logits, env)
        own = sum(1 << at for at, head in enumerate(names) if head in joint.faults)
        illegal = [0 if joint.legal(action) else 1 << len(names) for action in actions[:, env].tolist()]
        expected = [0] * 16 if not active[env] else [own] * 16 if own else illegal
        assert words[:, env].tolist() == expected


def test_an_illegal_action_is_told_from_one_of_probability_zero() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    masks = engine(engine.pack_slots([{"mid": em.SlotState(stage=4, age=2)}] * 8))
    logits = torch.zeros(8, 15)
    logits[0, 11], logits[1, 12] = -math.inf, -3e38  # WAIT; GERMINATE beyond what fp32 can tell of
    logits[1, 11] = 3e38
    logits[6] = math.nan
    dist = em.FactoredCategorical(logits, masks, active=torch.arange(8) != 7, validate="flag")
    wait, germinate, cull_early, cull = [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 2], [1, 0, 0, 2]
    actions = torch.tensor([wait, germinate, cull_early, cull, [-1] * 4, [1, 9, -5, 2], wait, [-1] * 4])
    scores, words = dist.log_prob(actions), dist.action_faults(actions)
    assert scores[:6].isinf().tolist() == [True, True, True, False, True, False]
    assert words.tolist() == [0, 0, 16, 0, 16, 0, 0b1111, 0]
    assert dist.action_faults(actions.expand(2, 3, 8, 4).to(torch.int8))[1, 2].tolist() == words.tolist()
    with pytest.raises(em.InvalidStateMachineError) as caught:
        em.raise_on_fault(dist.action_faults(actions[:6].repeat(2, 1)[:8]), heads=dist.fault_names)
    said = str(caught.value)
    assert said.startswith("3 of 8 rows are faulty: row 2 (illegal action), row 4 (illegal action), row 6 (slot, ")
    assert "masks or actions were written to since the decision" in said
    em.raise_on_fault(dist[:6].action_faults(dist[:6].sample((50,))), heads=dist.fault_names)


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "draws"), [("esper-2025-11", 16), ("esper-2025-12", 120), ("esper-2026-06", 40)])
def test_ten_million_draws_are_legal(name: str, draws: int, form: str) -> None:
    """In both forms together 1.4 times 10^7 whole actions; independent heads would give a third of them illegal."""
    torch.manual_seed(0)
    engine, masks = make(name, 40_000)
    logits = flat(random_logits(masks, dtype=torch.float32)) * 4
    dist = em.FactoredCategorical(logits, masks)
    for _ in range(draws // 4):
        drawn = dist.sample((4,))
        assert dist.legal(drawn).all()
    assert engine.joint_actions.encode(drawn).min() >= 0
    assert (dist.log_prob(drawn) > -math.inf).all()


@pytest.mark.parametrize("name", ["esper-2025-12", "esper-2026-06"])
def test_frequencies_are_those_of_the_probabilities(name: str) -> None:
    torch.manual_seed(0)
    engine, masks = make(name, 4)
    dist = em.FactoredCategorical(flat(random_logits(masks)) * 2, masks, min_prob=0.01)
    index = engine.joint_actions.encode(dist.sample((200_000,)))
    probs = dist.log_prob(all_actions(engine).unsqueeze(1).expand(-1, 4, -1)).exp()
    for env in range(4):
        counts, expected = torch.bincount(index[:, env], minlength=len(probs)), probs[:, env]
        assert not counts[expected == 0].any()
        rare = expected * 200_000 < 10  # pooled, as the test wants counts that are not small
        pooled = torch.cat([counts[~rare], counts[rare].sum().view(1)])
        assert chi_square_is_plausible(pooled, torch.cat([expected[~rare], expected[rare].sum().view(1)]))


def test_both_ends_of_the_noise() -> None:
    _engine, masks = make("esper-2026-06", 300)
    dist = em.FactoredCategorical(flat(random_logits(masks, dtype=torch.float16)), masks)
    for noise in (0.0, 1.0, 1 - 2**-24, math.nan, -3.0, 3.0):
        assert dist.legal(dist.sample(noise=torch.full((300, 8), noise))).all()


# -- rows -------------------------------------------------------------------------------------------------------------


def test_any_leading_shape() -> None:
    _engine, masks = make("esper-2026-06", 24)
    logits = flat(random_logits(masks, dtype=torch.float32))
    noise = torch.rand(5, 24, 8)
    plain = em.FactoredCategorical(logits, masks)
    assert isinstance(plain, Distribution)
    assert (plain.batch_shape, plain.event_shape) == ((24,), (8,))
    drawn = plain.sample((5,), noise=noise)
    for shape in ((4, 6), (2, 3, 4), (24, 1)):
        stacked = em.ActionMasks.from_words(
            masks.layout, masks.slot_words.reshape(*shape, 3), masks.op_words.reshape(shape)
        )
        dist = em.FactoredCategorical(logits.view(*shape, -1), stacked)
        assert torch.equal(dist.sample((5,), noise=noise.view(5, *shape, 8)), drawn.view(5, *shape, 8))
        assert torch.equal(dist.log_prob(drawn.reshape(5, *shape, 8)).flatten(1), plain.log_prob(drawn))
        assert torch.equal(dist.mode.flatten(0, -2), plain.mode)
        for ours, expected in (
            (dist.raw_entropy(), plain.raw_entropy()),
            (dist.head_entropies(), plain.head_entropies()),
            (dist.entropy(), plain.entropy()),
        ):
            assert torch.equal(ours.reshape(expected.shape), expected)
        assert dist.sample((2, 3)).shape == (2, 3, *shape, 8)
    one = em.FactoredCategorical(logits[7], masks.select(7))
    assert one.sample((2,), noise=noise[:2, 7]).tolist() == drawn[:2, 7].tolist()
    assert one.log_prob(drawn[0, 7]).shape == one.raw_entropy().shape == one.faults.shape == ()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    masks = engine(torch.ones(*shape, 3, 3, dtype=torch.int32))
    dist = em.FactoredCategorical(torch.zeros(*shape, 41), masks)
    assert dist.sample().shape == dist.mode.shape == dist.head_entropies().shape == (*shape, 8)
    assert dist.sample((2,)).shape == (2, *shape, 8)
    assert dist.log_prob(dist.sample((2,))).shape == (2, *shape)
    assert dist.raw_entropy().shape == dist.entropy().shape == dist.faults.shape == shape
    assert dist.legal(dist.mode).shape == kl_divergence(dist, dist).shape == shape


@pytest.mark.parametrize("slots", [1, 64])
def test_one_slot_and_many(slots: int) -> None:
    engine, masks = make("esper-2026-06", 50, slots=slots)
    logits = random_logits(masks)
    dist = em.FactoredCategorical(logits, masks)
    noise = torch.rand(50, 8, dtype=torch.float64)
    drawn = dist.sample(noise=noise)
    for env in range(0, 50, 10):
        assert_equals_oracle(dist, oracle(engine, masks, logits, env), env, drawn, noise, drawn)


def test_no_enabled_slot_and_forced_rows() -> None:
    engine, _ = make("esper-2026-06", 1)
    states = engine.empty_slots(2)
    masks = engine(states, enabled=torch.tensor([[False] * 3, [True] * 3]))
    dist = em.FactoredCategorical(torch.zeros(2, 41, requires_grad=True), masks)
    assert dist.sample()[0].tolist() == dist.mode[0].tolist() == [0, 0, 2, 1, 2, 0, 0, 0]
    assert masks.forced.tolist() == [True, False]
    assert dist.entropy()[0] == dist.raw_entropy()[0] == dist.log_prob(dist.mode)[0] == 0
    half, ways = math.log(2), 3 * 7 * 4 * 3 * 3  # WAIT or GERMINATE, and the ways to germinate
    assert_near(dist.raw_entropy()[1], half + math.log(ways) / 2)
    assert not dist.faults.any()


def test_expand_and_index() -> None:
    _engine, masks = make("esper-2026-06", 12)
    active = torch.arange(12) % 5 != 0
    dist = em.FactoredCategorical(random_logits(masks, ["slot"]), masks, active=active, min_prob=0.01)
    action, picked = dist.mode, torch.tensor([3, 0, 11])
    wide = dist.expand((2, 12))
    assert wide.batch_shape == (2, 12)
    assert torch.equal(wide.log_prob(action.expand(2, -1, -1))[1], dist.log_prob(action))
    for index in (picked, slice(2, 9, 3), 4, active, None, ..., (..., picked), [0, 5]):
        part = dist[index]
        assert part.batch_shape == dist.faults[index].shape
        assert torch.equal(part.mode, dist.mode[index if not isinstance(index, tuple) else picked])
        assert torch.equal(part.raw_entropy(), dist.raw_entropy()[index])
    assert torch.equal(wide[1, picked].mode, dist.mode[picked])
    deep, first, last = dist.expand((2, 3, 12)), torch.tensor([0, 1]), torch.tensor([7, 2])
    for index in ((first, slice(None), last), (first, ..., last), (0, slice(None), picked), (slice(None), [2, 0])):
        assert deep[index].batch_shape == deep.faults[index].shape
        assert torch.equal(deep[index].mode, deep.mode[(*index, slice(None))])
        assert torch.equal(deep[index].masks.joint(), deep.masks.joint()[(*index, slice(None))])
    for index in ((0, 0), 12):
        with pytest.raises(IndexError, match=r"dimension 1|dimension 0 with size 12"):
            dist[index]
    with pytest.raises(ValueError, match=r"batch \(12,\) does not expand to \(5,\)"):
        dist.expand((5,))
    with pytest.raises(ValueError, match=r"batch \(12,\) does not expand to \(5,\)"):
        masks.expand((5,))
    assert repr(dist).startswith("FactoredCategorical(batch_shape=(12,), heads=(slot: 3, blueprint: 13,")


@pytest.mark.parametrize("validate", ["raise", "flag", "off"])
def test_inactive_rows_are_neutral(validate: Any) -> None:
    """Padding: no legal op, poisoned logits or a state like any other, they add nothing and never fault."""
    engine, masks = make("esper-2025-12", 8)
    words = masks.slot_words.clone(), masks.op_words.clone()
    words[0][2], words[1][2] = 0, 0
    masks, active = em.ActionMasks.from_words(engine.layout, *words), torch.arange(8) % 3 != 2
    logits = flat(random_logits(masks, dtype=torch.float32))
    logits[5] = math.nan
    leaf, noise = logits.requires_grad_(), torch.rand(8, 4)
    dist = em.FactoredCategorical(leaf, masks, active=active, min_prob=0.01, validate=validate)
    alone = em.FactoredCategorical(leaf[active], masks.select(active), min_prob=0.01)
    action = dist.sample(noise=noise)
    assert (dist.faults == 0).all()
    assert torch.equal(action[active], alone.sample(noise=noise[active]))
    assert (action[~active] == -1).all()
    assert (dist.mode[~active] == -1).all()
    outputs = [
        dist.log_prob(action),
        dist.raw_entropy(),
        dist.entropy(),
        dist.head_entropies(),
        kl_divergence(dist, dist),
    ]
    outputs += [dist.log_prob(torch.full((8, 4), 77))]
    for output in outputs:
        assert (output[~active] == 0).all()
    assert (outputs[-1][active] == -math.inf).all()
    assert torch.equal(outputs[0][active], alone.log_prob(action[active]))
    [gradient] = torch.autograd.grad(sum(output.sum() for output in outputs[:-1]), leaf)
    assert gradient.isfinite().all()
    assert (gradient[~active] == 0).all()
    assert not dist.legal(action)[~active].any()


def test_masks_that_came_from_elsewhere() -> None:
    engine, masks = make("esper-2025-12", 40)
    bools = em.ActionMasks.from_bools(engine.layout, dict(masks), masks.slot_by_op)
    logits, noise = flat(random_logits(masks)), torch.rand(40, 4)
    dist, other = em.FactoredCategorical(logits, masks), em.FactoredCategorical(logits, bools)
    assert torch.equal(dist.sample(noise=noise), other.sample(noise=noise))
    assert torch.equal(dist.log_prob(dist.mode), other.log_prob(dist.mode))
    stored = em.ActionMasks.from_words(engine.layout, masks.slot_words.to(torch.uint8))
    assert torch.equal(em.FactoredCategorical(logits, stored).sample(noise=noise), dist.sample(noise=noise))


def test_a_head_s_own_entropy_does_not_depend_on_the_op() -> None:
    """A bonus reaches the blueprint although GERMINATE is almost never drawn."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    masks = engine(engine.empty_slots(1))
    logits = {head: torch.zeros(1, n, requires_grad=True) for head, n in zip(masks, (3, 5, 3, 4))}
    with torch.no_grad():
        logits["op"][0, 1] = -30.0
        logits["blueprint"][0, 2] = 1.0
    dist = em.FactoredCategorical(logits, masks, min_prob=0.01)
    assert 0.9 < dist.head_entropies()[0, 1] < 1
    [bonus] = torch.autograd.grad(dist.head_entropies().sum(), logits["blueprint"], retain_graph=True)
    assert bonus[0, 2] < -0.01
    plain = em.FactoredCategorical(logits, masks)
    assert torch.equal(dist.head_entropies(), plain.head_entropies())  # before the floor


@pytest.mark.parametrize("gap", [-95.0, -200.0])
def test_a_head_without_a_floor_beside_one_with(gap: float) -> None:
    """Its log-probabilities do not go through probabilities, which underflow."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    masks = engine(engine.empty_slots(2))
    logits = torch.zeros(2, 15)
    logits[:, 5] = gap
    action, results = torch.tensor([[0, 2, 0, 1]] * 2), []
    for floor in (None, {"op": 0.01}):
        leaf = logits.clone().requires_grad_()
        dist = em.FactoredCategorical(leaf, masks, min_prob=floor)
        scores = dist.head_log_probs(action)[:, 1]
        uniform = em.FactoredCategorical(torch.zeros(2, 15), masks, min_prob=floor)
        divergence = kl_divergence(uniform, dist)
        results.append((scores, *torch.autograd.grad(scores.sum() + divergence.sum(), leaf), divergence))
    for ours, expected in zip(*results):
        assert_near(ours[..., :11] if ours.ndim > 1 else ours, expected[..., :11] if ours.ndim > 1 else expected, 0.02)


@pytest.mark.parametrize(
    "floors", [0.01, [0.01] * 4, {"op": 0.01, "slot": 0.01, "blueprint": 0.01, "blend": 0.01}, (0.01,) * 4]
)
def test_floors_in_every_form(floors: Any) -> None:
    _engine, masks = make("esper-2025-12", 30)
    logits = flat(random_logits(masks))
    ours, expected = (em.FactoredCategorical(logits, masks, min_prob=value) for value in (floors, 0.01))
    assert torch.equal(ours.log_prob(expected.mode), expected.log_prob(expected.mode))
    for nothing in ([0.0] * 4, [None] * 4, {"op": None}, {}, None, 0.0):
        assert em.FactoredCategorical(logits, masks, min_prob=nothing).min_prob is None


def test_a_floor_that_only_the_legal_choices_can_have() -> None:
    """Blueprint 0.12: seven of thirteen are ever legal, so that each has it; op 0.5 is capped where two are legal."""
    _engine, masks = make("esper-2026-06", 40)
    logits = random_logits(masks)
    dist = em.FactoredCategorical(logits, masks, min_prob={"blueprint": 0.12, "op": 0.5})
    plain = em.FactoredCategorical(logits, masks)
    germinate = masks["op"][:, 1]
    assert germinate.any()
    action = torch.zeros(40, 8, dtype=torch.int64)
    action[:, -1] = 1
    ways = masks["op"].sum(-1).double()
    keep = 1 - 0.12 * 7
    for blueprint in masks["blueprint"][germinate][0].nonzero().flatten():
        action[:, 1] = blueprint
        ours, before = (d.head_log_probs(action)[germinate].exp() for d in (dist, plain))
        assert_near(ours[:, 1], before[:, 1] * keep + 0.12)
        most = 0.99 / ways[germinate]
        assert_near(ours[:, -1], torch.where(ways[germinate] == 1, 1, before[:, -1] * 0.01 + most))


def test_the_slot_s_floor_is_of_the_slots_of_its_op() -> None:
    """Three are empty, one is in training: 0.4 is possible for one slot and for two, and not for three."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), list("abcd"))
    masks = engine(engine.pack_slots([{"a": em.SlotState(3, 5)}]))
    logits = torch.zeros(1, 16)
    logits[0, 1] = math.log(2)  # germinating: 1/2, 1/4, 1/4
    dist = em.FactoredCategorical(logits, masks, min_prob={"slot": 0.4})
    scores = dist.head_log_probs(torch.tensor([[[1, 1, 0, 1]], [[2, 1, 0, 1]], [[0, 0, 0, 2]]])).exp()
    assert_near(scores[:, 0, 0], [0.335, 0.3325, 1.0])


def test_an_op_that_does_not_exist_uses_no_head() -> None:
    """Nor those that the first or the last op uses."""
    nodes = head_of("node", 2, dict.fromkeys((0, 2), (0, 1)), 3)
    layout = layout_of(3, 2, [0, 2], [nodes])
    masks = em.ActionMasks.from_words(layout, torch.full((2, 2), 0b101, dtype=torch.int32))
    dist = em.FactoredCategorical(torch.randn(2, layout.logit_size), masks)
    scores = dist.head_log_probs(torch.tensor([[1, 1, -1], [1, 1, 3]]))
    assert scores.tolist() == [[0.0, 0.0, -math.inf]] * 2
    assert (dist.head_log_probs(torch.tensor([[1, 1, 0], [1, 1, 2]])) < 0).all()
