"""The lookup tensors of contexts on one device, padded to the widest head so that one pass serves them all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper_masks.contexts import Heads, build_contexts, given_op, shut_heads
from esper_masks.layout import ActionLayout


class ContextTables(nn.Module):
    """Constants of the contexts in which a whole action is drawn.

    ``drawn`` has, for every head but op that is drawn, the head, its contexts and all of them as one. Tables over
    choices are flat, ``[width * contexts]``: choice k in context c is entry ``k * contexts + c``.

    Args:
        layout: heads and ops.
        by_op: see ``build_contexts``.
        limited: see ``build_contexts``.
        device: where the tables live.
    """

    columns: Tensor  # int64 [width * contexts]: column of the logits; 0 where padded
    words: Tensor  # int64 [width * contexts]: which word decides; 0 where padded
    bits: Tensor  # int32 [width * contexts, 1]: the bits it must share; 0 where padded, so that nothing is legal there
    drawn_bits: Tensor  # int32 [drawn, width]: the bits of the contexts of a head as one
    limits: Tensor | None  # int64 [width * contexts]: column of the limits; one past the last for none
    needed_by: Tensor  # int32 [contexts, 1]
    users: Tensor  # bool [ops, contexts, 1]: the op draws a head other than op in this context
    heads: Tensor  # int64 [contexts]
    places: Tensor  # int64 [1 + ops + 1, heads]: where the head is drawn under the op; contexts + head if it is not
    canonical: Tensor  # int64 [heads, 1]
    members: Tensor  # bool [heads, contexts, 1]: the context is one of the head's
    plain_members: Tensor  # bool [heads, contexts, 1]: and the head's own entropy is taken in it
    plain: Tensor  # int64 [heads]: the first such context
    powers: Tensor  # int64 [heads, 1]: bit of the head in a fault word

    def __init__(self, layout: ActionLayout, by_op: Heads, limited: Heads, device: torch.device):
        super().__init__()
        self.contexts = contexts = build_contexts(layout, by_op, limited)
        self.by_op, self.limited = by_op, limited
        self.width, self.count = max(context.size for context in contexts), len(contexts)
        self.op_at = contexts[0].head
        self.sizes = [head.size for head in layout.heads]
        self.canonical_choices = [head.canonical for head in layout.heads]
        draw = [i for i, context in enumerate(contexts) if i and context.users]
        parts = {contexts[i].head: tuple(j for j in draw if contexts[j].head == contexts[i].head) for i in draw}
        self.drawn = tuple((head, at, given_op([contexts[i] for i in at])) for head, at in parts.items())
        self.shut = tuple(layout.heads[head].openers for head in shut_heads(layout))
        heads, ops = range(len(layout.heads)), range(len(layout.ops))
        unlimited = 2 * sum(layout.heads[head].size for head in limited)
        limits = [[unlimited if c.limit is None else c.limit + k for k in range(c.size)] for c in contexts]
        places = [[self.count + head for head in heads] for _ in range(len(ops) + 2)]
        for i, context in enumerate(contexts):
            for row in places if i == 0 else (places[1 + op] for op in ops if context.users >> op & 1):
                row[context.head] = i
        users = [[[i > 0 and context.users >> op & 1 != 0] for i, context in enumerate(contexts)] for op in ops]

        def table(values: object, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        def padded(rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.int64) -> Tensor:
            return table([row[k] if k < len(row) else 0 for k in range(self.width) for row in rows], dtype)

        self.register_buffer("columns", padded([c.columns for c in contexts]))
        self.register_buffer("words", padded([c.words for c in contexts]))
        self.register_buffer("bits", padded([c.bits for c in contexts], torch.int32).unsqueeze(-1))
        rows = [[*one.bits, *[0] * (self.width - one.size)] for _, _, one in self.drawn]
        self.register_buffer("drawn_bits", table(rows, torch.int32))
        self.register_buffer("limits", padded(limits) if limited else None)
        self.register_buffer("needed_by", table([[c.needed_by] for c in contexts], torch.int32))
        self.register_buffer("users", table(users, torch.bool))
        self.register_buffer("heads", table([c.head for c in contexts]))
        self.register_buffer("places", table(places))
        members = [[[context.head == head] for context in contexts] for head in heads]
        plain = [[[context.head == head and context.plain] for context in contexts] for head in heads]
        self.register_buffer("members", table(members, torch.bool))
        self.register_buffer("plain_members", table(plain, torch.bool))
        self.register_buffer("plain", table([row.index([True]) if [True] in row else 0 for row in plain]))
        self.register_buffer("powers", table([[1 << head] for head in heads]))
        self.register_buffer("canonical", table([[head.canonical] for head in layout.heads]))
