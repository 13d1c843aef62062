"""The draws that make a whole action: one head each, under the ops that share its mask and its logits.

The op is drawn first, then every head that it uses. Most heads have one mask and one row of logits whatever the op, so
one draw serves all ops. The slot has a draw of its own for each op, because each op is legal in slots of its own; so
has a head whose logits, or whose permitted choices, depend on the op.

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

The sign bit is STATIC because an int32 has no other bit that no op can have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from operator import or_

from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.rules.names import OP, SLOT

STATIC = -(2**31)  # the sign bit of an int32, which no op has

Heads = tuple[int, ...]


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
        constraint: first of the columns of constraints that must hold too; None where nothing was restricted.
    """

    head: int
    columns: tuple[int, ...]
    words: tuple[int, ...]
    bits: tuple[int, ...]
    users: int
    needed_by: int
    plain: bool
    constraint: int | None = None

    @property
    def size(self) -> int:
        return len(self.columns)


def build_draws(layout: ActionLayout, by_op: Heads = (), restricted: Heads = ()) -> tuple[Draw, ...]:
    """The draws of a layout, that of the op first, the others in head order.

    Args:
        layout: heads and ops.
        by_op: heads whose logits are given for each op, ``[..., ops, n]``, so that they take ops × n columns.
        restricted: heads other than slot and op to which ``ActionMasks.restrict`` has added constraints. Each has 2 n
            columns of bools: its whole mask, then the constraint.
    """
    names, ops = layout.head_names, range(len(layout.ops))
    widths = [head.size * (len(ops) if at in by_op else 1) for at, head in enumerate(layout.heads)]
    first = list(accumulate(widths, initial=0))
    constraints = dict(zip(restricted, accumulate((2 * layout.heads[head].size for head in restricted), initial=0)))
    op_at = names.index(OP)
    columns = tuple(range(first[op_at], first[op_at] + len(ops)))
    op_bits = tuple(1 << op for op in ops)
    made = [Draw(op_at, columns, (0,) * len(ops), op_bits, layout.possible, STATIC, plain=True)]
    for at, head in enumerate(layout.heads):
        if at == op_at:
            continue
        users = [op for op in ops if (head.users & layout.possible) >> op & 1]
        every = sum(1 << op for op in users)
        columns, constraint = tuple(range(first[at], first[at] + head.size)), constraints.get(at)
        shared = head.name != SLOT and at not in by_op and _is_shared(head, users)
        if at not in by_op:
            # drawn here if shared; if not, the head's own entropy is taken here all the same
            words, bits = _whatever_the_op(layout, at, every, restricted)
            needed_by = 0 if head.name == SLOT else STATIC
            made.append(
                Draw(at, columns, words, bits, every if shared else 0, needed_by, plain=True, constraint=constraint)
            )
        for op in () if shared else users:
            if head.name == SLOT:
                words, bits = tuple(range(1, 1 + head.size)), (1 << op,) * head.size
            else:
                words = (0,) * head.size
                bits = tuple((1 << op) * (choice in head.by_op[op]) for choice in range(head.size))
            own = tuple(column + op * head.size for column in columns) if at in by_op else columns
            # given the op its own choices are in the bits, so that the constraint alone is missing
            alone = None if constraint is None else constraint + head.size
            made.append(Draw(at, own, words, bits, 1 << op, 1 << op, plain=at in by_op, constraint=alone))
    return tuple(made)


def given_op(draws: Sequence[Draw]) -> Draw:
    """The draws of one head as one: there a word must have the bit of the row's op among ``bits``."""
    bits = tuple(reduce(or_, of_choice) for of_choice in zip(*(draw.bits for draw in draws)))
    return replace(draws[0], bits=bits, users=reduce(or_, (draw.users for draw in draws)))


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


def _whatever_the_op(
    layout: ActionLayout, at: int, users: int, restricted: Heads
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Words and bits of a head's mask whatever the op."""
    head = layout.heads[at]
    choices = range(head.size)
    if head.name == SLOT:
        return tuple(range(1, 1 + head.size)), (users,) * head.size
    if at in restricted:  # the first n of its columns of bools are the whole mask
        return (0,) * head.size, (STATIC,) * head.size
    closing = closing_heads(layout)
    word = 1 + len(layout.slot_ids) + closing.index(at) if at in closing else 0
    opened = [sum(1 << op for op, row in enumerate(head.opened) if choice in row) for choice in choices]
    return (word,) * head.size, tuple(opened[c] | (STATIC if c in head.closed else 0) for c in choices)


def _is_shared(head: HeadLayout, users: list[int]) -> bool:
    """Whether the head's mask is the same under every op that uses it, whichever other ops are legal."""
    opened = [set(choices) for op, choices in enumerate(head.opened) if head.openers >> op & 1]
    return all(
        all(choices <= set(head.by_op[op]) for choices in opened)
        and set(head.by_op[op]) == set(head.opened[op] if head.openers else head.closed)
        for op in users
    )
