"""Checks of what an engine is made with and called with. They read nothing from the device."""

from collections.abc import Iterable, Sequence, Set

import torch
from torch import Tensor

from esper_masks.checks import kind_of
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.rules import MaskRules

STATE_DTYPES = (torch.int32, torch.int16, torch.int64)
INT32 = torch.iinfo(torch.int32)


def check_states(feature_names: Sequence[str], slot_ids: Sequence[str], states: Tensor, device: torch.device) -> None:
    """Raise ``SlotStateError`` unless states are integers ``[..., slots, features]`` on the device."""
    slots, features = len(slot_ids), len(feature_names)
    if not isinstance(states, Tensor) or states.dtype not in STATE_DTYPES:
        raise SlotStateError(f"states must be an int32, int16 or int64 tensor, got {kind_of(states)}; see pack_slots")
    if states.ndim < 2 or states.shape[-2] != slots or states.shape[-1] != features:
        raise SlotStateError(
            f"states have shape {tuple(states.shape)}; wanted [..., {slots}, {features}]: "
            f"slots {', '.join(slot_ids)}, features {', '.join(feature_names)}"
        )
    _check_device("states", states, device)


def check_enabled(enabled: Tensor, shape: torch.Size, device: torch.device) -> None:
    """Raise ``SlotStateError`` unless it is a bool tensor ``[slots]`` or of the shape ``[..., slots]``."""
    slots = shape[-1]
    if not isinstance(enabled, Tensor) or enabled.dtype != torch.bool:
        raise SlotStateError(f"enabled must be a bool tensor, got {kind_of(enabled)}; slot ids go to the constructor")
    if enabled.shape != shape and enabled.shape != (slots,):
        raise SlotStateError(f"enabled has shape {tuple(enabled.shape)}; wanted ({slots},) or {tuple(shape)}")
    _check_device("enabled", enabled, device)


def check_counts(name: str, counts: Tensor, batch: torch.Size, device: torch.device) -> None:
    """Raise ``SlotStateError`` unless counts are integers of the batch shape on the device."""
    if not isinstance(counts, Tensor) or counts.dtype not in STATE_DTYPES:
        raise SlotStateError(f"{name} must be an int32, int16 or int64 tensor, got {kind_of(counts)}")
    if counts.shape != batch:
        raise SlotStateError(f"{name} has shape {tuple(counts.shape)}; states of this batch need {tuple(batch)}")
    _check_device(name, counts, device)


def check_limit(rules: MaskRules, limited: bool, limit: int | Tensor) -> None:
    """Raise unless a seed limit is an integer, and some op is ``limited`` by it."""
    if not isinstance(limit, (int, torch.SymInt, Tensor)) or isinstance(limit, bool):
        raise SlotStateError(f"max_seeds must be an int or an integer tensor, got {limit!r}")
    if not isinstance(limit, Tensor) and limit > INT32.max:
        raise SlotStateError(f"max_seeds {limit} is no 32-bit integer; 0 means no limit")
    if (isinstance(limit, Tensor) or limit > 0) and not limited:
        raise RulesError(f"{rules.name} has no op under a seed limit, so max_seeds would have no effect")


def check_slot_ids(slot_ids: Sequence[str]) -> tuple[str, ...]:
    """Names of slots, in order; ``SlotStateError`` where they are missing or repeat."""
    ordered = isinstance(slot_ids, Iterable) and not isinstance(slot_ids, (str, Set))
    ids = tuple(slot_ids) if ordered else ()
    if not ordered or not all(isinstance(slot_id, str) and slot_id for slot_id in ids):
        raise SlotStateError(f"slot_ids must be a sequence of names, got {slot_ids!r:.80}")
    if not ids:
        raise SlotStateError("slot_ids are empty, or the rules have no default: an engine needs at least one slot id")
    if len(set(ids)) != len(ids):
        raise SlotStateError(f"slot ids repeat: {', '.join(ids)}")
    return ids


def check_enabled_ids(enabled: Iterable[str], slot_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Names of enabled slots; ``SlotStateError`` where there are none, or unknown ones."""
    if isinstance(enabled, (str, Tensor)) or not isinstance(enabled, Iterable):
        raise SlotStateError(f"enabled must be a collection of slot ids here, got {enabled!r:.80}")
    ids = tuple(dict.fromkeys(enabled))
    if not ids:
        raise SlotStateError(f"enabled is empty: no slot could ever act; the slots are {', '.join(slot_ids)}")
    if unknown := [slot_id for slot_id in ids if slot_id not in slot_ids]:
        raise SlotStateError(f"enabled names no slot of the engine: {unknown}; the slots are {', '.join(slot_ids)}")
    return ids


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise SlotStateError(f"{name} are on {tensor.device}, the engine is on {device}; move one of them")
