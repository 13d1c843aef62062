"""The draws that make a whole action: one head each, under the ops that share its mask and its logits.

The op is drawn first, then the slot, then every other head that the op uses. Most heads have one mask and one row of
logits whatever the op, so one draw serves all ops. The slot has a draw of its own for each op, because each op is legal
in slots of its own; so has a head whose logits, or whose permitted choices, depend on the op. A head whose logits or
whose choices depend on the slot has a draw in each slot.

What is legal is read from *words* alone, for every choice of every draw in the same way, so that eager code needs one
gather and one AND, and compiled code one AND for each choice. A row of masks over S slots has the words

    0           the ops that are legal, and STATIC, which is set in every row
    1 + s       the ops that are legal in slot s
    1 + S + i   the ops that are legal if one of them opens the i-th of ``closing_heads``; if none does, STATIC alone

and a choice is legal in its draw when its word shares a bit with its ``bits``. ``esper-2025-12`` with three slots has
the ops WAIT, GERMINATE, CULL, FOSSILIZE in bits 0 to 3, logits in head order (slot 0-2, blueprint 3-7, blend 8-10, op
11-14), and these draws; S is STATIC:

    draw  head       columns  words    bits               users      why
    0     op         11-14    0 0 0 0  0001 0010 0100 1000  1111     an op is its own bit
    1     slot       0-2      1 2 3    1110 1110 1110      -         the slot's own entropy: any op that uses a slot
    2     slot       0-2      1 2 3    0010 0010 0010      GERMINATE
    3     slot       0-2      1 2 3    0100 0100 0100      CULL      the same logits, another bit
    4     slot       0-2      1 2 3    1000 1000 1000      FOSSILIZE
    5     blueprint  3-7      0 ...    0 S S S S           GERMINATE NOOP is never legal: no bit
    6     blend      8-10     0 0 0    S S S               GERMINATE

A row with a seed to cull in slot 1 and nothing else has the words ``S|0101, 0001, 0101, 0001``: the op's draw finds
bits in WAIT and CULL, draw 3 finds one in slot 1 alone, draws 2 and 4 find none and are not needed, because their ops
are illegal. In ``esper-2026-06`` the head style has bits ``0110 0110 S|0110 0110``: open under GERMINATE and
SET_ALPHA_TARGET, and SIGMOID_ADD, which is legal closed too, in every row. Only a choice that is legal closed and not
open needs a word of its own: no bits of word 0 say "none of these ops".

STATIC is the sign bit because a word has no other bit that no op can have.

What a state or a caller leaves of a head that is neither op nor slot is in *choice words*, where choice c is bit
``c % 32`` of word ``c // 32``: a choice must have its bit there, too. They lie one head behind the other,

    a head limited in whole rows    k words of its mask whatever the op, then k words of its choices
    a head limited in each slot     k words of its choices in slot 0, k in slot 1, ...

so that a draw for all ops reads the first k words of a head, and a draw of some ops its own permits (``bits``) and the
second k. Pods in two slots, with the ops WAIT, BIND (slot and node) and EVICT (slot) in bits 0 to 2, logits in head
order (slot 0-1, node 2-4, op 5-7) and a mask of the three nodes for each pod, have draws 0 to 3 as above, and behind
all draws of whole rows

    draw  head  columns  words  bits         choice words  choice bits  users  needed by
    4     node  2-4      1 1 1  010 010 010  0 0 0         001 010 100  BIND   BIND in word 1: slot 0
    5     node  2-4      2 2 2  010 010 010  1 1 1         001 010 100  BIND   BIND in word 2: slot 1

A row with a pending pod in slot 0, for which nodes 0 and 2 have room, and a ready one in slot 1 has the words ``S|111,
011, 101`` and the choice words ``101, 111``: BIND finds slot 0 alone in its draw of slots, draw 4 then finds nodes 0
and 2, and draw 5 finds none, whatever room there is, because BIND is not legal in slot 1; so it is not needed. With
logits for each slot, node has columns 2-7: draw 4 reads 2-4 and draw 5 reads 5-7.

A layout without a head for the op has one op, which nobody draws, and a draw for each head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from operator import or_

from esper_masks.actions.layout import CHOICE_BITS, ActionLayout, HeadLayout, choice_bit, choice_words
from esper_masks.rules.names import OP, SLOT

Heads = tuple[int, ...]
Dynamic = tuple[tuple[int, bool], ...]  # heads with choice words, and whether these are of each slot


@dataclass(frozen=True)
class Draw:
    """One head, under the ops that share its mask and its logits.

    Args:
        head: position of the head.
        columns: column of each choice in the logits of all heads side by side.
        words: which word of the row decides each choice.
        bits: the bits of which that word must have one.
        users: word of the ops that draw the head here; 0 for a draw that only a regularizer looks at.
        needed_by: word of the ops (STATIC: every row) that leave the row without an action if nothing is legal here.
        plain: whether the head's own entropy is taken here.
        needed_word: which word of the row tells whether one of those ops is legal.
        choice_words: which choice word decides each choice, too; None for a head without choice words.
        choice_bits: the bit that it must have.
        slot: the slot of the action, for a draw that is of one slot; None for all others.
        slots: how many slots the head has draws in; 1 for a draw of whole rows.
        of_op: whether the op is drawn here.
    """

    head: int
    columns: tuple[int, ...]
    words: tuple[int, ...]
    bits: tuple[int, ...]
    users: int
    needed_by: int
    plain: bool
    needed_word: int = 0
    choice_words: tuple[int, ...] | None = None
    choice_bits: tuple[int, ...] = ()
    slot: int | None = None
    slots: int = 1
    of_op: bool = False

    @property
    def size(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class HeadDraws:
    """All draws of one head, which compiled code makes one of.

    Args:
        head: position of the head.
        draws: which draws they are.
        whole: the first of them, with the bits of all: there a word must have a bit of the ops of the row's own draw.
        groups: the words of these ops.
        other_logits: columns other than those of ``whole``; the ops that have them, 0 for all; and their slot, None for
            all.
        slots: a draw of each slot; none for a head whose draws are of no slot.
    """

    head: int
    draws: tuple[int, ...]
    whole: Draw
    groups: tuple[int, ...]
    other_logits: tuple[tuple[tuple[int, ...], int, int | None], ...]
    slots: tuple[Draw, ...]


def merge_draws(draws: Sequence[Draw], head: int) -> HeadDraws:
    """The draws of a head from which some op takes it, as one."""
    taken = [(at, draw) for at, draw in enumerate(draws) if draw.head == head and draw.users]
    own = [draw for _, draw in taken]
    bits = tuple(reduce(or_, of_choice) for of_choice in zip(*(draw.bits for draw in own)))
    users, slots = reduce(or_, (draw.users for draw in own)), {draw.slot: draw for draw in reversed(own)}
    others = []
    for columns in dict.fromkeys(draw.columns for draw in own):
        ops = reduce(or_, (draw.users for draw in own if draw.columns == columns))
        at = [slot for slot in slots if any(draw.slot == slot and draw.columns == columns for draw in own)]
        others.append((columns, 0 if ops == users else ops, at[0] if len(at) < len(slots) else None))
    return HeadDraws(
        head=head,
        draws=tuple(at for at, _ in taken),
        whole=replace(own[0], bits=bits, users=users),
        groups=tuple(dict.fromkeys(draw.users for draw in own)),
        other_logits=tuple(others[1:]),
        slots=() if own[0].slot is None else tuple(slots[slot] for slot in range(len(slots))),
    )


def draws_alike(draws: Sequence[Draw]) -> list[range]:
    """All draws in order, those together that follow each other and differ in the one op that draws there alone."""
    starts = [at for at, draw in enumerate(draws) if not at or not _are_alike(draws[at - 1], draw)]
    return [range(*pair) for pair in zip(starts, [*starts[1:], len(draws)])]


def _are_alike(one: Draw, other: Draw) -> bool:
    kinds = [(d.head, d.columns, d.words, d.needed_word, d.choice_words) for d in (one, other)]
    return kinds[0] == kinds[1] and all(d.users and d.slot is None and not d.plain for d in (one, other))


def build_draws(
    layout: ActionLayout, by_op: Heads = (), by_slot: Heads = (), dynamic: Dynamic | None = None
) -> tuple[Draw, ...]:
    """The draws of a layout: that of the op first, then those of whole rows in head order, then those of one slot.

    Args:
        layout: heads and ops.
        by_op: heads whose logits are given for each op, ``[..., ops, n]``, so that they take ops × n columns.
        by_slot: heads whose logits are given for each slot, ``[..., slots, n]``; in both, ``[..., ops, slots, n]``.
        dynamic: the heads that have choice words, in head order, as ``ActionMasks.dynamic`` names them; by default
            those that have them by the layout.
    """
    dynamic = dynamic_heads(layout) if dynamic is None else dynamic
    places, in_slots = _Places(layout, by_op, by_slot, dynamic), slot_wise_heads(by_slot, dynamic)
    of_op, of_rows, of_slots = [], [], []
    for at, head in enumerate(layout.heads):
        if head.name == OP:
            ops = range(head.size)
            bits = tuple(1 << op for op in ops)
            op_draw = Draw(at, places.columns(at), (0,) * head.size, bits, layout.possible, layout.static, plain=True)
            of_op.append(replace(op_draw, of_op=True))
        elif at in in_slots:
            of_slots += _draws_of_slots(layout, at, places)
        else:
            of_rows += _draws_of_rows(layout, at, places)
    return tuple(of_op + of_rows + of_slots)


def dynamic_heads(layout: ActionLayout) -> Dynamic:
    """The heads that have choice words by the layout."""
    return tuple((at, head.by_slot) for at, head in enumerate(layout.heads) if head.dynamic)


def slot_wise_heads(by_slot: Heads, dynamic: Dynamic) -> set[int]:
    """The heads that have a draw in each slot, since their logits or their choices depend on it."""
    return {*by_slot, *(at for at, slot_wise in dynamic if slot_wise)}


def closing_heads(layout: ActionLayout) -> Heads:
    """Heads with a choice that is legal while the head is closed and not while it is open."""
    return tuple(
        at
        for at, head in enumerate(layout.heads)
        if head.name not in (SLOT, OP)
        and any(
            not set(head.closed) <= set(choices) for op, choices in enumerate(head.opened) if head.openers >> op & 1
        )
    )


class _Places:
    """Where the logits and the choice words of each head lie, see ``build_draws`` and the docstring above."""

    def __init__(self, layout: ActionLayout, by_op: Heads, by_slot: Heads, dynamic: Dynamic):
        self.sizes, self.by_op, self.by_slot = [head.size for head in layout.heads], by_op, by_slot
        self.slots = len(layout.slot_ids)
        rows = [
            (len(layout.ops) if at in by_op else 1) * (self.slots if at in by_slot else 1)
            for at in range(len(self.sizes))
        ]
        self.first = list(accumulate((size * count for size, count in zip(self.sizes, rows)), initial=0))
        self.slot_wise, self.dynamic = dict(dynamic), [at for at, _ in dynamic]
        words = [choice_words(self.sizes[at]) * (self.slots if slot_wise else 2) for at, slot_wise in dynamic]
        self.first_word = dict(zip(self.dynamic, accumulate(words, initial=0)))

    def columns(self, at: int, op: int = 0, slot: int = 0) -> tuple[int, ...]:
        """Columns of a head's logits, those of an op or a slot where they depend on it."""
        row = op if at in self.by_op else 0
        if at in self.by_slot:
            row = row * self.slots + slot
        start = self.first[at] + row * self.sizes[at]
        return tuple(range(start, start + self.sizes[at]))

    def choices(self, at: int, slot: int = 0, whole: bool = False) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
        """Choice words and bits of a head's choices; of its whole mask, or in a slot, where they depend on it."""
        if at not in self.slot_wise:
            return None, ()
        row = slot if self.slot_wise[at] else int(not whole)
        start = self.first_word[at] + row * choice_words(self.sizes[at])
        choices = range(self.sizes[at])
        return tuple(start + c // CHOICE_BITS for c in choices), tuple(choice_bit(c) for c in choices)


def _draws_of_rows(layout: ActionLayout, at: int, places: _Places) -> list[Draw]:
    """The draws of a head that are the same in all slots; the slot's, too."""
    head, dynamic, by_op = layout.heads[at], at in places.dynamic, at in places.by_op
    choices = range(head.size)
    if OP not in layout.head_names:
        # nobody draws the only op: any head without a choice leaves the row without an action
        bits = tuple(layout.static * (choice in head.by_op[0]) for choice in choices)
        words, everywhere = (0,) * head.size, places.choices(at)
        return [Draw(at, places.columns(at), words, bits, 1, layout.static, True, 0, *everywhere)]
    made, users = [], _ops(head.users & layout.possible)
    shared = head.name != SLOT and not by_op and _is_shared(head, users)
    if not by_op:
        # drawn here if shared; if not, the head's own entropy is taken here all the same
        every = sum(1 << op for op in users)
        words, bits = _whatever_the_op(layout, at, every, dynamic)
        needed_by = 0 if head.name == SLOT else layout.static
        whole = places.choices(at, whole=True)
        made.append(Draw(at, places.columns(at), words, bits, every if shared else 0, needed_by, True, 0, *whole))
    for op in () if shared else users:
        if head.name == SLOT:
            words, bits = tuple(range(1, 1 + head.size)), (1 << op,) * head.size
        else:
            words = (0,) * head.size
            bits = tuple((1 << op) * (choice in head.by_op[op]) for choice in choices)
        # given the op its permits are in the bits, so that only what the state leaves is missing
        made.append(Draw(at, places.columns(at, op), words, bits, 1 << op, 1 << op, by_op, 0, *places.choices(at)))
    return made


def _draws_of_slots(layout: ActionLayout, at: int, places: _Places) -> list[Draw]:
    """The draws of a head in each slot, one for all ops that share logits and permits."""
    head, groups = layout.heads[at], dict[tuple[int, tuple[int, ...]], int]()
    for op in _ops(head.users & layout.possible):
        key = (op if at in places.by_op else 0, head.by_op[op])
        groups[key] = groups.get(key, 0) | 1 << op
    made = []
    for slot in range(places.slots):
        for (op, permits), ops in groups.items():
            bits = tuple(ops * (choice in permits) for choice in range(head.size))
            columns, words, choices = places.columns(at, op, slot), (1 + slot,) * head.size, places.choices(at, slot)
            made.append(Draw(at, columns, words, bits, ops, ops, True, 1 + slot, *choices, slot, places.slots))
    return made


def _whatever_the_op(
    layout: ActionLayout, at: int, users: int, dynamic: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Words and bits of a head's mask whatever the op."""
    head = layout.heads[at]
    choices = range(head.size)
    if head.name == SLOT:
        return tuple(range(1, 1 + head.size)), (users,) * head.size
    if dynamic:  # its choice words have the whole mask
        return (0,) * head.size, (layout.static,) * head.size
    closing = closing_heads(layout)
    word = 1 + len(layout.slot_ids) + closing.index(at) if at in closing else 0
    opened = [sum(1 << op for op, row in enumerate(head.opened) if choice in row) for choice in choices]
    return (word,) * head.size, tuple(opened[c] | (layout.static if c in head.closed else 0) for c in choices)


def _is_shared(head: HeadLayout, users: list[int]) -> bool:
    """Whether the head's mask is the same under every op that uses it, whichever other ops are legal."""
    opened = [set(choices) for op, choices in enumerate(head.opened) if head.openers >> op & 1]
    return all(
        all(choices <= set(head.by_op[op]) for choices in opened)
        and set(head.by_op[op]) == set(head.opened[op] if head.openers else head.closed)
        for op in users
    )


def _ops(word: int) -> list[int]:
    return [op for op in range(word.bit_length()) if word >> op & 1]
