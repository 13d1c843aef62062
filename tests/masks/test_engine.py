"""The engine equals the oracle: on anything hypothesis draws, and on the complete space of two slots."""

import dataclasses
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

import esper_masks as em
from esper_masks import reference
from esper_masks.masks.stage_words import or_over_slots
from tests.helpers import as_bools, assert_same_masks, assert_same_words, random_states, switch_settings
from tests.strategies import Case, batch_last, cases, random_cases, strided


def ghost_seed() -> Case:
    """A culled seed that kept changing stage, from a logged run: its slot is empty, then holds no known stage."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), ["block2_post"])
    states = torch.tensor([[[1, 9]], [[5, 9]]], dtype=torch.int32)
    return Case(engine, states, torch.tensor([2, 2], dtype=torch.int32), 0, None, {})


@given(case=cases())
@example(case=ghost_seed())
def test_engine_equals_the_oracle(case: Case) -> None:
    expected = reference.masks(
        case.engine.rules,
        case.states,
        case.total_seeds,
        max_seeds=case.max_seeds,
        enabled=case.enabled,
        joint=len(case.engine.slot_ids) <= 2,
    )
    masks = case.masks()
    assert_same_masks(masks, expected, case.states)
    assert masks.op_words.dtype == masks.slot_words.dtype == torch.int32


@settings(max_examples=200)
@given(case=random_cases())
def test_engine_equals_the_oracle_under_any_rules(case: Case) -> None:
    expected = reference.masks(
        case.engine.rules,
        case.states,
        case.total_seeds,
        max_seeds=case.max_seeds,
        enabled=case.enabled,
        joint=True,
    )
    masks = case.masks()
    assert_same_masks(masks, expected, case.states)
    assert torch.equal(masks.count(), masks.joint().sum(-1))
    codec = case.engine.joint_actions
    actions = codec.decode(torch.arange(codec.size))
    oracle = list(reference.joint_actions(case.engine.rules, len(case.engine.slot_ids)))
    assert [tuple(action) for action in actions.tolist()] == oracle
    assert torch.equal(codec.encode(actions), torch.arange(codec.size))


@pytest.mark.parametrize("name", em.rulesets())
def test_every_stage_integer(name: str) -> None:
    """-2 to 99 one by one, and the extremes of each dtype: never an index error, never a wrap to another row."""
    engine = em.MaskEngine(em.ruleset(name), ["a"])
    known = {int(stage) for stage in engine.rules.stages}
    for dtype in (torch.int16, torch.int32, torch.int64):
        limits = torch.iinfo(dtype)
        stages = torch.tensor([*range(-2, 100), limits.min, limits.min + 1, limits.max - 1, limits.max], dtype=dtype)
        states = torch.zeros(len(stages), 1, len(engine.rules.feature_names), dtype=dtype)
        states[:, 0, 0] = stages
        states[:, 0, 1] = 50
        masks = engine(states)
        assert_same_masks(masks, reference.masks(engine.rules, states), states)
        no_stage = torch.tensor([int(stage) not in known for stage in stages])
        assert masks.op_words[no_stage].eq(1).all()  # WAIT alone
        assert no_stage.sum() >= 95


LONG = ("esper-2026-06",)  # the oracle loops for a minute, and of an engine on a GPU the others say as much


# Two slots are enough for all. What is legal in a slot depends on its own features, on the environment's totals, and on
# the other slots only through "some enabled slot is in a blocking stage": one other slot in every state says all that
# any number of others can. The op mask is an OR over slots, and OR does not care how many or in which order; that the
# reduction really is an OR for 1 to 64 slots is tested below, by itself.
def complete_space(rules: em.MaskRules) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every pair of slots × enabled × below, at, above and without a limit: states, enabled, totals, limits."""
    stages = range(-1, max(rules.stages) + 2)
    thresholds = sorted({age + step for op in rules.op_rules if (age := op.min_age) is not None for step in (-1, 0, 1)})
    features = [range(-1, max(enum) + 1) for enum in rules.features.values()]
    slot = torch.tensor(list(product(stages, thresholds or [0], *features)), dtype=torch.int32)
    pairs = torch.cartesian_prod(torch.arange(len(slot)), torch.arange(len(slot)))
    enabled = torch.tensor(list(product((False, True), repeat=2)))
    seeds = torch.tensor([[1, 2], [2, 2], [3, 2], [3, 0]], dtype=torch.int32)
    grid = torch.cartesian_prod(torch.arange(len(pairs)), torch.arange(len(enabled)), torch.arange(len(seeds)))
    return slot[pairs[grid[:, 0]]], enabled[grid[:, 1]], *seeds[grid[:, 2]].unbind(-1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.cpu, pytest.mark.slow] * (name in LONG)) for name in em.rulesets()]
)
def test_two_slots_exhaustively(name: str) -> None:
    rules = em.ruleset(name)
    states, enabled, totals, limits = complete_space(rules)
    # heads follow from the words alone: what is legal per slot is compared for every state, the rest for every word
    verdicts: dict[str, Tensor] = {}  # the oracle's slot_by_op does not read heads, so settings may share one
    for setting in switch_settings(rules):
        engine = em.MaskEngine(rules, ["a", "b"], **setting)
        masks = engine(states, totals, max_seeds=limits, enabled=enabled)
        key = repr(engine.rules.op_rules)
        if key not in verdicts:
            verdicts[key] = torch.tensor(
                [
                    reference.slot_by_op(engine.rules, slots, enabled=on, total_seeds=total, max_seeds=limit)
                    for slots, on, total, limit in zip(*(t.tolist() for t in (states, enabled, totals, limits)))
                ]
            )
        assert_same_masks(masks, {"slot_by_op": verdicts[key]}, states)
        words = torch.cat([masks.slot_words, masks.op_words[:, None], enabled.int()], dim=1)
        _, first = torch.unique(words, dim=0, return_inverse=True)
        seen = torch.full((int(first.max()) + 1,), len(first)).scatter_reduce(
            0, first, torch.arange(len(first)), "amin"
        )
        expected = [
            reference.head_masks(engine.rules, verdicts[key][i].tolist(), enabled[i].tolist()) for i in seen.tolist()
        ]
        for one in expected:
            one["joint"] = reference.joint_mask(engine.rules, one, 2)
        assert_same_masks(masks.select(seen), {name: [one[name] for one in expected] for name in expected[0]})


