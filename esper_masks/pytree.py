"""What torch is told of ``ActionMasks``.

They are a pytree, so that they pass through ``torch.compile``, ``vmap`` and ``torch.export``. They hold tensors,
numbers and names alone, so that ``torch.load(weights_only=True)`` may make them.
"""

from dataclasses import asdict, fields
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from esper_masks.layout import ActionLayout, HeadLayout
from esper_masks.masks import ActionMasks

__all__ = ["ActionMasks"]

Context = tuple[ActionLayout, tuple[str, ...]]  # static side, and which heads are limited


def _flatten(masks: ActionMasks) -> tuple[list[Tensor], Context]:
    names = tuple(sorted(masks._limits))
    return [masks.slot_words, masks.op_words, *(masks._limits[name] for name in names)], (masks.layout, names)


def _flatten_with_keys(masks: ActionMasks) -> tuple[list[tuple[pytree.KeyEntry, Tensor]], Context]:
    leaves, (layout, names) = _flatten(masks)
    keys = ("slot_words", "op_words", *names)
    return [(pytree.GetAttrKey(key), leaf) for key, leaf in zip(keys, leaves)], (layout, names)


def _unflatten(leaves: Any, context: Context) -> ActionMasks:
    layout, names = context
    slot_words, op_words, *limits = leaves
    return ActionMasks(layout, slot_words, op_words, dict(zip(names, limits)))


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

torch.serialization.add_safe_globals([ActionMasks, ActionLayout, HeadLayout])
