"""In which contexts a whole action is drawn: each head's choices, given the op.

The op is drawn first, then every head that it uses. Most heads have one mask and one row of logits whatever the op, so
they are drawn in one context. The slot is drawn in a context of its own for each op, because each op is legal in slots
of its own; so is a head whose logits, or whose permitted choices, depend on the op.

A choice is legal in its context when its word shares a bit with its ``bits``. The words of a row are

    0           the ops that are legal, and STATIC, which is set in every row
    1 + s       the ops that are legal in slot s
    1 + S + i   for the i-th of ``shut_heads``: the ops that are legal; STATIC alone if none of them opens the head

so one gather of words and one AND give the legality of every choice in every context.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.rules.names import OP, SLOT

STATIC = -(2**31)  # the sign bit of an int32, which no op has

Heads = tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """One head, under the ops that share its mask and its logits.

    Args:
        head: position of the head.
        columns: column of each choice in the logits of all heads side by side.
        words: which word of the row decides each choice.
        bits: the bits of which that word must have one.
        users: word of the ops that draw the head here; 0 for a context that only a regularizer looks at.
        needed_by: word of the ops (STATIC: every row) that leave the row without an action if the context has none.
        plain: whether the head's own entropy is taken here.
        limit: first of the columns of ``limits`` that must be legal too; None where nothing was restricted.
    """

    head: int
    columns: tuple[int, ...]
    words: tuple[int, ...]
    bits: tuple[int, ...]
    users: int
    needed_by: int
    plain: bool
    limit: int | None = None

    @property
    def size(self) -> int:
        return len(self.columns)


def build_contexts(layout: ActionLayout, by_op: Heads = (), limited: Heads = ()) -> tuple[Context, ...]:
    """The contexts of a layout, in head order behind that of the op.

    Args:
        layout: heads and ops.
        by_op: heads whose logits are given for each op, ``[..., ops, n]``, so that they take ops × n columns.
        limited: heads other than slot and op that ``ActionMasks.restrict`` has limited. Each has 2 n columns of bools:
            its mask, then the constraint.
    """
    names, first, made = layout.head_names, _first_columns(layout, by_op), []
    limits = dict(zip(limited, _running(2 * layout.heads[head].size for head in limited)))
    op_at = names.index(OP)
    ops = tuple(1 << op for op in range(len(layout.ops)))
    columns = tuple(range(first[op_at], first[op_at] + len(ops)))
    made.append(Context(op_at, columns, (0,) * len(ops), ops, layout.possible, STATIC, plain=True))
    for at, head in enumerate(layout.heads):
        if at == op_at:
            continue
        users = [op for op in range(len(layout.ops)) if (head.users & layout.possible) >> op & 1]
        every = sum(1 << op for op in users)
        limit, columns = limits.get(at), tuple(range(first[at], first[at] + head.size))
        shared = head.name != SLOT and at not in by_op and _is_shared(head, users)
        if at not in by_op:
            words, bits = _plain(layout, at, every, limited)
            needed_by = 0 if head.name == SLOT else STATIC
            made.append(Context(at, columns, words, bits, every if shared else 0, needed_by, plain=True, limit=limit))
        for op in () if shared else users:
            if head.name == SLOT:
                words, bits = tuple(range(1, 1 + head.size)), (1 << op,) * head.size
            else:
                words = (0,) * head.size
                bits = tuple((1 << op) * (choice in head.by_op[op]) for choice in range(head.size))
            own = tuple(column + op * head.size for column in columns) if at in by_op else columns
            constraint = None if limit is None else limit + head.size
            made.append(Context(at, own, words, bits, 1 << op, 1 << op, plain=at in by_op, limit=constraint))
    return tuple(made)


def given_op(contexts: Sequence[Context]) -> Context:
    """The contexts in which one head is drawn as one: there a word must have the bit of the row's op among ``bits``."""
    bits = tuple(reduce(or_, of_choice) for of_choice in zip(*(context.bits for context in contexts)))
    return replace(contexts[0], bits=bits, users=reduce(or_, (context.users for context in contexts)))


def shut_heads(layout: ActionLayout) -> Heads:
    """Heads with choices that are legal only while no op opens the head, so that they need a word of their own."""
    return tuple(
        at
        for at, head in enumerate(layout.heads)
        if head.name not in (SLOT, OP)
        and any(
            not set(head.closed) <= set(choices) for op, choices in enumerate(head.opened) if head.openers >> op & 1
        )
    )


def logit_columns(layout: ActionLayout, by_op: Heads) -> int:
    """Columns of the logits of all heads side by side."""
    return sum(head.size * (len(layout.ops) if at in by_op else 1) for at, head in enumerate(layout.heads))


def _plain(layout: ActionLayout, at: int, users: int, limited: Heads) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Words and bits of a head's mask whatever the op."""
    head = layout.heads[at]
    choices = range(head.size)
    if head.name == SLOT:
        return tuple(range(1, 1 + head.size)), (users,) * head.size
    if at in limited:  # its columns of bools say all
        return (0,) * head.size, (STATIC,) * head.size
    shut = shut_heads(layout)
    word = 1 + len(layout.slot_ids) + shut.index(at) if at in shut else 0
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


def _first_columns(layout: ActionLayout, by_op: Heads) -> list[int]:
    return _running(head.size * (len(layout.ops) if at in by_op else 1) for at, head in enumerate(layout.heads))


def _running(sizes: Iterable[int]) -> list[int]:
    first, total = [], 0
    for size in sizes:
        first.append(total)
        total += size
    return first
