"""Checks of what an engine is made with and called with. They read nothing from the device."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from esper_masks.actions.layout import ActionLayout
from esper_masks.actions.tables import layout_tables
from esper_masks.checks import check_bool, check_integer, from_numpy, kind_of
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.masks.choices import PackedMask
from esper_masks.masks.program import Program
from esper_masks.masks.successors import Changes
from esper_masks.rules import MaskRules
from esper_masks.rules.checks import too_few_slots
from esper_masks.rules.names import BY_SLOT, OP, SLOT, SLOT_BY_OP

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


def check_sets(rules: MaskRules, changes: Changes, states: Tensor) -> None:
    """Raise ``SlotStateError`` where states do not hold a value that an op sets."""
    if changes.wide and states.dtype == torch.int16:
        feature, value = changes.wide[0]
        raise SlotStateError(f"{rules.name} sets {feature!r} to {value}, which int16 states do not hold; give int32")


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


def check_rows(
    rows: Mapping[str, Any] | None,
    declared: Mapping[str, Any],
    needed: Sequence[str],
    batch: torch.Size,
    device: torch.device,
) -> dict[str, Tensor]:
    """Values of environments as their guards read them, bool or integers of at least 32 bits ``[...]``.

    Raises:
        SlotStateError: a row that a guard reads and that is missing, an unknown one, or one that does not fit.
    """
    given = {} if rows is None else rows
    if not isinstance(given, Mapping):
        raise SlotStateError(f"row must be a mapping from name to tensor, got {kind_of(given)}")
    known = ", ".join(declared) or "none"
    for name in needed:
        if name not in given:
            raise SlotStateError(f"row {name!r} is missing, which guards read: row={{{name!r}: [...]}}")
    made = {}
    for name, values in given.items():
        if name not in declared:
            raise SlotStateError(f"there is no row {name!r}; row_features has: {known}")
        values = from_numpy(values, device, "biu")
        if isinstance(values, int) and not batch:  # one environment
            values = torch.tensor(values, device=device)
        is_bool = isinstance(values, Tensor) and values.dtype == torch.bool
        if is_bool and declared[name] is not bool:
            raise SlotStateError(f"row {name!r} must be of integers, got {kind_of(values)}")
        if not isinstance(values, Tensor) or values.dtype.is_floating_point or values.dtype.is_complex:
            raise SlotStateError(f"row {name!r} must be a tensor of bools or integers, got {kind_of(values)}")
        if values.dtype == torch.uint64:
            raise SlotStateError(f"row {name!r} is of torch.uint64, which int64 does not hold; convert it with .long()")
        if values.shape != batch:
            raise SlotStateError(
                f"row {name!r} has shape {tuple(values.shape)}; states of this batch need {tuple(batch)}"
            )
        _check_device(f"row {name!r}", values, device)
        if values.dtype == torch.uint32:
            values = values.long()  # which int32 does not hold
        if declared[name] is bool:
            made[name] = values if is_bool else values != 0
        else:
            made[name] = values if values.dtype in (torch.int32, torch.int64) else values.int()
    return made


def check_head_masks(
    masks: Mapping[str, Any] | None, layout: ActionLayout, batch: torch.Size, device: torch.device
) -> list[tuple[str, bool, Any]]:
    """Each head that has a mask, whether it is by slot, which the number of axes tells, and the mask.

    Raises:
        SlotStateError: no head that can have one, or a mask that does not fit.
        ValueError: one by slot, of a head that has none.
    """
    if masks is None:
        return []
    if not isinstance(masks, Mapping):
        raise SlotStateError(f"head_masks must be a mapping from head to mask, got {kind_of(masks)}")
    known, slots = layout.choice_names, len(layout.slot_ids)
    made: list[tuple[str, bool, Any]] = []
    for name, mask in masks.items():
        if name not in known:
            hint = "; op and slot go to restrict=" if name in (OP, SLOT) else ""
            if str(name).removesuffix(BY_SLOT) in known:
                hint = f"; a mask [..., {slots}, n] of {name.removesuffix(BY_SLOT)!r} is one by slot"
            raise SlotStateError(f"head_masks has {name!r}; the heads are {', '.join(known) or 'none'}{hint}")
        size = layout.head(name).size
        if isinstance(mask, PackedMask):
            made.append((name, mask.words.ndim == len(batch) + 2, mask))
            continue
        mask = from_numpy(mask, device)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise SlotStateError(f"head_masks {name!r} must be a bool tensor, got {kind_of(mask)}")
        by_slot = mask.ndim == len(batch) + 2
        if mask.shape != (wanted := (*batch, slots, size) if by_slot else (*batch, size)):
            raise SlotStateError(
                f"head_masks {name!r} has shape {tuple(mask.shape)}; wanted {wanted}: the leading axes of the states, "
                f"then {size} choices, or {slots} slots and {size} choices"
            )
        _check_device(f"head_masks {name!r}", mask, device)
        if by_slot:
            _check_by_slot(layout, name, device)
        made.append((name, by_slot, mask))
    return made


def check_restrict(constraints: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Raise ``SlotStateError`` unless constraints are a mapping; what is in it ``ActionMasks.restrict`` checks."""
    if constraints is not None and not isinstance(constraints, Mapping):
        raise SlotStateError(
            f"restrict must be a mapping, with the keywords of masks.restrict, got {kind_of(constraints)}"
        )
    return {} if constraints is None else constraints


