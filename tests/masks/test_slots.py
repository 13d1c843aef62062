"""Packing Python objects, and the check of packed values."""

import enum
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import esper_masks as em
from esper_masks.rulesets.esper_2025_12 import SeedStage
from esper_masks.rulesets.esper_2026_06 import AlphaMode

ENGINE = em.MaskEngine(em.ruleset("esper-2025-12"))
NEWER = em.MaskEngine(em.ruleset("esper-2026-06"))


def test_packing() -> None:
    states = ENGINE.pack_slots(
        [
            {"early": em.SlotState(SeedStage.TRAINING, 3), "mid": None, "late": em.SlotState(7)},
            {},
            {"late": em.SlotState(stage=99, age=-1)},
        ]
    )
    assert states.tolist() == [[[3, 3], [1, 0], [7, 0]], [[1, 0]] * 3, [[1, 0], [1, 0], [99, -1]]]
    assert states.dtype == torch.int32


def test_features_by_position_and_by_name() -> None:
    states = NEWER.pack_slots(
        [
            {
                "r0c0": em.SlotState(4, 6, AlphaMode.DOWN),
                "r0c1": em.SlotState(4, 6, alpha_mode=AlphaMode.UP),
                "r0c2": em.SlotState(4, 6),
            }
        ]
    )
    assert states.tolist() == [[[4, 6, 2], [4, 6, 1], [4, 6, 0]]]
    assert NEWER.pack_slots([{}]).tolist() == [[[1, 0, 0]] * 3]


@given(st.data())
def test_packing_equals_a_plain_copy(data: st.DataObject) -> None:
    batch = data.draw(st.integers(0, 4))
    seed = st.one_of(st.none(), st.tuples(st.integers(-2, 99), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2)))
    envs = [{slot: data.draw(seed) for slot in NEWER.slot_ids} for _ in range(batch)]
    mappings = [{slot: row if row is None else em.SlotState(*row) for slot, row in env.items()} for env in envs]
    expected = [[list(row) if row else [1, 0, 0] for row in env.values()] for env in envs]
    states = NEWER.pack_slots(mappings)
    assert states.shape == (batch, 3, 3)
    assert states.tolist() == expected


def test_memory_is_batch_last() -> None:
    for states in (ENGINE.pack_slots([{}] * 5), ENGINE.empty_slots(5)):
        assert states.shape == (5, 3, 2)
        assert states.stride() == (1, 5, 15)
    assert ENGINE(ENGINE.empty_slots(5)).slot_words.stride() == (1, 5)


def test_empty_slots() -> None:
    assert NEWER.empty_slots(2).tolist() == [[[1, 0, 0]] * 3] * 2
    assert ENGINE.empty_slots(0).shape == (0, 3, 2)
    assert ENGINE.pack_slots([]).shape == (0, 3, 2)
    assert ENGINE(ENGINE.empty_slots(1))["op"].tolist() == [[True, True, False, False]]


class Strange(enum.Enum):
    TRAINING = 3


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([{}, {"middle": None}], r"env 1: no slot 'middle'; the slots are early, mid, late"),
        ([{}, None], r"env 1: wanted a mapping .* got None"),
        ([{"mid": 4}], r"env 0 slot 'mid': wanted a SlotState or None, got 4"),
        ([{}, {"late": em.SlotState(3, 2.5)}], r"env 1 slot 'late': age 2.5 is no 32-bit integer"),
        (
            [{}, {"mid": em.SlotState("TRAINNG")}],
            r"env 1 slot 'mid': stage 'TRAINNG' is not one of UNKNOWN 0, DORMANT 1, .*FOSSILIZED 7",
        ),
        ([{"mid": em.SlotState("training")}], r"env 0 slot 'mid': stage 'training' is not one of UNKNOWN 0"),
        ([{"mid": em.SlotState("TRAINING", "9")}], r"env 0 slot 'mid': age '9' is no 32-bit integer"),
        ([{"mid": em.SlotState("TRAINING", 2**31)}], r"env 0 slot 'mid': age 2147483648 is no 32-bit integer"),
        ([{"mid": em.SlotState(Strange.TRAINING)}], r"stage <Strange.TRAINING: 3> is no 32-bit"),
        ([{"early": em.SlotState(3, 2**31)}], r"env 0 slot 'early': age 2147483648 is no 32-bit integer"),
        ([{"mid": em.SlotState(3, 1, 0)}], r"has 3 features; esper-2025-12 has 2"),
        (
            [{"mid": em.SlotState(3, 1, alpha_mode=0)}],
            r"'alpha_mode' is given twice or unknown; esper-2025-12 has stage",
        ),
    ],
)
def test_packing_refuses(batch: Any, message: str) -> None:
    with pytest.raises(em.SlotStateError, match=message):
        ENGINE.pack_slots(batch)