@pytest.mark.parametrize("slots", range(1, 65))
def test_or_over_slots_is_an_or(slots: int) -> None:
    words = torch.randint(0, 2**31 - 1, (7, slots), dtype=torch.int32) & torch.randint(0, 2**31 - 1, (7, slots)).int()
    expected = [0] * 7
    for row, values in enumerate(words.tolist()):
        for value in values:
            expected[row] |= value
    assert or_over_slots(words).tolist() == expected


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 17, 64])
@pytest.mark.parametrize("name", em.rulesets())
def test_one_slot_alone_decides(name: str, slots: int) -> None:
    """Each slot in turn holds the only seed: the op mask and the blockers reach from every position to every other."""
    engine = em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(slots)])
    states = engine.empty_slots(slots)
    states[torch.arange(slots), torch.arange(slots), 0] = 3  # TRAINING: cullable, and a blocker in 2026-06
    states[..., 1] = 9
    assert_same_masks(engine(states), reference.masks(engine.rules, states), states)


@pytest.mark.parametrize("relayout", [batch_last, strided, torch.Tensor.contiguous])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_any_strides_and_integer_width(relayout: object, dtype: torch.dtype) -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    states = random_states(engine, 50)
    other = relayout(states.to(dtype))
    assert_same_words(engine(other), engine(states))


def test_any_leading_shape() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    states = random_states(engine, 24)
    totals = torch.arange(24) % 4
    flat = engine(states, totals, max_seeds=2)
    shaped = engine(states.reshape(2, 3, 4, 3, 3), totals.reshape(2, 3, 4), max_seeds=2)
    for name, mask in as_bools(shaped).items():
        assert mask.shape[:3] == (2, 3, 4)
        assert torch.equal(mask.reshape(24, *mask.shape[3:]), as_bools(flat)[name])
    single = engine(states[5], totals[5], max_seeds=2)
    for name, mask in as_bools(single).items():
        assert torch.equal(mask, as_bools(flat)[name][5])


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_empty_batch(slots: int) -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), [f"s{i}" for i in range(slots)])
    masks = engine(engine.empty_slots(0), torch.zeros(0, dtype=torch.int32), max_seeds=2)
    assert masks["op"].shape == (0, 6)
    assert masks.slot_by_op.shape == (0, 6, slots)
    assert masks.joint().shape == (0, engine.joint_actions.size)
    assert masks.forced.shape == (0,)


def test_a_row_without_enabled_slots_can_wait() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    masks = engine(engine.empty_slots(2), enabled=torch.tensor([[False] * 3, [True] * 3]))
    assert masks["op"].tolist() == [[True, False, False, False], [True, True, False, False]]
    assert masks["slot"].tolist() == [[False] * 3, [True] * 3]
    assert masks.forced.tolist() == [True, False]
    assert masks.count().tolist() == [1, 1 + 3 * 4 * 3]


def test_enabled_slots_of_the_engine_and_of_the_call() -> None:
    rules = em.ruleset("esper-2026-06")
    states = random_states(em.MaskEngine(rules), 200, stages=range(0, 11))
    whole = em.MaskEngine(rules)
    part = em.MaskEngine(rules, enabled=("r0c2", "r0c0"))
    mask = torch.tensor([True, False, True])
    assert_same_words(part(states), whole(states, enabled=mask))
    assert_same_words(part(states), whole(states, enabled=mask.expand(200, 3)))
    assert_same_words(
        part(states, enabled=torch.ones(3, dtype=torch.bool)), whole(states)
    )  # the call's own mask counts


def test_max_seeds_of_the_engine_and_of_the_call() -> None:
    rules = em.ruleset("esper-2025-12")
    states = em.MaskEngine(rules).empty_slots(4)
    totals = torch.tensor([0, 1, 2, 3])
    limited = em.MaskEngine(rules, max_seeds=2)
    expected = [True, True, False, False]
    assert limited(states, totals)["op"][:, 1].tolist() == expected
    assert limited(states, totals, max_seeds=torch.tensor([2, 1, 0, 9]))["op"][:, 1].tolist() == [
        True,
        False,
        True,
        True,
    ]
    assert limited(states, max_seeds=0)["op"][:, 1].all()
    assert em.MaskEngine(rules)(states, totals, max_seeds=2)["op"][:, 1].tolist() == expected


def test_a_changed_transition_changes_the_masks() -> None:
    rules = em.ruleset("esper-2025-12")
    stages = rules.stages
    training = stages["TRAINING"]
    changed = dataclasses.replace(
        rules, transitions={**rules.transitions, training: (stages["BLENDING"], stages["FOSSILIZED"])}
    )
    states = torch.tensor([[[3, 5]]])
    assert em.MaskEngine(rules, ["a"])(states)["op"].tolist() == [[True, False, True, False]]
    assert em.MaskEngine(changed, ["a"])(states)["op"].tolist() == [[True, False, False, True]]
