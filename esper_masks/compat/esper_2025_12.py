"""Drop-in for the mask functions of December 2025: slots early, mid, late; one import changes, the results do not.

What differs from the original is the distribution: illegal actions have a probability of exactly 0 and fp16 logits are
computed in fp32.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper_masks.compat.environment import Generation, check_totals, enabled_ids, from_reports
from esper_masks.compat.masked_logits import WithMaskedLogits
from esper_masks.errors import InvalidStateMachineError
from esper_masks.rulesets import ruleset

__all__ = [
    "InvalidStateMachineError",
    "MaskSeedInfo",
    "MaskedCategorical",
    "build_slot_states",
    "compute_action_masks",
    "compute_batch_masks",
    "slot_id_to_index",
]

RULES = ruleset("esper-2025-12")
MASKS, SETTING = Generation(RULES, pairs=False), (tuple(RULES.slot_ids),)


@dataclass(frozen=True, slots=True)
class MaskSeedInfo:
    """What the masks need to know of a seed.

    Args:
        stage: value of its stage.
        seed_age_epochs: epochs since it germinated.
    """

    stage: int
    seed_age_epochs: int


def slot_id_to_index(slot_id: str) -> int:
    """Index of a slot in the slot head; ``KeyError`` for an unknown id."""
    return {name: index for index, name in enumerate(RULES.slot_ids)}[slot_id]


def build_slot_states(slot_reports: Mapping[str, Any], slots: Sequence[str]) -> dict[str, MaskSeedInfo | None]:
    """Slot states from reports that have ``.stage`` and ``.metrics.epochs_total``; None for an empty slot.

    A slot without a report, or whose report says DORMANT, is empty.
    """

    def seed(report: Any) -> MaskSeedInfo | None:
        stage = int(report.stage)
        return None if stage == RULES.empty else MaskSeedInfo(stage, report.metrics.epochs_total)

    return from_reports(slot_reports, slots, seed)


def compute_action_masks(
    slot_states: Mapping[str, MaskSeedInfo | None],
    enabled_slots: Iterable[str],
    total_seeds: int = 0,
    max_seeds: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Masks of one environment.

    Args:
        slot_states: slot id -> its seed, None for an empty slot; a slot that is missing is empty. A seed whose stage is
            DORMANT, or no stage at all, is occupied and inert.
        enabled_slots: ids of the slots that count; ids that do not exist are ignored.
        total_seeds: seeds germinated so far.
        max_seeds: seed limit; 0 or less for none.
        device: where the masks go; by default the CPU.

    Returns: bool tensors ``slot`` [3], ``blueprint`` [5], ``blend`` [3], ``op`` [4].
    """
    return MASKS.one(SETTING).masks(slot_states, enabled_ids(enabled_slots), total_seeds, max_seeds, device)


def compute_batch_masks(
    batch_slot_states: Sequence[Mapping[str, MaskSeedInfo | None]],
    enabled_slots: Iterable[str],
    total_seeds_list: Sequence[int] | None = None,
    max_seeds: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Masks of many environments in one pass: as ``compute_action_masks``, each ``[batch, n]``.

    Args:
        batch_slot_states: slot states of each environment.
        enabled_slots: ids of the slots that count, in all of them.
        total_seeds_list: seeds germinated so far in each; by default 0.
        max_seeds: seed limit of each; 0 or less for none.
        device: where the masks are computed; by default the CPU.

    Raises:
        ValueError: totals for another number of environments.
    """
    totals = check_totals(total_seeds_list, len(batch_slot_states))
    return MASKS.batch_masks(SETTING, batch_slot_states, enabled_ids(enabled_slots), totals, max_seeds, device)


class MaskedCategorical(WithMaskedLogits):
    """``esper_masks.MaskedCategorical`` that takes integer and float masks too: above 0.5 is legal.

    ``masked_logits`` are those of the original: -1e4 where illegal.

    Args:
        logits: ``[..., n]``.
        mask: ``[..., n]``.
        settings: see ``esper_masks.MaskedCategorical``.
    """

    def __init__(self, logits: Tensor, mask: Tensor, **settings: Any):
        if isinstance(mask, Tensor) and mask.dtype != torch.bool:
            mask = mask > 0.5
        elif not isinstance(mask, Tensor) and hasattr(mask, "dtype"):  # of numpy
            mask = torch.as_tensor(mask > 0.5, device=logits.device)
        super().__init__(logits, mask, **settings)
