"""Rollouts: written step by step, read back as minibatches or whole sequences with their masks.

Shape everybody sees: ``[steps, batch, slots]`` and ``[steps, batch, heads]``. Storage: environments contiguous, in

    slot_words   slot 0: step 0: env 0, env 1, ...   step 1: env 0, env 1, ...   slot 1: step 0: env 0, ...

so that a step is written, and a minibatch read, batch-last.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from esper_masks.actions.layout import ActionLayout
from esper_masks.actions.tables import layout_tables
from esper_masks.checks import check_bool, check_integer, check_range
from esper_masks.compiled.methods import copy_into
from esper_masks.decision.checks import (
    check_field_names,
    check_fields,
    check_index,
    check_log_prob,
    check_masks,
    check_rows,
    check_size,
)
from esper_masks.decision.packing import empty, in_words, words_for
from esper_masks.decision.rows import Decision, allocate_decision, batch_last
from esper_masks.masks.checkpoints import UnderRules
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules.names import OP


class Minibatch(NamedTuple):
    """Rows of a rollout, widened: ``[n]``, or ``[steps, n]`` of whole sequences. A pytree.

    Args:
        masks: what was legal, ``[...]``.
        actions: int64 ``[..., heads]``; -1 in rows that are not active.
        log_prob: ``[...]``, as it was when the action was drawn, in the buffer's dtype; 0 in rows that are not active.
        active: bool ``[...]``; what the distribution that scores the actions is to be given as ``active=``.
        fields: name -> ``[..., *shape]``, as they were stored.
    """

    masks: ActionMasks
    actions: Tensor
    log_prob: Tensor
    active: Tensor
    fields: dict[str, Tensor]


class RolloutBuffer(UnderRules, nn.Module):
    """Masks, actions and log-probabilities of ``steps`` steps of ``batch`` environments, and fields of your own.

        for step, env in product(range(steps), range(batch)):
            buffer.minibatch(tensor([step * batch + env])).masks  ==  the masks stored at that step, of that env

    Kept of the masks are the slot words, one byte a slot for up to 8 ops, as long as all other masks follow from them.
    They do not where rules have heads whose choices depend on the state, or ops that are legal without a slot, nor
    under ``head_masks`` and most of ``restrict``. Then ``ActionMasks.pack`` is kept, in as many words as the first
    masks that are stored need, or as ``head_masks`` and ``restrict`` say here.

    Rows that are not ``active`` are padding: never written, not active when they were, or faulty. A distribution that
    is given ``active=minibatch.active`` scores them 0; without it, their actions of -1 score -inf. In a row never
    written no slot is enabled. Nothing here reads the device.

    Bytes of one environment and step with 3 slots, against the same as one bool mask per head (with ``slot_by_op``),
    int64 actions and a float32 log-probability:

                       words  actions  log-prob  in all    bools      int64 actions  log-prob  in all
        esper-2025-12      3        4         4      11    15 (27)               32         4   51 (63)
        esper-2026-06      3        8         4      15    41 (59)               64         4  109 (127)

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> buffer = em.RolloutBuffer(engine, steps=128, batch=1000, fields={"value": torch.zeros(())})
    >>> masks = engine(engine.empty_slots(1000))
    >>> policy = em.FactoredCategorical(torch.zeros(1000, 15), masks)
    >>> actions = policy.sample()
    >>> buffer.store(0, masks, actions, policy.log_prob(actions), value=torch.zeros(1000))
    >>> rows = buffer.minibatch(torch.tensor([3, 14, 1000]))  # the last one is of step 1, not stored yet
    >>> rows.masks["op"].tolist()[0], rows.active.tolist()
    ([True, True, False, False], [True, True, False])
    >>> buffer.row_bytes
    11

    Args:
        engine: whose masks are stored; only its layout and rules are kept. Or a layout, of masks that come from
            elsewhere.
        steps: length of a rollout.
        batch: number of environments.
        fields: name -> an example of one row of it, for its shape and dtype; stored as ``[steps, batch, *shape]``.
        head_masks: heads that are given masks, of each slot as far as they can be. Of a head whose masks are all of the
            row, give the name in ``restrict``: rows take less room, and come back as they were.
        restrict: keywords of ``ActionMasks.restrict`` that are used.
        device: where the rows live; by default the engine's device. ``buffer.to`` moves them; the dtypes stay.
        dtype: of the log-probabilities, float32 or float64; by default float64 where it is torch's default dtype.

    Raises:
        ValueError: sizes that are no positive int, a dtype that is neither float32 nor float64, a field that is no
            tensor or has a name already in use, or a name in ``head_masks`` or ``restrict`` that is none.
    """

    slot_words: Tensor  # uint8, int16, int32 or int64 [steps, batch, slots]; None if there are packed words
    packed: Tensor | None  # int32 [steps, batch, words]
    actions: Tensor  # int8, int16 or int32 [steps, batch, heads]; -1: padding
    log_prob: Tensor  # float32 or float64 [steps, batch]

    def __init__(
        self,
        engine: MaskEngine | ActionLayout,
        steps: int,
        batch: int,
        *,
        fields: Mapping[str, Tensor] | None = None,
        head_masks: Collection[str] = (),
        restrict: Collection[str] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(engine, MaskEngine | ActionLayout):
            raise ValueError(f"engine must be a MaskEngine or an ActionLayout, got {type(engine).__name__}")
        check_size("steps", steps)
        check_size("batch", batch)
        if isinstance(engine, MaskEngine):
            self.rules, self._name, self.fingerprint = engine.rules, engine.rules.name, engine.fingerprint
            self.layout, place = engine.layout, engine.device
        else:
            self._name, self.fingerprint = "a layout without rules", _fingerprint(engine)
            self.layout, place = engine, torch.get_default_device()
        self.steps, self.batch = steps, batch
        place = place if device is None else torch.device(device)
        words = words_for(self.layout, head_masks, restrict)
        self._is_wide_enough = bool(head_masks or restrict)  # for all that is to come: the width stays
        with torch.inference_mode(False):  # a buffer made for a rollout serves an update
            rows = allocate_decision(self.layout, (steps, batch), place, entropy=False, real=dtype, words=words)
            for name in ("slot_words", "actions", "log_prob", "packed"):
                self.register_buffer(name, getattr(rows, name))
            if words is not None:
                self.register_buffer("slot_words", None)
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
    def made_under(self) -> str:
        return self._name

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
        names = self.layout.head_names
        return actions[..., names.index(OP) if OP in names else 0] >= 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one environment and step: words, actions and log-probability, without the fields."""
        return sum(t.nbytes for t in (self._words, self.actions, self.log_prob)) // (self.steps * self.batch)

    @property
    def nbytes(self) -> int:
        """Bytes held, fields included."""
        return sum(t.nbytes for t in self.buffers())

    def clear(self) -> None:
        """Make all rows padding again, and what they hold as in a new buffer."""
        with torch.no_grad():
            for rows in self.buffers():
                rows.zero_()  # fields too: a NaN left in a padding row outlives a product with 0
            self._pad()
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
        return f"{self.made_under}, steps={self.steps}, batch={self.batch}, row_bytes={self.row_bytes}{fields}"

    # -- writing ------------------------------------------------------------------------------------------------------

    def at(self, step: int) -> Decision:
        """The rows of one step, as views: what is written into them is stored.

        From the first call on rows keep their width: whoever gives ``head_masks`` or ``restrict`` to a step has to make
        the buffer with their names.

        Returns: actions ``[batch, heads]``, log_prob ``[batch]`` and slot_words ``[batch, slots]``; no entropy. Where
            slot words do not hold the masks there is packed ``[batch, words]`` in their place, and they are None.
        Raises:
            ValueError: there is no such step.
        """
        self._check_step(step)
        if not self._is_wide_enough:  # a module asks much of whoever sets an attribute
            self._is_wide_enough = True
        words, packed = (None if rows is None else rows[step] for rows in (self.slot_words, self.packed))
        return Decision._make((self.actions[step], self.log_prob[step], words, None, packed))

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
        """Keep what one step gave, without its gradients. Nothing is written if something does not fit.

        Args:
            step: from 0 to ``steps - 1``.
            masks: ``[batch]``, of the layout. The first ones that are stored decide how many words are kept of a row,
                unless the buffer was made with ``head_masks`` or ``restrict``.
            actions: integer ``[batch, heads]``: choices of the heads, or -1 in every head of a row that did not act;
                any other value may come back as another action.
            log_prob: float ``[batch]``, no wider than the buffer's ``dtype``.
            active: bool ``[batch]``; where it is False, the row is stored as padding: actions -1, log_prob 0.
            fields: ``[batch, *shape]`` of the dtype that their examples have; every field of the buffer.

        Raises:
            ValueError: shape, dtype or device that does not fit, masks of another layout, masks that need more words
                than are kept, or a field that is unknown or missing.
        """
        self._check_step(step)
        check_masks(masks, self.layout, self.batch, self.device)
        check_integer("actions", actions)
        check_rows("actions", actions, self.actions.shape[1:], self.device)
        check_log_prob(log_prob, self.log_prob[step])
        if active is not None:
            active = check_bool("active", active, (self.batch,), self.device, broadcast=False)
        if missing := [name for name in self._names if name not in fields]:
            raise ValueError(f"no rows of {', '.join(missing)}: store wants every field; write takes them one by one")
        words = self._fitting(masks)
        self.write(step, **fields)
        if words.shape[-1] != self._words.shape[-1]:
            self._widen(words.shape[-1])
        rows = self.at(step)
        with torch.no_grad():
            if active is not None:
                actions = torch.where(active.unsqueeze(-1), actions, -1)
                log_prob = torch.where(active, log_prob, 0)
            copy_into((rows.slot_words, rows.packed), (words, words))
            rows.actions.copy_(actions)
            rows.log_prob.copy_(log_prob)

    def write(self, step: int, **fields: Tensor) -> None:
        """Keep fields of one step, some or all: those known only after the step, or beside ``at``.

        Args:
            step: from 0 to ``steps - 1``.
            fields: ``[batch, *shape]`` of the dtype that their examples have.

        Raises:
            ValueError: shape, dtype or device that does not fit, or a field that is unknown.
        """
        self._check_step(step)
        stored = self.fields
        check_fields(fields, stored)
        with torch.no_grad():
            for name, rows in fields.items():
                stored[name][step].copy_(rows)

    # -- reading ------------------------------------------------------------------------------------------------------

    def masks(self, step: int | slice = slice(None)) -> ActionMasks:
        """Masks of one step, ``[batch]``, or of several, ``[steps, batch]``.

        Raises:
            ValueError: there is no such step.
        """
        if not isinstance(step, slice):
            self._check_step(step)
        return self._masks(self._words[step])

    def minibatch(self, index: Tensor) -> Minibatch:
        """Rows in any order, gathered narrow and then widened.

        Args:
            index: int64 ``[n]``, row ``step * batch + env``.

        Raises:
            ValueError: an index of another shape or dtype.
            IndexError: out of range; RuntimeError, torch's own, on another device and in compiled code.
        """

        def take(rows: Tensor, axis: int) -> Tensor:
            return rows.flatten(axis, axis + 1).index_select(axis, index)

        return self._gather(take, "index", index, self.steps * self.batch, "rows step * batch + env")

    def sequences(self, envs: Tensor) -> Minibatch:
        """All steps of some environments, ``[steps, n]``: what recurrent policies learn from.

        Args:
            envs: int64 ``[n]``, indices of environments.

        Raises:
            ValueError: an index of another shape or dtype.
            IndexError: out of range; RuntimeError, torch's own, on another device and in compiled code.
        """

        def take(rows: Tensor, axis: int) -> Tensor:
            return rows.index_select(axis + 1, envs)

        return self._gather(take, "envs", envs, self.batch, "environments")

    def _gather(self, take: Callable[[Tensor, int], Tensor], name: str, index: Tensor, size: int, of: str) -> Minibatch:
        """Rows of an index below ``size``.

        ``take(rows, axis)`` finds them in rows whose axes ``axis`` and ``axis + 1`` are steps and batch.
        """
        check_index(name, index, of)
        try:
            words, actions = (take(t.movedim(-1, 0), 1).movedim(0, -1) for t in (self._words, self.actions))
            return Minibatch(
                masks=self._masks(words),
                actions=actions.long(),
                log_prob=take(self.log_prob, 0),
                active=self.acted(actions),
                fields={field: take(rows, 0) for field, rows in self.fields.items()},
            )
        except (IndexError, RuntimeError):
            check_range(name, index, size, of)
            raise

    # -- words --------------------------------------------------------------------------------------------------------

    @property
    def _words(self) -> Tensor:
        """What is kept of masks."""
        return self.slot_words if self.packed is None else self.packed

    def _masks(self, words: Tensor) -> ActionMasks:
        make = ActionMasks.from_words if self.packed is None else ActionMasks.from_packed
        return make(self.layout, words)

    def _fitting(self, masks: ActionMasks) -> Tensor:
        """Words of masks as they are kept; more of them if nothing was stored yet."""
        if self.packed is None and in_words(masks):
            return masks.slot_words
        if not self._is_wide_enough:
            return masks.pack()
        if self.packed is None:
            reason = f"they need {masks.pack().shape[-1]} packed words, and this buffer keeps slot words alone"
        else:
            try:
                return masks.pack(self.packed.shape[-1])
            except ValueError as error:
                reason = str(error)
        raise ValueError(
            f"these masks hold more than the first ones, or than what the buffer was made for: {reason}. Make it with "
            "the names of what is given in head_masks= and restrict="
        )

    def _widen(self, words: int) -> None:
        """Keep so many packed words of each row. What was kept of masks is lost; nothing was yet."""
        with torch.inference_mode(False):
            self.register_buffer("slot_words", None)
            self.packed = batch_last((self.steps, self.batch), words, torch.int32, self.device)
            self._pad()

    def _pad(self) -> None:
        """Make padding of all words: zeros, less where ops are legal without a slot."""
        if self.packed is not None:
            self.packed.copy_(empty(self.layout, self.device).pack(self.packed.shape[-1]))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if (key := f"{prefix}_extra_state") in state_dict:
            self.set_extra_state(state_dict[key])  # words of other rules may have any width
        held = state_dict.get(f"{prefix}packed")
        if isinstance(held, Tensor) and not self._is_wide_enough and held.shape[-1:] != self._words.shape[-1:]:
            self._widen(held.shape[-1])
        self._is_wide_enough = True
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check_step(self, step: int) -> None:
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < self.steps:
            raise ValueError(f"there is no step {step!r}; wanted an int from 0 to {self.steps - 1}")


def _fingerprint(layout: ActionLayout) -> str:
    """What tells a layout without rules from others, in checkpoints."""
    heads = [(head.name, head.choices, head.users, head.by_op) for head in layout.heads]
    return hashlib.sha256(repr((layout.ops, layout.slot_ids, heads)).encode()).hexdigest()
