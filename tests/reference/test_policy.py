"""The oracle of the policy against numbers worked out by hand, and against itself where two ways must agree."""

import math
from collections import Counter
from enum import IntEnum
from itertools import product
from random import Random
from typing import Any

import pytest

import esper_masks as em
from esper_masks import reference
from esper_masks.reference import Joint

INF, NAN = math.inf, math.nan
LOG2, LOG3 = math.log(2), math.log(3)
DORMANT, TRAINING, PROBATIONARY = (1, 0), (3, 5), (6, 5)
WAIT, GERMINATE, CULL, FOSSILIZE = range(4)
RULES = em.ruleset("esper-2025-12").resolve()
H_QUARTER = 0.5623351446188083  # nats of (1/4, 3/4)
H_FIFTHS = 0.9502705392332347  # nats of (1/5, 3/5, 1/5)

# the joint worked out by hand: op (1/4, 1/2, 1/4), slot (1/4, 3/4), blueprint (-, 1/4, 1/4, 1/2, 0), blend as above
LOGITS: dict[str, list[Any]] = {
    "slot": [0.0, LOG3],
    "blueprint": [NAN, 0.0, 0.0, LOG2, -INF],
    "blend": [0.0, LOG3, 0.0],
    "op": [0.0, LOG2, 0.0, INF],
}


def masks_of(rules: em.MaskRules, slots: list[Any], enabled: list[bool] | None = None) -> dict[str, list[Any]]:
    enabled = [True] * len(slots) if enabled is None else enabled
    return reference.head_masks(rules, reference.slot_by_op(rules, slots, enabled=enabled), enabled)


def joint(*slots: tuple[int, ...], min_prob: Any = 0.0, restrict: Any = (), **logits: Any) -> Joint:
    masks = {**masks_of(RULES, list(slots)), **dict(restrict)}
    return Joint(RULES, masks, {**LOGITS, **logits}, min_prob=min_prob)


# one row


@pytest.mark.parametrize(
    ("logits", "mask", "expected"),
    [
        ([0.0, LOG3], [True, True], [0.25, 0.75]),
        ([7.0, 7.0 + LOG3], [True, True], [0.25, 0.75]),
        ([0.0, 5.0, LOG3], [True, False, True], [0.25, 0.0, 0.75]),
        ([NAN, INF, -INF, 3.0], [False, False, False, True], [0.0, 0.0, 0.0, 1.0]),
        ([0.0, -INF, LOG3], [True, True, True], [0.25, 0.0, 0.75]),
        ([1e300, -1e300], [True, True], [1.0, 0.0]),
        ([-1e4, 0.0], [True, False], [1.0, 0.0]),
    ],
)
def test_probabilities(logits: list[float], mask: list[bool], expected: list[float]) -> None:
    p = reference.probabilities(logits, mask)
    assert p == pytest.approx(expected, abs=1e-15)
    assert all(q == 0 for q, on in zip(p, mask) if not on)


@pytest.mark.parametrize(
    ("logits", "mask"),
    [
        ([], []),
        ([0.0, 0.0], [False, False]),
        ([-INF, 0.0], [True, False]),
        ([-INF, -INF], [True, True]),
        ([NAN, 0.0], [True, True]),
        ([0.0, NAN], [True, True]),
        ([INF, 0.0], [True, True]),
    ],
)
def test_a_row_at_fault_has_no_probabilities(logits: list[float], mask: list[bool]) -> None:
    assert reference.probabilities(logits, mask) is None
    with pytest.raises(ValueError, match="at fault"):
        reference.log_probability(logits, mask, 0)


