"""The lookup tensors of a layout on one device: what unpacking words and numbering whole actions need.

They are modules, because a compiler takes the numbers and shapes of a module as constants, guards its tensors by
identity, and so never serves the tables of one layout to the masks of another.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from itertools import accumulate
from operator import mul, or_
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_masks.actions.draws import Draw, Dynamic, Heads, build_draws, closing_heads, dynamic_heads, merge_draws
from esper_masks.actions.layout import CHOICE_BITS, ActionLayout, HeadLayout, choice_bit, choice_words
from esper_masks.actions.packing import build_packings
from esper_masks.rules.names import OP, SLOT

WORTH_A_GROUP = 24  # places of draws, see ``group_draws``
BLOCK = 16  # choices that are summed by themselves first where a draw has more, see ``quick``
PIECE = 1 << 19  # places of draws in all rows of a piece
KEPT_ACTIONS = 1 << 18  # with more whole actions than this, their index is made when it is asked for


class Tables(nn.Module):
    """Constants on a device.

    Args:
        device: where the tables live.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def table(self, values: object, dtype: torch.dtype = torch.int64) -> nn.Buffer:
        """A tensor that the module has once it is an attribute."""
        return nn.Buffer(torch.tensor(values, dtype=dtype, device=self.device))


class HeadTables(Tables):
    """Constants of one head.

        for op, choice in product(ops, choices):
            by_op[op, choice]            ==  choice in head.by_op[op]
            opening_ops[choice] >> op & 1 ==  choice in head.opened[op]

    Args:
        head: the head.
        word_dtype: of the layout.
        device: where the tables live.
    """

    def __init__(self, head: HeadLayout, word_dtype: torch.dtype, device: torch.device):
        super().__init__(device)
        choices = range(head.size)
        words = [sum(1 << op for op, row in enumerate(head.opened) if v in row) for v in choices]
        self.size, self.canonical, self.users, self.openers = head.size, head.canonical, head.users, head.openers
        # int32 or int64 [n]: the ops of which one must be legal for the choice to be open
        self.opening_ops = self.table(words, word_dtype)
        # bool [n]: the mask while no such op is legal; the whole mask of a static head
        self.closed = self.table([v in head.closed for v in choices], torch.bool)
        # bool [ops, n]: the mask given the op; the canonical choice alone where the op ignores the head
        self.by_op = self.table([[v in row for v in choices] for row in head.by_op], torch.bool)
        users = [op for op in range(len(head.by_op)) if head.users >> op & 1]
        permits = list(dict.fromkeys(head.by_op[op] for op in users))
        # the ops that use the head, by what they permit: word of these ops, choice words of what they permit
        self.groups = tuple(
            (sum(1 << op for op in users if head.by_op[op] == row), as_choice_words(row, head.size)) for row in permits
        )
        self.group_of = self.table([permits.index(row) if row in permits else 0 for row in head.by_op])  # int64 [ops]
        # bool [groups, n]: what each of them permits
        self.permits = self.table([[v in row for v in choices] for row in permits], torch.bool)
        # int32 [groups, k]: the same as choice words
        self.permitted = self.table([words for _, words in self.groups], torch.int32)
        self.all_choices = self.table(as_choice_words(choices, head.size), torch.int32)  # int32 [k]: of all choices
        # bool [n]: what some op permits
        self.anywhere = self.table([any(v in row for row in permits) for v in choices], torch.bool)
        # int32 [k]: the canonical choice alone
        self.canonical_words = self.table(as_choice_words([head.canonical], head.size), torch.int32)


