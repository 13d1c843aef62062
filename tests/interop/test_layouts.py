"""Masks beside an observation, as RLlib wants them."""

import numpy as np
import pytest
import torch

import esper_masks as em
from esper_masks.interop import rllib
from tests.helpers import random_states

ENGINE = em.MaskEngine(em.ruleset("esper-2025-12"))


def masks_of(batch: int) -> em.ActionMasks:
    masks: em.ActionMasks = ENGINE(random_states(ENGINE, batch))
    return masks


def test_a_vector_environment_of_rllib_has_arrays() -> None:
    masks, seen = masks_of(6), torch.randn(6, 7, dtype=torch.float64)
    for action, flat in (("joint", masks.joint()), ("factored", masks.flat())):
        made = rllib.observations(masks, seen, action=action)  # type: ignore[arg-type]
        assert set(made) == {"observations", "action_mask"}
        assert made["observations"].dtype == made["action_mask"].dtype == np.float32
        assert np.array_equal(made["observations"], seen.float().numpy())
        grown = seen.bfloat16().requires_grad_()
        assert np.array_equal(rllib.observations(masks, grown)["observations"], seen.bfloat16().float().numpy())
        assert np.array_equal(rllib.observations(masks, seen.numpy())["observations"], made["observations"])
        assert np.array_equal(made["action_mask"], flat.float().numpy())


def test_what_does_not_fit_is_named() -> None:
    masks, seen = masks_of(3), torch.zeros(3, 2)
    for call, reason in (
        (lambda: rllib.observations(masks, torch.zeros(4, 2)), r"an observation of shape \(4, 2\); wanted \[batch\]"),
        (lambda: rllib.observations(masks, {"obs": seen}), r"must be numbers \[batch, ...\], got dict"),
        (lambda: rllib.observations(masks.select(0), seen), r"masks of shape \(\) beside"),
        (lambda: rllib.observations(masks, seen, action="heads"), "action='heads' is not one of"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=reason):
            call()
