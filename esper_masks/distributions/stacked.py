"""All heads of whole actions in one pass, every context padded to the widest: the form for eager code."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

from esper_masks.actions.contexts import STATIC, Heads
from esper_masks.actions.tables import context_tables
from esper_masks.distributions.softmax import MaskedSoftmax, divergence, exceeds, normalized
from esper_masks.masks.masks import ActionMasks


class StackedHeads:
    """Every head in every context, ``[width, contexts, rows]``; leading axes are one axis, ``rows``, in here.

    ``UnrolledHeads`` has the same methods with the same results.

    Args:
        parts: logits side by side in one or more tensors ``[..., columns]``, float32 or float64.
        masks: which actions are legal.
        active: bool ``[...]``; None for all.
        floors: least probability of a legal choice, one a head, see ``MaskedSoftmax``; None for none.
        by_op: heads whose logits are given for each op.
    """

    def __init__(
        self,
        parts: list[Tensor],
        masks: ActionMasks,
        active: Tensor | None,
        floors: tuple[float, ...] | None,
        by_op: Heads,
    ):
        self.shape = masks.shape
        self.tables = tables = context_tables(masks.layout, masks.device, by_op, masks.limited)
        self.active = None if active is None else active.reshape(-1)
        ops = masks.op_words
        words = [ops | STATIC, *(torch.where((ops & openers) == 0, STATIC, ops) for openers in tables.shut)]
        words = [words[0].unsqueeze(-1), masks.slot_words, *(word.unsqueeze(-1) for word in words[1:])]
        self.words = self._rows(torch.cat(words, -1))  # [words, rows]
        illegal = (self.words.index_select(0, tables.words) & tables.bits) == 0  # [width * contexts, rows]
        if tables.limits is not None:
            illegal = illegal | ~self._rows(pad(masks.limit_columns(), (0, 1), value=True)).index_select(
                0, tables.limits
            )
        logits = self._rows(parts[0] if len(parts) == 1 else torch.cat(parts, -1)).index_select(0, tables.columns)
        shape = (tables.width, tables.count, illegal.shape[-1])
        min_prob = 0.0 if floors is None else self._floors(floors, logits)
        capped = floors is not None and any(exceeds(floors[c.head], c.size) for c in tables.contexts)
        self.softmax = MaskedSoftmax(
            [logits.view(shape)], [illegal.view(shape)], stacked=True, min_prob=min_prob, capped=capped
        )
        self.like = self.softmax.total  # dtype and device of the arithmetic

    # -- faults -------------------------------------------------------------------------------------------------------

    def context_faults(self) -> Tensor:
        """Contexts that leave their row without an action, bool ``[contexts, rows]``."""
        faults = self.softmax.lost & ((self.words[0] & self.tables.needed_by) != 0)
        return faults if self.active is None else faults & self.active

    def faulty(self) -> Tensor:
        """Rows without an action, bool ``[...]``."""
        return self._leading(self.context_faults().any(0))

    def faults(self) -> Tensor:
        """The same with a bit for each head, int64 ``[...]``."""
        by_head = (self.context_faults() & self.tables.members).any(1)  # [heads, rows]
        return self._leading((by_head * self.tables.powers).sum(0))

    # -- actions ------------------------------------------------------------------------------------------------------

    def draw(self, noise: Tensor, neutral: Tensor | None) -> Tensor:
        """Actions ``[*sample, ..., heads]`` of uniforms of that shape; -1 where a used head has no choice.

        Args:
            noise: uniforms, ``[*sample, ..., heads]``.
            neutral: bool ``[...]``, rows whose actions are -1 in all heads.
        """
        uniforms = self._values(noise).index_select(-2, self.tables.heads)  # [*sample, contexts, rows]
        return self._whole(self.softmax.draw(uniforms), neutral, noise.shape)

    def draw_and_score(
        self, noise: Tensor, neutral: Tensor | None, dtype: torch.dtype = torch.int64
    ) -> tuple[Tensor, Tensor]:
        """The same, with the log-probabilities of the actions, ``[*sample, ...]``."""
        with torch.no_grad():
            actions = self.draw(noise, neutral)
        return actions.to(dtype), self.log_prob(actions)

    def mode(self, neutral: Tensor | None) -> Tensor:
        """The op's mode, then each head's given that op: ``[..., heads]``."""
        return self._whole(self.softmax.mode(), neutral, torch.Size([*self.shape, len(self.tables.canonical)]))

    def score(self, actions: Tensor) -> Tensor:
        """Log-probability of each head's value given the op, ``[*sample, ..., heads]``; 0 if the op ignores it."""
        return self._score(self._entries(actions), actions.shape)

    def _score(self, entries: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
        ignored, context, at, missing = entries
        if self.softmax.mixed is None:
            scores = _gather(self.softmax.shifted[0].flatten(0, 1), at) - _gather(self.softmax.log_total, context)
        else:
            scores = _gather(self.softmax.log_probs()[0].flatten(0, 1), at)
        scores = scores.masked_fill((scores == -math.inf) | missing, -math.inf)  # without a gradient
        return self._by_head(scores.masked_fill(ignored, 0), shape)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of whole actions, ``[*sample, ...]``."""
        return self.score(actions).cumsum(-1)[..., -1]  # summed in one order, see ``MaskedSoftmax``

    def log_prob_and_illegal(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and whether the masks forbid the actions or there are none such, bool ``[*sample, ...]``."""
        entries, illegal = self._entries(actions), self.softmax.illegal[0]
        assert illegal is not None  # padded choices are forbidden
        ignored, _, at, missing = entries
        illegal = ((_gather(illegal.flatten(0, 1), at) | missing) & ~ignored).any(-2)
        return self._score(entries, actions.shape).cumsum(-1)[..., -1], illegal.reshape(actions.shape[:-1])

    def _entries(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each head's value, ``[*sample, heads, rows]``, under the op of its action.

        Returns: whether the op ignores the head; the context, any if it does; the entry in tables
            ``[width * contexts]``; whether no entry has that value.
        """
        tables, values = self.tables, self._values(actions.long())
        place = self._places(values[..., tables.op_at, :].clamp(-1, len(tables.users)))
        context, value = place.clamp_max(tables.count - 1), values.clamp(0, tables.width - 1)
        return place >= tables.count, context, value * tables.count + context, value != values

    def _places(self, op: Tensor) -> Tensor:
        """Context of every head under an op, contexts + head if the op ignores it: ``[..., heads, rows]``."""
        return self.tables.places[op + 1].mT

    def _whole(self, drawn: Tensor, neutral: Tensor | None, shape: torch.Size) -> Tensor:
        """Whole actions from one choice in every context, ``[*sample, contexts, rows]``."""
        canonical = self.tables.canonical.expand(*drawn.shape[:-2], -1, drawn.shape[-1])
        actions = torch.cat([drawn, canonical], -2).gather(-2, self._places(drawn[..., 0, :]))
        made = self._by_head(actions, shape)
        return made if neutral is None else made.masked_fill(neutral.unsqueeze(-1), -1)

    # -- entropy and divergence ---------------------------------------------------------------------------------------

    def raw_entropy(self) -> Tensor:
        """Entropy of whole actions in nats by the chain rule, ``[...]``."""
        entropy = self.softmax.entropy()  # [contexts, rows]
        return self._leading(entropy[0] + (self._usage() * entropy).sum(0))

    def head_entropies(self) -> Tensor:
        """Normalized entropy of every head's own choices before any floor: ``[..., heads]``."""
        tables = self.tables
        entropy = normalized(self.softmax.entropy_without_floor(), self.softmax.legal_actions())  # [contexts, rows]
        if not tables.by_op:
            return self._by_head(entropy.index_select(0, tables.plain))
        own = tables.plain_members  # [heads, contexts, 1]
        contexts = (own & (self.softmax.legal_actions() > 0)).sum(1).clamp_min(1)  # [heads, rows]
        return self._by_head((own * entropy).sum(1) / contexts)

    def divergence(self, other: "StackedHeads") -> Tensor:
        """KL(self || other) of whole actions in nats, ``[...]``; both have the same contexts."""
        [log_probs] = self.softmax.log_probs()
        [terms] = divergence([log_probs], other.softmax.log_probs())
        divergences, users = terms.sum(0), self.tables.users  # [contexts, rows], [ops, contexts, 1]
        lacking = divergences == math.inf
        finite = divergences.masked_fill(lacking, 0)  # times a usage, infinity would have an infinite gradient
        total = finite[0] + (self._usage() * finite).sum(0)
        drawn = ((log_probs[: len(users), 0] != -math.inf).unsqueeze(1) & users).any(0)  # a usage may underflow
        return self._leading(total.masked_fill(lacking[0] | (lacking & drawn).any(0), math.inf))

    def _usage(self) -> Tensor:
        """Probability that a head other than op is drawn in a context, ``[contexts, rows]``."""
        softmax, ops = self.softmax, len(self.tables.users)
        probs = softmax.weights[0][:ops, 0] / softmax.total[0] if softmax.mixed is None else softmax.mixed[0][:ops, 0]
        return (probs.unsqueeze(1) * self.tables.users).sum(0)

    def _floors(self, floors: tuple[float, ...], logits: Tensor) -> float | Tensor:
        """One floor for all contexts, or one for each: ``[contexts, 1]``."""
        runs = [(floor, len(list(run))) for floor, run in groupby(floors[c.head] for c in self.tables.contexts)]
        if len(runs) == 1:
            return runs[0][0]
        return torch.cat([logits.new_full((length, 1), floor) for floor, length in runs])

    # -- shapes -------------------------------------------------------------------------------------------------------

    def _rows(self, values: Tensor) -> Tensor:
        """``[..., n]`` -> ``[n, rows]``"""
        return values.T if values.ndim == 2 else values.reshape(-1, values.shape[-1]).T

    def _values(self, values: Tensor) -> Tensor:
        """``[*sample, ..., heads]`` -> ``[*sample, heads, rows]``"""
        if len(self.shape) != 1:
            sample = values.shape[: values.ndim - 1 - len(self.shape)]
            values = values.reshape(*sample, self.shape.numel(), values.shape[-1])
        return values.mT

    def _leading(self, values: Tensor) -> Tensor:
        """``[rows]`` -> ``[...]``"""
        return values if len(self.shape) == 1 else values.reshape(self.shape)

    def _by_head(self, values: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """``[*sample, heads, rows]`` -> ``[*sample, ..., heads]``; by default without ``*sample``"""
        return values.mT if len(self.shape) == 1 else values.mT.reshape(tuple(shape) or (*self.shape, len(values)))


def _gather(table: Tensor, index: Tensor) -> Tensor:
    """Entries ``[..., k, rows]`` of a table ``[n, rows]``."""
    return (table if index.ndim == 2 else table.expand(*index.shape[:-2], -1, -1)).gather(-2, index)
