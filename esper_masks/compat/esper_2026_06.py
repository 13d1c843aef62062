"""Drop-in for the mask functions of June 2026: any slots, two topologies; one import changes, the results do not.

What differs from the original is the distribution: illegal actions have a probability of exactly 0, the floor is exact,
and fp16 logits are computed in fp32. The network of the original imports names with an underscore; they are here, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from esper_masks.compat.environment import Generation, Setting, check_totals, enabled_ids, from_reports
from esper_masks.compat.masked_logits import MASKED_LOGIT_VALUE, WithMaskedLogits
from esper_masks.compiled.torch_private import under_vmap
from esper_masks.distributions.faults import raise_faults
from esper_masks.errors import InvalidStateMachineError
from esper_masks.rulesets import ruleset

__all__ = [
    "MASKED_LOGIT_VALUE",
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
MASKS = Generation(RULES, pairs=True)
OLD_SLOT_IDS = ruleset("esper-2025-12").slot_ids


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

    slot_ids: tuple[str, ...] = tuple(RULES.slot_ids)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot_ids", tuple(self.slot_ids))

    @classmethod
    def default(cls) -> "SlotConfig":
        return cls()


DEFAULT = SlotConfig()


def slot_id_to_index(slot_id: str, slot_config: SlotConfig | None = None) -> int:
    """Index of a slot in the slot head; ``ValueError`` for an unknown id."""
    ids = (slot_config or DEFAULT).slot_ids
    if slot_id not in ids:
        why = "of 2025 is no longer supported" if slot_id in OLD_SLOT_IDS else "is unknown"
        raise ValueError(f"slot id {slot_id!r} {why}; the slots are {', '.join(ids)}")
    return ids.index(slot_id)


def build_slot_states(slot_reports: Mapping[str, Any], slots: Sequence[str]) -> dict[str, MaskSeedInfo | None]:
    """Slot states from reports that have ``.stage``, ``.metrics.epochs_total`` and, if not HOLD, ``.alpha_mode``.

    A slot without a report is empty: None. One whose report says DORMANT is occupied and inert.
    """

    def seed(report: Any) -> MaskSeedInfo:
        alpha_mode = int(getattr(report, "alpha_mode", None) or 0)
        return MaskSeedInfo(int(report.stage), report.metrics.epochs_total, alpha_mode)

    return from_reports(slot_reports, slots, seed)


def compute_action_masks(
    slot_states: Mapping[str, MaskSeedInfo | None],
    enabled_slots: Iterable[str],
    total_seeds: int = 0,
    max_seeds: int = 0,
    slot_config: SlotConfig | None = None,
    device: torch.device | str | None = None,
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
        slot_config: the slots; by default r0c0, r0c1, r0c2.
        device: where the masks go; by default the CPU.
        topology: ``"cnn"`` or ``"transformer"``, which blueprints fit.
        allow_governor_override: PRUNE whatever the alpha mode.
        disable_advance: ADVANCE is never legal.

    Returns: bool tensors ``slot`` [slots], ``slot_by_op`` [6, slots], then one ``[n]`` for each other head.
    Raises:
        ValueError: an unknown topology, no enabled slot, an unknown slot id, or an enabled slot without a state.
    """
    setting = _setting(slot_config, topology, allow_governor_override, disable_advance)
    enabled = _check_enabled(enabled_slots, setting[0])
    _check_states(slot_states, enabled)
    return MASKS.one(setting).masks(slot_states, enabled, total_seeds, max_seeds, device)


