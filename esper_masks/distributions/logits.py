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
from esper_masks.rules.names import OP, SLOT

Floors = tuple[float, ...] | None  # least probability of a legal choice, one per head; None for none at all


@dataclass(frozen=True)
class HeadLogits:
    """Logits side by side in head order.

    Args:
        layout: heads and ops.
        parts: one tensor of all columns, or one for each head: ``[..., columns]``. A head whose logits depend on the op
            has ops × n columns, one whose logits depend on the slot slots × n; on both, ops × slots × n.
        by_op: positions of the heads whose logits depend on the op.
        by_slot: positions of those whose logits depend on the slot.
    """

    layout: ActionLayout
    parts: tuple[Tensor, ...]
    by_op: Heads = ()
    by_slot: Heads = ()

    @classmethod
    def check(
        cls, logits: Tensor | Mapping[str, Tensor], masks: ActionMasks, by_slot: Sequence[str] = ()
    ) -> "HeadLogits":
        """Logits that fit masks.

        Args:
            logits: see ``FactoredCategorical``.
            masks: which actions are legal.
            by_slot: names of the heads whose logits are ``[..., slots, n]``.

        Raises:
            ValueError: a head that is missing or unknown, a shape, dtype or device that does not fit.
        """
        layout, shape = masks.layout, masks.shape
        sizes = [head.size for head in layout.heads]
        in_slots = check_by_slot(by_slot, layout)
        if isinstance(logits, Tensor):
            if in_slots:
                heads = ", ".join(layout.head_names[at] for at in in_slots)
                raise ValueError(
                    f"flat logits have no room for slots; give a mapping, head -> logits, with [..., "
                    f"{len(layout.slot_ids)}, n] for {heads}"
                )
            _check("logits", logits, [(*shape, sum(sizes))], masks.device)
            return cls(layout, (logits,))
        if not isinstance(logits, Mapping) or set(logits) != set(layout.head_names):
            given = ", ".join(map(str, logits)) if isinstance(logits, Mapping) else type(logits).__name__
            raise ValueError(
                f"logits must be a tensor [..., {sum(sizes)}] or a mapping with one for each of the heads "
                f"{', '.join(layout.head_names)}; got {given}"
            )
        has_op = OP in layout.head_names
        parts, by_op, ops = [], [], len(layout.ops)
        for at, (name, size) in enumerate(zip(layout.head_names, sizes)):
            part = logits[name]
            if at in in_slots:
                shapes = [(*shape, len(layout.slot_ids), size)]
            else:
                shapes = [(*shape, size), (*shape, ops, size)] if has_op and name != OP else [(*shape, size)]
            of_slots, able = (*shape, len(layout.slot_ids), size), not layout.head(name).users & layout.without_slot
            if name not in (OP, SLOT) and able and getattr(part, "shape", ()) == of_slots and of_slots not in shapes:
                raise ValueError(f"logits of head {name!r} have a row for each slot: say by_slot=({name!r},)")
            _check(f"logits of head {name!r}", part, shapes, masks.device)
            if part.ndim > len(shape) + 1:
                by_op += [] if at in in_slots else [at]
                part = part.flatten(-2)
            parts.append(part)
        return cls(layout, tuple(parts), tuple(by_op), in_slots)

    def arithmetic(self) -> list[Tensor]:
        """The parts in the dtype of the arithmetic: fp64 for all if it is that of one."""
        parts = [arithmetic(part) for part in self.parts]
        return [part.double() for part in parts] if any(part.dtype == torch.float64 for part in parts) else parts

    def map(self, function: Callable[[Tensor], Tensor]) -> "HeadLogits":
        """The same for other rows."""
        return HeadLogits(self.layout, tuple(function(part) for part in self.parts), self.by_op, self.by_slot)

    def given(self, by_op: Heads, by_slot: Heads) -> "HeadLogits":
        """The same with logits for each op, and for each slot, for more heads."""
        if by_op == self.by_op and by_slot == self.by_slot:
            return self
        sizes = [head.size for head in self.layout.heads]
        parts = torch.split(self.parts[0], sizes, -1) if len(self.parts) == 1 else self.parts
        wide = []
        for at, (part, size) in enumerate(zip(parts, sizes)):
            have, want = self._rows(at, self.by_op, self.by_slot), self._rows(at, by_op, by_slot)
            if have != want:
                rows = part.reshape(*part.shape[:-1], *have, size)
                part = rows.expand(*part.shape[:-1], *want, size).flatten(-3)
            wide.append(part)
        return HeadLogits(self.layout, tuple(wide), by_op, by_slot)

    def _rows(self, at: int, by_op: Heads, by_slot: Heads) -> tuple[int, int]:
        """How many rows of logits a head has for ops and for slots."""
        return len(self.layout.ops) if at in by_op else 1, len(self.layout.slot_ids) if at in by_slot else 1


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


def check_by_slot(names: Sequence[str], layout: ActionLayout) -> Heads:
    """Positions of the heads of a layout whose logits are to depend on the slot.

    Raises:
        ValueError: no sequence of names, an unknown head, op or slot, or a head that an op uses without a slot.
    """
    if not isinstance(names, str) and not len(names):
        return ()
    heads = layout.choice_names
    if isinstance(names, str) or not set(names) <= set(heads) or not layout.slot_ids:
        some = f"some of {', '.join(heads)}" if layout.slot_ids and heads else "none, as this layout has no such head"
        raise ValueError(f"by_slot={names!r}; wanted the names of heads whose logits depend on the slot: {some}")
    for name in () if torch.compiler.is_compiling() else names:  # which has tables that only checked names have made
        if alone := layout.head(name).users & layout.without_slot:
            ops = ", ".join(op for at, op in enumerate(layout.ops) if alone >> at & 1)
            raise ValueError(f"by_slot names {name!r}, which {ops} uses without a slot")
    return tuple(sorted({layout.position(name) for name in names}))


def _check(name: str, logits: Tensor, shapes: Sequence[tuple[int, ...]], device: torch.device) -> None:
    check_logits(name, logits)
    if tuple(logits.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} have shape {tuple(logits.shape)}; wanted {wanted}, leading axes as in the masks")
    if logits.device != device:
        raise ValueError(f"{name} are on {logits.device}, the masks are on {device}; move one of them")
