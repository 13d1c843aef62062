"""Masks beside an observation, in the form of RLlib's action masking module: https://docs.ray.io/en/latest/rllib."""

from typing import Any

from torch import Tensor

from esper_masks.extras import needs
from esper_masks.interop.action_forms import Form, rows_of
from esper_masks.masks.masks import ActionMasks

with needs("interop.rllib"):
    import numpy as np


def observations(masks: ActionMasks, observation: Tensor | Any, *, action: Form = "joint") -> dict[str, Any]:
    """What a vector environment gives: arrays of all rows.

        made["observations"]  float32 [batch, ...]
        made["action_mask"]   float32 [batch, n], 1 is legal: n whole actions; factored, of all heads side by side

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> made = em.interop.rllib.observations(engine(engine.empty_slots(2)), torch.zeros(2, 6))
    >>> made["action_mask"].shape, made["action_mask"].dtype
    ((2, 43), dtype('float32'))

    Args:
        masks: ``[batch]``.
        observation: ``[batch, ...]``, a tensor or an array.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.

    Raises:
        ValueError: another number of rows in the two, arguments of another kind, or no such form.
        ImportError: numpy is not installed.
    """
    seen = rows_of(masks, observation, action).numpy()
    flat = masks.joint() if action == "joint" else masks.flat()
    return {
        "observations": seen.astype(np.float32),
        "action_mask": flat.cpu().numpy().astype(np.float32),
    }
