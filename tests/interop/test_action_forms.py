"""Actions and masks in the forms of libraries: the engine's, whichever form it is; and no environment for it."""

import subprocess
import sys
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.interop.action_forms import ActionForm

RULES = em.ruleset("esper-2025-12")


@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_every_whole_action_comes_back(rules: str) -> None:
    engine = em.MaskEngine(em.ruleset(rules))
    joint, factored = ActionForm(engine), ActionForm(engine, "factored")
    size = engine.joint_actions.size
    index = torch.arange(size)
    assert joint.sizes == (size,)
    assert factored.sizes == tuple(head.size for head in engine.layout.heads)
    actions = joint.actions(index, size)
    assert torch.equal(engine.joint_actions.encode(actions), index)
    assert torch.equal(factored.actions(actions.to(torch.uint8), size), actions)
    masks = engine(engine.empty_slots(3))
    assert torch.equal(joint.masks(masks), masks.joint())
    assert torch.equal(factored.masks(masks), torch.cat(list(masks.values()), -1))


@pytest.mark.parametrize(
    ("form", "given", "reason"),
    [
        ("joint", torch.zeros(3), "actions must be an integer tensor, got torch"),
        ("joint", torch.zeros(3, 1, dtype=torch.int64), r"actions have shape \(3, 1\); wanted \(3,\), the joint form"),
        ("joint", torch.zeros(4, dtype=torch.int64), r"actions have shape \(4,\); wanted \(3,\)"),
        (
            "factored",
            torch.zeros(3, dtype=torch.int64),
            r"actions have shape \(3,\); wanted \(3, 4\), the factored form",
        ),
        ("factored", torch.zeros(3, 5, dtype=torch.int64), r"actions have shape \(3, 5\); wanted \(3, 4\)"),
        ("factored", torch.zeros(2, 4, dtype=torch.int64), r"actions have shape \(2, 4\); wanted \(3, 4\)"),
        ("factored", torch.zeros(3, 4, dtype=torch.bool), "actions must be an integer tensor, got torch"),
    ],
)
def test_actions_that_do_not_fit_are_named(form: Any, given: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ActionForm(em.MaskEngine(RULES), form).actions(given, 3)


def test_a_form_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="action='flat' is not one of 'joint', 'factored'"):
        ActionForm(em.MaskEngine(RULES), "flat")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["action_forms", "rllib"])
def test_masks_beside_an_observation_need_no_environment(module: str) -> None:
    code = f"import sys, esper_masks.interop.{module}; print([name for name in sys.modules if 'rollout' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
