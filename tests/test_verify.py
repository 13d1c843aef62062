"""Lints, and the proof that all masks of a rule set agree; a wrong engine is noticed."""

from enum import IntEnum
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import esper_masks as em
from esper_masks import verify as module
from esper_masks.verify import lint, slot_space, verify
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


@pytest.mark.parametrize("name", em.rulesets())
def test_the_rule_sets_of_the_package(name: str) -> None:
    rules = em.ruleset(name)
    calls: list[tuple[int, int]] = []
    result = verify(rules, lambda done, of: calls.append((done, of)))
    assert result.agrees
    assert not result.interrupted
    expected = 8 if name == "esper-2026-06" else 1
    assert calls == [(i + 1, expected) for i in range(expected)]
    assert result.environments == expected * 4 * 4 * len(slot_space(rules)) ** 2
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


@given(random_rules())
@settings(max_examples=8)
def test_rules_of_any_make(rules: em.MaskRules) -> None:
    assert verify(rules).agrees


@pytest.mark.parametrize("chunk", [1, 100])
def test_chunks_of_any_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    result = verify(ODD)
    assert result.agrees
    assert result.environments == 4 * len(slot_space(ODD)) ** 2


class WrongEngine(em.MaskEngine):
    """CULL is legal in a TRAINING slot of any age, if it is the one."""

    slot = 0

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        masks = super().forward(states, *args, **settings)
        culled = (states[..., 0] == 3) & ((masks.slot_words & 1) != 0) & (torch.arange(2) == self.slot)
        return em.ActionMasks(self.layout, masks.slot_words | (culled.int() << 2), masks.op_words)


class WrongHeads(em.MaskEngine):
    """The op mask lacks GERMINATE, which slots allow."""

    def forward(self, *args: Any, **settings: Any) -> em.ActionMasks:
        masks = super().forward(*args, **settings)
        return em.ActionMasks(self.layout, masks.slot_words, masks.op_words & ~2)


def found(monkeypatch: pytest.MonkeyPatch, engine: type[em.MaskEngine] = em.MaskEngine) -> str:
    monkeypatch.setattr(module, "MaskEngine", engine)
    result = verify(em.ruleset("esper-2025-12"))
    assert not result.agrees
    return "\n".join(result.disagreements)


@pytest.mark.parametrize("slot", [0, 1])
def test_a_wrong_word_is_noticed(slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WrongEngine, "slot", slot)
    assert f"CULL in slot {'ab'[slot]} of " in found(monkeypatch, WrongEngine)


def test_a_wrong_head_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "head op: engine and oracle disagree" in found(monkeypatch, WrongHeads)


def test_wrong_whole_actions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(em.ActionMasks, "joint", lambda self: torch.ones(28, dtype=torch.bool))
    assert "whole actions: engine and oracle disagree" in found(monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(em.ActionMasks, "count", lambda self: torch.tensor(1))
    assert "number of whole actions: engine and oracle disagree" in found(monkeypatch)


def test_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    result = verify(em.ruleset("esper-2026-06"), stop)
    assert result.interrupted
    assert result.settings == 2
    assert result.environments > 0
    assert torch.get_num_threads() > 0
