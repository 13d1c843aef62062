"""The masks of a batch, held as words and unpacked where somebody asks for them."""

from collections.abc import Iterator, Mapping

import torch
from einops import rearrange
from torch import Tensor

from esper_masks.checks import check_actions, check_bool, check_integer
from esper_masks.layout import ActionLayout
from esper_masks.layout_tables import layout_tables
from esper_masks.rows import WordRows
from esper_masks.rule_checks import OP, SLOT
from esper_masks.tables import or_over_slots


class ActionMasks(WordRows, Mapping[str, Tensor]):
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
        limits: head name -> bool ``[..., n]``, what ``restrict`` has added. For ``"slot"`` the whole mask.
    """

    __eq__ = object.__eq__  # comparing by value would read the device; compare words or masks
    __hash__ = object.__hash__

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
        words = torch.full((*shape, slots), layout.possible, dtype=torch.int32, device=device)
        whole = cls(layout, words, torch.full(shape, layout.possible, dtype=torch.int32, device=device))
        sizes = {name: whole._table(name).size for name in masks}
        given = {
            name: check_bool(f"mask {name!r}", mask, (*shape, sizes[name]), device, broadcast=False)
            for name, mask in masks.items()
        }
        if slot_by_op is not None:
            pairs = check_bool("mask 'slot_by_op'", slot_by_op, (*shape, ops, slots), device, broadcast=False)
            whole = cls(layout, words & (whole._words_of(pairs) | layout.unconditional), whole.op_words)
        return whole.restrict(**given)

    # -- what is legal ------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        """Mask of one head: bool ``[..., n]``."""
        table = self._table(name)
        if name == SLOT:
            return self._limit(SLOT)
        words = self.op_words.unsqueeze(-1)  # [..., 1]
        if name == OP:
            return (words & table.open_words) != 0
        if not table.openers:
            mask = table.closed.expand(*self.shape, table.size)
        else:
            mask = torch.where((words & table.openers) != 0, (words & table.open_words) != 0, table.closed)
        if name not in self._limits:
            return mask
        mask = mask & self._limits[name]
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
        return (self.slot_words.unsqueeze(-2) & self._table(OP).open_words.unsqueeze(-1)) != 0

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
        for name, limit in self._limits.items():
            if name != SLOT:  # the slot's limit is in the words
                padded = torch.nn.functional.pad(limit, (0, 1), value=True)  # the last entry: the op ignores the head
                legal = legal & padded.index_select(-1, whole[1 + self.layout.head_names.index(name)])
        return legal

    def count(self) -> Tensor:
        """How many whole actions are legal: int64 ``[...]``; float64 where an int64 may not hold the number."""
        tables, op_bits = layout_tables(self.layout, self.device), self._table(OP).open_words
        count = torch.where(tables.slot_users, self.slot_by_op.sum(-1), self[OP]) * tables.combinations  # [..., ops]
        for at in self.limited:
            name = self.layout.head_names[at]
            table, limit = self._table(name), self._limits[name]
            permitted = (limit.unsqueeze(-2) & table.by_op).sum(-1)
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
        op_bit = self._table(OP).open_words[op.unsqueeze(-1)].squeeze(-1)  # torch would read an index of no axes
        legal = (op == values[OP]) & ((self.op_words & op_bit) != 0)
        for name, value in values.items():
            table, choice = self._table(name), value.clamp(0, self._table(name).size - 1)
            if name == OP:
                continue
            if name == SLOT:
                words = self.slot_words.expand(*value.shape, -1)
                permitted = (words.gather(-1, choice.unsqueeze(-1)).squeeze(-1) & op_bit) != 0
            else:
                permitted = table.by_op[op.unsqueeze(-1), choice.unsqueeze(-1)].squeeze(-1)
            if name in self._limits and name != SLOT:
                limit = self._limits[name].expand(*value.shape, -1)
                permitted = permitted & limit.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
            legal = legal & ((choice == value) & permitted | ((op_bit & table.users) == 0))
        return legal

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
            constraints: head name, or ``slot_by_op`` -> bool mask that broadcasts to the head's: a tensor, or a numpy
                array. It is copied, and may be written to again.

        Raises:
            ValueError: a mask that is not bool, does not broadcast or is on another device.
            KeyError: a name that is no head.
        """
        limits = dict(self._limits)
        op_bits, slot_users, carriers = self._table(OP).open_words, self._table(SLOT).users, self._table(SLOT).openers
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
                if SLOT in limits:
                    limits[SLOT] = limits[SLOT] & mask
                continue
            if table.users & carriers:  # from here on the words may not tell which slots are enabled
                limits.setdefault(SLOT, (slot_words & carriers) != 0)
            if name == OP:
                permitted = mask
            else:
                limit = mask.expand(*self.shape, table.size)
                limits[name] = limit & limits[name] if name in limits else limit
                ignores = (op_bits & table.users) == 0
                permitted = (limits[name].unsqueeze(-2) & table.by_op).any(-1) | ignores  # [..., ops]
            word = torch.where(permitted, op_bits, 0).sum(-1, dtype=torch.int32)
            slot_words, op_words = slot_words & word.unsqueeze(-1), op_words & word
        op_words = op_words & (or_over_slots(slot_words) | slotless)
        return ActionMasks(self.layout, slot_words, op_words, limits)

    def _words_of(self, pairs: Tensor) -> Tensor:
        """Bool ``[..., ops, slots]`` as int32 words ``[..., slots]``."""
        return torch.where(pairs, self._table(OP).open_words.unsqueeze(-1), 0).sum(-2, dtype=torch.int32)

    def limit_columns(self) -> Tensor:
        """What ``restrict`` has left of the heads ``limited``: bool ``[..., columns]``, see ``build_contexts``."""
        names = [self.layout.head_names[at] for at in self.limited]
        return torch.cat([mask for name in names for mask in (self[name], self._limits[name])], -1)

    def __repr__(self) -> str:
        heads = ", ".join(f"{head.name}: {head.size}" for head in self.layout.heads)
        return f"ActionMasks(shape={tuple(self.shape)}, heads=({heads}), device={self.device}, nbytes={self.nbytes})"
