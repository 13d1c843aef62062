"""Words of one leading shape: selecting, joining and moving their rows, memory layout kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor

from esper_masks.checks import before_last, check_expands, check_range
from esper_masks.layout import ActionLayout
from esper_masks.layout_tables import HeadTables, layout_tables
from esper_masks.rule_checks import SLOT


class WordRows:
    """What ``ActionMasks`` holds. Tensors with a trailing axis are stored batch-last: ``[n, ...]`` in memory."""

    def __init__(
        self, layout: ActionLayout, slot_words: Tensor, op_words: Tensor, limits: Mapping[str, Tensor] | None = None
    ):
        self.layout = layout
        self.slot_words = slot_words
        self.op_words = op_words
        self._limits = dict(limits or {})

    @property
    def shape(self) -> torch.Size:
        """The leading shape: ``[batch]``, ``[time, batch]``, ..."""
        return self.op_words.shape

    @property
    def device(self) -> torch.device:
        return self.op_words.device

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for t in (self.slot_words, self.op_words, *self._limits.values()))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same masks on a device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def select(self, index: Tensor | slice | int) -> Self:
        """Rows of the first leading axis: ``[batch, ...]`` -> ``[n, ...]``.

        Args:
            index: int64 ``[n]`` (a minibatch), a slice, or an int (which drops the axis). A bool ``[batch]`` works too,
                and reads the device.

        Raises:
            ValueError: masks without a leading axis, or an index of another shape or dtype.
            IndexError: out of range; RuntimeError, torch's own, on another device and in compiled code.
        """
        if not self.shape:
            raise ValueError("these masks have no leading axis to select from")
        size = self.shape[0]
        if not isinstance(index, Tensor):
            if isinstance(index, int) and not -size <= index < size:
                raise IndexError(f"select {index} is out of range; these masks have {size} rows")
            return self._map(lambda t: t[index])
        if index.dtype == torch.bool and index.shape == self.shape[:1]:
            index = index.nonzero().squeeze(-1)
        if index.ndim != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ValueError(
                f"select wants int64 [n] or bool [{self.shape[0]}], got {index.dtype} of shape {tuple(index.shape)}"
            )
        rows = index
        try:
            return self._map(lambda t: t.index_select(0, rows), batch_last=lambda t: t.index_select(1, rows))
        except (IndexError, RuntimeError):
            check_range("select", rows, size, "rows of these masks")
            raise

    def expand(self, shape: Sequence[int]) -> Self:
        """The same masks for more rows, in a leading shape to which this one broadcasts; nothing is copied.

        Raises:
            ValueError: a shape to which this one does not broadcast.
        """
        check_expands(self.shape, shape)
        limits = {name: limit.expand(*shape, -1) for name, limit in self._limits.items()}
        return type(self)(self.layout, self.slot_words.expand(*shape, -1), self.op_words.expand(*shape), limits)

    def at(self, index: Any) -> Self:
        """Rows by any index of the leading axes, as of a tensor; ``select`` keeps the memory layout.

        Raises:
            IndexError: more axes than the leading ones, or out of range (torch's own).
        """
        op_words, wide = self.op_words[index], before_last(index)  # the first refuses what is no index of its axes
        limits = {name: limit[wide] for name, limit in self._limits.items()}
        return type(self)(self.layout, self.slot_words[wide], op_words, limits)

    @classmethod
    def cat(cls, masks: Sequence[Self], dim: int = 0) -> Self:
        """Masks joined along a leading axis."""
        return cls._join(masks, dim, torch.cat, axes=0)

    @classmethod
    def stack(cls, masks: Sequence[Self], dim: int = 0) -> Self:
        """Masks stacked along a new leading axis, a rollout's steps into ``[time, batch]``."""
        return cls._join(masks, dim, torch.stack, axes=1)

    @classmethod
    def _join(cls, masks: Sequence[Self], dim: int, join: Callable[[list[Tensor], int], Tensor], axes: int) -> Self:
        if not masks:
            raise ValueError("there are no masks to join")
        first = masks[0]
        for position, other in enumerate(masks):
            if other.layout is not first.layout and other.layout != first.layout:
                raise ValueError(f"masks {position} have another layout (rules, switches or slots) than masks 0")
        leading = len(first.shape) + axes
        if not -leading <= dim < leading:
            raise ValueError(f"dim {dim} is no leading axis; the masks have shape {tuple(first.shape)}")
        dim %= leading
        names = dict.fromkeys(name for m in masks for name in m._limits)

        def wide(tensors: list[Tensor]) -> Tensor:  # [..., n] each, kept batch-last
            return rearrange(join([rearrange(t, "... n -> n ...") for t in tensors], dim + 1), "n ... -> ... n")

        return cls(
            first.layout,
            wide([m.slot_words for m in masks]),
            join([m.op_words for m in masks], dim),
            {name: wide([m._limit(name) for m in masks]) for name in names},
        )

    def _table(self, name: str) -> HeadTables:
        if name not in self.layout.head_names:
            raise KeyError(f"no head {name!r}; the heads are {', '.join(self.layout.head_names)}")
        table = layout_tables(self.layout, self.device).heads[self.layout.head_names.index(name)]
        assert isinstance(table, HeadTables)
        return table

    def _limit(self, name: str) -> Tensor:
        """The constraint on a head that is held, or that the words hold; for the slot head its whole mask."""
        if name in self._limits:
            return self._limits[name]
        if name == SLOT:
            return (self.slot_words & self._table(SLOT).openers) != 0
        free = torch.ones((), dtype=torch.bool, device=self.device)
        return free.expand(*self.shape, self._table(name).size)

    @property
    def limited(self) -> tuple[int, ...]:
        """Positions of the heads that ``restrict`` has limited; the words hold the limits of slot and op."""
        return tuple(at for at, name in enumerate(self.layout.head_names) if name in self._limits and name != SLOT)

    def _map(self, rows: Callable[[Tensor], Tensor], batch_last: Callable[[Tensor], Tensor] | None = None) -> Self:
        """Apply to every tensor; ``batch_last`` sees those with a trailing axis as ``[n, ...]``."""

        def wide(t: Tensor) -> Tensor:
            if batch_last is None:
                return rows(t)
            return rearrange(batch_last(rearrange(t, "... n -> n ...")), "n ... -> ... n")

        limits = {name: wide(limit) for name, limit in self._limits.items()}
        return type(self)(self.layout, wide(self.slot_words), rows(self.op_words), limits)