def check_constraint(layout: ActionLayout, name: str, mask: Any, batch: torch.Size, device: torch.device) -> Tensor:
    """A constraint of ``ActionMasks.restrict``, a tensor that broadcasts to ``[*batch, *constraint_axes]``.

    Raises:
        ValueError: a mask that is not bool, does not broadcast or is on another device; or one by slot, of a head that
            has none.
        KeyError: a name that is not a head.
    """
    axes = constraint_axes(layout, name)
    if name != SLOT_BY_OP and name not in layout.head_names:
        _check_by_slot(layout, name.removesuffix(BY_SLOT), device)
    elif name not in (OP, SLOT) and getattr(mask, "shape", ())[len(batch) :] == (len(layout.slot_ids), *axes):
        _check_by_slot(layout, name, device)
        raise ValueError(f"mask {name!r} has shape {tuple(mask.shape)}; a mask by slot is called {name}{BY_SLOT}")
    return check_bool(f"mask {name!r}", mask, (*batch, *axes), device)


def _check_by_slot(layout: ActionLayout, head: str, device: torch.device) -> None:
    if alone := layout_tables(layout, device).alone[layout.position(head)]:
        raise ValueError(f"the head {head!r} has no choices by slot: {', '.join(alone)} uses it without a slot")


def constraint_axes(layout: ActionLayout, name: str) -> tuple[int, ...]:
    """The axes of a constraint behind the leading ones.

    Raises:
        ValueError: by slot, of the head of slots or of ops; KeyError: a name that is not a head.
    """
    slots = len(layout.slot_ids)
    if name == SLOT_BY_OP:
        return len(layout.ops), slots
    if name not in layout.head_names and name.endswith(BY_SLOT):
        head = layout.head(name.removesuffix(BY_SLOT))
        if head.name in (SLOT, OP) or not slots:
            raise ValueError(f"the head {head.name!r} has no choices by slot")
        return slots, head.size
    if name not in layout.head_names:
        heads = ", ".join(layout.head_names)
        raise KeyError(f"no head {name!r}; there are {heads}, {SLOT_BY_OP}, and heads with {BY_SLOT} behind the name")
    return (layout.head(name).size,)


