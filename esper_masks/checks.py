"""Checks of shape and dtype that read nothing from the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_bool(
    name: str, mask: Tensor, shape: Sequence[int], device: torch.device | None = None, *, broadcast: bool = True
) -> None:
    """Raise ``ValueError`` unless a mask is bool, on the device if one is given, and has the shape.

    With ``broadcast`` it may be any shape that broadcasts to it along all but the last axis.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask {name!r} must be a bool tensor, got {got}; convert it with `mask > 0.5`")
    if device is not None and mask.device != device:
        raise ValueError(f"mask {name!r} is on {mask.device}, the masks are on {device}; move one of them")
    have, wanted = tuple(mask.shape), tuple(shape)
    if broadcast:
        padded = (1,) * (len(wanted) - len(have)) + have
        fits = len(padded) == len(wanted) and have[-1:] == wanted[-1:]
        fits = fits and all(size in (1, want) for size, want in zip(padded, wanted))
    else:
        fits = have == wanted
    if not fits:
        how = " or one that broadcasts to it" if broadcast else ""
        raise ValueError(f"mask {name!r} has shape {have}; wanted {wanted}{how}")


def check_integer(name: str, values: Tensor) -> None:
    """Raise ``ValueError`` unless a tensor holds integers."""
    got = values.dtype if isinstance(values, Tensor) else type(values).__name__
    if not isinstance(got, torch.dtype) or got.is_floating_point or got.is_complex or got == torch.bool:
        raise ValueError(f"{name} must be an integer tensor, got {got}")