def compute_batch_masks(
    batch_slot_states: Sequence[Mapping[str, MaskSeedInfo | None]],
    enabled_slots: Iterable[str],
    total_seeds_list: Sequence[int] | None = None,
    max_seeds: int = 0,
    slot_config: SlotConfig | None = None,
    device: torch.device | str | None = None,
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
        slot_config: see ``compute_action_masks``.
        device: where the masks are computed; by default the CPU.
        topology: the same.
        allow_governor_override: the same.
        disable_advance: the same.

    Raises:
        ValueError: as ``compute_action_masks``; an empty batch; totals for another number of environments.
    """
    if not len(batch_slot_states):
        raise ValueError("batch_slot_states is empty; wanted at least one observation")
    totals = check_totals(total_seeds_list, len(batch_slot_states))
    setting = _setting(slot_config, topology, allow_governor_override, disable_advance)
    enabled = _check_enabled(enabled_slots, setting[0])
    for slot_states in batch_slot_states:
        _check_states(slot_states, enabled)
    return MASKS.batch_masks(setting, batch_slot_states, enabled, totals, max_seeds, device)


class MaskedCategorical(WithMaskedLogits):
    """``esper_masks.MaskedCategorical`` with the switch, the error and the ``masked_logits`` of the original.

    Args:
        logits: ``[..., n]``.
        mask: bool ``[..., n]``.
        min_prob: floor under every legal action; None for none.

    Raises:
        ValueError: logits that hold inf/nan, anywhere, while ``validate`` is set; a mask that is not bool.
        InvalidStateMachineError: a row without a legal action, while ``validate`` is set.
    """

    validate: ClassVar[bool] = True  # set it to False to check nothing, in all that are made afterwards

    def __init__(self, logits: Tensor, mask: Tensor, min_prob: float | None = None):
        checks = type(self).validate
        _check_kind(mask)
        if checks and isinstance(logits, Tensor):
            _validate_logits(logits)
        super().__init__(logits, mask, min_prob=min_prob, validate="raise" if checks else "off")


# -- what the network takes beside the distribution -------------------------------------------------------------------


def _validate_action_mask(mask: Tensor) -> None:
    """Check that every row of a mask ``[..., n]`` has a legal action; an assertion on the device when compiled.

    Raises:
        InvalidStateMachineError: a row has none; names the rows. Not under ``vmap``.
        ValueError: a mask that is not bool.
    """
    _check_kind(mask)
    empty = ~mask.any(-1)
    raise_faults(empty, lambda: empty, ())


def _validate_logits(logits: Tensor) -> None:
    """Raise ``ValueError`` for logits that hold inf/nan, anywhere; not under ``torch.compile`` or ``vmap``."""
    if torch.compiler.is_compiling() or under_vmap(logits) or logits.isfinite().all():
        return
    raise ValueError(
        f"logits hold inf/nan, a sign of network instability: nan_count={int(logits.isnan().sum())}, "
        f"inf_count={int(logits.isinf().sum())} of {logits.numel()}; find where they come from, or set "
        "MaskedCategorical.validate = False"
    )


def _apply_floor_to_logits(logits: Tensor, mask: Tensor, min_prob: float) -> Tensor:
    """Logits ``[..., n]`` of the distribution above a floor, -1e4 where illegal; those given may be masked or not."""
    return WithMaskedLogits(logits, mask, min_prob=min_prob, validate="off").masked_logits


def _masked_log_prob(masked_logits: Tensor, action: Tensor) -> Tensor:
    """Log-probabilities ``[...]`` of actions, from logits ``[..., n]``; about -1e4 for one under the mask."""
    everything = torch.ones_like(masked_logits, dtype=torch.bool)
    return WithMaskedLogits(masked_logits, everything, validate="off").log_prob(action)


def _normalized_entropy_from_masked_logits(masked_logits: Tensor, mask: Tensor) -> Tensor:
    """Entropy ``[...]`` over its maximum, in [0, 1]; 0 where one action is legal."""
    return WithMaskedLogits(masked_logits, mask, validate="off").entropy()


def _check_kind(mask: Tensor) -> None:
    if isinstance(mask, Tensor) and mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be a bool tensor, got {mask.dtype}, which is no longer supported; convert it with `mask > 0.5`"
        )


# -- settings ---------------------------------------------------------------------------------------------------------


def _setting(slot_config: SlotConfig | None, topology: str, override: bool, no_advance: bool) -> Setting:
    if topology not in RULES.switches["topology"]:
        known = ", ".join(map(str, RULES.switches["topology"]))
        raise ValueError(f"Unknown topology {topology!r}; the topologies are {known}")
    config = DEFAULT if slot_config is None else slot_config
    if not hasattr(config, "slot_ids"):
        raise ValueError(f"slot_config must have slot_ids, got {slot_config!r}; device is the argument behind it")
    flags = ("allow_governor_override", bool(override)), ("disable_advance", bool(no_advance))
    return tuple(config.slot_ids), ("topology", topology), *flags


def _check_enabled(enabled: Iterable[str], slot_ids: Sequence[str]) -> tuple[str, ...]:
    ids = enabled_ids(enabled)
    if not ids:
        raise ValueError(f"enabled_slots cannot be empty; the slots are {', '.join(slot_ids)}")
    unknown = [slot_id for slot_id in ids if slot_id not in slot_ids]
    if unknown:
        raise ValueError(f"enabled_slots has unknown slot IDs {unknown}; the slots are {', '.join(slot_ids)}")
    return ids


def _check_states(slot_states: Mapping[str, Any], enabled: Sequence[str]) -> None:
    missing = [slot_id for slot_id in enabled if slot_id not in slot_states]
    if missing:
        raise ValueError(f"slot_states missing entries for enabled slots {missing}; None stands for an empty slot")
