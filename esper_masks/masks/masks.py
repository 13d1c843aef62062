"""The masks of a batch, held as words and unpacked where somebody asks for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import reduce
from typing import Any, Self

import torch
import torch.utils._pytree as pytree
from einops import rearrange
from torch import Tensor

from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.actions.tables import HeadTables, layout_tables
from esper_masks.checks import before_last, check_actions, check_bool, check_expands, check_integer, check_range
from esper_masks.masks.stage_words import or_over_slots
from esper_masks.rules.names import OP, SLOT


class ActionMasks(Mapping[str, Tensor]):
    """Which actions are legal, for any leading shape (``[batch]``, ``[time, batch]``, none). True is legal.

    A mapping from head name to a bool mask ``[..., n]``, in head order. What is held is one int32 word per slot and
    one per row; ``masks["op"]`` unpacks on demand. Engines make these; ``from_words`` and ``from_bools`` make them
    from masks that were stored or came from elsewhere.

    Masks do not change. The constructor keeps the tensors that it is given, for those who have just made them; the
    others copy.

    Args:
        layout: heads and ops (``engine.layout``).
        slot_words: int32 ``[..., slots]``; bit i: op i is legal in that slot. Ops that are always legal are so in
            every enabled slot, which is how the words tell which slots are enabled.
        op_words: int32 ``[...]``; bit i: op i is legal.
        limits: head name -> bool ``[..., n]``, what ``restrict`` has added, kept as ``constraints``. For ``"slot"`` the
            whole mask.
    """

    __eq__ = object.__eq__  # comparing by value would read the device; compare words or masks
    __hash__ = object.__hash__

    def __init__(
        self, layout: ActionLayout, slot_words: Tensor, op_words: Tensor, limits: Mapping[str, Tensor] | None = None
    ):
        self.layout = layout
        self.slot_words = slot_words
        self.op_words = op_words
        self.constraints = dict(limits or {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Files of 0.1.0 have another name for the constraints."""
        self.__dict__.update({"constraints" if name == "_limits" else name: held for name, held in state.items()})

    @classmethod
    def from_words(cls, layout: ActionLayout, slot_words: Tensor, op_words: Tensor | None = None) -> "ActionMasks":
        """Masks from stored words, which are copied once, as int32.

        An action is legal where the words permit its op and, if it uses a slot, the word of that slot permits it too.
        Words hold all there is of an engine's masks. Of restricted masks they hold which op is legal where, not what
        ``restrict`` has taken from the other heads: apply it again, or store the masks themselves.

        Args:
            layout: heads and ops (``engine.layout``).
            slot_words: integers of any width, ``[..., slots]``; bits of no op that could be legal are ignored. A slot
                is enabled where it has one of the bits that are set in every enabled slot (the ops always legal).
            op_words: integers ``[...]``. By default an op is legal where some slot allows it, and the ops that are
                always legal are.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit.
        """
        slots = len(layout.slot_ids)
        check_integer("slot_words", slot_words)
        if slot_words.ndim < 1 or slot_words.shape[-1] != slots:
            raise ValueError(f"slot_words have shape {tuple(slot_words.shape)}; wanted [..., {slots}], one word a slot")
        slot_words = slot_words.to(torch.int32) & layout.possible
        if op_words is None:
            return cls(layout, slot_words, or_over_slots(slot_words) | layout.unconditional)
        check_integer("op_words", op_words)
        if op_words.shape != slot_words.shape[:-1] or op_words.device != slot_words.device:
            raise ValueError(
                f"op_words are {tuple(op_words.shape)} on {op_words.device}; slot_words {tuple(slot_words.shape)} "
                f"need {tuple(slot_words.shape[:-1])} on {slot_words.device}"
            )
        slot_users = layout.head(SLOT).users
        op_words = op_words.to(torch.int32) & layout.possible & (or_over_slots(slot_words) | ~slot_users)
        return cls(layout, slot_words & (op_words.unsqueeze(-1) | ~slot_users), op_words)

    @classmethod
    def from_bools(
        cls, layout: ActionLayout, masks: Mapping[str, Tensor], slot_by_op: Tensor | None = None
    ) -> "ActionMasks":
        """Masks from one bool mask per head, tensors or numpy arrays. Nothing of them is kept: all are copied.

        An action is legal if the layout and every given mask permit it.

        Args:
            layout: heads and ops (``engine.layout``).
            masks: head name -> bool ``[..., n]``; ``"op"`` and ``"slot"`` are needed, a missing head keeps the mask of
                the layout. All on one device, that of ``"op"``; numpy arrays go there.
            slot_by_op: bool ``[..., ops, slots]``; by default every legal op in every legal slot.

        Raises:
            ValueError: a missing or unknown head, a mask that is not bool, or shapes that do not fit.
        """
        for name in (OP, SLOT):
            if name not in masks:
                raise ValueError(f"from_bools needs a mask for {name!r}; it was given {', '.join(masks) or 'none'}")
        slots, ops = len(layout.slot_ids), len(layout.ops)
        op_shape = (*getattr(masks[OP], "shape", (0,))[:-1], ops)
        op = check_bool(f"mask {OP!r}", masks[OP], op_shape, broadcast=False)
        shape, device = op.shape[:-1], op.device
        given = {
            name: check_bool(f"mask {name!r}", mask, (*shape, layout.head(name).size), device, broadcast=False)
            for name, mask in masks.items()
        }
        words = torch.full((*shape, slots), layout.possible, dtype=torch.int32, device=device)
        whole = cls(layout, words, torch.full(shape, layout.possible, dtype=torch.int32, device=device))
        if slot_by_op is not None:
            pairs = check_bool("mask 'slot_by_op'", slot_by_op, (*shape, ops, slots), device, broadcast=False)
            whole = cls(layout, words & (whole._words_of(pairs) | layout.unconditional), whole.op_words)
        return whole.restrict(**given)

    # -- what is legal ------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        """Mask of one head: bool ``[..., n]``."""
        table = self._table(name)
        if name == SLOT:
            return self._constraint(SLOT)
        words = self.op_words.unsqueeze(-1)  # [..., 1]
        if name == OP:
            return (words & table.opening_ops) != 0
        if not table.openers:
            mask = table.closed.expand(*self.shape, table.size)
        else:
            mask = torch.where((words & table.openers) != 0, (words & table.opening_ops) != 0, table.closed)
        if name not in self.constraints:
            return mask
        mask = mask & self.constraints[name]
        # left without a choice, no legal op uses the head (see restrict); it keeps its canonical value
        canonical = torch.arange(table.size, device=self.device) == table.canonical
        return torch.where(mask.any(-1, keepdim=True), mask, canonical)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.head_names)

    def __len__(self) -> int:
        return len(self.layout.heads)

    @property
    def slot_by_op(self) -> Tensor:
        """Which op is legal in which slot: bool ``[..., ops, slots]``."""
        return (self.slot_words.unsqueeze(-2) & self._table(OP).opening_ops.unsqueeze(-1)) != 0

    def flat(self) -> Tensor:
        """The masks of all heads side by side: bool ``[..., sum of head sizes]``.

        What multi-discrete libraries take. Not exact: heads drawn independently of each other form illegal pairs of op
        and slot; ``joint`` is exact.
        """
        return torch.cat([self[name] for name in self], dim=-1)

    def joint(self) -> Tensor:
        """Legality of every whole action: bool ``[..., engine.joint_actions.size]``."""
        pairs = torch.cat(
            [rearrange(self.slot_by_op, "... ops slots -> ... (ops slots)"), self[OP]], dim=-1
        )  # [..., ops * slots + ops]
        whole = layout_tables(self.layout, self.device).whole_actions()
        legal = pairs.index_select(-1, whole[0])
        for name, constraint in self.constraints.items():
            if name != SLOT:  # the slot's constraint is in the words
                # the last entry: the op ignores the head
                padded = torch.nn.functional.pad(constraint, (0, 1), value=True)
                legal = legal & padded.index_select(-1, whole[1 + self.layout.position(name)])
        return legal

    def count(self) -> Tensor:
        """How many whole actions are legal: int64 ``[...]``; float64 where an int64 may not hold the number."""
        tables, op_bits = layout_tables(self.layout, self.device), self._table(OP).opening_ops
        count = torch.where(tables.slot_users, self.slot_by_op.sum(-1), self[OP]) * tables.combinations  # [..., ops]
        for at in self.restricted:
            name = self.layout.head_names[at]
            table, constraint = self._table(name), self.constraints[name]
            permitted = (constraint.unsqueeze(-2) & table.by_op).sum(-1)
            whole = table.by_op.sum(-1).clamp_min(1)  # torch 2.11 also divides by the zeros that fill up a vector
            count = count // whole * torch.where((op_bits & table.users) != 0, permitted, 1)
        return count.sum(-1)

    def permits(self, actions: Tensor) -> Tensor:
        """Whether whole actions are legal; heads that the op ignores may hold anything.

        Args:
            actions: integer ``[*sample, ..., heads]``.

        Returns: bool ``[*sample, ...]``.
        Raises:
            ValueError: not integers, or a shape that does not fit.
        """
        names = self.layout.head_names
        check_actions("actions", actions, self.shape, names)
        values = dict(zip(names, actions.long().unbind(-1)))
        op = values[OP].clamp(0, len(self.layout.ops) - 1)
        op_bit = self._table(OP).opening_ops[op.unsqueeze(-1)].squeeze(-1)  # torch would read an index of no axes
        legal = (op == values[OP]) & ((self.op_words & op_bit) != 0)
        for name, value in values.items():
            if name == OP:
                continue
            table = self._table(name)
            choice = value.clamp(0, table.size - 1)
            if name == SLOT:
                words = self.slot_words.expand(*value.shape, -1)
                permitted = (words.gather(-1, choice.unsqueeze(-1)).squeeze(-1) & op_bit) != 0
            else:
                permitted = table.by_op[op.unsqueeze(-1), choice.unsqueeze(-1)].squeeze(-1)
            if name in self.constraints and name != SLOT:
                constraint = self.constraints[name].expand(*value.shape, -1)
                permitted = permitted & constraint.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
            legal = legal & ((choice == value) & permitted | ((op_bit & table.users) == 0))
        return legal

    def acts_on(self, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What ``permits`` says, and on which slot each action acts, by comparisons alone.

        For compiled code: a compiler looks entries of a table up one by one, and compares whole vectors at once. There
        is an op for each choice, so this is for heads of few choices.

        Args:
            values: integer ``[...]``, one for each head.

        Returns: bool ``[...]``; and bool ``[slots, ...]``, True in no slot where the action is illegal or uses none.
        """
        slot_users = self.layout.head(SLOT).users
        op, slot = (values[self.layout.position(name)] for name in (OP, SLOT))
        bit = torch.zeros_like(op, dtype=torch.int32)  # in the dtype of the actions it might not fit
        for number in range(len(self.layout.ops)):
            fits = op == number
            for head, value in zip(self.layout.heads, values):
                if head.users >> number & 1 and head.name not in (OP, SLOT):
                    constraint = self.constraints.get(head.name)
                    hits = [
                        value == c if constraint is None else (value == c) & constraint[..., c]
                        for c in head.by_op[number]
                    ]
                    fits = fits & reduce(torch.logical_or, hits)
            bit = torch.where(fits, 1 << number, bit)
        index = torch.arange(len(self.layout.slot_ids), dtype=op.dtype, device=op.device)
        index = index.view(-1, *[1] * op.ndim)
        acts = (slot == index) & ((self.slot_words.movedim(-1, 0) & bit & slot_users) != 0)
        return acts.any(0) | ((self.op_words & bit & ~slot_users) != 0), acts

    @property
    def forced(self) -> Tensor:
        """Rows in which exactly one whole action is legal: bool ``[...]``."""
        return self.count() == 1

    def restrict(self, **constraints: Tensor) -> "ActionMasks":
        """New masks in which an action must also satisfy every given constraint.

        An op is dropped where the constraints leave one of the heads it uses without a legal choice, so a legal op can
        always be completed.

            masks.restrict(op=only_wait)                 # [ops] or [..., ops]
            masks.restrict(slot_by_op=quarantine)        # [..., ops, slots]; ops that use no slot stay as they are

        Args:
            constraints: head name, or ``slot_by_op`` -> bool tensor or numpy array that broadcasts to the head's mask.
                It is copied, so its memory may be used again.

        Raises:
            ValueError: a mask that is not bool, does not broadcast or is on another device.
            KeyError: a name that is not a head.
        """
        held = dict(self.constraints)
        op_bits, slot_users, carriers = self._table(OP).opening_ops, self._table(SLOT).users, self._table(SLOT).openers
        slotless = self.layout.all_ops - slot_users  # their bits say what allows them; no slot can be closed to them
        slot_words, op_words = self.slot_words, self.op_words
        for name, mask in constraints.items():
            if name == "slot_by_op":
                pairs = (*self.shape, len(self.layout.ops), len(self.layout.slot_ids))
                mask = check_bool(f"mask {name!r}", mask, pairs, self.device)
                slot_words = slot_words & (self._words_of(mask) | slotless)
                continue
            table = self._table(name)
            kept = name not in (SLOT, OP)
            mask = check_bool(f"mask {name!r}", mask, (*self.shape, table.size), self.device, own=kept)
            if name == SLOT:
                slot_words = slot_words * mask | slot_words & (slotless & ~carriers)
                if SLOT in held:
                    held[SLOT] = held[SLOT] & mask
                continue
            if table.users & carriers:  # from here on the words may not tell which slots are enabled
                held.setdefault(SLOT, (slot_words & carriers) != 0)
            if name == OP:
                permitted = mask
            else:
                constraint = mask.expand(*self.shape, table.size)
                held[name] = constraint & held[name] if name in held else constraint
                ignores = (op_bits & table.users) == 0
                permitted = (held[name].unsqueeze(-2) & table.by_op).any(-1) | ignores  # [..., ops]
            word = torch.where(permitted, op_bits, 0).sum(-1, dtype=torch.int32)
            slot_words, op_words = slot_words & word.unsqueeze(-1), op_words & word
        op_words = op_words & (or_over_slots(slot_words) | slotless)
        return ActionMasks(self.layout, slot_words, op_words, held)

    def _words_of(self, pairs: Tensor) -> Tensor:
        """Bool ``[..., ops, slots]`` as int32 words ``[..., slots]``."""
        return torch.where(pairs, self._table(OP).opening_ops.unsqueeze(-1), 0).sum(-2, dtype=torch.int32)

    def constraint_columns(self) -> Tensor:
        """What ``restrict`` has left of the heads ``restricted``: bool ``[..., columns]``, see ``build_draws``."""
        names = [self.layout.head_names[at] for at in self.restricted]
        return torch.cat([mask for name in names for mask in (self[name], self.constraints[name])], -1)

    def __repr__(self) -> str:
        heads = ", ".join(f"{head.name}: {head.size}" for head in self.layout.heads)
        return f"ActionMasks(shape={tuple(self.shape)}, heads=({heads}), device={self.device}, nbytes={self.nbytes})"

    # -- rows and memory ----------------------------------------------------------------------------------------------

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
        return sum(t.nbytes for t in (self.slot_words, self.op_words, *self.constraints.values()))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same masks on a device."""
        return self._of([self], lambda t: t.to(device, non_blocking=non_blocking))

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
            return self.at(index)
        if index.dtype == torch.bool and index.shape == self.shape[:1]:
            index = index.nonzero().squeeze(-1)
        if index.ndim != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ValueError(
                f"select wants int64 [n] or bool [{self.shape[0]}], got {index.dtype} of shape {tuple(index.shape)}"
            )
        rows = index
        try:
            return self._of([self], lambda t: t.index_select(0, rows), _batch_last(lambda t: t.index_select(1, rows)))
        except (IndexError, RuntimeError):
            check_range("select", rows, size, "rows of these masks")
            raise

    def expand(self, shape: Sequence[int]) -> Self:
        """The same masks for more rows, in a leading shape to which this one broadcasts; nothing is copied.

        Raises:
            ValueError: a shape to which this one does not broadcast.
        """
        check_expands(self.shape, shape)
        return self._of([self], lambda t: t.expand(*shape), lambda t: t.expand(*shape, -1))

    def at(self, index: Any) -> Self:
        """Rows by any index of the leading axes, like that of a tensor; ``select`` keeps the memory layout.

        Raises:
            IndexError: more axes than the leading ones, or out of range (torch's own).
        """
        return self._of([self], lambda t: t[index], lambda t: t[before_last(index)])

    @classmethod
    def cat(cls, masks: Sequence[Self], dim: int = 0) -> Self:
        """Masks joined along a leading axis."""
        return cls._join(masks, dim, torch.cat, axes=0)

    @classmethod
    def stack(cls, masks: Sequence[Self], dim: int = 0) -> Self:
        """Masks stacked along a new leading axis, a rollout's steps into ``[time, batch]``."""
        return cls._join(masks, dim, torch.stack, axes=1)

    @classmethod
    def _join(cls, masks: Sequence[Self], dim: int, join: Callable[..., Tensor], axes: int) -> Self:
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
        return cls._of(masks, lambda *parts: join(parts, dim), _batch_last(lambda *parts: join(parts, dim + 1)))

    @classmethod
    def _of(cls, masks: Sequence[Self], rows: Callable[..., Tensor], wide: Callable[..., Tensor] | None = None) -> Self:
        """Masks of one layout as one: ``rows`` of their op words, and ``wide`` of all that has a trailing axis."""
        wide = rows if wide is None else wide
        op_words = rows(*[m.op_words for m in masks])  # first: of an index it refuses one of too many axes
        names = {name: None for m in masks for name in m.constraints}
        constraints = {name: wide(*[m._constraint(name) for m in masks]) for name in names}
        return cls(masks[0].layout, wide(*[m.slot_words for m in masks]), op_words, constraints)

    def _table(self, name: str) -> HeadTables:
        table = layout_tables(self.layout, self.device).heads[self.layout.position(name)]
        assert isinstance(table, HeadTables)
        return table

    def _constraint(self, name: str) -> Tensor:
        """The constraint on a head that is held, or that the words hold; for the slot head its whole mask."""
        if name in self.constraints:
            return self.constraints[name]
        if name == SLOT:
            return (self.slot_words & self._table(SLOT).openers) != 0
        free = torch.ones((), dtype=torch.bool, device=self.device)
        return free.expand(*self.shape, self._table(name).size)

    @property
    def restricted(self) -> tuple[int, ...]:
        """Positions of the heads that ``restrict`` has restricted; the words hold the constraints of slot and op."""
        return tuple(at for at, name in enumerate(self.layout.head_names) if name in self.constraints and name != SLOT)


def _batch_last(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors ``[n, ...]`` as one of ``[..., n]``, so that their memory stays batch-last."""
    return lambda *tensors: function(*[t.movedim(-1, 0) for t in tensors]).movedim(0, -1)


# -- what torch is told: masks are a pytree ----------------------------------------------------------------------------

Context = tuple[ActionLayout, tuple[str, ...]]  # static side, and which heads are restricted


def _flatten(masks: ActionMasks) -> tuple[list[Tensor], Context]:
    names = tuple(sorted(masks.constraints))
    return [masks.slot_words, masks.op_words, *(masks.constraints[name] for name in names)], (masks.layout, names)


def _flatten_with_keys(masks: ActionMasks) -> tuple[list[tuple[pytree.KeyEntry, Tensor]], Context]:
    leaves, (layout, names) = _flatten(masks)
    keys = ("slot_words", "op_words", *names)
    return [(pytree.GetAttrKey(key), leaf) for key, leaf in zip(keys, leaves)], (layout, names)


def _unflatten(leaves: Any, context: Context) -> ActionMasks:
    layout, names = context
    slot_words, op_words, *constraints = leaves
    return ActionMasks(layout, slot_words, op_words, dict(zip(names, constraints)))


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