class DrawTables(Tables):
    """Constants of the draws that make a whole action.

    Eager code computes all draws at once, so that tables over choices have a place for every choice of every draw,
    padded to the widest. They are flat, ``[width * draws]``, with the draws of one choice side by side: seen as
    ``[width, draws, rows]``, a reduction over choices runs along the first axis, over whole vectors of rows.
    Of ``esper-2025-12``, whose draws are listed in ``draws``,

        choice  draw:  op  slot  slot  slot  slot  blueprint  blend
        0    columns   11   0     0     0     0     3          8
        1              12   1     1     1     1     4          9
        2              13   2     2     2     2     5          10
        3              14   -     -     -     -     6          -      a padded place has column 0, word 0, no bits:
        4              -    -     -     -     -     7          -      nothing is legal there, in any row

    so that choice 3 of draw 5 is entry ``3 * 7 + 5``. From a whole action back to its draws leads ``places``, a row an
    op between two for ops that do not exist: CULL has ``[3, 7 + 1, 7 + 2, 0]``, the slot in draw 3, the op in draw 0,
    and behind the 7 draws the canonical values of blueprint and blend. Where some draws are of one slot, they stand
    behind all others, and ``places_in_slots`` leads to them from op and slot.

    Args:
        layout: heads and ops.
        by_op: see ``build_draws``.
        by_slot: see ``build_draws``.
        dynamic: see ``build_draws``.
        device: where the tables live.
    """

    def __init__(self, layout: ActionLayout, by_op: Heads, by_slot: Heads, dynamic: Dynamic, device: torch.device):
        super().__init__(device)
        # unrolled code has the draws as they are built: grouped, a compiler would divide the loop that it makes of them
        self.unrolled = build_draws(layout, by_op, by_slot, dynamic)
        groups = group_draws(self.unrolled)
        self.draws = draws = tuple(draw for group in groups for draw in group)
        self.unrolled_at = [draws.index(draw) for draw in self.unrolled]  # where they are among ``draws``
        self.by_op, self.static, self.word_dtype = by_op, layout.static, layout.word_dtype
        self.width, self.count = max(draw.size for draw in draws), len(draws)
        self.whole_rows = sum(draw.slot is None for draw in draws)  # the draws that are of no slot come first
        self.slots, self.ops = len(layout.slot_ids), len(layout.ops)
        self.op_at, self.slot_at = (
            layout.head_names.index(name) if name in layout.head_names else None for name in (OP, SLOT)
        )
        self.sizes = [head.size for head in layout.heads]
        self.canonical_choices = [head.canonical for head in layout.heads]
        taken = {draw.head for draw in draws if draw.users and not draw.of_op}
        # every head but op that some op uses, the slot first, because other heads may depend on it
        heads_drawn = sorted(taken, key=lambda at: (at != self.slot_at, at))
        self.drawn = tuple(merge_draws(self.unrolled, at) for at in heads_drawn)
        self.closing = tuple(layout.heads[head].openers for head in closing_heads(layout))
        heads = range(len(layout.heads))

        def padded(rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.int64) -> nn.Buffer:
            return self.table([row[k] if k < len(row) else 0 for k in range(self.width) for row in rows], dtype)

        self.columns = padded([d.columns for d in draws])  # int64 [width * draws]: column of the logits
        self.words = padded([d.words for d in draws])  # int64 [width * draws]: which word decides
        # words [width * draws, 1]: the bits it must share; 0 where padded, so that nothing is legal there
        self.bits = nn.Buffer(padded([d.bits for d in draws], self.word_dtype).unsqueeze(-1))
        rows = [[*head.whole.bits, *[0] * (self.width - head.whole.size)] for head in self.drawn]
        # words [drawn, width]: the bits of all draws of a head as one
        self.drawn_bits = self.table(rows, self.word_dtype)
        if dynamic:
            none = sum(choice_words(self.sizes[at]) * (self.slots if slot_wise else 2) for at, slot_wise in dynamic)
            # int64 [width * draws]: the choice word that decides, too; one past the last, with all bits, for none
            self.choice_words = padded([[none] * d.size if d.choice_words is None else d.choice_words for d in draws])
            bits = padded([[1] * d.size if d.choice_words is None else d.choice_bits for d in draws], torch.int32)
            self.choice_bits = nn.Buffer(bits.unsqueeze(-1))  # int32 [width * draws, 1]: the bit it must have
            self.bits_of_word = nn.Buffer(choice_bits(device))
        self.dynamic = dynamic
        self.needed_by = self.table([[d.needed_by] for d in draws], self.word_dtype)  # words [draws, 1]
        self.needed_words = self.table([d.needed_word for d in draws])  # int64 [draws]
        users = [[[not d.of_op and d.users >> op & 1] for d in draws[: self.whole_rows]] for op in range(self.ops)]
        # bool [ops, draws of whole rows, 1]: the op takes a head other than op from this draw
        self.users = self.table(users, torch.bool)
        self.heads = self.table([d.head for d in draws])  # int64 [draws]
        # int64 [1 + ops + 1, heads]: the draw of the head under the op; draws + head if it is ignored
        self.places = self.table(self._places(None))
        self.canonical = self.table([[head.canonical] for head in layout.heads])  # int64 [heads, 1]
        # bool [heads, draws, 1]: the draw is one of the head's
        self.members = self.table([[[draw.head == head] for draw in draws] for head in heads], torch.bool)
        # bool [heads, draws, 1]: the draw is one of the head's, and the head's own entropy is taken in it
        self.plain_members = self.table([[[d.head == head and d.plain] for d in draws] for head in heads], torch.bool)
        plain = [[i for i, d in enumerate(draws) if d.head == head and d.plain] for head in heads]
        # int64 [heads]: the draw in which the head's own entropy is taken; None where a head has none, or several
        self.plain = self.table([own[0] for own in plain]) if all(len(own) == 1 for own in plain) else None
        self.powers = self.table([[1 << head] for head in heads])  # int64 [heads, 1]: bit of the head in a fault word
        of_slots = reduce(or_, (draw.users for draw in draws[self.whole_rows :]), 0)
        # of each op that uses draws of one slot: the draw of its slot
        self.slot_draws = {op: self._slot_draw(op) for op in range(self.ops) if of_slots >> op & 1}
        if of_slots:
            self._add_slots()
        self.packed = PackedDraws(self, [len(group) for group in groups])

    def _add_slots(self) -> None:
        """What only layouts with draws of one slot need."""
        in_slots = [self._places(slot) for slot in (None, *range(self.slots), None)]
        # int64 [1 + ops + 1, 1 + slots + 1, heads]: ``places`` once the slot is known
        self.places_in_slots = self.table([list(by_slot) for by_slot in zip(*in_slots)])
        of_slots = self.draws[self.whole_rows :]
        users = [[op for op in range(self.ops) if draw.users >> op & 1] for draw in of_slots]
        most = range(max(map(len, users)))
        pairs = [[(ops[k], draw) if k < len(ops) else None for draw, ops in zip(of_slots, users)] for k in most]
        # of the k-th op that uses each draw of one slot, [k * draws of one slot]: the op; the place of the slot in its
        # draw under this op; and [k, draws of one slot, 1]: the bit of the op, 0 where padded
        self.pair_ops = self.table([pair[0] if pair else 0 for row in pairs for pair in row])
        self.pair_slots = self.table(
            [
                self.slot_draws[pair[0]] + self.count * (pair[1].slot or 0) if pair else 0
                for row in pairs
                for pair in row
            ]
        )
        bits = [[[1 << pair[0] if pair else 0] for pair in row] for row in pairs]
        self.pair_bits = self.table(bits, self.word_dtype)

    def _slot_draw(self, op: int) -> int:
        """The draw of the slot under an op that uses it."""
        return next(i for i, d in enumerate(self.draws) if d.head == self.slot_at and d.users >> op & 1)

    def _places(self, slot: int | None) -> list[list[int]]:
        """The draw of each head under each op, in a slot, with a row for ops that do not exist on either side."""
        places = [[self.count + head for head in range(len(self.sizes))] for _ in range(self.ops + 2)]
        for i, draw in enumerate(self.draws):
            if draw.slot is None or draw.slot == slot:
                for row in places if draw.of_op else (places[1 + op] for op in range(self.ops) if draw.users >> op & 1):
                    row[draw.head] = i
        return places