def test_the_floor_mixes() -> None:
    logits, mask = [0.0, LOG3, NAN, -INF], [True, True, False, True]
    p = reference.probabilities(logits, mask, min_prob=0.1)  # 0.7 p + 0.1 over three legal actions
    assert p == pytest.approx([0.275, 0.625, 0.0, 0.1], abs=1e-15)
    assert p[2] == 0
    assert [reference.log_probability(logits, mask, a, min_prob=0.1) for a in range(-1, 5)] == pytest.approx(
        [-INF, math.log(0.275), math.log(0.625), -INF, math.log(0.1), -INF], abs=1e-15
    )
    assert reference.probabilities([3.0, 0.0], [True, False], min_prob=0.4) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([True, True, True, True], [0.2515, 0.2495, 0.2495, 0.2495]),  # 0.99 / 4 each, and 0.01 p
        ([True, True, True, False], [0.335, 0.3325, 0.3325, 0.0]),
        ([True, True, False, False], [0.4 + 0.4 / 3, 0.4 + 0.2 / 3, 0.0, 0.0]),  # possible for two
        ([True, False, False, False], [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_floor_caps_itself(mask: list[bool], expected: list[float]) -> None:
    logits = [LOG2, 0.0, 0.0, 0.0]
    assert reference.probabilities(logits, mask, min_prob=0.4) == pytest.approx(expected, abs=1e-15)
    assert reference.log_probability(logits, mask, 0, min_prob=0.4) == pytest.approx(math.log(expected[0]), abs=1e-15)


@pytest.mark.parametrize("min_prob", [1.0, -0.01, NAN, INF])
def test_floors_that_are_none(min_prob: float) -> None:
    with pytest.raises(ValueError, match=r"min_prob=.*; wanted at least 0 and below 1, or None for no floor"):
        reference.probabilities([0.0] * 4, [True, False, False, False], min_prob=min_prob)
    assert reference.probabilities([0.0, LOG3], [True, True], min_prob=None) == pytest.approx([0.25, 0.75])


def test_rows_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="2 logits and a mask of 3"):
        reference.probabilities([0.0, 0.0], [True] * 3)
    with pytest.raises(ValueError, match="shorter"):
        reference.kl([1.0, 0.0], [1.0])


def test_log_probability_does_not_underflow() -> None:
    logits, mask = [0.0, 1e4, 5.0, -INF], [True, True, False, True]
    assert [reference.log_probability(logits, mask, a) for a in range(4)] == [-1e4, 0.0, -INF, -INF]
    assert [reference.log_probability(logits, mask, a) for a in (-1, -3, 4)] == [-INF] * 3
    assert reference.log_probability([0.0, LOG3], [True, True], 0) == pytest.approx(math.log(0.25), abs=1e-15)


def test_entropies() -> None:
    assert reference.raw_entropy([0.25, 0.75]) == pytest.approx(H_QUARTER, abs=1e-15)
    assert str(reference.raw_entropy([0.0, 1.0])) == "0.0"  # and not -0.0
    assert reference.entropy([0.5, 0.0, 0.5], 2) == pytest.approx(1.0, abs=1e-15)
    assert reference.entropy([0.5, 0.0, 0.5], 3) == pytest.approx(LOG2 / LOG3, abs=1e-15)
    assert reference.entropy([0.0, 1.0], 1) == reference.entropy([], 0) == 0.0


def test_kl() -> None:
    assert reference.kl([0.5, 0.5, 0.0], [0.25, 0.75, 0.0]) == pytest.approx(0.14384103622589045, abs=1e-15)
    assert reference.kl([1.0, 0.0], [0.5, 0.5]) == pytest.approx(LOG2, abs=1e-15)
    assert reference.kl([0.5, 0.5], [1.0, 0.0]) == INF
    assert reference.kl([0.0, 1.0], [0.0, 1.0]) == 0.0


@pytest.mark.parametrize(
    ("noise", "action", "distance"),
    [(0.0, 1, 0.25), (0.24, 1, 0.01), (0.25, 3, 0.0), (0.3, 3, 0.05), (0.49, 3, 0.01), (0.6, 4, 0.1), (1.0, 4, 0.5)],
)
def test_sample_and_its_edges(noise: float, action: int, distance: float) -> None:
    p = [0.0, 0.25, 0.0, 0.25, 0.5, 0.0]
    assert reference.sample(p, noise) == action
    assert reference.edge_distance(p, noise) == pytest.approx(distance, abs=1e-15)
    twice = [2 * q for q in p]  # a total that is not 1
    assert reference.sample(twice, noise) == action
    assert reference.edge_distance(twice, noise) == pytest.approx(distance, abs=1e-15)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_one_possible_action_has_no_edge(noise: float) -> None:
    assert reference.sample([0.0, 1.0, 0.0], noise) == 1
    assert reference.edge_distance([0.0, 1.0, 0.0], noise) == INF


def test_mode_is_the_first_maximum() -> None:
    assert reference.mode([0.0, 0.4, 0.2, 0.4]) == 1


# one environment


def test_whole_actions_by_hand() -> None:
    """An empty slot and one in training: WAIT, GERMINATE in the first, CULL in the second."""
    policy = joint(DORMANT, TRAINING)
    assert policy.faults == set()
    expected = {(0, 0, 0, WAIT): 0.25, (1, 0, 0, CULL): 0.25}
    for (blueprint, p), (blend, q) in product({1: 0.25, 2: 0.25, 3: 0.5, 4: 0.0}.items(), enumerate([0.2, 0.6, 0.2])):
        expected[0, blueprint, blend, GERMINATE] = 0.5 * p * q
    assert policy.actions() == pytest.approx(expected, abs=1e-15)
    assert policy.raw_entropy() == pytest.approx(1.5 * LOG2 + 0.5 * (1.5 * LOG2 + H_FIFTHS), abs=1e-14)
    assert policy.entropy() == pytest.approx(policy.raw_entropy() / math.log(14), abs=1e-15)
    assert policy.head_entropies() == pytest.approx(
        [H_QUARTER / LOG2, 0.75, H_FIFTHS / LOG3, 1.5 * LOG2 / LOG3], abs=1e-15
    )
    assert policy.mode() == [0, 3, 1, GERMINATE]


def test_the_slot_is_drawn_among_those_of_the_op() -> None:
    policy = joint(DORMANT, DORMANT)  # WAIT 1/3, GERMINATE 2/3
    assert policy.log_prob([1, 1, 0, GERMINATE]) == pytest.approx(math.log(2 / 3 * 3 / 4 * 1 / 4 * 1 / 5), abs=1e-14)
    assert policy.head_log_probs([0, 3, 1, GERMINATE]) == pytest.approx(
        [math.log(0.25), math.log(0.5), math.log(0.6), math.log(2 / 3)], abs=1e-14
    )
    slots = joint(TRAINING, PROBATIONARY, op=[0.0] * 4)  # CULL in either, FOSSILIZE in the second
    assert slots.actions() == pytest.approx(
        {(0, 0, 0, WAIT): 1 / 3, (0, 0, 0, CULL): 1 / 12, (1, 0, 0, CULL): 3 / 12, (1, 0, 0, FOSSILIZE): 1 / 3}
    )


def test_what_an_ignored_head_holds_does_not_count() -> None:
    policy = joint(DORMANT, TRAINING)
    for rest in ([0, 0, 0], [1, 4, 2], [-1, 99, -7]):
        assert policy.legal([*rest, WAIT])
        assert policy.head_log_probs([*rest, WAIT]) == pytest.approx([0, 0, 0, math.log(0.25)])
        assert policy.head_log_probs([*rest, WAIT])[:3] == [0.0] * 3
    assert policy.log_prob([1, -1, 99, CULL]) == pytest.approx(math.log(0.25))


@pytest.mark.parametrize(
    ("action", "shares"),
    [
        ([1, 1, 0, GERMINATE], [-INF, -1.39, -1.61, -0.69]),  # the slot is occupied
        ([0, 0, 0, GERMINATE], [0.0, -INF, -1.61, -0.69]),  # NOOP
        ([0, 1, -1, GERMINATE], [0.0, -1.39, -INF, -0.69]),
        ([-1, 1, 0, GERMINATE], [-INF, -1.39, -1.61, -0.69]),
        ([0, 1, 3, GERMINATE], [0.0, -1.39, -INF, -0.69]),
        ([0, 0, 0, CULL], [-INF, 0.0, 0.0, -1.39]),
        ([1, 0, 0, FOSSILIZE], [0.0, 0.0, 0.0, -INF]),
        ([0, 0, 0, -1], [0.0, 0.0, 0.0, -INF]),
        ([0, 0, 0, 4], [0.0, 0.0, 0.0, -INF]),
    ],
)
def test_illegal_actions(action: list[int], shares: list[float]) -> None:
    policy = joint(DORMANT, TRAINING)
    assert not policy.legal(action)
    assert policy.log_prob(action) == -INF
    assert policy.head_log_probs(action) == pytest.approx(shares, abs=0.01)


def test_an_action_has_one_value_a_head() -> None:
    with pytest.raises(ValueError, match="shorter"):
        joint(DORMANT, TRAINING).log_prob([0, 0, 0])
    with pytest.raises(ValueError, match="longer"):
        joint(DORMANT, TRAINING).legal([1, 0, 0, CULL, 0])
    with pytest.raises(ValueError, match="shorter"):
        joint(DORMANT, TRAINING).sample([0.5] * 3)


def test_a_legal_action_of_probability_0() -> None:
    policy = joint(DORMANT, TRAINING)
    assert policy.legal([0, 4, 0, GERMINATE])
    assert policy.log_prob([0, 4, 0, GERMINATE]) == -INF
    assert policy.actions()[0, 4, 0, GERMINATE] == 0.0


def test_sampling_every_cell_of_a_grid_gives_the_probabilities() -> None:
    policy = joint(DORMANT, DORMANT, op=[0.0, LOG3, NAN, NAN])
    ends = {4: [0.125, 0.375, 0.625, 0.875], 5: [0.1, 0.3, 0.5, 0.7, 0.9]}
    grid = [ends[4], ends[4], ends[5], ends[4]]  # the middle of cells as wide as the probabilities have in common
    drawn = Counter(tuple(policy.sample(noise)) for noise in product(*grid))
    possible = {action: p for action, p in policy.actions().items() if p > 0}
    assert {action: count / 320 for action, count in drawn.items()} == pytest.approx(possible, abs=1e-15)


def test_both_ends_of_the_noise() -> None:
    policy = joint(DORMANT, TRAINING)
    assert policy.sample([0.0] * 4) == [0, 0, 0, WAIT]
    assert policy.sample([1.0] * 4) == [1, 0, 0, CULL]
    assert policy.sample([1.0, 1.0, 1.0, 0.5]) == [0, 3, 2, GERMINATE]  # never DEPTHWISE, whose probability is 0
    assert policy.sample([0.0, 0.0, 0.0, 0.5]) == [0, 1, 0, GERMINATE]


def test_edge_distances() -> None:
    policy = joint(DORMANT, TRAINING)
    assert policy.edge_distances([0.3, 0.3, 0.3, 0.3]) == pytest.approx([INF, 0.05, 0.1, 0.05])
    assert policy.edge_distances([0.3, 0.3, 0.3, 0.9]) == pytest.approx([INF, INF, INF, 0.15])
    assert joint(DORMANT, DORMANT).edge_distances([0.3, 0.3, 0.3, 0.9]) == pytest.approx([0.05, 0.05, 0.1, 17 / 30])


def test_the_mode_follows_the_op() -> None:
    """WAIT is the likeliest whole action here, and GERMINATE the likeliest op: the mode is that op's."""
    policy = joint(DORMANT, DORMANT)
    assert max(policy.actions(), key=policy.actions().get) == (0, 0, 0, WAIT)
    assert policy.mode() == [1, 3, 1, GERMINATE]
    assert joint(DORMANT, TRAINING, op=[0.0] * 4).mode() == [0, 0, 0, WAIT]


def test_a_floor_for_every_head() -> None:
    policy = joint(DORMANT, TRAINING, min_prob=0.1)
    p = policy.actions()
    assert p[0, 0, 0, WAIT] == pytest.approx(0.275)  # 0.7 / 4 + 0.1
    assert p[1, 0, 0, CULL] == pytest.approx(0.275)  # one slot: certain, whatever the floor
    assert p[0, 4, 0, GERMINATE] == pytest.approx(0.45 * 0.1 * 0.24)  # blueprint 0.6 * 0 + 0.1, blend 0.7 / 5 + 0.1
    assert sum(p.values()) == pytest.approx(1.0)
    assert policy.head_log_probs([0, 3, 1, GERMINATE]) == pytest.approx(
        [0.0, math.log(0.4), math.log(0.52), math.log(0.45)]
    )
    assert policy.head_entropies() == joint(DORMANT, TRAINING).head_entropies()
    assert policy.entropy() > joint(DORMANT, TRAINING).entropy()


def test_a_floor_for_some_heads() -> None:
    policy = joint(DORMANT, TRAINING, min_prob={"op": 0.1, "blend": 0.3})
    assert policy.head_log_probs([0, 3, 1, GERMINATE]) == pytest.approx(
        [0.0, math.log(0.5), math.log(0.1 * 0.6 + 0.3), math.log(0.45)]
    )
    for floor in (1, {"slot": 1.0}, {"blend": -0.1}):
        with pytest.raises(ValueError, match="wanted at least 0 and below"):
            joint(DORMANT, TRAINING, min_prob=floor)
    assert joint(DORMANT, TRAINING, min_prob={"op": None}).actions() == joint(DORMANT, TRAINING).actions()


def test_a_floor_caps_itself_by_the_choices_under_the_op() -> None:
    policy = joint(DORMANT, TRAINING, min_prob={"slot": 0.9, "blend": 0.4, "op": 0.3})
    assert policy.head_log_probs([0, 3, 1, GERMINATE]) == pytest.approx(
        [0.0, math.log(0.5), math.log(0.6 * 0.01 + 0.33), math.log(0.5 * 0.1 + 0.3)]
    )
    both = joint(DORMANT, DORMANT, min_prob={"slot": 0.9})
    assert both.head_log_probs([0, 3, 1, GERMINATE])[0] == pytest.approx(math.log(0.25 * 0.01 + 0.495))


def test_kl_of_whole_actions() -> None:
    p = joint(DORMANT, TRAINING)
    assert reference.joint_kl(p, p) == 0.0
    even = joint(DORMANT, TRAINING, op=[0.0] * 4)
    op = 0.5 * math.log(0.75) + 0.5 * math.log(1.5)
    assert reference.joint_kl(p, even) == pytest.approx(op, abs=1e-14)
    flat = joint(DORMANT, TRAINING, op=[0.0] * 4, blend=[0.0] * 3)  # blend counts in the half that germinates
    assert reference.joint_kl(p, flat) == pytest.approx(op + 0.5 * (LOG3 - H_FIFTHS), abs=1e-14)
    assert reference.joint_kl(p, joint(DORMANT, TRAINING, op=[0.0, 0.0, -INF, 0.0])) == INF
    assert reference.joint_kl(joint(DORMANT, TRAINING, op=[0.0, 0.0, -INF, 0.0]), p) < INF
    assert reference.joint_kl(p, joint(DORMANT, DORMANT)) == INF  # no CULL there
    far = joint(DORMANT, TRAINING, op=[0.0, 0.0, -8000.0, 0.0])
    assert reference.joint_kl(p, far) == pytest.approx(0.25 * 8000, rel=1e-3)
    other = em.ruleset("esper-2026-06").resolve()
    masks = masks_of(other, [(1, 0, 0)])
    logits = {name: [0.0] * len(masks[name]) for name in other.head_names}
    with pytest.raises(ValueError, match="have no divergence"):
        reference.joint_kl(p, Joint(other, masks, logits))


@pytest.mark.parametrize(
    ("slots", "logits", "faults"),
    [
        ((DORMANT, TRAINING), {"op": [NAN, 0.0, 0.0, 0.0]}, {"op"}),
        ((DORMANT, TRAINING), {"op": [0.0, 0.0, 0.0, NAN]}, set()),  # FOSSILIZE is not legal
        ((DORMANT, TRAINING), {"op": [-INF, -INF, -INF, 0.0]}, {"op"}),
        ((DORMANT, TRAINING), {"op": [0.0, -INF, -INF, 0.0]}, set()),
        ((DORMANT, TRAINING), {"slot": [-INF, 0.0]}, {"slot"}),  # nowhere to germinate
        ((DORMANT, DORMANT), {"slot": [-INF, 0.0]}, set()),
        ((TRAINING, TRAINING), {"slot": [0.0, NAN]}, {"slot"}),
        ((DORMANT, TRAINING), {"slot": [-INF, 0.0], "op": [0.0, -INF, 0.0, 0.0]}, {"slot"}),  # legal if never drawn
        ((TRAINING, (8, 0)), {"slot": [0.0, NAN]}, set()),  # the second is inert, no op may take it
        (((8, 0), (8, 0)), {"slot": [NAN, NAN]}, set()),
        (((8, 0), (8, 0)), {"blend": [NAN, 0.0, 0.0]}, {"blend"}),  # its plain mask is read, for a regularizer
        (((8, 0), (8, 0)), {"blend": [[NAN] * 3] * 4}, set()),
        (((8, 0), (8, 0)), {"blueprint": [NAN, INF, 0.0, 0.0, 0.0], "op": [NAN] * 4}, {"blueprint", "op"}),
        ((DORMANT, TRAINING), {"blend": [[NAN] * 3, [0.0] * 3, [NAN] * 3, [NAN] * 3]}, set()),
        ((DORMANT, TRAINING), {"blend": [[0.0] * 3, [NAN] * 3, [0.0] * 3, [0.0] * 3]}, {"blend"}),
        ((DORMANT, TRAINING), {"slot": [[NAN] * 2, [0.0, NAN], [NAN, 0.0], [NAN] * 2]}, set()),
        ((DORMANT, TRAINING), {"slot": [[0.0] * 2, [0.0, 0.0], [0.0, INF], [0.0] * 2]}, {"slot"}),
    ],
)
def test_faults(slots: Any, logits: dict[str, Any], faults: set[str]) -> None:
    policy = joint(*slots, **logits)
    assert policy.faults == faults
    if not faults:
        assert sum(policy.actions().values()) == pytest.approx(1.0)
        return
    assert policy.legal([0, 0, 0, WAIT])
    for ask in (
        policy.actions,
        policy.raw_entropy,
        policy.entropy,
        policy.head_entropies,
        policy.mode,
        lambda: policy.sample([0.5] * 4),
        lambda: policy.edge_distances([0.5] * 4),
        lambda: policy.log_prob([0, 0, 0, WAIT]),
        lambda: policy.head_log_probs([0, 0, 0, FOSSILIZE]),
        lambda: reference.joint_kl(policy, policy),
    ):
        with pytest.raises(ValueError, match=f"heads at fault are {', '.join(sorted(faults))}"):
            ask()


def test_no_enabled_slot_is_no_fault() -> None:
    policy = Joint(RULES, masks_of(RULES, [DORMANT, TRAINING], [False, False]), {**LOGITS, "slot": [NAN, NAN]})
    assert policy.faults == set()
    assert policy.actions() == {(0, 0, 0, WAIT): 1.0}
    assert policy.sample([0.9] * 4) == policy.mode() == [0, 0, 0, WAIT]
    assert policy.raw_entropy() == policy.entropy() == policy.log_prob([0, 0, 0, WAIT]) == 0.0
    assert policy.head_entropies() == pytest.approx([0.0, 0.75, H_FIFTHS / LOG3, 0.0])


def test_restricted_masks() -> None:
    only = joint(DORMANT, TRAINING, restrict={"blueprint": [False, True, False, True, False]})
    assert only.log_prob([0, 3, 0, GERMINATE]) == pytest.approx(math.log(0.5 * 2 / 3 * 0.2))
    assert not only.legal([0, 2, 0, GERMINATE])
    assert len(only.actions()) == 2 + 2 * 3
    assert only.head_entropies()[1] == pytest.approx((LOG3 - 2 / 3 * LOG2) / LOG2)
    assert joint(DORMANT, TRAINING, restrict={"blueprint": [False] * 5}).faults == {"blueprint"}
    waiting = joint(DORMANT, TRAINING, restrict={"op": [True, False, False, False]})
    assert waiting.actions() == {(0, 0, 0, WAIT): 1.0}
    assert waiting.head_entropies()[0] == 0.0  # no legal op takes a slot
    nothing = joint(DORMANT, TRAINING, restrict={"op": [False] * 4})
    assert nothing.faults == {"op"}
    with pytest.raises(ValueError, match="at fault are op"):
        nothing.actions()


def test_logits_that_depend_on_the_op() -> None:
    unread = [NAN] * 4
    slot = [unread, [0.0, LOG3, NAN, NAN], [NAN, INF, 0.0, 0.0], unread]
    blend = [[NAN] * 3, LOGITS["blend"], [NAN] * 3, [NAN] * 3]
    policy = joint(DORMANT, DORMANT, TRAINING, TRAINING, slot=slot, blend=blend)
    assert policy.faults == set()
    assert policy.head_log_probs([1, 3, 1, GERMINATE]) == pytest.approx(
        [math.log(0.75), math.log(0.5), math.log(0.6), math.log(0.5)]
    )
    assert policy.head_log_probs([2, 0, 0, CULL]) == pytest.approx([math.log(0.5), 0.0, 0.0, math.log(0.25)])
    assert policy.head_entropies() == pytest.approx(
        [(H_QUARTER / LOG2 + 1) / 2, 0.75, H_FIFTHS / LOG3, 1.5 * LOG2 / LOG3]
    )
    assert policy.raw_entropy() == pytest.approx(
        1.5 * LOG2 + 0.5 * (H_QUARTER + 1.5 * LOG2 + H_FIFTHS) + 0.25 * LOG2, abs=1e-14
    )
    assert policy.sample([0.3, 0.0, 0.0, 0.5]) == [1, 1, 0, GERMINATE]
    assert policy.sample([0.3, 0.0, 0.0, 0.8]) == [2, 0, 0, CULL]
    idle = joint((8, 0), slot=[[0.0]] * 4, blend=[[0.0] * 3] * 4)
    assert idle.head_entropies() == pytest.approx([0.0, 0.75, 0.0, 0.0])


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        ({"op": [[0.0] * 4] * 4}, "not op"),
        ({"blend": [[0.0] * 3] * 3}, "a row of logits an op"),
        ({"blend": [[0.0] * 2] * 4}, "2 logits and a mask of 3"),
        ({"blend": [0.0] * 4}, "4 logits and a mask of 3"),
        ({"style": [0.0] * 4}, "the heads are"),
    ],
)
def test_logits_of_another_shape(logits: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        joint(DORMANT, TRAINING, **logits)


def test_logits_and_floors_of_the_heads() -> None:
    with pytest.raises(ValueError, match="the heads are"):
        joint(DORMANT, TRAINING, min_prob={"style": 0.1})
    with pytest.raises(ValueError, match="the heads are"):
        Joint(RULES, masks_of(RULES, [DORMANT]), {"op": [0.0] * 4})


class Door(IntEnum):
    OPEN = 0
    SHUT = 1


class Act(IntEnum):
    WAIT = 0
    SHUT = 1
    KICK = 2


def test_a_head_whose_choices_depend_on_the_op() -> None:
    """The op is not the last head, and one row of logits serves both ops, each with its own choices."""
    doors = em.MaskRules(
        name="doors",
        stages=Door,
        transitions={Door.OPEN: [Door.SHUT], Door.SHUT: [Door.OPEN]},
        empty=Door.OPEN,
        op_rules=[
            em.Op(Act.WAIT, always=True),
            em.Op(Act.SHUT, enters=Door.SHUT, uses=["slot", "force"]),
            em.Op(Act.KICK, enters=Door.OPEN, uses=["force", "slot"]),
        ],
        heads=[
            em.Head("op"),
            em.Head(
                "force",
                ("GENTLE", "FIRM", "HARD"),
                by_op={Act.SHUT: ("HARD", "GENTLE"), Act.KICK: ("FIRM", "HARD")},
                canonical="FIRM",
            ),
            em.Head("slot"),
        ],
    ).resolve()
    logits: dict[str, list[float]] = {"op": [0.0, 0.0, LOG2], "force": [0.0, 0.0, LOG3], "slot": [0.0, 0.0]}
    policy = Joint(doors, masks_of(doors, [(0, 0), (1, 0)]), logits)
    expected = {(0, 1, 0): 1 / 4, (1, 0, 0): 1 / 16, (1, 2, 0): 3 / 16, (2, 1, 1): 1 / 8, (2, 2, 1): 3 / 8}
    assert policy.actions() == pytest.approx(expected, abs=1e-15)
    assert not policy.legal([1, 1, 0])
    assert policy.log_prob([2, 0, 1]) == -INF
    # on its own the head is open to what either op may take: (1/5, 1/5, 3/5)
    assert policy.head_entropies() == pytest.approx([1.5 * LOG2 / LOG3, H_FIFTHS / LOG3, 1.0])
    assert policy.sample([0.1, 0.9, 0.9]) == [0, 1, 0]
    assert policy.sample([0.9, 0.1, 0.9]) == [2, 1, 1]
    shut = Joint(doors, masks_of(doors, [(0, 0), (0, 0)]), {**logits, "force": [0.0, NAN, LOG3]})
    assert shut.faults == set()  # FIRM is KICK's, and nothing can be kicked open
    assert shut.head_entropies()[1] == pytest.approx(H_QUARTER / LOG2)
    # a head may have choices in all and none under one of the ops
    assert Joint(doors, policy.masks, {**logits, "force": [-INF, 0.0, -INF]}).faults == {"force"}
    assert Joint(doors, {**policy.masks, "force": [False, True, False]}, logits).faults == {"force"}
    half = {**masks_of(doors, [(0, 0), (1, 0)]), "force": [False, True, True]}  # restricted: not gently
    assert Joint(doors, half, logits).actions().keys() == expected.keys() - {(1, 0, 0)}


# random environments


def random_policy(rules: em.MaskRules, random: Random) -> Joint:
    """Up to four slots, some of them not enabled; logits per row or per op, some -inf, some masked ones NaN."""
    slots = [
        (random.randrange(-1, 12), random.randrange(8), *(random.randrange(3) for _ in rules.features))
        for _ in range(random.randint(1, 4))
    ]
    masks = masks_of(rules, slots, [random.random() < 0.8 for _ in slots])
    logits: dict[str, list[Any]] = {}
    for name in rules.head_names:
        width = len(masks[name])
        rows = [[random.gauss(0, 3) for _ in range(width)] for _ in rules.op_rules]
        for row in rows:
            row[random.randrange(width)] -= 1e3
        logits[name] = rows if name != "op" and random.random() < 0.5 else rows[0]
        if logits[name] is rows[0]:
            logits[name] = [x if on else NAN for x, on in zip(rows[0], masks[name])]
    return Joint(rules, masks, logits, min_prob=random.choice([0.0, 0.02, {"op": 0.1}]))


@pytest.mark.parametrize("name", em.rulesets())
def test_two_ways_to_each_number(name: str) -> None:
    rules, random = em.ruleset(name).resolve(), Random(name)
    op_at = rules.head_names.index("op")
    for _ in range(12):
        policy = random_policy(rules, random)
        assert policy.faults == set()
        slots = len(policy.masks["slot"])
        whole = list(reference.joint_actions(rules, slots))
        legal = [a for a, on in zip(whole, reference.joint_mask(rules, policy.masks, slots)) if on]
        p = policy.actions()
        assert list(p) == legal
        assert [a for a in whole if policy.legal(a)] == legal
        assert sum(p.values()) == pytest.approx(1.0, abs=1e-12)
        for action in random.sample(legal, min(len(legal), 40)):
            shares = policy.head_log_probs(action)
            assert math.exp(sum(shares)) == pytest.approx(p[action], rel=1e-9, abs=1e-300)
            used = rules.relevance[rules.ops(action[op_at])]
            assert all(share == 0 for head, share in zip(rules.head_names, shares) if head not in used)
        chain = sum(
            share * sum(reference.raw_entropy(q) for head, q in given.items() if head != "op")
            for op, given in policy.conditionals.items()
            for share in [given["op"][op]]
        )
        op_entropy = reference.raw_entropy(next(iter(policy.conditionals.values()))["op"])
        assert policy.raw_entropy() == pytest.approx(op_entropy + chain, abs=1e-12)
        assert policy.entropy() == pytest.approx(
            policy.raw_entropy() / math.log(len(legal)) if len(legal) > 1 else 0.0, abs=1e-12
        )
        assert all(0 <= h <= 1 + 1e-12 for h in policy.head_entropies())
        assert reference.joint_kl(policy, policy) == 0.0
        assert p[tuple(policy.mode())] > 0
        for _ in range(20):
            noise = [random.choice([0.0, random.random(), 1.0]) for _ in rules.heads]
            action = policy.sample(noise)
            assert p[tuple(action)] > 0
            reach = [min(distance, 1.0) * 0.99 for distance in policy.edge_distances(noise)]
            for sign in (-1, 1):  # noise may move up to the edge without changing the action
                moved = [min(max(u + sign * step, 0.0), 1.0) for u, step in zip(noise, reach)]
                assert policy.sample(moved) == action
