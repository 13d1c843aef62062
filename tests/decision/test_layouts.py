"""Layouts without rules: masks of elsewhere are kept in a buffer, and scored by a step."""

from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.actions.layout import ActionLayout
from tests.helpers import as_bools, assert_near, assert_same_masks, seeded

BATCH = 20
LAYOUT = ActionLayout.of(
    op=("NOOP", "MOVE", "ATTACK"),
    slot=4,
    heads={"direction": 4, "target": 5},
    uses={"MOVE": ("slot", "direction"), "ATTACK": ("slot", "target")},
)
FLAT = ActionLayout.multi_discrete({"a": 4, "b": 9})


def masks_of(layout: ActionLayout, seed: int = 0) -> em.ActionMasks:
    generator, given = seeded(seed), {}
    for head in layout.heads:
        axes = (4, head.size) if head.name == "direction" else (head.size,)
        given[head.name] = torch.rand(BATCH, *axes, generator=generator) < 0.6
        given[head.name][..., 0] = True
    return em.ActionMasks.from_bools(layout, given)


@pytest.mark.parametrize("layout", [LAYOUT, FLAT], ids=["of", "multi-discrete"])
@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_masks_are_kept_and_scored(layout: ActionLayout, mode: Any) -> None:
    buffer, step = em.RolloutBuffer(layout, 2, BATCH), em.DecisionStep(layout, mode=mode)
    logits = torch.randn(2, BATCH, layout.logit_size, generator=seeded(3))
    for at in range(2):
        masks = masks_of(layout, at)
        policy = em.FactoredCategorical(logits[at], masks)
        actions, log_prob = policy.sample_and_log_prob()
        buffer.store(at, masks, actions, log_prob)
        assert_same_masks(buffer.masks(at), as_bools(masks))
    index = torch.randperm(2 * BATCH, generator=seeded(4))
    rows = buffer.minibatch(index)
    assert rows.active.all()
    assert rows.masks.permits(rows.actions).all()
    scored = step.evaluate(logits.flatten(0, 1)[index], rows.masks, rows.actions, active=rows.active)
    assert_near(scored.log_prob, rows.log_prob, 1e-5)
    assert not scored.faults.any()
    assert "a layout without rules" in repr(buffer)


def test_rows_never_written_are_padding() -> None:
    for layout in (LAYOUT, FLAT):
        buffer = em.RolloutBuffer(layout, 2, BATCH)
        assert not buffer.active.any()
        assert not buffer.minibatch(torch.arange(3)).active.any()


def test_a_checkpoint_is_of_one_layout() -> None:
    state = em.RolloutBuffer(LAYOUT, 1, 2).state_dict()
    em.RolloutBuffer(LAYOUT, 1, 2).load_state_dict(state)
    for other in (FLAT, ActionLayout.multi_discrete({"a": 4, "c": 9})):
        with pytest.raises(em.RulesError, match="this RolloutBuffer has a layout without rules"):
            em.RolloutBuffer(other, 1, 2).load_state_dict(state)


def test_a_step_without_an_engine_only_scores() -> None:
    step = em.DecisionStep(LAYOUT, mode="eager")
    states, logits = torch.zeros(2, 4, 2, dtype=torch.int32), torch.zeros(2, LAYOUT.logit_size)
    for call in (lambda: step(states, logits), lambda: step.masks(states), lambda: step.allocate(2)):
        with pytest.raises(ValueError, match="made of a layout, without an engine: it scores by evaluate"):
            call()
    with pytest.raises(ValueError, match="engine must be a MaskEngine or an ActionLayout, got MaskRules"):
        em.DecisionStep(em.ruleset("esper-2025-12"))  # type: ignore[arg-type]