class DrawGroup(NamedTuple):
    """Draws that are padded to the widest of them."""

    width: int
    draws: slice
    places: int  # of ``[width * draws]``
    # int64 [pairs]: choices, and each of their blocks that is not behind them, in order
    pairs: tuple[Tensor, Tensor]


class PackedDraws:
    """The same for code that takes draws of few choices and draws of many apart, so that few places are padded.

    Args:
        tables: of all draws, which stand group by group, the op's group first.
        counts: how many draws each group has.
    """

    def __init__(self, tables: DrawTables, counts: Sequence[int]):
        self.groups, places, self.counts = list[DrawGroup](), list[int](), list(counts)
        for first, count in zip(accumulate(counts, initial=0), counts):
            own = range(first, first + count)
            width = max(tables.draws[at].size for at in own)
            pairs = [(k, before) for k in range(width) for before in range(k // BLOCK * BLOCK, k + 1)]
            each = tables.table([k for k, _ in pairs]), tables.table([k for _, k in pairs])
            self.groups.append(DrawGroup(width, slice(first, own.stop), width * count, each))
            places += [k * tables.count + at for k in range(width) for at in own]
        self.count = len(places)  # of places; where there are several groups, one more is last, where nothing is legal
        last = [0] if len(counts) > 1 else []
        self.sizes = [*(group.places for group in self.groups), *(1 for _ in last)]
        # int64 [places]: the block of choices, and [blocks]: the draw of each; blocks are draws where none has several
        blocks = [(at // tables.count // BLOCK, at % tables.count) for at in [*places, *last]]
        numbers = {block: number for number, block in enumerate(sorted(set(blocks)))}
        self.block_of = tables.table([numbers[block] for block in blocks])
        self.block_draws = tables.table([draw for _, draw in numbers]) if len(numbers) > tables.count else None
        # int64 [width * draws]: the place of what is there in ``DrawTables``; the last for what is padded more there.
        # None if that is the entry itself
        where = {entry: place for place, entry in enumerate(places)}
        entries = range(tables.width * tables.count)
        self.place_of = tables.table([where.get(at, len(places)) for at in entries]) if last else None
        # [places]: as in ``DrawTables``
        self.columns, self.words = tables.columns[[*places, *last]], tables.words[[*places, *last]]
        self.bits = torch.cat([tables.bits[places], torch.zeros_like(tables.bits[: len(last)])])
        if tables.dynamic:
            self.choice_words = tables.choice_words[[*places, *last]]
            self.choice_bits = tables.choice_bits[[*places, *last]]
        self.zero = torch.zeros_like(self.bits[0, 0])  # a number would be made a tensor at each call
        widths = [[group.width] for group, count in zip(self.groups, counts) for _ in range(count)]
        self.beyond = tables.table(widths, torch.float32) + 1  # float32 [draws, 1]: more than choices
        self.rows = rows_of_piece(self.groups)  # how many rows are taken at a time
        # how probable it is that a head is taken from a draw: P(op), in a slot times P(slot | op). Each op that takes a
        # head other than op from a draw is a *use* of the draw; those of draws of one slot come last, as these do
        uses = [(op, i) for i, d in enumerate(tables.draws) for op in range(tables.ops) if d.users >> op & 1]
        uses = [(op, i) for op, i in uses if not tables.draws[i].of_op]
        in_slots = [(op, tables.draws[i].slot) for op, i in uses]
        slots = [(tables.slot_draws[op], slot) for op, slot in in_slots if slot is not None]
        asked = [*((0, op) for op in range(tables.ops)), *dict.fromkeys(slots)]  # draw and choice
        # int64 [asked]: the place and the draw of each choice whose probability is needed for that, the ops first
        self.asked = tables.table([where[choice * tables.count + draw] for draw, choice in asked])
        self.asked_draws = tables.table([draw for draw, _ in asked])
        self.use_ops = tables.table([op for op, _ in uses])  # int64 [uses]: of what is asked for
        self.use_slots = tables.table([asked.index(slot) for slot in slots])  # int64 [uses in a slot]: the same
        self.use_draws = tables.table([i for _, i in uses])  # int64 [uses]


def group_draws(draws: Sequence[Draw]) -> list[list[Draw]]:
    """Draws of few choices and draws of many, where that saves enough places to pay for more calls; and those of one
    slot. The group of the op comes first.
    """
    whole, of_slots = [draw for draw in draws if draw.slot is None], [draw for draw in draws if draw.slot is not None]
    widest, best = max(draw.size for draw in whole), [whole]
    least = widest * len(whole) - WORTH_A_GROUP
    for width in sorted({draw.size for draw in whole} - {widest}):
        with_op = [draw for draw in whole if (draw.size <= width) == (whole[0].size <= width)]
        others = [draw for draw in whole if draw not in with_op]
        places = sum(max(draw.size for draw in group) * len(group) for group in (with_op, others))
        if places < least:
            least, best = places, [with_op, others]
    return [*best, of_slots] if of_slots else best


def rows_of_piece(groups: Sequence[DrawGroup]) -> int:
    """How many rows of all draws stay in a cache, with choices so far apart that its lines can hold all of a row."""
    most = max(16, PIECE // max(group.places for group in groups))
    counts = [group.draws.stop - group.draws.start for group in groups]
    able = (at for at in range(most, most // 2, -1) if all(256 < at * count % 1024 < 768 for count in counts))
    return next(able, most)


class LayoutTables(Tables):
    """Constants of a layout: those of its heads, and the mixed-radix numbering of whole actions, op by op.

    An op's whole actions follow each other, the last head fastest; a digit is the rank of a value among those that the
    op permits, and a head that the op ignores has one choice. Of ``esper-2025-12`` with three slots, in head order,

        op         start  counts   strides
        WAIT       0      1 1 1 1  1  1 1 1
        GERMINATE  1      3 4 3 1  12 3 1 1
        CULL       37     3 1 1 1  1  1 1 1
        FOSSILIZE  40     3 1 1 1  1  1 1 1    43 in all

    so that GERMINATE in slot 2 of NORM, the third blueprint that is legal, with SIGMOID is ``1 + 2*12 + 2*3 + 1``.
    ``terms`` has these products ready, and says -1 for what is not permitted, so that numbering is one lookup and a
    sum. Its first and last rows are for ops and values that do not exist, to which anything beyond is clamped.

    Args:
        layout: the layout.
        device: where the tables live.
    """

    def __init__(self, layout: ActionLayout, device: torch.device):
        super().__init__(device)
        self.heads = nn.ModuleList(HeadTables(head, layout.word_dtype, device) for head in layout.heads)
        # what a compiler has to see as constants: words of all ops, of those that use a slot, and of the others
        self.all_ops, self.with_slot = layout.all_ops, layout.slot_users
        self.without_slot = layout.without_slot
        ops_of = [head.users & self.without_slot for head in layout.heads]
        # for each head the ops that use it without a slot
        self.alone = tuple(tuple(op for at, op in enumerate(layout.ops) if word >> at & 1) for word in ops_of)
        self.op_bits = self.table([1 << op for op in range(len(layout.ops))], layout.word_dtype)  # [ops]: bit of each
        self.choice_bits = nn.Buffer(choice_bits(device))
        self.packings = build_packings(layout)
        self.draws = DrawTables(layout, (), (), dynamic_heads(layout), device)
        self.width = max(head.size for head in layout.heads)
        self.size = sum(actions_per_op(layout))
        self.numbered = self.size < 2**62  # if not, what counts whole actions is float64
        names, self.slots = layout.head_names, len(layout.slot_ids)
        # where the heads of ops and slots stand; None in a layout without them, which has one op
        self.op_at, self.slot_at = (names.index(name) if name in names else None for name in (OP, SLOT))
        ops, slot_users = range(len(layout.ops)), layout.slot_users
        numbers = [[len(head.by_op[op]) if head.name != SLOT else 1 for op in ops] for head in layout.heads]
        # [heads, ops]: choices that an op leaves to each head, other than the slot
        self.numbers = self.table(numbers, torch.int64 if self.numbered else torch.float64)
        self.combinations = nn.Buffer(self.numbers.prod(0))  # [ops]: to all of them
        self.slot_users = self.table([slot_users >> op & 1 for op in ops], torch.bool)  # bool [ops]: the op uses a slot
        self.users = self.table([head.users for head in layout.heads])  # int64 [heads]: the ops that use the head
        self.sizes = self.table([head.size for head in layout.heads])  # int64 [heads]
        if self.numbered:
            self._number(layout)
        # int64 [1 + heads, size]: see whole_actions; None if it would be large
        self.whole = nn.Buffer(self._whole_actions()) if self.size <= KEPT_ACTIONS else None

    def _number(self, layout: ActionLayout) -> None:
        sizes = actions_per_op(layout)
        starts = list(accumulate(sizes, initial=0))
        permitted = [[head.by_op[op] for head in layout.heads] for op in range(len(sizes))]
        counts = [[len(choices) for choices in row] for row in permitted]
        strides = [[math.prod(row[head + 1 :]) for head in range(len(row))] for row in counts]
        padded = [[[*choices, *[0] * (self.width - len(choices))] for choices in row] for row in permitted]
        terms = [[[-1] * (self.width + 2)] * len(layout.heads) for _ in range(len(sizes) + 2)]
        for op, size in enumerate(sizes):
            if size:
                terms[1 + op] = [
                    _terms(head, op, strides[op][h], starts[op] if head.name == OP else 0, self.width)
                    for h, head in enumerate(layout.heads)
                ]
        self.starts = self.table(starts[:-1])  # int64 [ops]: index of the op's first whole action
        self.strides = self.table(strides)  # int64 [ops, heads]
        # int64 [ops, heads]: choices of the head under the op; 1 where the op ignores it
        self.counts = self.table(counts)
        self.choices = self.table(padded)  # int64 [ops, heads, width]: value of the k-th choice
        # int64 [1 + ops + 1, heads, 1 + width + 1]: what a value adds to the index, -1 if not permitted
        self.terms = self.table(terms)

    def head(self, at: int) -> HeadTables:
        """Those of the head at a position."""
        table = self.heads[at]
        assert isinstance(table, HeadTables)
        return table

    def combinations_without(self, heads: Collection[int]) -> Tensor:
        """Choices that an op leaves to all heads but the slot and those at some positions: ``[ops]``."""
        if not heads:
            return self.combinations
        others = [numbers for at, numbers in enumerate(self.numbers.unbind()) if at not in heads]
        return reduce(mul, others, torch.ones_like(self.combinations))

    def check_numbered(self) -> None:
        """Raise ``ValueError`` if there are more whole actions than an int64 can number."""
        if not self.numbered:
            raise ValueError(f"there are {self.size:.3g} whole actions, more than an int64 can number")

    def whole_actions(self) -> Tensor:
        """What legality a whole action needs: int64 ``[1 + heads, size]``.

        Row 0: its place in ``[ops * slots, ops]``, the (op, slot) entry for an op that uses a slot, else the op's own.
        Row 1 + h: its value of head h, n (one past the choices) where the op ignores the head.
        """
        self.check_numbered()
        return self._whole_actions() if self.whole is None else self.whole

    def _whole_actions(self) -> Tensor:
        actions = self.decode(torch.arange(self.size, device=self.starts.device))  # [size, heads]
        op = torch.zeros_like(actions[:, 0]) if self.op_at is None else actions[:, self.op_at]
        uses = (self.users >> op.unsqueeze(-1) & 1) != 0  # [size, heads]
        pairs = len(self.starts) * self.slots + op
        if self.slot_at is not None:
            pairs = torch.where(uses[:, self.slot_at], op * self.slots + actions[:, self.slot_at], pairs)
        sizes = self.sizes.expand_as(actions)
        return torch.cat([pairs.unsqueeze(0), torch.where(uses, actions, sizes).T])

    def decode(self, index: Tensor) -> Tensor:
        """Whole actions ``[..., heads]`` of int64 indices ``[...]``; -1 in every head where there is none."""
        self.check_numbered()
        index = index.unsqueeze(-1)  # [..., 1]
        valid = (index >= 0) & (index < self.size)
        index = torch.where(valid, index, 0)
        op = (index >= self.starts).sum(-1) - 1  # [...]
        rank = (index - self.starts[op].unsqueeze(-1)) // self.strides[op] % self.counts[op]  # [..., heads]
        head = torch.arange(len(self.heads), device=index.device)
        return torch.where(valid, self.choices[op.unsqueeze(-1), head, rank], -1)

    def encode(self, actions: Tensor) -> Tensor:
        """Indices ``[...]`` of int64 actions ``[..., heads]``; -1 where there is none."""
        self.check_numbered()
        rows = actions.clamp(-1, self.width) + 1  # row 0 and the last are for values that no head has
        ops = torch.zeros_like(actions[..., 0]) if self.op_at is None else actions[..., self.op_at]
        ops = ops.clamp(-1, len(self.starts)) + 1
        terms = self.terms[ops.unsqueeze(-1), torch.arange(len(self.heads), device=ops.device), rows]  # [..., heads]
        return torch.where((terms < 0).any(-1), -1, terms.sum(-1))


def as_choice_words(choices: Iterable[int], size: int) -> tuple[int, ...]:
    """Choices of a head of some size as choice words, int32 in plain Python."""
    words = [0] * choice_words(size)
    for choice in set(choices):
        words[choice // CHOICE_BITS] += choice_bit(choice)
    return tuple(words)


def choice_bits(device: torch.device) -> Tensor:
    """Bit of each choice in its choice word: int32 ``[32]``."""
    return torch.tensor([choice_bit(choice) for choice in range(CHOICE_BITS)], dtype=torch.int32, device=device)


def actions_per_op(layout: ActionLayout) -> list[int]:
    """Whole actions of each op; 0 for an op that no state allows."""
    return [
        math.prod([len(head.by_op[op]) for head in layout.heads]) if layout.possible >> op & 1 else 0
        for op in range(len(layout.ops))
    ]


def layout_tables(layout: ActionLayout, device: torch.device) -> LayoutTables:
    """The tables of a layout on a device; made once and kept by the layout, so masks never copy to the device.

    Raises:
        RuntimeError: first asked for inside ``torch.compile``, where they cannot be made.
    """
    return layout.tables(str(device), f"use these masks on {device}", lambda: LayoutTables(layout, device))


def draw_tables(
    layout: ActionLayout,
    device: torch.device,
    by_op: Heads = (),
    by_slot: Heads = (),
    dynamic: Dynamic | None = None,
) -> DrawTables:
    """The tables of a layout's draws, kept in the same way; see ``build_draws``.

    Raises:
        RuntimeError: first asked for inside ``torch.compile``, unless no head is ``by_op`` or ``by_slot`` and
            ``dynamic`` has the heads that have choice words by the layout.
    """
    always = layout_tables(layout, device).draws
    if not by_op and not by_slot and (dynamic is None or dynamic == always.dynamic):
        return always
    wanted = always.dynamic if dynamic is None else dynamic
    limited = tuple(at for at, slot_wise in wanted if (at, slot_wise) not in always.dynamic)
    kinds = (("logits for each op", by_op), ("logits for each slot", by_slot), ("restricted choices", limited))
    heads = " and ".join(f"{kind} for {', '.join(layout.head_names[h] for h in of)}" for kind, of in kinds if of)
    use = f"make a FactoredCategorical with {heads} on {device}"
    key = f"{device} {by_op} {by_slot} {wanted}"
    return layout.tables(key, use, lambda: DrawTables(layout, by_op, by_slot, wanted, device))


def _terms(head: HeadLayout, op: int, stride: int, start: int, width: int) -> list[int]:
    """What each value of a head, from -1 to width, adds to the index of an action with this op."""
    if not head.users >> op & 1:
        return [0] * (width + 2)  # the op ignores the head, so any value means the same action
    terms = [-1] * (width + 2)
    for rank, value in enumerate(head.by_op[op]):
        terms[1 + value] = start + rank * stride
    return terms
