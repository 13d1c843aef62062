"""How many words the masks of a row are kept in: those of its slots alone, or packed words of one of some widths."""

from collections.abc import Collection

import torch

from esper_masks.actions.layout import ActionLayout, choice_words
from esper_masks.actions.packing import packed_width
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules.names import BY_SLOT


def in_words(masks: ActionMasks) -> bool:
    """Whether slot words alone hold masks: no op is legal by itself, no head has choices of its own."""
    return not (masks.choices or masks.layout.free) and masks.slot_mask is None


def words_for(layout: ActionLayout, head_masks: Collection[str] = (), restrict: Collection[str] = ()) -> int | None:
    """Packed words of a row whose masks are limited under these names; None where slot words hold them.

    Args:
        layout: heads, ops and slots.
        head_masks: heads whose masks a caller gives, of the row or of each slot.
        restrict: keywords of ``ActionMasks.restrict``.

    Raises:
        ValueError: a name that is none.
    """
    names = list(restrict)
    for name in head_masks:
        if name not in layout.choice_names:
            known = ", ".join(layout.choice_names) or "none"
            raise ValueError(f"head_masks names {name!r}; the heads that can have masks are {known}")
        names.append(name if layout.head(name).users & layout.without_slot else f"{name}{BY_SLOT}")
    width = packed_width(layout, names)
    tells = not (layout.free or any(head.dynamic for head in layout.heads))  # what slots hold tells all that is legal
    return None if tells and width == packed_width(layout) else width


def empty(layout: ActionLayout, device: torch.device | None = None) -> ActionMasks:
    """Masks of one row in which no slot is enabled, and what needs none is legal."""
    slots, dtype = len(layout.slot_ids), layout.word_dtype
    choices = {
        head.name: torch.zeros((*[slots] * head.by_slot, choice_words(head.size)), dtype=torch.int32, device=device)
        for head in layout.heads
        if head.dynamic
    }
    op_words = torch.full((), layout.unconditional, dtype=dtype, device=device)
    return ActionMasks(layout, torch.zeros(slots, dtype=dtype, device=device), op_words, choices)
