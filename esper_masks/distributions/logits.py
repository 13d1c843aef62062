"""The logits of all heads, in whichever way the caller has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_masks.actions.draws import Heads
from esper_masks.actions.layout import ActionLayout
from esper_masks.checks import check_logits, check_min_prob
from esper_masks.distributions.softmax import arithmetic
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules.names import OP

Floors = tuple[float, ...] | None  # least probability of a legal choice, one per head; None for none at all


@dataclass(frozen=True)
class HeadLogits:
    """Logits side by side in head order.

    Args:
        layout: heads and ops.
        parts: one tensor of all columns, or one for each head: ``[..., columns]``. A head whose logits depend on the op
            has ops × n columns.
        by_op: positions of those heads.
    """

    layout: ActionLayout
    parts: tuple[Tensor, ...]
    by_op: Heads = ()

    @classmethod
    def check(cls, logits: Tensor | Mapping[str, Tensor], masks: ActionMasks) -> "HeadLogits":
        """Logits that fit masks.

        Raises:
            ValueError: a head that is missing or unknown, a shape, dtype or device that does not fit.
        """
        layout, shape = masks.layout, masks.shape
        sizes = [head.size for head in layout.heads]
        if isinstance(logits, Tensor):
            _check("logits", logits, [(*shape, sum(sizes))], masks.device)
            return cls(layout, (logits,))
        if not isinstance(logits, Mapping) or set(logits) != set(layout.head_names):
            given = ", ".join(map(str, logits)) if isinstance(logits, Mapping) else type(logits).__name__
            raise ValueError(
                f"logits must be a tensor [..., {sum(sizes)}] or a mapping with one for each of the heads "
                f"{', '.join(layout.head_names)}; got {given}"
            )
        parts, by_op, ops = [], [], len(layout.ops)
        for at, (name, size) in enumerate(zip(layout.head_names, sizes)):
            part = logits[name]
            shapes = [(*shape, size)] if name == OP else [(*shape, size), (*shape, ops, size)]
            _check(f"logits of head {name!r}", part, shapes, masks.device)
            if part.ndim > len(shape) + 1:
                by_op.append(at)
                part = part.flatten(-2)
            parts.append(part)
        return cls(layout, tuple(parts), tuple(by_op))

    def arithmetic(self) -> list[Tensor]:
        """The parts in the dtype of the arithmetic: fp64 for all if it is that of one."""
        parts = [arithmetic(part) for part in self.parts]
        return [part.double() for part in parts] if any(part.dtype == torch.float64 for part in parts) else parts

    def map(self, function: Callable[[Tensor], Tensor]) -> "HeadLogits":
        """The same for other rows."""
        return HeadLogits(self.layout, tuple(function(part) for part in self.parts), self.by_op)

    def given_op(self, by_op: Heads) -> "HeadLogits":
        """The same with logits for each op for more heads."""
        if by_op == self.by_op:
            return self
        ops, sizes = len(self.layout.ops), [head.size for head in self.layout.heads]
        parts = torch.split(self.parts[0], sizes, -1) if len(self.parts) == 1 else self.parts
        more = set(by_op) - set(self.by_op)
        wide = [
            part.unsqueeze(-2).expand(*part.shape[:-1], ops, -1).flatten(-2) if at in more else part
            for at, part in enumerate(parts)
        ]
        return HeadLogits(self.layout, tuple(wide), by_op)


def check_floors(
    min_prob: float | Sequence[float | None] | Mapping[str, float | None] | None, layout: ActionLayout
) -> Floors:
    """Floors that fit a layout.

    Raises:
        ValueError: a floor that is not a number in [0, 1), an unknown head, another number of floors.
    """
    names = layout.head_names
    if min_prob is None:
        return None
    if isinstance(min_prob, Mapping):
        if unknown := [name for name in min_prob if name not in names]:
            raise ValueError(f"min_prob names no head: {unknown}; the heads are {', '.join(names)}")
        floors = [min_prob.get(name) for name in names]
    elif isinstance(min_prob, Sequence) and not isinstance(min_prob, str):
        floors = list(min_prob)
    else:
        floors = [min_prob] * len(names)
    if len(floors) != len(names):
        raise ValueError(f"min_prob has {len(floors)} floors; wanted {len(names)}, one for each of {', '.join(names)}")
    checked = tuple(check_min_prob(f"min_prob of head {name!r}", floor) for name, floor in zip(names, floors))
    return checked if any(checked) else None


def _check(name: str, logits: Tensor, shapes: Sequence[tuple[int, ...]], device: torch.device) -> None:
    check_logits(name, logits)
    if tuple(logits.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} have shape {tuple(logits.shape)}; wanted {wanted}, leading axes as in the masks")
    if logits.device != device:
        raise ValueError(f"{name} are on {logits.device}, the masks are on {device}; move one of them")
