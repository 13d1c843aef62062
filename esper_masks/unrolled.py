"""All heads of whole actions, every choice a vector over rows: the form that a compiler fuses into one loop."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from esper_masks.contexts import STATIC, Context, Heads
from esper_masks.layout_tables import context_tables
from esper_masks.masks import ActionMasks
from esper_masks.softmax import UNROLLED_ROW, MaskedSoftmax, Slabs, divergence, normalized


class UnrolledHeads:
    """The methods and results of ``StackedHeads``, without padding or gathers.

    Args:
        parts: logits side by side in one or more tensors ``[..., columns]``, float32 or float64.
        masks: which actions are legal.
        active: bool ``[...]``; None for all.
        floors: least probability of a legal choice, one a head; None for none.
        by_op: heads whose logits are given for each op.
        transposes: whether row-major logits are transposed before. A compiler that does not vectorize loads which are
            not side by side needs it; for others it is a detour.
    """

    def __init__(
        self,
        parts: list[Tensor],
        masks: ActionMasks,
        active: Tensor | None,
        floors: tuple[float, ...] | None,
        by_op: Heads,
        transposes: bool = True,
    ):
        # numbers seen through a module are constants to a compiler, with dynamic=True too; those of a layout are not
        self.tables = tables = context_tables(masks.layout, masks.device, by_op, masks.limited)
        self.contexts, self.active, ops = tables.contexts, active, masks.op_words
        self.words = [
            ops | STATIC,
            *masks.slot_words.unbind(-1),
            *(torch.where((ops & openers) == 0, STATIC, ops) for openers in tables.shut),
        ]
        heads = torch.split(parts[0], tables.sizes, -1) if len(parts) == 1 else parts
        # a compiler keeps the result of cat in memory, batch-last: row-major logits are transposed once, at the door
        columns = torch.cat([part.movedim(-1, 0) for part in heads])  # [columns, ...]
        # unbound once: a gradient of each index would be as large as all columns
        each = columns.unbind() if transposes else [column for part in parts for column in part.unbind(-1)]
        limits = masks.limit_columns().movedim(-1, 0) if masks.limited else None
        floors = (0.0,) * len(tables.sizes) if floors is None else floors
        slots = masks.slot_words.movedim(-1, 0)
        self.softmaxes = [
            self._stacked(at, columns, limits, floors[context.head], slots)
            if context.size > UNROLLED_ROW and at
            else self._unrolled(context, each, limits, floors[context.head])
            for at, context in enumerate(self.contexts)
        ]
        self.drawing = [at for at, context in enumerate(self.contexts) if not at or context.users]  # the op's first
        self.like = self.softmaxes[0].total  # dtype and device of the arithmetic

    def _stacked(
        self, at: int, columns: Tensor, limits: Tensor | None, floor: float, slot_words: Tensor
    ) -> MaskedSoftmax:
        """A context of many choices as one slab: unrolled, it would take minutes to compile."""
        context = self.contexts[at]
        first, size = context.columns[0], context.size  # a head's columns lie side by side
        slab = columns[first : first + size]
        word = slot_words if len(set(context.words)) > 1 else self.words[context.words[0]]
        bits = self.tables.bits.view(self.tables.width, self.tables.count)[:size, at]
        illegal = (word & bits.view(size, *[1] * (columns.ndim - 1))) == 0
        if context.limit is not None:
            assert limits is not None
            illegal = illegal | ~limits[context.limit : context.limit + size]
        return MaskedSoftmax([slab], [illegal], stacked=True, min_prob=floor)

    def _unrolled(self, context: Context, columns: Slabs, limits: Tensor | None, floor: float) -> MaskedSoftmax:
        choices = [k for k, bits in enumerate(context.bits) if bits] or [0]
        illegal = [
            None
            if context.bits[k] & STATIC and not context.words[k]
            else (self.words[context.words[k]] & context.bits[k]) == 0
            for k in choices
        ]
        if context.limit is not None:
            assert limits is not None
            limited = [~limits[context.limit + k] for k in choices]
            illegal = [limit if forbidden is None else forbidden | limit for forbidden, limit in zip(illegal, limited)]
        own = [columns[context.columns[k]] for k in choices]
        return MaskedSoftmax(own, illegal, stacked=False, actions=choices, min_prob=floor)

    # -- faults -------------------------------------------------------------------------------------------------------

    def context_faults(self) -> Slabs:
        """Contexts that leave their row without an action, bool ``[...]`` each."""
        needed = [(self.words[0] & context.needed_by) != 0 for context in self.contexts]
        faults = [softmax.lost & present for softmax, present in zip(self.softmaxes, needed)]
        return faults if self.active is None else [fault & self.active for fault in faults]

    def faulty(self) -> Tensor:
        """Rows without an action, bool ``[...]``."""
        return _any(self.context_faults())

    def faults(self) -> Tensor:
        """The same with a bit for each head, int64 ``[...]``."""
        faults = zip(self.contexts, self.context_faults())
        return reduce(torch.bitwise_or, [fault.long() << context.head for context, fault in faults])

    # -- actions ------------------------------------------------------------------------------------------------------

    def draw(self, noise: Tensor, neutral: Tensor | None) -> Tensor:
        """Actions ``[*sample, ..., heads]`` of uniforms of that shape; -1 where a used head has no choice.

        Args:
            noise: uniforms, ``[*sample, ..., heads]``.
            neutral: bool ``[...]``, rows whose actions are -1 in all heads.
        """
        return self.draw_and_score(noise, neutral)[0]

    def draw_and_score(
        self, noise: Tensor | Slabs, neutral: Tensor | None, dtype: torch.dtype = torch.int64
    ) -> tuple[Tensor, Tensor]:
        """The same, with the log-probabilities of the actions, ``[*sample, ...]``; uniforms may come head by head."""
        uniforms = noise.unbind(-1) if isinstance(noise, Tensor) else noise
        drawn = [self.softmaxes[at].draw_and_score(uniforms[self.contexts[at].head]) for at in self.drawing]
        choices, scores = zip(*drawn)
        unused = [torch.zeros_like(scores[0])] * len(self.tables.sizes)
        return self._whole(choices, neutral, dtype), _total(self._by_head(choices[0], scores, unused))

    def mode(self, neutral: Tensor | None) -> Tensor:
        """The op's mode, then each head's given that op: ``[..., heads]``."""
        return self._whole([self.softmaxes[at].mode().to(self.like.dtype) for at in self.drawing], neutral)

    def _whole(self, drawn: Slabs, neutral: Tensor | None, dtype: torch.dtype = torch.int64) -> Tensor:
        """Whole actions from one choice in every context that draws."""
        canonical = [torch.full_like(drawn[0], choice) for choice in self.tables.canonical_choices]
        actions = self._by_head(drawn[0], drawn, canonical)
        if neutral is not None:
            actions = [action.masked_fill(neutral, -1) for action in actions]
        return torch.stack([action.to(dtype) for action in actions]).movedim(0, -1)  # where a compiler ends its loop

    def score(self, actions: Tensor) -> Tensor:
        """Log-probability of each head's value given the op, ``[*sample, ..., heads]``; 0 if the op ignores it."""
        return torch.stack(self._scores(actions)).movedim(0, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of whole actions, ``[*sample, ...]``."""
        return _total(self._scores(actions))

    def _scores(self, actions: Tensor) -> list[Tensor]:
        values, op_at = actions.to(self.like.dtype).unbind(-1), self.contexts[0].head
        scores = [self.softmaxes[at].score(values[self.contexts[at].head]) for at in self.drawing]
        unused = [torch.zeros_like(values[op_at])] * len(values)
        return self._by_head(values[op_at], scores, unused)

    def _by_head(self, op: Tensor, drawn: Slabs, unused: Slabs) -> list[Tensor]:
        """A value for each head: of the context in which the op draws it, or the one for a head that it ignores."""
        values = list(unused)
        values[self.contexts[0].head] = drawn[0]
        for at, value in zip(self.drawing[1:], drawn[1:]):
            context = self.contexts[at]
            values[context.head] = torch.where(self._uses(op, context.users), value, values[context.head])
        return values

    def _uses(self, op: Tensor, users: int) -> Tensor:
        return _any([op == i for i in range(len(self.tables.users)) if users >> i & 1])

    # -- entropy and divergence ---------------------------------------------------------------------------------------

    def raw_entropy(self) -> Tensor:
        """Entropy of whole actions in nats by the chain rule, ``[...]``."""
        return self._chain([softmax.entropy() for softmax in self.softmaxes])

    def head_entropies(self) -> Tensor:
        """Normalized entropy of every head's own choices before any floor: ``[..., heads]``."""
        entropies = []
        for head in range(len(self.tables.sizes)):
            own = [s for s, context in zip(self.softmaxes, self.contexts) if context.head == head and context.plain]
            each = [normalized(softmax.entropy_without_floor(), softmax.legal_actions()) for softmax in own]
            if len(each) > 1:
                count = _total([softmax.legal_actions().clamp_max(1) for softmax in own]).clamp_min(1)
                each = [_total(each) / count]
            entropies.append(each[0] if each else torch.zeros_like(self.softmaxes[0].total))
        return torch.stack(entropies).movedim(0, -1)

    def divergence(self, other: "UnrolledHeads") -> Tensor:
        """KL(self || other) of whole actions in nats, ``[...]``; both have the same contexts."""
        values = [self._divergence(other, at) for at in range(len(self.contexts))]
        lacking = [value == math.inf for value in values]
        finite = self._chain([value.masked_fill(none, 0) for value, none in zip(values, lacking)])
        drawn = [log_prob != -math.inf for log_prob in self.softmaxes[0].log_probs()]  # a probability may underflow
        beyond = [lacking[0]]
        for context, none in zip(self.contexts[1:], lacking[1:]):
            beyond += [none & by for op, by in enumerate(drawn) if context.users >> op & 1]
        return finite.masked_fill(_any(beyond), math.inf)

    def _divergence(self, other: "UnrolledHeads", at: int) -> Tensor:
        if self.softmaxes[at].stacked:
            return divergence(self.softmaxes[at].log_probs(), other.softmaxes[at].log_probs())[0].sum(0)
        theirs = dict(zip(other.softmaxes[at].actions, other.softmaxes[at].log_probs()))
        never = torch.full_like(self.like, -math.inf)  # where masks differ, one may leave out what the other has
        q = [theirs.get(action, never) for action in self.softmaxes[at].actions]
        return _total(divergence(self.softmaxes[at].log_probs(), q))

    def _chain(self, values: Slabs) -> Tensor:
        """The op's value, and that of every context times the probability that a head is drawn in it."""
        probs, total = self.softmaxes[0].probs(), values[0]
        for context, value in zip(self.contexts[1:], values[1:]):
            if context.users:
                usage = _total([p for op, p in enumerate(probs) if context.users >> op & 1])
                total = total + usage * value
        return total


def unrolled_choices(contexts: Sequence[Context]) -> int:
    """How many choices are taken one by one."""
    return sum(context.size for at, context in enumerate(contexts) if not at or context.size <= UNROLLED_ROW)


def _total(values: Slabs) -> Tensor:
    return sum(values[1:], values[0])


def _any(values: Slabs) -> Tensor:
    return reduce(torch.logical_or, values)
