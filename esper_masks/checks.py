"""Checks of shape and dtype that read nothing from the device."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_bool(
    name: str,
    mask: Any,
    shape: Sequence[int],
    device: torch.device | None = None,
    *,
    broadcast: bool = True,
    fixed: int = 1,
    own: bool = False,
) -> Tensor:
    """A bool mask that a caller gives: a tensor, or a numpy array, which is copied to the device.

    With ``broadcast`` it may be any shape that broadcasts to ``shape`` along all but the last ``fixed`` axes. With
    ``own`` a tensor is copied too: the caller may write to it again while the copy is kept.

    Raises:
        ValueError: it is not bool, has another shape, or is on another device than the one given.
    """
    given, mask = mask, from_numpy(mask, device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        how = f"convert it with `{name.split()[0]} > 0.5`"
        how = how if isinstance(mask, Tensor) else "make it one with torch.tensor(...) > 0.5"
        raise ValueError(f"{name} must be a bool tensor, got {kind_of(mask)}; {how}")
    if device is not None and mask.device != device:
        raise ValueError(f"{name} is on {mask.device}, not on {device}; move one of them")
    have, wanted = tuple(mask.shape), tuple(shape)
    if broadcast:
        fits = (not fixed or have[-fixed:] == wanted[-fixed:]) and _expands(have, wanted)
    else:
        fits = have == wanted
    if not fits:
        how = " or one that broadcasts to it" if broadcast else ""
        raise ValueError(f"{name} has shape {have}; wanted {wanted}{how}")
    return mask.clone() if own and isinstance(given, Tensor) else mask


def from_numpy(mask: Any, device: torch.device | None = None, kinds: str = "b") -> Any:
    """A numpy array of bools as a tensor that owns its memory; anything else as it is.

    With other ``kinds`` arrays of these, in numpy's letters: ``"biu"`` for bools and integers.

    An environment writes its next mask over the last one, and a tensor that shares the array would change with it.
    """
    if mask is None or isinstance(mask, Tensor):  # which a compiler need not look beyond
        return mask
    numpy = sys.modules.get("numpy")  # who has no numpy loaded has no array
    if numpy is None or not isinstance(mask, numpy.ndarray) or mask.dtype.kind not in kinds:
        return mask
    return torch.from_numpy(numpy.array(mask, order="C")).to(device)


def kind_of(value: Any) -> str:
    """What an argument is, for the error that refuses it."""
    if isinstance(value, Tensor):
        return str(value.dtype)
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else f"{type(value).__name__} of {dtype}"


def broadcast_batch(name: str, shape: Sequence[int], batch: torch.Size) -> torch.Size:
    """The shape that two shapes broadcast to; ``ValueError`` if there is none."""
    if tuple(shape) == tuple(batch):
        return batch
    try:
        # torch has no types here
        return torch.Size(torch.broadcast_shapes(shape, batch))  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(shape)}, which does not broadcast with {tuple(batch)}") from None


def check_expands(shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Raise ``ValueError`` unless a batch shape broadcasts to the wanted one."""
    if not _expands(tuple(shape), tuple(wanted)):
        raise ValueError(f"batch {tuple(shape)} does not expand to {tuple(wanted)}")


def _expands(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    padded = (1,) * (len(wanted) - len(shape)) + shape
    return len(padded) == len(wanted) and all(have == 1 or have == want for have, want in zip(padded, wanted))


def check_integer(name: str, values: Tensor) -> None:
    """Raise ``ValueError`` unless a tensor holds integers."""
    got = values.dtype if isinstance(values, Tensor) else type(values).__name__
    if not isinstance(got, torch.dtype) or got.is_floating_point or got.is_complex or got == torch.bool:
        raise ValueError(f"{name} must be an integer tensor, got {got}")


def check_range(name: str, index: Tensor, size: int, rows: str) -> None:
    """Raise ``IndexError`` if an index on the host, which torch has refused, is outside of ``size`` rows."""
    outside = index[(index < 0) | (index >= size)] if index.device.type == "cpu" else index[:0]
    if len(outside):
        wanted = f"0 to {size - 1}" if size else "none, there are no rows"
        raise IndexError(f"{name} {int(outside[0])} is out of range; wanted {wanted}: {rows}") from None


def check_logits(name: str, logits: Tensor) -> None:
    """Raise ``ValueError`` unless logits are floats with at least one action."""
    got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
    if got not in FLOATS:
        raise ValueError(f"{name} must be a tensor of float16, bfloat16, float32 or float64, got {got}")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"{name} have shape {tuple(logits.shape)}; wanted [..., n] with at least one action")


def check_min_prob(name: str, min_prob: float | None) -> float:
    """The floor, 0 for None.

    Raises:
        ValueError: it is no number, or not in [0, 1).
    """
    if min_prob is None:
        return 0.0
    if not isinstance(min_prob, (int, float)) or isinstance(min_prob, bool) or not 0 <= min_prob < 1:
        raise ValueError(f"{name} must be a number, 0 or more and below 1, or None for no floor; got {min_prob!r}")
    return min_prob


def check_noise(noise: Tensor, shape: torch.Size, like: Tensor) -> Tensor:
    """Uniforms that a caller gives, in the dtype of ``like``; what is below 0 becomes 0.

    Raises:
        ValueError: the noise is no float, has another shape, or is on another device.
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise must be a floating-point tensor of uniforms in [0, 1], got {got}")
    if noise.shape != shape or noise.device != like.device:
        raise ValueError(f"noise is {tuple(noise.shape)} on {noise.device}; wanted {tuple(shape)} on {like.device}")
    return noise.to(like.dtype).clamp_min(0)


def check_generator(generator: object, shape: Sequence[int]) -> None:
    """Raise ``TypeError`` unless a generator is None; the message says how to give its draws as noise."""
    if generator is not None:
        raise TypeError(
            "sampling takes no generator; draw its uniforms and give them: "
            f"noise=torch.rand({tuple(shape)}, generator=generator, device=generator.device)"
        )


def check_actions(name: str, actions: Tensor, batch: torch.Size, heads: Sequence[str]) -> None:
    """Raise ``ValueError`` unless whole actions are integers ``[*sample, *batch, heads]``."""
    check_integer(name, actions)
    if actions.ndim < 1 or actions.shape[-1] != len(heads):
        raise ValueError(
            f"{name} has shape {tuple(actions.shape)}; wanted [..., {len(heads)}], one value for each of "
            f"{', '.join(heads)}"
        )
    if actions.shape[actions.ndim - 1 - len(batch) : -1] != batch or actions.ndim - 1 < len(batch):
        raise ValueError(
            f"{name} has shape {tuple(actions.shape)}; wanted [*sample, {', '.join(map(str, (*batch, len(heads))))}]"
        )


def before_last(index: Any, trailing: int = 1) -> tuple[Any, ...]:
    """An index of all axes but the last, ``trailing`` of them."""
    parts = index if isinstance(index, tuple) else (index,)
    return (*parts, *[slice(None)] * trailing) if any(part is Ellipsis for part in parts) else (*parts, ...)
