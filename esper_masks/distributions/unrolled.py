"""All heads of whole actions, every choice a vector over rows: the form that a compiler fuses into one loop."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from esper_masks.actions.contexts import STATIC, Context, Heads
from esper_masks.actions.tables import context_tables
from esper_masks.distributions.softmax import UNROLLED_ROW, MaskedSoftmax, Slabs, divergence, exceeds, normalized
from esper_masks.masks.masks import ActionMasks

Given = tuple[int, MaskedSoftmax, Tensor]  # head, its probabilities given the op, whether the op uses it


class UnrolledHeads:
    """The methods and results of ``StackedHeads``, without padding or gathers.

    Args:
        parts: logits side by side in one or more tensors ``[..., columns]``, float32 or float64.
        masks: which actions are legal.
        active: bool ``[...]``; None for all.
        floors: least probability of a legal choice, one a head, see ``MaskedSoftmax``; None for none.
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
        self.columns = torch.cat([part.movedim(-1, 0) for part in heads])  # [columns, ...]
        # unbound once: a gradient of each index would be as large as all columns
        self.each = self.columns.unbind() if transposes else [column for part in parts for column in part.unbind(-1)]
        self.slot_words = masks.slot_words.movedim(-1, 0)
        self.limits = masks.limit_columns().movedim(-1, 0) if masks.limited else None
        self.floors = (0.0,) * len(tables.sizes) if floors is None else floors
        bits = tables.bits.view(tables.width, tables.count)
        self.softmaxes = [self._softmax(context, bits[:, at]) for at, context in enumerate(self.contexts)]
        self.like = self.softmaxes[0].total  # dtype and device of the arithmetic

    def _softmax(
        self, context: Context, bits: Tensor, op: Tensor | None = None, parts: Sequence[Context] = ()
    ) -> MaskedSoftmax:
        """Of one context; or of all in which a head is drawn, each row in that of its own op.

        Args:
            context: the one, or ``given_op(parts)``.
            bits: its bits, int32 ``[width]``.
            op: ``[*sample, ...]``.
            parts: the contexts.
        """
        stacked = context.size > UNROLLED_ROW and context is not self.contexts[0]  # or it would take minutes to build
        choices = range(context.size) if stacked else [k for k, some in enumerate(context.bits) if some] or [0]

        def spread(slabs: Slabs) -> Slabs:
            """To broadcast against samples."""
            if op is None or not stacked:
                return slabs
            return [slab.view(len(slab), *[1] * (op.ndim + 1 - slab.ndim), *slab.shape[1:]) for slab in slabs]

        logits, words = spread(self._logits(context, choices, stacked)), self._words(context, bits, choices, stacked)
        illegal: Sequence[Tensor | None]
        if op is None:
            illegal = [None if word is None else word == 0 for word in words]
        else:
            for part in parts:
                if part.columns != context.columns:
                    own, rows = spread(self._logits(part, choices, stacked)), self._uses(op, part.users)
                    logits = [torch.where(rows, x, others) for x, others in zip(own, logits)]
            bit = torch.zeros_like(op, dtype=torch.int32)
            for i in self._ops(context.users):
                bit = torch.where(op == i, 1 << i, bit)
            kept = [word & bit for word in spread([word for word in words if word is not None])]
            logits, illegal = [x.expand(word.shape) for x, word in zip(logits, kept)], [word == 0 for word in kept]
        if context.limit is not None:
            assert self.limits is not None
            first = context.limit
            each = [self.limits[first : first + context.size]] if stacked else [self.limits[first + k] for k in choices]
            illegal = [~limit if no is None else no | ~limit for no, limit in zip(illegal, spread(each))]
        floor = self.floors[context.head]
        capped = exceeds(floor, len(choices))
        return MaskedSoftmax(logits, illegal, stacked=stacked, actions=choices, min_prob=floor, capped=capped)

    def _logits(self, context: Context, choices: Sequence[int], stacked: bool) -> Slabs:
        first = context.columns[0]  # a head's columns lie side by side
        return [self.columns[first : first + context.size]] if stacked else [self.each[first + k] for k in choices]

    def _words(self, context: Context, bits: Tensor, choices: Sequence[int], stacked: bool) -> Sequence[Tensor | None]:
        """What of the words decides a choice: nothing is left of them where it is illegal; None for never."""
        if not stacked:
            return [
                None
                if context.bits[k] & STATIC and not context.words[k]
                else self.words[context.words[k]] & context.bits[k]
                for k in choices
            ]
        if len(set(context.words)) > 1:  # the slot's, of which an op is legal in one as in another
            return [self.slot_words & context.bits[0]]
        return [self.words[context.words[0]] & bits[: context.size].view(-1, *[1] * (self.columns.ndim - 1))]

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
        uniforms, op_at = noise.unbind(-1) if isinstance(noise, Tensor) else noise, self.contexts[0].head
        op, score = self.softmaxes[0].draw_and_score(uniforms[op_at])
        actions, scores = self._unused(op, score)
        for head, softmax, used in self._given(op):
            drawn = softmax.draw_and_score(uniforms[head])
            actions[head], scores[head] = (torch.where(used, *of) for of in zip(drawn, (actions[head], scores[head])))
        return self._whole(actions, neutral, dtype), _total(scores)

    def mode(self, neutral: Tensor | None) -> Tensor:
        """The op's mode, then each head's given that op: ``[..., heads]``."""
        op = self.softmaxes[0].mode().to(self.like.dtype)
        actions, _ = self._unused(op, op)
        for head, softmax, used in self._given(op):
            actions[head] = torch.where(used, softmax.mode().to(op.dtype), actions[head])
        return self._whole(actions, neutral)

    def _whole(self, actions: Slabs, neutral: Tensor | None, dtype: torch.dtype = torch.int64) -> Tensor:
        if neutral is not None:
            actions = [action.masked_fill(neutral, -1) for action in actions]
        return torch.stack([action.to(dtype) for action in actions]).movedim(0, -1)  # where a compiler ends its loop

    def score(self, actions: Tensor) -> Tensor:
        """Log-probability of each head's value given the op, ``[*sample, ..., heads]``; 0 if the op ignores it."""
        return torch.stack(self._scores(*self._values(actions))).movedim(0, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of whole actions, ``[*sample, ...]``."""
        return _total(self._scores(*self._values(actions)))

    def log_prob_and_illegal(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and whether the masks forbid the actions or there are none such, bool ``[*sample, ...]``."""
        values, op, given = self._values(actions)
        illegal = [softmax.forbids(values[head]) & used for head, softmax, used in given]
        return _total(self._scores(values, op, given)), _any([self.softmaxes[0].forbids(op), *illegal])

    def _values(self, actions: Tensor) -> tuple[Slabs, Tensor, list[Given]]:
        """Each head's value, the op, and what is drawn given it."""
        values = actions.to(self.like.dtype).unbind(-1)
        op = values[self.contexts[0].head]
        return values, op, self._given(op)

    def _scores(self, values: Slabs, op: Tensor, given: list[Given]) -> list[Tensor]:
        _, scores = self._unused(op, self.softmaxes[0].score(op))
        for head, softmax, used in given:
            scores[head] = torch.where(used, softmax.score(values[head]), scores[head])
        return scores

    def _unused(self, op: Tensor, score: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Actions and scores where the op uses no other head."""
        actions = [torch.full_like(op, choice) for choice in self.tables.canonical_choices]
        scores, op_at = [torch.zeros_like(score)] * len(actions), self.contexts[0].head
        actions[op_at], scores[op_at] = op, score
        return actions, scores

    def _given(self, op: Tensor) -> list[Given]:
        """Each head that is drawn, its probabilities given the op, and whether the op uses it, ``[*sample, ...]``."""
        given = []
        for (head, at, whole), bits in zip(self.tables.drawn, self.tables.drawn_bits):
            parts = [self.contexts[i] for i in at]
            softmax = self.softmaxes[at[0]] if len(at) == 1 else self._softmax(whole, bits, op, parts)
            given.append((head, softmax, self._uses(op, whole.users)))
        return given

    def _uses(self, op: Tensor, users: int) -> Tensor:
        return _any([op == i for i in self._ops(users)])

    def _ops(self, users: int) -> list[int]:
        return [i for i in range(len(self.tables.users)) if users >> i & 1]

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
