"""What holds a rollout: slot words, actions and log-probabilities in the narrowest dtypes, and fields.

Shape everybody sees: ``[steps, batch, slots]`` and ``[steps, batch, heads]``. Storage: environments contiguous, in

    slot_words   slot 0: step 0: env 0, env 1, ...   step 1: env 0, env 1, ...   slot 1: step 0: env 0, ...

so that a step is written, and a minibatch read, batch-last.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from esper_masks.buffer_checks import check_field_names, check_size
from esper_masks.decision_rows import allocate_decision, check_real
from esper_masks.engine import MaskEngine
from esper_masks.fingerprint import UnderRules
from esper_masks.layout_tables import layout_tables
from esper_masks.rule_checks import OP


class StoredRows(UnderRules, nn.Module):
    """The memory of a ``RolloutBuffer``, which describes the arguments; its dtypes are as declared wherever it goes."""

    slot_words: Tensor  # uint8, int16 or int32 [steps, batch, slots]
    actions: Tensor  # int8, int16 or int32 [steps, batch, heads]; -1: padding
    log_prob: Tensor  # float32 or float64 [steps, batch]

    def __init__(
        self,
        engine: MaskEngine,
        steps: int,
        batch: int,
        *,
        fields: Mapping[str, Tensor] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(engine, MaskEngine):
            raise ValueError(f"engine must be a MaskEngine, got {type(engine).__name__}")
        check_size("steps", steps)
        check_size("batch", batch)
        if dtype is not None:
            check_real(dtype)
        self.rules, self.fingerprint, self.layout = engine.rules, engine.fingerprint, engine.layout
        self.steps, self.batch = steps, batch
        place = engine.device if device is None else torch.device(device)
        with torch.inference_mode(False):  # a buffer made for a rollout serves an update
            rows = allocate_decision(self.layout, (steps, batch), place, entropy=False, real=dtype)
            for name in ("slot_words", "actions", "log_prob"):
                self.register_buffer(name, getattr(rows, name))
            self._names: tuple[str, ...] = ()  # fields
            examples = {} if fields is None else fields
            check_field_names(self, examples)
            for name, example in examples.items():
                shape = (steps, batch, *example.shape)
                self.register_buffer(name, torch.empty(shape, dtype=example.dtype, device=place))
        self._names = tuple(examples)
        self.clear()
        layout_tables(self.layout, self.device)  # before any trace or capture

    @property
    def device(self) -> torch.device:
        return self.log_prob.device

    @property
    def fields(self) -> dict[str, Tensor]:
        """The stored fields: name -> ``[steps, batch, *shape]``."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def active(self) -> Tensor:
        """Rows that acted: bool ``[steps, batch]``. The others are padding."""
        return self.acted(self.actions)

    def acted(self, actions: Tensor) -> Tensor:
        """By the op: a head that the op ignores may hold anything. ``[..., heads]`` -> bool ``[...]``."""
        return actions[..., self.layout.head_names.index(OP)] >= 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one environment and step: slot words, actions and log-probability, without the fields."""
        rows = (self.slot_words, self.actions, self.log_prob)
        return sum(t.numel() * t.element_size() for t in rows) // (self.steps * self.batch)

    @property
    def nbytes(self) -> int:
        """Bytes held, fields included."""
        return sum(t.numel() * t.element_size() for t in self.buffers())

    def clear(self) -> None:
        """Make all rows padding again, and what they hold as in a new buffer."""
        with torch.no_grad():
            for rows in self.buffers():
                rows.zero_()  # fields too: a NaN left in a padding row outlives a product with 0
            self.actions.fill_(-1)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        def moved(rows: Tensor) -> Tensor:  # never cast: a log-probability in fp16 would bias every ratio
            other: Tensor = fn(rows)
            return other if other.dtype == rows.dtype else rows.to(other.device)

        unfilled = self.device.type == "meta"
        with torch.inference_mode(False):
            super()._apply(moved, recurse)  # type: ignore[no-untyped-call]  # torch has no types here
        if unfilled:
            self.clear()  # `to_empty` leaves memory as it finds it
        layout_tables(self.layout, self.device)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has no types here
        layout_tables(self.layout, self.device)

    def extra_repr(self) -> str:
        fields = f", fields=({', '.join(self._names)})" if self._names else ""
        return f"{self.rules.name}, steps={self.steps}, batch={self.batch}, row_bytes={self.row_bytes}{fields}"
