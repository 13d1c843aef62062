"""The loops over environments that the engine replaces, by rule set."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from esper_masks.bench import loops_2025_12, loops_2026_06

MODULES: dict[str, ModuleType] = {"esper-2025-12": loops_2025_12, "esper-2026-06": loops_2026_06}


def small_tensors(
    rules: str, batch: Sequence[Any], slot_ids: Sequence[str], enabled: Sequence[str], totals: Sequence[int], limit: int
) -> dict[str, Tensor]:
    """The usual form: every environment by itself, then stacked; ``one_tensor`` of a module is the best form.

    Args:
        rules: whose loop.
        batch: an environment each, slot id -> features or None.
        slot_ids: of all slots.
        enabled: those that may be used.
        totals: seeds of each environment.
        limit: of the totals; 0 is none.
    """
    env_masks = MODULES[rules].env_masks
    return stacked([env_masks(slots, slot_ids, enabled, total, limit) for slots, total in zip(batch, totals)])


def stacked(envs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The masks of a batch from those of each environment."""
    return {head: torch.stack([env[head] for env in envs]) for head in envs[0]}
