"""Drop-in for the mask functions of June 2026: any slots, two topologies; one import changes, the results do not.

What differs from the original is the distribution: illegal actions have a probability of exactly 0, the floor is exact,
and fp16 logits are computed in fp32.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from esper_masks import categorical
from esper_masks.compat.environment import (
    OneEnvironment,
    batch_masks,
    check_totals,
    device_name,
    enabled_ids,
    from_reports,
    make_engine,
)
from esper_masks.engine import MaskEngine
from esper_masks.errors import InvalidStateMachineError
from esper_masks.rulesets import ruleset
from esper_masks.torch_private import under_vmap

__all__ = [
    "InvalidStateMachineError",
    "MaskSeedInfo",
    "MaskedCategorical",
    "SlotConfig",
    "build_slot_states",
    "compute_action_masks",
    "compute_batch_masks",
    "slot_id_to_index",
]

RULES = ruleset("esper-2026-06")
KEPT_ENGINES = 64  # of different slots, switches and devices


@dataclass(frozen=True, slots=True)
class MaskSeedInfo:
    """What the masks need to know of a seed.

    Args:
        stage: value of its stage.
        seed_age_epochs: epochs since it germinated.
        alpha_mode: 0 HOLD, 1 UP, 2 DOWN.
    """

    stage: int
    seed_age_epochs: int
    alpha_mode: int = 0


@dataclass(frozen=True)
class SlotConfig:
    """The slots of a network, in the order of the slot head.

    Args:
        slot_ids: their names.
    """

    slot_ids: tuple[str, ...] = RULES.slot_ids  # type: ignore[assignment]  # rules freeze it into a tuple

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot_ids", tuple(self.slot_ids))

    @classmethod
    def default(cls) -> "SlotConfig":
        return cls()


def slot_id_to_index(slot_id: str, slot_config: SlotConfig | None = None) -> int:
    """Index of a slot in the slot head; ``ValueError`` for an unknown id."""
    ids = (slot_config or SlotConfig()).slot_ids
    if slot_id not in ids:
        raise ValueError(f"unknown slot id {slot_id!r}; the slots are {', '.join(ids)}")
    return ids.index(slot_id)


def build_slot_states(slot_reports: Mapping[str, Any], slots: Sequence[str]) -> dict[str, MaskSeedInfo | None]:
    """Slot states from reports that have ``.stage``, ``.metrics.epochs_total`` and, if not HOLD, ``.alpha_mode``.

    A slot without a report, or whose report says DORMANT, is empty: None.
    """
    return from_reports(
        slot_reports,
        slots,
        RULES.empty,
        lambda report: MaskSeedInfo(
            int(report.stage), report.metrics.epochs_total, int(getattr(report, "alpha_mode", None) or 0)
        ),
    )


def compute_action_masks(
    slot_states: Mapping[str, MaskSeedInfo | None],
    enabled_slots: Iterable[str],
    total_seeds: int = 0,
    max_seeds: int = 0,
    device: torch.device | str | None = None,
    *,
    slot_config: SlotConfig | None = None,
    topology: str = "cnn",
    allow_governor_override: bool = False,
    disable_advance: bool = False,
) -> dict[str, Tensor]:
    """Masks of one environment.

    Args:
        slot_states: slot id -> its seed, None for an empty slot. A seed whose stage is DORMANT, or no stage at all, is
            occupied and inert.
        enabled_slots: ids of the slots that count.
        total_seeds: seeds germinated so far.
        max_seeds: seed limit; 0 or less for none.
        device: where the masks go; by default the CPU.
        slot_config: the slots; by default r0c0, r0c1, r0c2.
        topology: ``"cnn"`` or ``"transformer"``, which blueprints fit.
        allow_governor_override: PRUNE whatever the alpha mode.
        disable_advance: ADVANCE is never legal.

    Returns: bool tensors ``[n]``, one a head, and ``slot_by_op`` [6, slots].
    Raises:
        ValueError: an unknown topology, no enabled slot, an unknown slot id, or an enabled slot without a state.
    """
    one = _one(*_setting(slot_config, topology, allow_governor_override, disable_advance))
    enabled = _check_enabled(enabled_slots, one.slot_ids)
    _check_states(slot_states, enabled)
    masks = one.masks(slot_states, enabled, total_seeds, max_seeds, pairs=True)
    return masks if device is None else {name: mask.to(device) for name, mask in masks.items()}


def compute_batch_masks(
    batch_slot_states: Sequence[Mapping[str, MaskSeedInfo | None]],
    enabled_slots: Iterable[str],
    total_seeds_list: Sequence[int] | None = None,
    max_seeds: int = 0,
    device: torch.device | str | None = None,
    *,
    slot_config: SlotConfig | None = None,
    topology: str = "cnn",
    allow_governor_override: bool = False,
    disable_advance: bool = False,
) -> dict[str, Tensor]:
    """Masks of many environments in one pass: as ``compute_action_masks``, each ``[batch, ...]``.

    Args:
        batch_slot_states: slot states of each environment.
        enabled_slots: ids of the slots that count, in all of them.
        total_seeds_list: seeds germinated so far in each; by default 0.
        max_seeds: seed limit of each; 0 or less for none.
        device: where the masks are computed; by default the CPU.
        slot_config: as of ``compute_action_masks``.
        topology: the same.
        allow_governor_override: the same.
        disable_advance: the same.

    Raises:
        ValueError: as ``compute_action_masks``; an empty batch; totals for another number of environments.
    """
    setting = _setting(slot_config, topology, allow_governor_override, disable_advance)
    engine = _engine(*setting, device_name(device))
    enabled = _check_enabled(enabled_slots, engine.slot_ids)
    if not len(batch_slot_states):
        raise ValueError("batch_slot_states is empty: there is no environment to mask")
    totals = check_totals(total_seeds_list, len(batch_slot_states))
    for slot_states in batch_slot_states:
        _check_states(slot_states, enabled)
    return batch_masks(engine, batch_slot_states, enabled, totals, max_seeds, pairs=True)


class MaskedCategorical(categorical.MaskedCategorical):
    """``esper_masks.MaskedCategorical`` with the switch and the error of the original.

    Args:
        logits: ``[..., n]``.
        mask: bool ``[..., n]``.
        min_prob: floor under every legal action.

    Raises:
        ValueError: logits that hold inf/nan, anywhere, while ``validate`` is set; a mask that is not bool.
        InvalidStateMachineError: a row without a legal action, while ``validate`` is set.
    """

    validate: ClassVar[bool] = True  # set it to False to check nothing, in all that are made afterwards

    def __init__(self, logits: Tensor, mask: Tensor, min_prob: float = 0.0):
        checks = type(self).validate
        reads = checks and isinstance(logits, Tensor) and not torch.compiler.is_compiling() and not under_vmap(logits)
        if reads and not logits.isfinite().all():
            raise ValueError(
                "logits hold inf/nan; find where they come from, or set MaskedCategorical.validate = False"
            )
        super().__init__(logits, mask, min_prob=min_prob, validate="raise" if checks else "off")


def _setting(
    slot_config: SlotConfig | None, topology: str, override: bool, no_advance: bool
) -> tuple[tuple[str, ...], str, bool, bool]:
    if topology not in RULES.switches["topology"]:
        known = ", ".join(map(str, RULES.switches["topology"]))
        raise ValueError(f"unknown topology {topology!r}; the topologies are {known}")
    return (slot_config or SlotConfig()).slot_ids, topology, bool(override), bool(no_advance)


@lru_cache(KEPT_ENGINES)
def _engine(slot_ids: tuple[str, ...], topology: str, override: bool, no_advance: bool, device: str) -> MaskEngine:
    switches = {"topology": topology, "allow_governor_override": override, "disable_advance": no_advance}
    return make_engine(RULES, slot_ids, device, **switches)


@lru_cache(KEPT_ENGINES)
def _one(*setting: Any) -> OneEnvironment:
    return OneEnvironment(_engine(*setting, "cpu"))


def _check_enabled(enabled: Iterable[str], slot_ids: Sequence[str]) -> tuple[str, ...]:
    ids = enabled_ids(enabled)
    if not ids:
        raise ValueError(f"no slot is enabled; the slots are {', '.join(slot_ids)}")
    for slot_id in ids:
        if slot_id not in slot_ids:
            raise ValueError(f"unknown slot id {slot_id!r}; the slots are {', '.join(slot_ids)}")
    return ids


def _check_states(slot_states: Mapping[str, Any], enabled: Sequence[str]) -> None:
    for slot_id in enabled:
        if slot_id not in slot_states:
            raise ValueError(f"enabled slot {slot_id!r} is missing from slot_states; None means that it is empty")
