"""What torch is told of masks: they are a pytree."""

from dataclasses import asdict, fields
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.actions.tables import choice_bits
from esper_masks.masks.choices import pack_choices
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules.names import SLOT

Context = tuple[ActionLayout, tuple[str, ...]]  # static side; which heads have choice words, SLOT for the slots' mask


def _flatten(masks: ActionMasks) -> tuple[list[Tensor], Context]:
    held = masks.choices if masks.slot_mask is None else {**masks.choices, SLOT: masks.slot_mask}
    names = tuple(sorted(held))
    return [masks.slot_words, masks.op_words, *(held[name] for name in names)], (masks.layout, names)


def _flatten_with_keys(masks: ActionMasks) -> tuple[list[tuple[pytree.KeyEntry, Tensor]], Context]:
    leaves, (layout, names) = _flatten(masks)
    keys = ("slot_words", "op_words", *names)
    return [(pytree.GetAttrKey(key), leaf) for key, leaf in zip(keys, leaves)], (layout, names)


def _unflatten(leaves: Any, context: Context) -> ActionMasks:
    layout, names = context
    slot_words, op_words, *held = leaves
    choices = {name: _as_choices(leaf) for name, leaf in zip(names, held) if name != SLOT}
    return ActionMasks(layout, slot_words, op_words, choices, dict(zip(names, held)).get(SLOT))


def _as_choices(leaf: Any) -> Any:
    """A leaf as it is; programs that were exported by 0.1.0 give bools."""
    if isinstance(leaf, Tensor) and leaf.dtype == torch.bool:
        return pack_choices(leaf, choice_bits(leaf.device))
    return leaf


def _dump(context: Context) -> dict[str, Any]:
    """The context as JSON-able data, for saved exported programs."""
    layout, names = context
    plain = {f.name: getattr(layout, f.name) for f in fields(layout) if f.init}
    return {**plain, "heads": [asdict(head) for head in layout.heads], "limits": names}


def _load(data: dict[str, Any]) -> Context:
    data = _tuples(data)
    names = data.pop("limits")
    heads = tuple(HeadLayout(**head) for head in data.pop("heads"))
    return ActionLayout(heads=heads, **data), names


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


pytree.register_pytree_node(
    ActionMasks,
    _flatten,
    _unflatten,
    serialized_type_name="esper_masks.ActionMasks",
    to_dumpable_context=_dump,
    from_dumpable_context=_load,
    flatten_with_keys_fn=_flatten_with_keys,
)
