"""The masks of a batch, held as words and unpacked where somebody asks for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor

from esper_masks.actions.layout import CHOICE_BITS, ActionLayout
from esper_masks.actions.packing import form_of, form_of_width
from esper_masks.actions.tables import HeadTables, LayoutTables, choice_bits, layout_tables
from esper_masks.checks import before_last, check_actions, check_expands, check_range, kind_of
from esper_masks.masks.checks import check_constraint, check_mask, check_masks, check_words
from esper_masks.masks.choices import (
    batch_last,
    entry,
    has_choice,
    in_slot,
    overlap,
    pack_choices,
    unpack_choices,
)
from esper_masks.masks.packed import Parts, join_parts, split_parts
from esper_masks.masks.stage_words import or_over_slots
from esper_masks.rules.names import BY_SLOT, OP, SLOT, SLOT_BY_OP


class ActionMasks(Mapping[str, Tensor]):
    """Which actions are legal, for any leading shape (``[batch]``, ``[time, batch]``, none). True is legal.

    A mapping from head name to a bool mask ``[..., n]``, in head order. What is held is one word per slot and one per
    row, int32 or, for more than 31 ops, int64; ``masks["op"]`` unpacks on demand. A head whose choices depend on the
    state, or were restricted, has choice words beside them. Engines make these; ``from_words`` and ``from_bools`` make
    them from masks that were stored or came from elsewhere.

    Masks do not change. The constructor keeps the tensors that it is given, for those who have just made them; the
    others copy.

    Args:
        layout: heads and ops (``engine.layout``).
        slot_words: ``[..., slots]`` of ``layout.word_dtype``; bit i: op i is legal in that slot. Ops that are always
            legal are so in every enabled slot, which is how the words tell which slots are enabled.
        op_words: ``[...]`` of the same dtype; bit i: op i is legal.
        choices: head name -> int32 ``[..., k]``, or ``[..., slots, k]`` for a head with choices of its own in each
            slot: what the state, or ``restrict``, leaves of its choices; see ``choices``. Every head that is
            ``dynamic`` in the layout has them.
        slot_mask: bool ``[..., slots]``, the mask of the slot head where words no longer tell which slots are enabled.
    """

    __eq__ = object.__eq__  # comparing by value would read the device; compare words or masks
    __hash__ = object.__hash__

    def __init__(
        self,
        layout: ActionLayout,
        slot_words: Tensor,
        op_words: Tensor,
        choices: Mapping[str, Tensor] | None = None,
        slot_mask: Tensor | None = None,
    ):
        self.layout = layout
        self.slot_words = slot_words
        self.op_words = op_words
        self.choices = dict(choices or {})
        self.slot_mask = slot_mask

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Files of earlier versions hold bools for what was restricted, as ``_limits`` or as ``constraints``."""
        held = {"choices": {}, "slot_mask": None, **state}
        for name, mask in {**held.pop("_limits", {}), **held.pop("constraints", {})}.items():
            if name == SLOT:
                held["slot_mask"] = mask
            else:
                held["choices"][name] = pack_choices(mask, choice_bits(mask.device))
        self.__dict__.update(held)

    @classmethod
    def of_state(
        cls, layout: ActionLayout, slot_words: Tensor, op_words: Tensor, left: Sequence[tuple[str, bool, Tensor]]
    ) -> "ActionMasks":
        """What an engine has found in a state, as masks: less the ops that a head leaves without a choice.

        Args:
            layout: see the class.
            slot_words: see the class.
            op_words: see the class.
            left: name of each head whose choices depend on the state, whether they are of each slot, and its choice
                words.
        """
        made = cls(layout, slot_words, op_words)
        for name, by_slot, words in left:
            made = made._with_choices(name, words, by_slot)
        return made._settled() if left else made

    @classmethod
    def from_words(cls, layout: ActionLayout, slot_words: Tensor, op_words: Tensor | None = None) -> "ActionMasks":
        """Masks from stored words, which are copied once, in the dtype of the layout.

        An action is legal where the words permit its op and, if it uses a slot, the word of that slot permits it too.
        Words hold all there is of an engine's masks, unless rules give a head choices that depend on the state, and of
        restricted masks which op is legal where, not what was taken from the other heads: ``pack`` holds all.

        Args:
            layout: heads and ops (``engine.layout``).
            slot_words: integers of any dtype with a bit for each op, ``[..., slots]``; bits of no op that could be
                legal are ignored. A slot is enabled where it has one of the bits that are set in every enabled slot
                (the ops always legal).
            op_words: integers ``[...]``. By default an op is legal where some slot allows it, and the ops that are
                always legal are; needed where an op is legal by its guards alone, whatever slots hold.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit, words that are too narrow for the ops, or a head
                whose choices words do not hold.
        """
        slots = len(layout.slot_ids)
        if dynamic := [head.name for head in layout.heads if head.dynamic]:
            heads = ", ".join(dynamic)
            raise ValueError(f"words do not hold the choices of {heads}; store masks.pack(), which from_packed reads")
        check_words("slot_words", slot_words, layout)
        if slot_words.ndim < 1 or slot_words.shape[-1] != slots:
            raise ValueError(f"slot_words have shape {tuple(slot_words.shape)}; wanted [..., {slots}], one word a slot")
        slot_words = slot_words.to(layout.word_dtype) & layout.possible
        if op_words is None:
            if layout.free:
                ops = ", ".join(op for at, op in enumerate(layout.ops) if layout.free >> at & 1)
                raise ValueError(f"slot_words do not tell whether {ops} is legal, which needs no slot; give op_words")
            return cls(layout, slot_words, or_over_slots(slot_words) | layout.unconditional)
        check_words("op_words", op_words, layout)
        if op_words.shape != slot_words.shape[:-1] or op_words.device != slot_words.device:
            raise ValueError(
                f"op_words are {tuple(op_words.shape)} on {op_words.device}; slot_words {tuple(slot_words.shape)} "
                f"need {tuple(slot_words.shape[:-1])} on {slot_words.device}"
            )
        others = ~layout_tables(layout, op_words.device).with_slot
        op_words = op_words.to(layout.word_dtype) & layout.possible & (or_over_slots(slot_words) | others)
        made = cls(layout, slot_words & (op_words.unsqueeze(-1) | others), op_words)
        return made._keeping_slots(made._tables.all_ops)  # any op may be closed

    @classmethod
    def from_bools(
        cls, layout: ActionLayout, masks: Mapping[str, Any], slot_by_op: Tensor | None = None
    ) -> "ActionMasks":
        """Masks from one mask per head, tensors or numpy arrays of bool or int8. All are copied.

        An action is legal if the layout and every given mask permit it.

        Args:
            layout: heads and ops (``engine.layout``).
            masks: head name -> ``[..., n]`` or, for a head other than op and slot, ``[..., slots, n]``. The leading
                axes are those of ``"op"`` or, in a layout without ops, of the first mask. ``"op"`` and ``"slot"`` are
                needed where the layout has them; any other that is missing keeps the mask of the layout. All on one
                device; numpy arrays go there.
            slot_by_op: ``[..., ops, slots]``; by default every legal op in every legal slot.

        Raises:
            ValueError: a missing or unknown head, a mask that is neither bool nor int8, or shapes that do not fit.
        """
        shape, device, given = check_masks(layout, masks)
        slots, ops = len(layout.slot_ids), len(layout.ops)
        words = torch.full((*shape, slots), layout.possible, dtype=layout.word_dtype, device=device)
        tells = layout.always or not slots  # the bits of ops that are always legal tell which slots are enabled
        slot_mask = None if tells else torch.ones((*shape, slots), dtype=torch.bool, device=device)
        op_words = torch.full(shape, layout.possible, dtype=layout.word_dtype, device=device)
        whole = cls(layout, words, op_words, slot_mask=slot_mask)
        choices = {head.name: whole._all_choices(head.name, head.by_slot) for head in layout.heads if head.dynamic}
        if slot_by_op is not None:
            pairs = check_mask("mask 'slot_by_op'", slot_by_op, (*shape, ops, slots), device)
            words = words & (whole._words_of(pairs) | layout.unconditional)
        return cls(layout, words, op_words, choices, slot_mask).restrict(**given)

    def pack(self, width: int | None = None) -> Tensor:
        """These masks whole, heads by slot and constraints included, as one tensor that ``from_packed`` reads.

        Its width depends on what the masks hold beside words, see ``actions.packing``: the narrowest form that has a
        place for it. Of two forms the wider need not hold what the narrower does: each may have another head by slot.

        Masks come back as they were, heads by slot and constraints included, where no more than four heads can have
        choices by slot beside those of the rules. With more, masks with two or more by slot come back with all of them
        by slot: the same actions are legal, but of a head that had choices of whole rows ``masks[head]`` and
        ``FactoredCategorical.head_entropies`` are then those of a head by slot.

        Args:
            width: int32 words of a row, for masks that are stored beside others; at least what these need.

        Returns: int32 ``[..., words]``, batch-last in memory.
        Raises:
            ValueError: a width of no form, or of one that does not hold these masks.
        """
        held = {name: self._is_by_slot(name) for name in self.choices}
        form = form_of(self._tables.packings, held, self.slot_mask is not None, width)
        choices = {name: self._all_choices(name, by_slot) for name, by_slot in form.choices.items()}
        slot_mask = pack_choices(self._slots(), self._tables.choice_bits) if form.slot_mask else None
        return join_parts(form, Parts(self.slot_words, self.op_words, slot_mask, choices))

    @classmethod
    def from_packed(cls, layout: ActionLayout, packed: Tensor) -> "ActionMasks":
        """Masks from what ``pack`` gave, which is copied once; it says what is no longer told apart.

        Args:
            layout: heads and ops (``engine.layout``).
            packed: int32 ``[..., words]``.

        Raises:
            ValueError: another dtype, or a width of no form of this layout.
        """
        if not isinstance(packed, Tensor) or packed.dtype != torch.int32 or not packed.ndim:
            raise ValueError(f"packed masks must be int32 [..., words], got {kind_of(packed)}; masks.pack() gives them")
        tables = layout_tables(layout, packed.device)
        slot_words, op_words, held, choices = split_parts(
            form_of_width(tables.packings, packed.shape[-1]), layout, packed
        )
        slot_words = slot_words & layout.possible
        if op_words is None:
            op_words = or_over_slots(slot_words) | layout.unconditional
        slot_mask = None if held is None else unpack_choices(held, len(layout.slot_ids), tables.choice_bits)
        choices = {name: words & tables.head(layout.position(name)).all_choices for name, words in choices.items()}
        return cls(layout, slot_words, op_words & layout.possible, choices, slot_mask)

    # -- what is legal ------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        """Mask of one head: bool ``[..., n]``.

        Of a head with choices of its own in each slot: the choices that some legal whole action takes, the canonical
        one alone where there is none.
        """
        table = self._table(name)
        if name == SLOT:
            return self._slots()
        if name == OP:
            return self._legal_ops()
        if self._is_by_slot(name):
            return unpack_choices(self._taken(name), table.size, self._tables.choice_bits)
        words = self.op_words.unsqueeze(-1)  # [..., 1]
        if not table.openers:
            mask = table.closed.expand(*self.shape, table.size)
        else:
            mask = torch.where((words & table.openers) != 0, (words & table.opening_ops) != 0, table.closed)
        if name not in self.choices:
            return mask
        mask = mask & unpack_choices(self.choices[name], table.size, self._tables.choice_bits)
        if self.layout.head(name).dynamic:  # a head of slots: nothing of it is taken where no legal op uses it
            mask = mask & ((words & table.users) != 0)
        # left without a choice, no legal op uses the head (see restrict); it keeps its canonical value
        canonical = torch.arange(table.size, device=self.device) == table.canonical
        return torch.where(mask.any(-1, keepdim=True), mask, canonical)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.head_names)

    def __len__(self) -> int:
        return len(self.layout.heads)

    def by_slot(self, name: str) -> Tensor:
        """What rules and callers leave of a head in each slot, whichever op is legal there: bool ``[..., slots, n]``.

        Under one op it is less what the layout does not permit to that op.

        Raises:
            ValueError: the slot or the op head; KeyError: no head of that name.
        """
        table = self._table(name)
        if name in (SLOT, OP) or not self.layout.slot_ids:
            raise ValueError(f"the head {name!r} has no choices by slot")
        held, slots = self.choices.get(name), len(self.layout.slot_ids)
        if held is None:
            return table.anywhere.expand(*self.shape, slots, table.size)
        mask = unpack_choices(held, table.size, self._tables.choice_bits) & table.anywhere
        return mask if self._is_by_slot(name) else mask.unsqueeze(-2).expand(*self.shape, slots, table.size)

    def whole_choices(self, name: str) -> Tensor:
        """The mask of a head as choice words: int32 ``[..., k]``; see ``choices``.

        Raises:
            KeyError: no head of that name.
        """
        return self._taken(name) if self._is_by_slot(name) else pack_choices(self[name], self._tables.choice_bits)

    @property
    def slot_by_op(self) -> Tensor:
        """Which op is legal in which slot: bool ``[..., ops, slots]``."""
        return (self.slot_words.unsqueeze(-2) & self._tables.op_bits.unsqueeze(-1)) != 0

    def flat(self) -> Tensor:
        """The masks of all heads side by side: bool ``[..., sum of head sizes]``.

        What multi-discrete libraries take. Not exact: heads drawn independently of each other form illegal pairs of op
        and slot; ``joint`` is exact.
        """
        return torch.cat([self[name] for name in self], dim=-1)

    def joint(self) -> Tensor:
        """Legality of every whole action: bool ``[..., engine.joint_actions.size]``."""
        pairs = [rearrange(self.slot_by_op, "... ops slots -> ... (ops slots)"), self._legal_ops()]
        whole = self._tables.whole_actions()
        legal = torch.cat(pairs, -1).index_select(-1, whole[0])  # of [..., ops * slots + ops]
        for at, by_slot in self.dynamic:
            head, values = self.layout.heads[at], whole[1 + at]
            mask = unpack_choices(self.choices[head.name], head.size, self._tables.choice_bits)
            if by_slot:
                slots = whole[1 + self.layout.position(SLOT)] * head.size
                mask = mask.flatten(-2)
                values = torch.where(values < head.size, slots + values, mask.shape[-1])
            # the last entry: the op ignores the head
            legal = legal & torch.nn.functional.pad(mask, (0, 1), value=True).index_select(-1, values)
        return legal

    def count(self) -> Tensor:
        """How many whole actions are legal: int64 ``[...]``; float64 where an int64 may not hold the number."""
        tables, pairs = self._tables, self.slot_by_op
        limited = {at: by_slot for at, by_slot in self.dynamic if self.layout.heads[at].users}
        left = {at: self._numbers(at, by_slot) for at, by_slot in limited.items()}
        for at, by_slot in limited.items():
            pairs = pairs * left[at] if by_slot else pairs
        count = torch.where(tables.slot_users, pairs.sum(-1), self._legal_ops())  # [..., ops]
        # no product is larger than the whole number, and none is rounded that an int64 holds
        for at, by_slot in limited.items():
            count = count if by_slot else count * left[at]
        return (count * tables.combinations_without(limited)).sum(-1)

    def _numbers(self, at: int, by_slot: bool) -> Tensor:
        """Choices that are left of a head under each op: ``[..., ops]`` or ``[..., ops, slots]``, as ``count``."""
        head, dim, table = self.layout.heads[at], -2 if by_slot else -1, self._tables.head(at)
        mask = unpack_choices(self.choices[head.name], head.size, self._tables.choice_bits)
        groups = torch.stack([(mask & permitted).sum(-1) for permitted in table.permits], dim)
        uses = (self._tables.op_bits & table.users) != 0
        left = torch.where(uses.unsqueeze(-1) if by_slot else uses, groups.index_select(dim, table.group_of), 1)
        return left.to(self._tables.combinations.dtype)

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
        given = values.get(OP, torch.zeros(actions.shape[:-1], dtype=torch.int64, device=actions.device))
        op = given.clamp(0, len(self.layout.ops) - 1)
        op_bit = self._tables.op_bits[op.unsqueeze(-1)].squeeze(-1)  # torch would read an index of no axes
        legal = (op == given) & ((self.op_words & op_bit) != 0)
        for name, value in values.items():
            if name == OP:
                continue
            table = self._table(name)
            choice = value.clamp(0, table.size - 1)
            if name == SLOT:
                permitted = (entry(self.slot_words, choice) & op_bit) != 0
            else:
                permitted = table.by_op[op.unsqueeze(-1), choice.unsqueeze(-1)].squeeze(-1)
            if name in self.choices:
                held, word = self.choices[name], choice // CHOICE_BITS
                if self._is_by_slot(name):
                    slot = values[SLOT].clamp(0, held.shape[-2] - 1)
                    held, word = held.flatten(-2), slot * held.shape[-1] + word
                bit = self._tables.choice_bits[(choice % CHOICE_BITS).unsqueeze(-1)].squeeze(-1)
                permitted = permitted & ((entry(held, word) & bit) != 0)
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
        slot_users = self._tables.with_slot
        op, slot = (values[self.layout.position(name)] for name in (OP, SLOT))
        held = {head: in_slot(words, slot, self._is_by_slot(head)) for head, words in self.choices.items()}
        bit = torch.zeros_like(op, dtype=self.layout.word_dtype)  # in the dtype of the actions it might not fit
        for number in range(len(self.layout.ops)):
            fits = op == number
            for head, value in zip(self.layout.heads, values):
                if head.users >> number & 1 and head.name not in (OP, SLOT):
                    hits = [value == c for c in head.by_op[number]]
                    if (words := held.get(head.name)) is not None:
                        hits = [hit & has_choice(words, c) for hit, c in zip(hits, head.by_op[number])]
                    fits = fits & reduce(torch.logical_or, hits)
            bit = torch.where(fits, 1 << number, bit)
        index = torch.arange(len(self.layout.slot_ids), dtype=op.dtype, device=op.device).view(-1, *[1] * op.ndim)
        acts = (slot == index) & ((self.slot_words.movedim(-1, 0) & bit & slot_users) != 0)
        return acts.any(0) | ((self.op_words & bit & ~slot_users) != 0), acts

    @property
    def forced(self) -> Tensor:
        """Rows in which exactly one whole action is legal: bool ``[...]``."""
        return self.count() == 1

    def restrict(self, **constraints: Tensor) -> "ActionMasks":
        """New masks in which an action must also satisfy every given constraint.

        An op is dropped where the constraints leave one of the heads it uses without a legal choice, so a legal op can
        always be completed: in a slot, for a head with choices of its own there, else in the whole row.

            masks.restrict(op=only_wait)                 # [ops] or [..., ops]
            masks.restrict(slot_by_op=quarantine)        # [..., ops, slots]; ops that use no slot stay as they are
            masks.restrict(node_by_slot=room)            # [..., slots, n], for a head called node

        Args:
            constraints: head name, ``slot_by_op``, or the name of a head other than op and slot with ``_by_slot``
                behind it -> bool tensor or numpy array that broadcasts to the mask, along all axes but the last. It is
                copied, so its memory may be used again.

        Raises:
            ValueError: a mask that is not bool, does not broadcast or is on another device; or one by slot, of a head
                that an op uses without a slot.
            KeyError: a name that is not a head.
        """
        made = self
        for name, mask in constraints.items():
            if name == SLOT_BY_OP:
                made = made._less_pairs(mask)
            elif name == SLOT:
                made = made._less_slots(mask)
            elif name == OP:
                made = made._less_ops(mask)
            else:
                made = made._less_choices(name, mask)
        return made._settled()

    def _less_pairs(self, mask: Tensor) -> "ActionMasks":
        mask = check_constraint(self.layout, SLOT_BY_OP, mask, self.shape, self.device)
        return self._with(slot_words=self.slot_words & (self._words_of(mask) | self._tables.without_slot))

    def _less_slots(self, mask: Tensor) -> "ActionMasks":
        mask = check_constraint(self.layout, SLOT, mask, self.shape, self.device)
        # the bits of ops without a slot say what allows them; no slot can be closed to them
        kept = self._tables.without_slot & ~self._table(SLOT).openers
        slot_words = self.slot_words * mask | self.slot_words & kept
        return self._with(slot_words=slot_words, slot_mask=None if self.slot_mask is None else self.slot_mask & mask)

    def _less_ops(self, mask: Tensor) -> "ActionMasks":
        mask = check_constraint(self.layout, OP, mask, self.shape, self.device)
        word = torch.where(mask, self._tables.op_bits, 0).sum(-1, dtype=self.layout.word_dtype)
        made = self._keeping_slots(self._tables.all_ops)
        return made._with(slot_words=self.slot_words & word.unsqueeze(-1), op_words=self.op_words & word)

    def _less_choices(self, name: str, mask: Tensor) -> "ActionMasks":
        mask = check_constraint(self.layout, name, mask, self.shape, self.device)
        by_slot = name not in self.layout.head_names
        words = pack_choices(mask, self._tables.choice_bits)
        return self._with_choices(name.removesuffix(BY_SLOT) if by_slot else name, words, by_slot)

    def _with_choices(self, name: str, words: Tensor, by_slot: bool) -> "ActionMasks":
        """Masks with further choice words, ``[..., k]`` or ``[..., slots, k]``, that broadcast; not yet settled."""
        held = self.choices.get(name)
        if held is not None:
            wide = self._is_by_slot(name)
            if by_slot != wide:
                held, words = (held, words.unsqueeze(-2)) if wide else (held.unsqueeze(-2), words)
            words, by_slot = held & words, by_slot or wide
        words = words.expand(*self.shape, *([len(self.layout.slot_ids)] if by_slot else []), words.shape[-1])
        slot_words, op_words = self.slot_words, self.op_words
        for ops, permitted in self._table(name).groups:
            empty = ~overlap(words, permitted)
            if by_slot:
                slot_words = torch.where(empty, slot_words & ~ops, slot_words)
            else:
                slot_words = torch.where(empty.unsqueeze(-1), slot_words & ~ops, slot_words)
                op_words = torch.where(empty, op_words & ~ops, op_words)
        made = self._keeping_slots(self._table(name).users)
        return made._with(slot_words=slot_words, op_words=op_words, choices={**self.choices, name: words})

    def _settled(self) -> "ActionMasks":
        """The same masks, less the ops that use a slot and are legal in none."""
        return self._with(op_words=self.op_words & (or_over_slots(self.slot_words) | self._tables.without_slot))

    def _keeping_slots(self, ops: int) -> "ActionMasks":
        """The same masks, before these ops are closed somewhere: words may not tell enabled slots from then on."""
        tells = SLOT in self.layout.head_names and self.slot_mask is None and self._table(SLOT).openers & ops
        return self._with(slot_mask=self._slots()) if tells else self

    def _with(self, **parts: Any) -> "ActionMasks":
        held = {name: getattr(self, name) for name in ("slot_words", "op_words", "choices", "slot_mask")}
        return ActionMasks(self.layout, **{**held, **parts})

    def _words_of(self, pairs: Tensor) -> Tensor:
        """Bool ``[..., ops, slots]`` as words ``[..., slots]``."""
        return torch.where(pairs, self._tables.op_bits.unsqueeze(-1), 0).sum(-2, dtype=self.layout.word_dtype)

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
        held = [self.slot_words, self.op_words, *self.choices.values()]
        return sum(t.nbytes for t in held) + (0 if self.slot_mask is None else self.slot_mask.nbytes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same masks on a device."""
        return self._of([self], lambda t, trailing: t.to(device, non_blocking=non_blocking))

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

        def taken(part: Tensor, trailing: int) -> Tensor:
            return batch_last(lambda t: t.index_select(trailing, rows), trailing)(part)

        try:
            return self._of([self], taken)
        except (IndexError, RuntimeError):
            check_range("select", rows, size, "rows of these masks")
            raise

    def expand(self, shape: Sequence[int]) -> Self:
        """The same masks for more rows, in a leading shape to which this one broadcasts; nothing is copied.

        Raises:
            ValueError: a shape to which this one does not broadcast.
        """
        check_expands(self.shape, shape)
        return self._of([self], lambda t, trailing: t.expand(*shape, *t.shape[t.ndim - trailing :]))

    def at(self, index: Any) -> Self:
        """Rows by any index of the leading axes, like that of a tensor; ``select`` keeps the memory layout.

        Raises:
            IndexError: more axes than the leading ones, or out of range (torch's own).
        """
        return self._of([self], lambda t, trailing: t[before_last(index, trailing)])

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

        def joined(*parts: Tensor, trailing: int) -> Tensor:
            return batch_last(lambda *parts: join(parts, dim + trailing), trailing)(*parts)

        return cls._of(masks, joined)

    @classmethod
    def _of(cls, masks: Sequence[Self], rows: Callable[..., Tensor]) -> Self:
        """Masks of one layout as one: ``rows(*tensors, trailing=1)``, or as many axes as stand behind those of rows."""
        op_words = rows(*[m.op_words for m in masks], trailing=0)  # first: of an index it refuses one of too many axes
        slot_words = rows(*[m.slot_words for m in masks], trailing=1)
        by_slot = {name: any(m._is_by_slot(name) for m in masks) for m in masks for name in m.choices}
        choices = {
            name: rows(*[m._all_choices(name, wide) for m in masks], trailing=1 + wide)
            for name, wide in by_slot.items()
        }
        kept = any(m.slot_mask is not None for m in masks)
        slot_mask = rows(*[m._slots() for m in masks], trailing=1) if kept else None
        return cls(masks[0].layout, slot_words, op_words, choices, slot_mask)

    # -- of tables ----------------------------------------------------------------------------------------------------

    @property
    def dynamic(self) -> tuple[tuple[int, bool], ...]:
        """The heads with choice words: the position of each, and whether they are of each slot."""
        names = enumerate(self.layout.head_names)
        return tuple((at, self._is_by_slot(name)) for at, name in names if name in self.choices)

    def _is_by_slot(self, name: str) -> bool:
        return name in self.choices and self.choices[name].ndim > self.op_words.ndim + 1

    @property
    def _tables(self) -> LayoutTables:
        return layout_tables(self.layout, self.device)

    def _table(self, name: str) -> HeadTables:
        return self._tables.head(self.layout.position(name))

    def _legal_ops(self) -> Tensor:
        """Bool ``[..., ops]``."""
        return (self.op_words.unsqueeze(-1) & self._tables.op_bits) != 0

    def _slots(self) -> Tensor:
        """The mask of the slot head, that is held or that the words hold."""
        if self.slot_mask is not None:
            return self.slot_mask
        return (self.slot_words & self._table(SLOT).openers) != 0

    def _all_choices(self, name: str, by_slot: bool) -> Tensor:
        """Choice words of a head, those that are held or all choices; ``[..., slots, k]`` if wanted by slot."""
        words = self.choices.get(name)
        if words is None:
            words = self._table(name).all_choices.expand(*self.shape, -1)
        if by_slot and not self._is_by_slot(name):
            words = words.unsqueeze(-2).expand(*self.shape, len(self.layout.slot_ids), -1)
        return words

    def _taken(self, name: str) -> Tensor:
        """Of a head by slot the choices that some legal whole action takes, or the canonical one: ``[..., k]``."""
        table, words = self._table(name), self.choices[name]
        if not table.groups:  # no op uses the head
            return table.canonical_words.expand(*self.shape, -1)
        parts = []
        for (ops, _), permitted in zip(table.groups, table.permitted):
            acting = ((self.slot_words & ops) != 0).unsqueeze(-1)  # [..., slots, 1]
            parts.append(or_over_slots((words * acting).movedim(-2, -1)) & permitted)
        taken = reduce(or_, parts)
        return torch.where((taken != 0).any(-1, keepdim=True), taken, table.canonical_words)