def check_kinds(
    rules: MaskRules, program: Program, slot_ids: Sequence[str], kinds: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Kind -> its slots; ``SlotStateError`` where a kind that rules need is missing, or names an unknown slot."""
    given = rules.kinds if kinds is None else kinds
    for kind in (kind for kinds in program.kinds for kind in kinds):
        if kind not in given:
            raise SlotStateError(f"kind {kind!r} is missing, which guards need: kinds={{{kind!r}: (...)}}")
    made = {}
    for kind, slots in given.items():
        if kind not in rules.kinds:
            raise SlotStateError(f"there is no kind {kind!r}; {rules.name} has {', '.join(rules.kinds) or 'none'}")
        if isinstance(slots, str) or (unknown := [slot for slot in slots if slot not in slot_ids]):
            known = ", ".join(slot_ids)
            source = "give the engine kinds of its own: kinds=" if kinds is None else f"the slots are {known}"
            raise SlotStateError(f"kind {kind!r} names no slot of the engine: {unknown or slots!r}; {source}")
        if len(set(slots)) < len(slots):
            raise SlotStateError(f"kind {kind!r} names a slot twice: {', '.join(slots)}")
        made[kind] = tuple(slots)
    return made


def check_slots_suffice(rules: MaskRules, slot_ids: Sequence[str], kinds: Mapping[str, Sequence[str]]) -> None:
    """Raise ``RulesError`` where a guard wants more slots than there are."""
    of_kind = {kind: len(slots) for kind, slots in kinds.items()}
    for reason in too_few_slots(rules.judged(), len(slot_ids), of_kind):
        raise RulesError(f"rules {rules.name!r} with {len(slot_ids)} slots: {reason}")


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


def check_words(name: str, words: Tensor, layout: ActionLayout) -> None:
    """Raise ``ValueError`` unless words are integers with a bit for each op of a layout."""
    check_integer(name, words)
    if (width := torch.iinfo(words.dtype).bits) < layout.possible.bit_length():
        raise ValueError(
            f"{name} are {words.dtype}, {width} bits; {len(layout.ops)} ops need {layout.word_dtype}, so bits were lost"
        )


def check_masks(layout: ActionLayout, masks: Mapping[str, Any]) -> tuple[torch.Size, torch.device, dict[str, Tensor]]:
    """Masks for ``ActionMasks.from_bools``: their leading shape, their device, and each as ``restrict`` names it.

    Raises:
        ValueError: a head that is needed and missing, or a mask that does not fit; KeyError: an unknown head.
    """
    needed = [name for name in (OP, SLOT) if name in layout.head_names]
    if not masks or (missing := [name for name in needed if name not in masks]):
        wanted = f"{missing[0]!r}" if masks else f"each of {', '.join(needed)}" if needed else "some head"
        raise ValueError(f"from_bools needs a mask for {wanted}; it was given {', '.join(masks) or 'none'}")
    first = OP if needed else next(iter(masks))
    lead = check_mask(f"mask {first!r}", masks[first], (..., layout.head(first).size), None)
    shape, device, given = lead.shape[:-1], lead.device, {}
    for name, mask in masks.items():
        by_slot = name not in needed and getattr(mask, "ndim", 0) == len(shape) + 2
        axes = (*shape, len(layout.slot_ids)) if by_slot else shape
        mask = check_mask(f"mask {name!r}", mask, (*axes, layout.head(name).size), device)
        given[f"{name}{BY_SLOT}" if by_slot else name] = mask
    return shape, device, given


def check_mask(name: str, mask: Any, shape: Sequence[Any], device: torch.device | None) -> Tensor:
    """A mask of bool or int8 that a caller gives, as bools on a device; ``...`` first for any leading axes.

    Raises:
        ValueError: another dtype or shape, or another device than the one given.
    """
    if (isinstance(mask, Tensor) and mask.dtype == torch.int8) or getattr(mask, "dtype", None) == "int8":
        mask = mask != 0
    if shape[0] is ...:
        shape = (*getattr(mask, "shape", (0,))[:-1], *shape[1:])
    return check_bool(name, mask, shape, device, broadcast=False)


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise SlotStateError(f"{name} are on {tensor.device}, the engine is on {device}; move one of them")
