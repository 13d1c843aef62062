"""All heads of whole actions in one pass, every draw padded to the widest: the form for eager code."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

from esper_masks.actions.tables import DrawTables
from esper_masks.distributions.forms import choice_words, is_plain, is_quick
from esper_masks.distributions.logits import Floors
from esper_masks.distributions.quick import QuickSoftmax, Rows, stack
from esper_masks.distributions.softmax import Slabs, StackedSoftmax, divergence, exceeds
from esper_masks.masks.masks import ActionMasks


class StackedHeads:
    """Every draw in one tensor, ``[width, draws, rows]``; leading axes are one axis, ``rows``, in here.

    All draws are computed for every row, those that its op does not use among them, because the number of ops is what
    eager code pays for; on a CPU they are a ``QuickSoftmax``. See ``DrawTables`` for how choices lie, and ``AnyHeads``
    for arguments and methods.
    """

    def __init__(self, tables: DrawTables, parts: list[Tensor], masks: ActionMasks, floors: Floors):
        self.tables, self.shape, ops = tables, masks.shape, masks.op_words
        static = tables.static
        words = [ops | static, *(torch.where((ops & openers) == 0, static, ops) for openers in tables.closing)]
        words = [words[0].unsqueeze(-1), masks.slot_words, *(word.unsqueeze(-1) for word in words[1:])]
        self.words = self._rows(torch.cat(words, -1))  # [words, rows]
        logits = self._rows(parts[0] if len(parts) == 1 else torch.cat(parts, -1))
        choices = self._rows(pad(choice_words(masks), (0, 1), value=-1)) if tables.dynamic else None  # last: for others
        rows = Rows(logits, self.words, choices)
        min_prob = 0.0 if floors is None else self._floors(floors, logits)
        capped = floors is not None and any(exceeds(floors[d.head], d.size) for d in tables.draws)
        ordered = floors is None and is_quick(logits)
        quick = ordered and is_plain()
        self.softmax = QuickSoftmax(rows, tables) if quick else stack(rows, tables, min_prob, capped, ordered)
        self.like = self.softmax.total
        self._in_slots = tables.whole_rows < tables.count

    # -- faults -------------------------------------------------------------------------------------------------------

    def draw_faults(self) -> Tensor:
        """Draws that leave their row without an action, bool ``[draws, rows]``."""
        words = self.words.index_select(0, self.tables.needed_words) if self._in_slots else self.words[0]
        return self.softmax.invalid & ((words & self.tables.needed_by) != 0)

    def faulty(self) -> Tensor:
        return self._leading(self.draw_faults().any(0))

    def faults(self) -> Tensor:
        by_head = (self.draw_faults() & self.tables.members).any(1)  # [heads, rows]
        return self._leading((by_head * self.tables.powers).sum(0))

    # -- actions ------------------------------------------------------------------------------------------------------

    def draw(self, noise: Tensor, ignored: Tensor | None) -> Tensor:
        drawn = self.softmax.draw_all(self._values(noise), self.tables.heads)
        return self._whole(drawn, ignored, noise.shape)

    def draw_and_score(
        self, noise: Tensor | Slabs, ignored: Tensor | None, dtype: torch.dtype = torch.int64
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            noise = noise if isinstance(noise, Tensor) else torch.stack([*noise]).movedim(0, -1)
            actions = self.draw(noise, ignored)
        return actions.to(dtype), self.log_prob(actions)

    def mode(self, ignored: Tensor | None) -> Tensor:
        return self._whole(self.softmax.mode(), ignored, torch.Size([*self.shape, len(self.tables.canonical)]))

    def score(self, actions: Tensor) -> Tensor:
        return self._score(self._entries(actions), actions.shape)

    def _score(self, entries: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
        ignored, draw, at, missing = entries
        scores = self.softmax.pick(at, draw, missing)
        return self._by_head(scores.masked_fill(ignored, 0), shape)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.score(actions).cumsum(-1)[..., -1]  # summed in one order, see ``StackedSoftmax``

    def log_prob_and_illegal(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        entries = self._entries(actions)
        ignored, _, at, missing = entries
        illegal = ((self.softmax.forbids_at(at) | missing) & ~ignored).any(-2)
        return self._score(entries, actions.shape).cumsum(-1)[..., -1], illegal.reshape(actions.shape[:-1])

    def _entries(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each head's value, ``[*sample, heads, rows]``, under the op of its action.

        Returns: whether the op ignores the head; the draw, any if it does; the entry in tables
            ``[width * draws]``; whether no entry has that value.
        """
        tables, values = self.tables, self._values(actions.long())
        op = self._op(values, tables.op_at).clamp(-1, tables.ops)
        slot = values[..., tables.slot_at, :].clamp(-1, tables.slots) if self._in_slots else None
        place = self._places(op, slot)
        draw, value = place.clamp_max(tables.count - 1), values.clamp(0, tables.width - 1)
        return place >= tables.count, draw, value * tables.count + draw, value != values

    def _op(self, values: Tensor, at: int | None) -> Tensor:
        """The op, ``[..., rows]``, among values ``[..., k, rows]``; the only one where nobody draws it."""
        return torch.zeros_like(values[..., 0, :]) if at is None else values[..., at, :]

    def _places(self, op: Tensor, slot: Tensor | None) -> Tensor:
        """Draw of every head under an op, draws + head if the op ignores it: ``[..., heads, rows]``.

        That of a head with a draw in each slot only where the slot is given.
        """
        places = self.tables.places[op + 1] if slot is None else self.tables.places_in_slots[op + 1, slot + 1]
        return places.mT

    def _whole(self, drawn: Tensor, ignored: Tensor | None, shape: torch.Size) -> Tensor:
        """Whole actions from one choice in every draw, ``[*sample, draws, rows]``."""
        tables = self.tables
        canonical = tables.canonical.expand(*drawn.shape[:-2], -1, drawn.shape[-1])
        drawn, op = torch.cat([drawn, canonical], -2), self._op(drawn, None if tables.op_at is None else 0)
        actions = drawn.gather(-2, self._places(op, None))
        if self._in_slots:
            actions = drawn.gather(-2, self._places(op, actions[..., tables.slot_at, :]))
        made = self._by_head(actions, shape)
        return made if ignored is None else made.masked_fill(ignored.unsqueeze(-1), -1)

    # -- entropy and divergence ---------------------------------------------------------------------------------------

    def raw_entropy(self) -> Tensor:
        return self._leading(self._chain(self.softmax.raw_entropy()))

    def head_entropies(self) -> Tensor:
        tables = self.tables
        entropy = self.softmax.normalized_entropy()  # [draws, rows]
        if tables.plain is not None:
            return self._by_head(entropy.index_select(0, tables.plain))
        own, legal = tables.plain_members, self.softmax.legal_actions()  # [heads, draws, 1], [draws, rows]
        if self._in_slots:
            weights = torch.cat([(legal[: tables.whole_rows] > 0).long(), self._pairs()])
            count = (own * weights).sum(1).clamp_min(1)  # [heads, rows]
            return self._by_head((own * (weights * entropy)).sum(1) / count)
        draws = (own & (legal > 0)).sum(1).clamp_min(1)  # [heads, rows]
        return self._by_head((own * entropy).sum(1) / draws)

    def _pairs(self) -> Tensor:
        """Legal pairs of op and slot that take a head from each draw of one slot."""
        tables = self.tables
        words = self.words.index_select(0, tables.needed_words[tables.whole_rows :])
        return ((words & tables.pair_bits) != 0).sum(0)

    def divergence(self, other: "StackedHeads") -> Tensor:
        [log_probs] = self.softmax.log_probs()
        [terms] = divergence([log_probs], other.softmax.log_probs())
        divergences = terms.sum(0)  # [draws, rows]
        lacking = divergences == math.inf
        total = self._chain(divergences.masked_fill(lacking, 0))  # times a usage, infinity has an infinite gradient
        missing = lacking[0] | (lacking & self._drawn(log_probs)).any(0)
        return self._leading(total.masked_fill(missing, math.inf))

    def _drawn(self, log_probs: Tensor) -> Tensor:
        """Whether a head other than op may be taken from a draw, bool ``[draws, rows]``: a usage may underflow."""
        tables = self.tables
        if tables.op_at is None:
            return torch.ones_like(log_probs[0], dtype=torch.bool)
        ops = log_probs[: tables.ops, 0] != -math.inf  # [ops, rows]
        drawn = (ops.unsqueeze(1) & tables.users).any(0)
        if not self._in_slots:
            return drawn
        slots = log_probs.flatten(0, 1).index_select(0, tables.pair_slots) != -math.inf
        return torch.cat([drawn, self._of_pairs(ops.index_select(0, tables.pair_ops) & slots).any(0)])

    def _chain(self, values: Tensor) -> Tensor:
        """The op's value, and that of every draw times the probability that a head is taken from it: ``[rows]``."""
        if self.tables.op_at is None:
            return values.sum(0)
        if isinstance(self.softmax, QuickSoftmax):
            return values[0] + (self.softmax.usage() * values.index_select(0, self.tables.packed.use_draws)).sum(0)
        return values[0] + (self._usage(self.softmax) * values).sum(0)

    def _usage(self, softmax: StackedSoftmax) -> Tensor:
        """Probability that a head other than op is taken from a draw, ``[draws, rows]``."""
        tables = self.tables
        ops = softmax.first_probs(tables.ops)
        usage = (ops.unsqueeze(1) * tables.users).sum(0)
        if not self._in_slots:
            return usage
        [probs] = softmax.probs()
        pairs = ops.index_select(0, tables.pair_ops) * probs.flatten(0, 1).index_select(0, tables.pair_slots)
        return torch.cat([usage, self._of_pairs(pairs).sum(0)])

    def _of_pairs(self, values: Tensor) -> Tensor:
        """Values of the pairs of op and slot that use draws of one slot, ``[users, draws, rows]``; 0 where padded."""
        bits = self.tables.pair_bits
        return values.view(*bits.shape[:2], -1) * (bits != 0)

    def _floors(self, floors: tuple[float, ...], logits: Tensor) -> float | Tensor:
        """One floor for all draws, or one for each: ``[draws, 1]``."""
        runs = [(floor, len(list(run))) for floor, run in groupby(floors[d.head] for d in self.tables.draws)]
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
