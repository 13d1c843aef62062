"""Masks beside an observation, in the form of PettingZoo: https://pettingzoo.farama.org."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from esper_masks.extras import needs
from esper_masks.interop.action_forms import Form, rows_of
from esper_masks.masks.masks import ActionMasks

with needs("interop.pettingzoo"):
    import numpy as np


def observations(
    masks: ActionMasks, observation: Tensor | Any, agents: Sequence[str], *, action: Form = "joint"
) -> dict[str, dict[str, Any]]:
    """What a parallel environment gives its agents, who are the rows of a batch.

        made[agents[i]]["observation"]  row i of the observation
        made[agents[i]]["action_mask"]  int8 [n], 1 is legal, for Discrete(n); factored, a tuple, one per head, as
                                        the sampler of MultiDiscrete takes

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> masks = engine(engine.empty_slots(2))
    >>> made = em.interop.pettingzoo.observations(masks, torch.zeros(2, 6), ["one", "two"])
    >>> made["two"]["action_mask"].shape, made["two"]["action_mask"].sum()
    ((43,), np.int64(37))

    Args:
        masks: masks of the agents, ``[batch]``.
        observation: ``[batch, ...]``, a tensor or an array.
        agents: their names.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.

    Raises:
        ValueError: another number of rows than agents, names that repeat, arguments of another kind, or no such form.
        ImportError: numpy is not installed.
    """
    seen = rows_of(masks, observation, action).numpy()
    if len(agents) != len(seen) or len(set(agents)) != len(agents):
        raise ValueError(f"{len(set(agents))} agents, and masks of {len(seen)} rows; wanted a row for each agent")
    heads = [masks.joint()] if action == "joint" else list(masks.values())
    rows = list(zip(*(head.cpu().numpy().astype(np.int8) for head in heads)))
    return {
        agent: {"observation": seen[at], "action_mask": rows[at][0] if action == "joint" else rows[at]}
        for at, agent in enumerate(agents)
    }