def test_stages_and_features_by_name() -> None:
    states = NEWER.pack_slots(
        [
            {"r0c0": em.SlotState("BLENDING", 6, "DOWN"), "r0c1": em.SlotState(stage="TRAINING", alpha_mode="UP")},
            {"r0c2": em.SlotState(4, 6, alpha_mode="UP")},
        ]
    )
    assert states.tolist() == [[[4, 6, 2], [3, 0, 1], [1, 0, 0]], [[1, 0, 0], [1, 0, 0], [4, 6, 1]]]
    for stage in SeedStage:
        assert torch.equal(
            ENGINE.pack_slots([{"mid": em.SlotState(stage.name, 2)}]),
            ENGINE.pack_slots([{"mid": em.SlotState(stage, 2)}]),
        )
    with pytest.raises(em.SlotStateError, match=r"env 0 slot 'r0c1': alpha_mode 'SIDEWAYS' is not one of HOLD 0, UP 1"):
        NEWER.pack_slots([{"r0c1": em.SlotState("BLENDING", alpha_mode="SIDEWAYS")}])
    assert repr(em.SlotState("BLENDING", 6)) == "SlotState('BLENDING', 6)"


def test_a_feature_given_twice() -> None:
    with pytest.raises(em.SlotStateError, match="given twice"):
        NEWER.pack_slots([{"r0c0": em.SlotState(3, 1, 0, alpha_mode=1)}])


def test_check_slots_passes_what_the_rules_know() -> None:
    ENGINE.check_slots(ENGINE.empty_slots(3))
    ENGINE.check_slots(ENGINE.empty_slots(0))
    NEWER.check_slots(NEWER.pack_slots([{"r0c1": em.SlotState(6, 400, 2)}]))


@pytest.mark.parametrize(
    ("engine", "place", "value", "message"),
    [
        (
            ENGINE,
            (3, 1, 0),
            5,
            r"env 3 slot 'mid': stage 5 is not a stage of esper-2025-12 \(stages: UNKNOWN 0, .*DORMANT$",
        ),
        (ENGINE, (0, 2, 0), -1, r"env 0 slot 'late': stage -1 is not"),
        (ENGINE, (2, 0, 1), -4, r"env 2 slot 'early': age -4 is negative"),
        (NEWER, (1, 2, 2), 3, r"env 1 slot 'r0c2': alpha_mode 3 is not one of HOLD 0, UP 1, DOWN 2"),
    ],
)
def test_check_slots_names_the_place(engine: em.MaskEngine, place: tuple[int, ...], value: int, message: str) -> None:
    states = engine.empty_slots(4)
    states[place] = value
    with pytest.raises(em.SlotStateError, match=message):
        engine.check_slots(states)


def test_check_slots_counts_and_takes_any_leading_shape() -> None:
    states = ENGINE.empty_slots(6)
    states[4:, 1, 0] = 77
    with pytest.raises(em.SlotStateError, match=r"env \(1, 1\) slot 'mid': stage 77 .*\(2 wrong values in all\)"):
        ENGINE.check_slots(states.reshape(2, 3, 3, 2))


def test_slot_states_compare_and_print() -> None:
    assert em.SlotState(3, 1) == em.SlotState(stage=3, age=1) != em.SlotState(3, 2)
    assert len({em.SlotState(3), em.SlotState(3)}) == 1
    assert repr(em.SlotState(4, 6, 1)) == "SlotState(4, 6, 1)"
