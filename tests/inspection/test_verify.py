"""Lints, and the proof that all masks of a rule set agree; a wrong engine is noticed."""

from enum import IntEnum
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import esper_masks as em
from esper_masks.inspection.verify import lint, slot_space, verify
from tests.strategies import random_rules

Stage = IntEnum("Stage", "EMPTY BUSY STUCK LOST", start=0)
Act = IntEnum("Act", "WAIT FILL FREE NEVER", start=0)
ODD = em.MaskRules(
    name="odd",
    stages=Stage,
    transitions={
        Stage.EMPTY: [Stage.BUSY],
        Stage.BUSY: [Stage.EMPTY, Stage.STUCK],
        Stage.STUCK: [],
        Stage.LOST: [Stage.BUSY],
    },
    empty=Stage.EMPTY,
    op_rules=[
        em.Op(Act.WAIT, always=True),
        em.Op(Act.FILL, enters=Stage.BUSY, uses=["slot"]),
        em.Op(Act.FREE, enters=Stage.EMPTY, uses=["slot"]),
        em.Op(Act.NEVER, acts_in=[Stage.LOST], uses=["slot"]),
    ],
    heads=[em.Head("slot"), em.Head("unused", ["A", "B"]), em.Head("op")],
    slot_ids=["one"],
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "esper-2026-06")) for name in em.rulesets()]
)
def test_the_rule_sets_of_the_package(name: str) -> None:
    rules = em.ruleset(name)
    calls: list[tuple[float, int]] = []
    result = verify(rules, lambda done, of: calls.append((done, of)))
    assert result.agrees
    assert not result.interrupted
    expected = 8 if name == "esper-2026-06" else 1
    assert calls == sorted(calls)
    assert calls[-1] == (expected, expected)
    assert len(calls) > 100  # it moves within a setting too
    assert result.environments == expected * (4 * 4 * len(slot_space(rules)) ** 2 + 2 * 300)
    assert "stage UNKNOWN is never reached from DORMANT" in result.notes
    assert "stage FOSSILIZED: no op acts in it; it never ends" in result.notes


def test_the_space_has_every_threshold_and_its_neighbours() -> None:
    rows = slot_space(em.ruleset("esper-2026-06"))
    assert len(rows) == 13 * 3 * 5
    assert rows[:, 0].unique().tolist() == list(range(-1, 12))
    assert rows[:, 1].unique().tolist() == [4, 5, 6]
    assert rows[:, 2].unique().tolist() == [-1, 0, 1, 2, 3]


def test_lints() -> None:
    assert lint(ODD) == [
        "stage STUCK: no op acts in it; it never ends",
        "stage LOST is never reached from EMPTY",
        "op NEVER never becomes legal",
        "head unused is used by no op",
    ]
    assert verify(ODD).agrees


@pytest.mark.slow
@given(random_rules())
@settings(max_examples=8)
def test_rules_of_any_make(rules: em.MaskRules) -> None:
    assert verify(rules).agrees


@pytest.mark.parametrize("chunk", [1, 100])
def test_chunks_of_any_size(chunk: int) -> None:
    result = verify(ODD, chunk=chunk)
    assert result.agrees
    assert result.environments == 4 * len(slot_space(ODD)) ** 2 + 2 * 300


class WrongEngine(em.MaskEngine):
    """CULL is legal in a TRAINING slot of any age, if it is the one."""

    slot = 0

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        masks = super().forward(states, *args, **settings)
        here = torch.arange(states.shape[-2]) == self.slot
        culled = (states[..., 0] == 3) & ((masks.slot_words & 1) != 0) & here
        return em.ActionMasks(self.layout, masks.slot_words | (culled.int() << 2), masks.op_words)


class WrongHeads(em.MaskEngine):
    """The op mask lacks GERMINATE, which slots allow."""

    def forward(self, *args: Any, **settings: Any) -> em.ActionMasks:
        masks = super().forward(*args, **settings)
        return em.ActionMasks(self.layout, masks.slot_words, masks.op_words & ~2)


class Unlimited(em.MaskEngine):
    """It knows of no seed limit, and says so."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.program = self.program._replace(limited=False)

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        return super().forward(states, enabled=settings["enabled"])

    def explain(self, states: Any, env: Any = 0, *args: Any, **settings: Any) -> Any:
        return super().explain(states, env, enabled=settings["enabled"])


def found(engine: type[em.MaskEngine] = em.MaskEngine) -> str:
    result = verify(em.ruleset("esper-2025-12"), engine=engine)
    assert not result.agrees
    return "\n".join(result.disagreements)


@pytest.mark.parametrize("slot", [0, 1])
def test_a_wrong_word_is_noticed(slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WrongEngine, "slot", slot)
    assert f"CULL in slot {'ab'[slot]}: disagreement at " in found(WrongEngine)


def test_a_wrong_head_is_noticed() -> None:
    assert "head op: disagreement at" in found(WrongHeads)


def test_a_lost_seed_limit_is_noticed() -> None:
    assert "GERMINATE in slot " in found(Unlimited)


def test_wrong_whole_actions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(em.ActionMasks, "joint", lambda self: torch.ones(*self.shape, 29, dtype=torch.bool))
    assert "whole actions: disagreement at" in found()
    monkeypatch.undo()
    monkeypatch.setattr(em.ActionMasks, "count", lambda self: torch.ones(self.shape, dtype=torch.int64))
    assert "number of whole actions: disagreement at" in found()


class TwoSlotsOnly(em.MaskEngine):
    """Slots beyond the second are not looked at."""

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        states = states.clone()
        states[..., 2:, 0] = 1
        return super().forward(states, *args, **settings)


class Near(em.MaskEngine):
    """Ages above 2 are taken for 0."""

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        states = states.clone()
        states[..., 1] = torch.where(states[..., 1] > 2, 0, states[..., 1])
        return super().forward(states, *args, **settings)


@pytest.mark.parametrize("engine", [TwoSlotsOnly, Near])
def test_what_is_wrong_beyond_two_slots_and_near_values_is_noticed(engine: type[em.MaskEngine]) -> None:
    assert "of 5 slots: disagreement at" in found(engine)


@pytest.mark.parametrize("name", ["explain", "engine.explain"])
def test_wrong_explanations_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_masks.reference.explain.Explanation.legal", lambda self, op: True)
    assert f"{name}: disagreement at" in found()


def test_masks_that_are_wrong_in_batches_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = em.ActionMasks.__getitem__
    wrong = lambda self, name: whole(self, name) | (len(self.shape) > 0)  # noqa: E731
    monkeypatch.setattr(em.ActionMasks, "__getitem__", wrong)
    assert "head blueprint: disagreement" in found()


def test_a_disagreement_survives_an_interrupt() -> None:
    def stop(done: float, of: int) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    result = verify(em.ruleset("esper-2025-12"), stop, engine=WrongEngine)
    assert result.interrupted
    assert result.disagreements


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_done() -> None:
    def stop(done: float, of: int) -> None:
        if done > 1:
            raise KeyboardInterrupt

    result = verify(em.ruleset("esper-2026-06"), stop)
    assert result.interrupted
    assert not result.agrees
    assert result.settings == 1
    assert result.environments > 0
