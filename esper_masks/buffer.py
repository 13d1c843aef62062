"""Storage for rollouts: the words and actions of every environment at every step, in as few bytes as they need."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_masks.checks import check_bool, check_integer
from esper_masks.decision_rows import Decision, allocate_decision
from esper_masks.engine import MaskEngine
from esper_masks.fingerprint import UnderRules
from esper_masks.masks import ActionMasks

OWN = ("slot_words", "actions", "log_prob")  # what each row has


class Minibatch(NamedTuple):
    """Rows of a buffer: ``[n, ...]``, or ``[steps, n, ...]``."""

    masks: ActionMasks
    actions: Tensor  # int64 [..., heads]; -1 in padding rows
    log_prob: Tensor  # [...]
    active: Tensor  # bool [...]; False for padding rows, as FactoredCategorical takes it
    fields: dict[str, Tensor]


class RolloutBuffer(UnderRules, nn.Module):
    """``steps`` decisions of ``batch`` environments.

        buffer.minibatch(index).masks  ==  the masks of environment index % batch at step index // batch

    What is kept of the masks is one word a slot, because the rest follows from them, in one byte where the rules have
    no more than 8 ops; actions take a byte a head while no head has more than 128 choices. With 3 slots an environment
    and step of ``esper-2025-12`` takes 3 + 4 + 4 (log-probability) = 11 bytes, against 15 bools (27 with
    ``slot_by_op``), 32 bytes of int64 actions and 4: 51 (63). One of ``esper-2026-06`` takes 3 + 8 + 4 = 15, against
    41 (59) + 64 + 4 = 109 (127).

    A row that is no decision (never written, inactive, or at fault) is *padding*: its actions are -1.

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> buffer = RolloutBuffer(engine, steps=2, batch=4, fields={"value": torch.zeros(())})
    >>> step = em.DecisionStep(engine, mode="eager")
    >>> _ = step(engine.empty_slots(4), torch.zeros(4, 15), out=buffer.at(0))  # straight into the buffer
    >>> buffer.write(0, value=torch.zeros(4))
    >>> rows = buffer.minibatch(torch.tensor([3, 1, 6]))
    >>> rows.masks["op"][0], rows.active
    (tensor([ True,  True, False, False]), tensor([ True,  True, False]))

    Args:
        engine: whose decisions are kept.
        steps: how many.
        batch: environments.
        fields: what else to keep of each row: name -> an example of one row, for its shape and dtype.
        device: by default the engine's.

    Raises:
        ValueError: sizes that are no positive integers, or fields that are no tensors or have a name that is taken.
    """

    slot_words: Tensor  # [steps, batch, slots], in memory [slots, steps, batch]
    actions: Tensor  # [steps, batch, heads], in memory [heads, steps, batch]
    log_prob: Tensor  # [steps, batch]

    def __init__(
        self,
        engine: MaskEngine,
        steps: int,
        batch: int,
        *,
        fields: Mapping[str, Tensor] | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        for name, size in (("steps", steps), ("batch", batch)):
            if type(size) is not int or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        self.rules, self.fingerprint, self.layout = engine.rules, engine.fingerprint, engine.layout
        self.steps, self.batch, self.field_names = steps, batch, tuple(fields or {})
        device = engine.device if device is None else torch.device(device)
        rows = allocate_decision(self.layout, (steps, batch), device, entropy=False)
        for name in OWN:
            self.register_buffer(name, getattr(rows, name))
        for name, example in (fields or {}).items():
            if not isinstance(example, Tensor):
                raise ValueError(f"field {name!r} needs a tensor, an example of one row, got {type(example).__name__}")
            if not name.isidentifier() or hasattr(self, name) or name in ("self", "step"):
                raise ValueError(f"a field cannot be called {name!r}: the name is taken, or is none")
            self.register_buffer(name, torch.empty((steps, batch, *example.shape), dtype=example.dtype, device=device))
        self.clear()

    def clear(self) -> None:
        """Make all rows padding."""
        for name in (*OWN, *self.field_names):
            getattr(self, name).zero_()
        self.actions.fill_(-1)

    # -- writing ------------------------------------------------------------------------------------------------------

    def at(self, step: int) -> Decision:
        """Where the decisions of a step are kept: for ``DecisionStep(..., out=buffer.at(step))``."""
        self._check_step(step)
        return Decision(self.actions[step], self.log_prob[step], self.slot_words[step])

    def write(self, step: int, **fields: Tensor) -> None:
        """Keep fields of a step, ``[batch, ...]`` each.

        Raises:
            IndexError: no such step.
            ValueError: an unknown field, or one of another shape.
        """
        self._check_step(step)
        for name, values in fields.items():
            if name not in self.field_names:
                raise ValueError(f"there is no field {name!r}; the fields are {', '.join(self.field_names) or 'none'}")
            place = getattr(self, name)[step]
            if not isinstance(values, Tensor) or values.shape != place.shape:
                got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"field {name!r} has shape {got}; wanted {tuple(place.shape)}")
        for name, values in fields.items():
            getattr(self, name)[step].copy_(values)

    def store(
        self,
        step: int,
        masks: ActionMasks,
        actions: Tensor,
        log_prob: Tensor,
        *,
        active: Tensor | None = None,
        **fields: Tensor,
    ) -> None:
        """Keep decisions that were made without a ``DecisionStep``.

        Args:
            step: which.
            masks: ``[batch]``, as an engine gives them.
            actions: integer ``[batch, heads]``.
            log_prob: ``[batch]``.
            active: bool ``[batch]``; False for padding rows.
            fields: as of ``write``.

        Raises:
            IndexError: no such step.
            ValueError: what does not fit; masks of another layout, or restricted ones, of which words do not hold all.
        """
        if not isinstance(masks, ActionMasks) or masks.layout != self.layout:
            raise ValueError("these masks have another layout (rules, switches or slots) than the buffer")
        if masks._limits:
            raise ValueError(
                "words do not hold all of restricted masks: keep the constraint as a field, and restrict what "
                "minibatch returns"
            )
        if masks.shape != (self.batch,):
            raise ValueError(f"masks have shape {tuple(masks.shape)}; wanted ({self.batch},)")
        check_integer("actions", actions)
        for name, values, shape in (
            ("actions", actions, (self.batch, len(self.layout.heads))),
            ("log_prob", log_prob, (self.batch,)),
        ):
            if not isinstance(values, Tensor) or values.shape != shape:
                got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"{name} has shape {got}; wanted {shape}")
        if active is not None:
            check_bool("active", active, masks.shape, actions.device, fixed=0)
            actions = torch.where(active.unsqueeze(-1), actions, -1)
        self.write(step, **fields)
        place = self.at(step)
        place.slot_words.copy_(masks.slot_words)
        place.actions.copy_(actions)
        place.log_prob.copy_(log_prob.detach())

    def _check_step(self, step: int) -> None:
        if type(step) is not int or not 0 <= step < self.steps:
            raise IndexError(f"there is no step {step!r}; the buffer has {self.steps}")

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> Tensor:
        """Rows that are decisions, not padding: bool ``[steps, batch]``."""
        return self.actions[..., 0] >= 0

    @property
    def fields(self) -> dict[str, Tensor]:
        """Field -> ``[steps, batch, ...]``."""
        return {name: getattr(self, name) for name in self.field_names}

    def masks(self, step: int | slice = slice(None)) -> ActionMasks:
        """The masks of one step, ``[batch]``, or of several, ``[steps, batch]``; all by default."""
        return ActionMasks.from_words(self.layout, self.slot_words[step])

    def minibatch(self, index: Tensor) -> Minibatch:
        """Rows ``step * batch + environment``: of int64 ``[n]``, everything ``[n, ...]``.

        Raises:
            ValueError: an index of another shape or dtype.
            IndexError, RuntimeError: out of range (torch's own).
        """
        return self._gather(index, every_step=False)

    def sequences(self, envs: Tensor) -> Minibatch:
        """All steps of some environments, for recurrent policies: of int64 ``[n]``, everything ``[steps, n, ...]``.

        Raises:
            ValueError: an index of another shape or dtype.
            IndexError, RuntimeError: out of range (torch's own).
        """
        return self._gather(envs, every_step=True)

    def _gather(self, index: Tensor, *, every_step: bool) -> Minibatch:
        if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype not in (torch.int64, torch.int32):
            got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"an index must be int64 [n], got {got}")

        def own(rows: Tensor) -> Tensor:  # [steps, batch, n], batch-last, before any widening
            return along(rows.movedim(-1, 0), 1).movedim(0, -1)

        def along(rows: Tensor, first: int) -> Tensor:  # `first`: axis of the steps
            if every_step:
                return rows.index_select(first + 1, index)
            return rows.flatten(first, first + 1).index_select(first, index)

        actions = own(self.actions)
        return Minibatch(
            masks=ActionMasks.from_words(self.layout, own(self.slot_words)),
            actions=actions.long(),
            log_prob=along(self.log_prob, 0),
            active=actions[..., 0] >= 0,
            fields={name: along(rows, 0) for name, rows in self.fields.items()},
        )

    # -- sizes --------------------------------------------------------------------------------------------------------

    @property
    def row_bytes(self) -> int:
        """Bytes of one environment at one step, without fields."""
        return sum(getattr(self, name)[0, 0].nbytes for name in OWN)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(rows.nbytes for rows in self.buffers())

    def extra_repr(self) -> str:
        fields = f", fields=({', '.join(self.field_names)})" if self.field_names else ""
        return f"{self.rules.name}, steps={self.steps}, batch={self.batch}{fields}, row_bytes={self.row_bytes}"
