"""The softmax of all draws of whole actions in eager code on a CPU, without a floor.

It gives what ``StackedSoftmax`` gives, by other passes over the choices. Of torch's operators for a CPU, those that
choose (``masked_fill``, ``where``), ``cumsum``, and ``exp`` of what it takes to 0 go value by value, at some 4 ns each;
a minimum, a sum of two, or a comparison that is written to floats takes 0.1 ns. And memory that a process has not
touched yet costs as much as the former. So

    an illegal choice is a minimum with -inf, and running sums are added up choice by choice
    draws of many choices and of few are padded apart, see ``PackedDraws``
    rows are taken in pieces that stay in a cache, and what has a value for each choice is not kept, but made again for
        the draw, and for the gradient, which is written out here

Rows of one piece keep it: then there is little memory, and operators are what costs. A row has the same bits in any
piece, and in one of any size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.actions.tables import DrawTables, PackedDraws
from esper_masks.distributions.softmax import Slabs, StackedSoftmax, gathered, normalized

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
LONGEST_SUM = 16  # of more choices than this, torch makes the running sum
NONE = -1e30  # log of a weight that is 0 by rule: finite, because 0 * inf is NaN
INFINITIES = {  # the bits of -inf
    real: torch.tensor(-math.inf, dtype=real, device="cpu").view(integer) for real, integer in INTEGERS.items()
}
LEAST = {torch.float32: -80.0, torch.float64: -708.0}  # log of the least weight that is not 0


class Rows(NamedTuple):
    """Rows of a batch: all that legal logits are made of."""

    logits: Tensor  # [columns, rows]
    words: Tensor  # [words, rows]
    choices: Tensor | None  # choice words [choice words, rows]; None where no head has any

    def kept(self, packed: PackedDraws) -> Tensor:
        """1 where a choice is legal, else 0: integers ``[places, rows]``."""
        kept = self.words.index_select(0, packed.words).bitwise_and_(packed.bits).ne_(packed.zero)
        if self.choices is not None:
            words = self.choices.index_select(0, packed.choice_words)
            kept &= words.bitwise_and_(packed.choice_bits).ne_(packed.zero)
        return kept


class Weights(NamedTuple):
    """Of all places, ``[places, rows]``."""

    shifted: Tensor  # log of the weights: legal logits less the largest, ``NONE`` where there is none
    weights: Tensor  # at most 1
    running: list[Tensor] | None = None  # their running sums, group by group; where nobody has them yet, None


class QuickSoftmax:
    """See above, and ``MaskedSoftmax`` for what is named alike.

    Args:
        rows: of the batch.
        tables: of the draws, which are one axis of what has rows: ``[draws, rows]``.
    """

    def __init__(self, rows: Rows, tables: DrawTables):
        self.rows, self.tables = rows, tables
        made = _forward(rows, tables.packed, 0 if tables.op_at is None else tables.ops)
        self.log_total: Tensor
        self.entropy: Tensor
        self.ops: Tensor
        self.log_total, self.entropy, self.ops, self.peak, shifted, weights, running = made
        self._kept = None if shifted is None else Weights(shifted, weights, running)
        self.total = self.log_total  # for its dtype
        self.invalid = (self.peak - self.peak) != 0  # a difference of infinities is NaN
        self._whole: StackedSoftmax | None = None

    @property
    def whole(self) -> StackedSoftmax:
        """The same by its other passes, for what is asked for less often."""
        if self._whole is None:
            with torch.enable_grad():
                self._whole = stack(self.rows, self.tables)
        return self._whole

    def first_probs(self, number: int) -> Tensor:
        return self.ops

    def raw_entropy(self) -> Tensor:
        return self.entropy

    def normalized_entropy(self) -> Tensor:
        return normalized(self.entropy, self.legal_actions())

    def legal_actions(self) -> Tensor:
        packed, dtype = self.tables.packed, self.peak.dtype
        made = [
            _per_draw(piece.kept(packed).to(dtype), packed, lambda choices: choices.sum(0))
            for _, piece in _pieces(self.rows, packed)
        ]
        return made[0] if len(made) == 1 else torch.cat(made, -1)

    def log_probs(self) -> Slabs:
        return self.whole.log_probs()

    def probs(self) -> Slabs:
        return self.whole.probs()

    def mode(self) -> Tensor:
        return self.whole.mode()

    def draw_all(self, noise: Tensor, heads: Tensor) -> Tensor:
        if noise.ndim > self.peak.ndim:
            return self.whole.draw_all(noise, heads)
        packed = self.tables.packed
        noise = noise.nan_to_num(1.0).clamp_max_(1 - torch.finfo(noise.dtype).eps / 2).index_select(0, heads)
        if self._kept is not None:
            return _draw(self._kept, packed, noise).long()
        places = torch.empty_like(self.peak, dtype=torch.int64)
        for at, piece in _pieces(self.rows, packed):
            places[:, at] = _draw(_weights(piece, packed)[0], packed, noise[:, at])
        return places

    def pick(self, at: Tensor, draw: Tensor, none: Tensor) -> Tensor:
        if self._kept is not None:
            picked = gathered(self._kept.shifted, self.tables.packed.place_of.take(at))
            return (picked - gathered(self.log_total, draw)).masked_fill((picked == NONE) | none, -math.inf)
        columns = self.tables.columns.take(at).mT
        logits = self.rows.logits.mT.expand(*columns.shape[:-1], -1).gather(-1, columns).mT  # a gradient row by row
        scores = logits - gathered(self.peak, draw) - gathered(self.log_total, draw)
        return scores.masked_fill((scores > -math.inf).logical_not_() | none | self.forbids_at(at), -math.inf)

    def forbids_at(self, at: Tensor) -> Tensor:
        tables = self.tables
        forbids = gathered(self.rows.words, tables.words.take(at)).bitwise_and_(tables.bits.take(at)) == 0
        if self.rows.choices is None:
            return forbids
        words = gathered(self.rows.choices, tables.choice_words.take(at))
        return forbids | ((words & tables.choice_bits.take(at)) == 0)


def stack(rows: Rows, tables: DrawTables, min_prob: float | Tensor = 0.0, capped: bool = False) -> StackedSoftmax:
    """The same in one tensor, ``[width, draws, rows]``, for any device and any transform, with floors."""
    illegal = (rows.words.index_select(0, tables.words) & tables.bits) == 0  # [width * draws, rows]
    if rows.choices is not None:
        illegal = illegal | ((rows.choices.index_select(0, tables.choice_words) & tables.choice_bits) == 0)
    logits, shape = rows.logits.index_select(0, tables.columns), (tables.width, tables.count, illegal.shape[-1])
    return StackedSoftmax([logits.view(shape)], [illegal.view(shape)], min_prob=min_prob, capped=capped)


# -- piece by piece ---------------------------------------------------------------------------------------------------


def _pieces(rows: Rows, packed: PackedDraws) -> Iterator[tuple[slice, Rows]]:
    number = rows.logits.shape[-1]
    if number <= packed.rows:
        yield slice(None), rows
        return
    for start in range(0, number, packed.rows):
        at = slice(start, start + packed.rows)
        choices = None if rows.choices is None else rows.choices[:, at].contiguous()
        yield at, Rows(rows.logits[:, at], rows.words[:, at].contiguous(), choices)


def _groups(values: Tensor, packed: PackedDraws) -> list[Tensor]:
    """Values of all places as those of each group, ``[width, draws, rows]``."""
    shapes = ((group.width, group.draws.stop - group.draws.start, values.shape[-1]) for group in packed.groups)
    return [values[group.places].view(shape) for group, shape in zip(packed.groups, shapes)]


def _per_draw(values: Tensor, packed: PackedDraws, reduction: Callable[[Tensor], Tensor]) -> Tensor:
    """``[places, rows]`` -> ``[draws, rows]``, by a reduction along the choices."""
    made = [reduction(group) for group in _groups(values, packed)]
    return made[0] if len(made) == 1 else torch.cat(made)


def _weights(rows: Rows, packed: PackedDraws) -> tuple[Weights, Tensor]:
    """And the largest legal logit of each draw, infinite where there are no probabilities."""
    dtype = rows.logits.dtype
    infinity, least = INFINITIES[dtype], LEAST[dtype]
    kept = rows.kept(packed)
    kept = kept if kept.dtype == infinity.dtype else kept.to(infinity.dtype)
    # the bits of -inf where a choice is illegal; of inf, the other sign, where it is legal
    most = torch.add(infinity, kept, alpha=torch.iinfo(kept.dtype).min, out=kept).view(dtype)
    logits = rows.logits.clone(memory_format=torch.contiguous_format).nan_to_num_(math.inf, math.inf, -math.inf)
    shifted = logits.index_select(0, packed.columns)
    torch.minimum(shifted, most, out=shifted)
    peak = _per_draw(shifted, packed, lambda choices: choices.amax(0))
    for group, choices in zip(packed.groups, _groups(shifted, packed)):
        choices.sub_(peak[group.draws])
    shifted.nan_to_num_(NONE, NONE, NONE)
    weights = torch.threshold_(torch.clamp_min(shifted, least, out=most).exp_(), math.exp(least) * 1.001, 0)
    return Weights(shifted, weights), peak


def _sum(weights: Tensor) -> Tensor:
    """The last of their running sums, whose one order gives a row the same bits wherever in a batch it stands."""
    if len(weights) > LONGEST_SUM:
        return weights.cumsum(0)[-1]
    first, *others = weights.unbind()
    total = first.clone()
    for other in others:
        total.add_(other)
    return total


def _running_sum(weights: Tensor) -> Tensor:
    if len(weights) > LONGEST_SUM:
        return weights.cumsum(0)
    running = weights.clone()
    sums = running.unbind()
    for before, after in pairwise(sums):
        after.add_(before)
    return running


def _draw(kept: Weights, packed: PackedDraws, noise: Tensor) -> Tensor:
    """The choice in whose stretch of the running sum the noise lies, a whole number; -1 in an invalid row."""
    passed = []
    for group, running in zip(packed.groups, kept.running or _running_sums(kept.weights, packed)):
        total, beyond = running[-1], group.width + 1
        valid = total.clamp_max(1)  # the total of an invalid row is 0
        # as many sums as there are choices before it
        reached = torch.le(running, noise[group.draws] * total, out=torch.empty_like(running)).sum(0)
        passed.append(reached.add_(valid, alpha=beyond).sub_(beyond))
    return passed[0] if len(passed) == 1 else torch.cat(passed)


def _running_sums(weights: Tensor, packed: PackedDraws) -> list[Tensor]:
    return [_running_sum(group) for group in _groups(weights, packed)]


def _results(kept: Weights, packed: PackedDraws, ops: int) -> list[Tensor]:
    """Log of the sums of the weights, and entropies; probabilities of the ops."""
    sums = [sums[-1] for sums in kept.running] if kept.running else [_sum(of) for of in _groups(kept.weights, packed)]
    total = (sums[0] if len(sums) == 1 else torch.cat(sums)).clamp_min(1)  # of the largest logit 1; of no logit 0
    log_total = total.log()
    mean = _per_draw(kept.weights * kept.shifted, packed, lambda terms: terms.sum(0)).div_(total)
    made = [log_total, log_total - mean]
    if ops:  # the first draw, and in its group the first of each choice
        count = packed.groups[0].draws.stop
        made.append(kept.weights[: ops * count : count] / total[0])
    return made


def _forward(rows: Rows, packed: PackedDraws, ops: int) -> tuple[Any, ...]:
    """What a gradient goes through: log of the sums of the weights, entropies, probabilities of the ops; and peaks.

    Behind them the fields of ``Weights`` where all rows are one piece, else None.
    """
    if torch.is_grad_enabled() and rows.logits.requires_grad:
        made: tuple[Any, ...] = _Forward.apply(*rows, packed, ops)  # type: ignore[no-untyped-call]  # torch has no types
        return made
    return _passes(rows, packed, ops)


def _passes(rows: Rows, packed: PackedDraws, ops: int) -> tuple[Any, ...]:
    number = rows.logits.shape[-1]
    if number <= packed.rows:
        made, peak = _weights(rows, packed)
        kept = made._replace(running=_running_sums(made.weights, packed))
        log_total, entropy, *probs = _results(kept, packed, ops)
        return log_total, entropy, probs[0] if ops else None, peak, *kept
    draws = packed.groups[-1].draws.stop
    wholes = [*rows.logits.new_empty(3, draws, number).unbind(), *([rows.logits.new_empty(ops, number)] if ops else [])]
    for at, piece in _pieces(rows, packed):
        weights, peak = _weights(piece, packed)
        for whole, part in zip(wholes, (peak, *_results(weights, packed, ops))):
            whole[:, at] = part
    peak, log_total, entropy, *probs = wholes
    return log_total, entropy, probs[0] if ops else None, peak, None, None, None


class _Forward(torch.autograd.Function):
    """``_forward`` and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, words: Tensor, choices: Tensor | None, packed: PackedDraws, ops: int
    ) -> tuple[Any, ...]:
        made = _passes(Rows(logits, words, choices), packed, ops)
        log_total, entropy, probs, peak, shifted, weights, _ = made
        ctx.save_for_backward(logits, words, choices, log_total, entropy, probs, shifted, weights)
        ctx.packed = packed
        ctx.mark_non_differentiable(peak, *([] if weights is None else [weights]))
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        *parts, log_total, entropy, ops, shifted, weights = ctx.saved_tensors
        rows, packed, (of_log_total, of_entropy, of_ops, _, of_shifted, *_) = Rows(*parts), ctx.packed, gradients
        if torch.is_grad_enabled():
            made = _backward_with_gradient(rows, packed, (of_log_total, of_entropy, of_ops, of_shifted))
            return made, None, None, None, None
        slope, factor, total = of_log_total, None, log_total.exp()
        if of_entropy is not None:  # its slope is -p * (log(p) + entropy)
            own = of_entropy * (log_total - entropy)
            slope, factor = own if slope is None else own.add_(slope), of_entropy / total
        slope = torch.zeros_like(total) if slope is None else slope / total
        if of_ops is not None:
            of_ops = ops * (of_ops - (of_ops * ops).sum(0))
        gradient, count = torch.empty_like(rows.logits), packed.groups[0].draws.stop
        for at, piece in _pieces(rows, packed):
            kept = _weights(piece, packed)[0] if shifted is None else Weights(shifted, weights)
            made = torch.empty_like(kept.weights[: packed.count])
            each = zip(packed.groups, _groups(made, packed), _groups(kept.shifted, packed))
            for group, part, logs in each:
                own = slope[group.draws, at]
                if factor is None:
                    part.copy_(own)
                else:
                    torch.addcmul(own, factor[group.draws, at], logs, value=-1, out=part)
            made.mul_(kept.weights[: packed.count])
            if of_shifted is not None:
                made.add_(of_shifted[: packed.count])
            if of_ops is not None:
                made[: len(ops) * count : count].add_(of_ops[:, at])
            columns = piece.logits.new_zeros(piece.logits.shape).index_add_(0, packed.columns[: packed.count], made)
            gradient[:, at] = columns
        return gradient, None, None, None, None


def _backward_with_gradient(rows: Rows, packed: PackedDraws, gradients: Sequence[Tensor | None]) -> Tensor:
    """The same by operators that have gradients themselves."""
    with torch.enable_grad():
        softmaxes = [
            StackedSoftmax([logits], [kept == 0])
            for logits, kept in zip(
                _groups(rows.logits.index_select(0, packed.columns), packed), _groups(rows.kept(packed), packed)
            )
        ]
        outputs = [
            torch.cat([softmax.log_total for softmax in softmaxes]),
            torch.cat([softmax.raw_entropy() for softmax in softmaxes]),
            softmaxes[0].probs()[0][:, 0],
            torch.cat([softmax.shifted[0].flatten(0, 1) for softmax in softmaxes]),
        ]
        wanted = [(of, given) for of, given in zip(outputs, gradients) if given is not None]
        made: Tensor
        sums = [of[: len(given)] for of, given in wanted], [given[: len(of)] for of, given in wanted]
        [made] = torch.autograd.grad(sums[0], rows.logits, sums[1], create_graph=True)
    return made
