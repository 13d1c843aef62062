"""Checks of what goes into a rollout's storage; they read nothing from the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.actions.layout import ActionLayout
from esper_masks.checks import kind_of
from esper_masks.masks.masks import ActionMasks

ARGUMENTS = ("self", "step")  # of store and write, beside those that are also attributes


def check_size(name: str, size: int) -> None:
    """Raise ``ValueError`` unless a size is a positive int."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{name} must be an int, 1 or more, got {size!r}")


def check_field_names(module: nn.Module, fields: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless every field is a tensor with a name that is free to be a keyword and an attribute."""
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"fields must be a mapping from name to an example of one row, got {type(fields).__name__}; "
            "for example {'value': torch.zeros(())}"
        )
    for name, example in fields.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"field {name!r} is no name that a keyword argument can have")
        if name in ARGUMENTS or hasattr(module, name):
            raise ValueError(f"field {name!r} has a name that {type(module).__name__} uses itself; take another")
        if not isinstance(example, Tensor):
            raise ValueError(
                f"field {name!r} must be a tensor, an example of one row, got {type(example).__name__}; "
                "a number is torch.zeros(())"
            )


def check_masks(masks: ActionMasks, layout: ActionLayout, batch: int, device: torch.device) -> None:
    """Raise ``ValueError`` unless masks are of the layout, ``[batch]``, on the device."""
    if not isinstance(masks, ActionMasks):
        raise ValueError(
            f"masks must be ActionMasks, got {type(masks).__name__}; an engine or ActionMasks.from_words makes them"
        )
    if masks.layout is not layout and masks.layout != layout:
        raise ValueError(
            "masks have another layout (rules, switches or slots) than the buffer; it takes those of its engine"
        )
    if masks.shape != (batch,) or masks.device != device:
        raise ValueError(f"masks are {tuple(masks.shape)} on {masks.device}; wanted {(batch,)} on {device}")


def check_log_prob(log_prob: Any, stored: Tensor) -> None:
    """Raise ``ValueError`` unless log-probabilities are floats that their rows hold."""
    if not isinstance(log_prob, Tensor) or not log_prob.is_floating_point():
        raise ValueError(f"log_prob must be a floating-point tensor, got {kind_of(log_prob)}")
    check_rows("log_prob", log_prob, stored.shape, stored.device)
    if log_prob.dtype == torch.float64 and stored.dtype != torch.float64:
        raise ValueError(
            f"log_prob is torch.float64, the buffer holds {stored.dtype}: make it with dtype=torch.float64, or give "
            "log_prob.float()"
        )


def check_rows(name: str, rows: Tensor, shape: torch.Size, device: torch.device) -> None:
    """Raise ``ValueError`` unless a tensor has the shape and device of the rows where it is to be stored."""
    if rows.shape != shape or rows.device != device:
        raise ValueError(f"{name} is {tuple(rows.shape)} on {rows.device}; wanted {tuple(shape)} on {device}")


def check_fields(given: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless fields are among those stored, ``[steps, batch, *shape]``, and fit one step."""
    for name, rows in given.items():
        if name not in stored:
            raise ValueError(f"there is no field {name!r}; the fields are {', '.join(stored) or 'none'}")
        places = stored[name]
        if not isinstance(rows, Tensor) or rows.dtype != places.dtype:
            raise ValueError(
                f"field {name!r} must be a {places.dtype} tensor, as its example is, got {kind_of(rows)}; convert it"
            )
        check_rows(f"field {name!r}", rows, places.shape[1:], places.device)


def check_index(name: str, index: Tensor, of: str) -> None:
    """Raise ``ValueError`` unless an index is int64 or int32 ``[n]``."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32) or index.ndim != 1:
        got = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"{name} must be int64 [n], {of}, got {got}")
