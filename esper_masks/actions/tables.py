"""The lookup tensors of a layout on one device: what unpacking words and numbering whole actions need.

They are modules, because a compiler takes the numbers and shapes of a module as constants, guards its tensors by
identity, and so never serves the tables of one layout to the masks of another.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from esper_masks.actions.draws import Heads, build_draws, closing_heads, given_op
from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.rules.names import OP, SLOT

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
        device: where the tables live.
    """

    def __init__(self, head: HeadLayout, device: torch.device):
        super().__init__(device)
        choices = range(head.size)
        words = [sum(1 << op for op, row in enumerate(head.opened) if v in row) for v in choices]
        self.size, self.canonical, self.users, self.openers = head.size, head.canonical, head.users, head.openers
        # int32 [n]: the ops of which one must be legal for the choice to be open
        self.opening_ops = self.table(words, torch.int32)
        # bool [n]: the mask while no such op is legal; the whole mask of a static head
        self.closed = self.table([v in head.closed for v in choices], torch.bool)
        # bool [ops, n]: the mask given the op; the canonical choice alone where the op ignores the head
        self.by_op = self.table([[v in row for v in choices] for row in head.by_op], torch.bool)


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
    and behind the 7 draws the canonical values of blueprint and blend.

    Args:
        layout: heads and ops.
        by_op: see ``build_draws``.
        restricted: see ``build_draws``.
        device: where the tables live.
    """

    def __init__(self, layout: ActionLayout, by_op: Heads, restricted: Heads, device: torch.device):
        super().__init__(device)
        self.draws = draws = build_draws(layout, by_op, restricted)
        self.by_op = by_op
        self.width, self.count = max(draw.size for draw in draws), len(draws)
        self.op_at = draws[0].head
        self.sizes = [head.size for head in layout.heads]
        self.canonical_choices = [head.canonical for head in layout.heads]
        taken = [i for i, draw in enumerate(draws) if i and draw.users]
        parts = {draws[i].head: tuple(j for j in taken if draws[j].head == draws[i].head) for i in taken}
        # every head but op that some op uses: the head, its draws, all of them as one
        self.drawn = tuple((head, at, given_op([draws[i] for i in at])) for head, at in parts.items())
        self.closing = tuple(layout.heads[head].openers for head in closing_heads(layout))
        heads, ops = range(len(layout.heads)), range(len(layout.ops))
        none = 2 * sum(layout.heads[head].size for head in restricted)
        constraints = [[none if d.constraint is None else d.constraint + k for k in range(d.size)] for d in draws]
        places = [[self.count + head for head in heads] for _ in range(len(ops) + 2)]
        for i, draw in enumerate(draws):
            for row in places if i == 0 else (places[1 + op] for op in ops if draw.users >> op & 1):
                row[draw.head] = i
        users = [[[i > 0 and draw.users >> op & 1 != 0] for i, draw in enumerate(draws)] for op in ops]

        def padded(rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.int64) -> nn.Buffer:
            return self.table([row[k] if k < len(row) else 0 for k in range(self.width) for row in rows], dtype)

        self.columns = padded([d.columns for d in draws])  # int64 [width * draws]: column of the logits
        self.words = padded([d.words for d in draws])  # int64 [width * draws]: which word decides
        # int32 [width * draws, 1]: the bits it must share; 0 where padded, so that nothing is legal there
        self.bits = nn.Buffer(padded([d.bits for d in draws], torch.int32).unsqueeze(-1))
        rows = [[*one.bits, *[0] * (self.width - one.size)] for _, _, one in self.drawn]
        # int32 [drawn, width]: the bits of all draws of a head as one
        self.drawn_bits = self.table(rows, torch.int32)
        # int64 [width * draws]: column of the constraints; one past the last for none
        self.constraints = padded(constraints) if restricted else None
        self.needed_by = self.table([[d.needed_by] for d in draws], torch.int32)  # int32 [draws, 1]
        # bool [ops, draws, 1]: the op takes a head other than op from this draw
        self.users = self.table(users, torch.bool)
        self.heads = self.table([d.head for d in draws])  # int64 [draws]
        # int64 [1 + ops + 1, heads]: the draw of the head under the op; draws + head if it is ignored
        self.places = self.table(places)
        self.canonical = self.table([[head.canonical] for head in layout.heads])  # int64 [heads, 1]
        # bool [heads, draws, 1]: the draw is one of the head's
        self.members = self.table([[[draw.head == head] for draw in draws] for head in heads], torch.bool)
        # bool [heads, draws, 1]: the draw is one of the head's, and the head's own entropy is taken in it
        self.plain_members = self.table([[[d.head == head and d.plain] for d in draws] for head in heads], torch.bool)
        plain = [[i for i, d in enumerate(draws) if d.head == head and d.plain] for head in heads]
        # int64 [heads]: the first draw in which the head's own entropy is taken; 0 where there is none
        self.plain = self.table([own[0] if own else 0 for own in plain])
        self.powers = self.table([[1 << head] for head in heads])  # int64 [heads, 1]: bit of the head in a fault word


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
        self.heads = nn.ModuleList(HeadTables(head, device) for head in layout.heads)
        self.draws = DrawTables(layout, (), (), device)
        self.width = max(head.size for head in layout.heads)
        self.size = sum(actions_per_op(layout))
        self.numbered = self.size < 2**62  # if not, what counts whole actions is float64
        self.slots, self.op_at, self.slot_at = len(layout.slot_ids), *map(layout.head_names.index, (OP, SLOT))
        ops, slot = range(len(layout.ops)), layout.heads[self.slot_at]
        others = [head for head in layout.heads if head is not slot]
        combinations = [math.prod(len(head.by_op[op]) for head in others) for op in ops]
        # [ops]: choices that an op leaves to its heads other than the slot
        self.combinations = self.table(combinations, torch.int64 if self.numbered else torch.float64)
        self.slot_users = self.table([slot.users >> op & 1 for op in ops], torch.bool)  # bool [ops]: the op uses a slot
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
        op, slot = actions[:, self.op_at], actions[:, self.slot_at]
        uses = (self.users >> op.unsqueeze(-1) & 1) != 0  # [size, heads]
        pairs = torch.where(uses[:, self.slot_at], op * self.slots + slot, len(self.starts) * self.slots + op)
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
        ops = actions[..., self.op_at].clamp(-1, len(self.starts)) + 1
        terms = self.terms[ops.unsqueeze(-1), torch.arange(len(self.heads), device=ops.device), rows]  # [..., heads]
        return torch.where((terms < 0).any(-1), -1, terms.sum(-1))


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


def draw_tables(layout: ActionLayout, device: torch.device, by_op: Heads = (), restricted: Heads = ()) -> DrawTables:
    """The tables of a layout's draws, kept in the same way; see ``build_draws``.

    Raises:
        RuntimeError: first asked for inside ``torch.compile``, unless no head is ``by_op`` or ``restricted``.
    """
    if not by_op and not restricted:
        return layout_tables(layout, device).draws
    kinds = (("logits for each op", by_op), ("restricted choices", restricted))
    heads = " and ".join(f"{kind} for {', '.join(layout.head_names[h] for h in of)}" for kind, of in kinds if of)
    use = f"make a FactoredCategorical with {heads} on {device}"
    return layout.tables(f"{device} {by_op} {restricted}", use, lambda: DrawTables(layout, by_op, restricted, device))


def _terms(head: HeadLayout, op: int, stride: int, start: int, width: int) -> list[int]:
    """What each value of a head, from -1 to width, adds to the index of an action with this op."""
    if not head.users >> op & 1:
        return [0] * (width + 2)  # the op ignores the head, so any value means the same action
    terms = [-1] * (width + 2)
    for rank, value in enumerate(head.by_op[op]):
        terms[1 + value] = start + rank * stride
    return terms
