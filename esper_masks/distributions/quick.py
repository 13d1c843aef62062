"""The softmax of all draws of whole actions in eager code on a CPU, without a floor.

It gives what ``StackedSoftmax`` gives, by other passes over the choices. Of torch's operators for a CPU, those that
choose (``masked_fill``, ``where``), ``cumsum``, and ``exp`` of what it takes to 0 go value by value, at some 4 ns each;
a minimum, a sum of two, or a comparison that is written to floats takes 0.1 ns. And memory that a process has not
touched yet costs as much as the former. So

    an illegal choice is a minimum with -inf, and running sums are added up choice by choice, in blocks of ``BLOCK``
    draws of many choices and of few are padded apart, see ``PackedDraws``
    rows are taken in pieces that stay in a cache, and what has a value for each choice is not kept, but made again for
        the draw, and for the gradient, which is written out here

Rows of one piece keep it: then there is little memory, and operators are what costs. A row has the same bits in any
piece, and in one of any size. Nothing is multiplied as matrices, which autocast and torch's settings round.

None of this has rules for transforms. What is asked under one of a distribution that was made outside, and a gradient
that is batched or has a gradient itself, is computed by operators that have; the sums are the same to the last bit.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.actions.tables import BLOCK, DrawGroup, DrawTables, PackedDraws
from esper_masks.compiled.torch_private import intercepted
from esper_masks.distributions.forms import is_plain
from esper_masks.distributions.softmax import Slabs, StackedSoftmax, gathered, normalized, spread

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
FEW = 1 << 16  # so many sums of pairs take less time in two operators than sums in one for each choice
INFINITIES = {  # the bits of -inf
    real: torch.tensor(-math.inf, dtype=real, device="cpu").view(integer) for real, integer in INTEGERS.items()
}
LEAST = {torch.float32: -87.0, torch.float64: -708.0}  # log of the least weight that is not 0: ``exp`` has digits there
NO_WEIGHT = {real: math.exp(least) * 1.001 for real, least in LEAST.items()}  # so much is 0


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

    shifted: Tensor  # log of the weights: legal logits less the largest, -inf where there is none
    weights: Tensor  # at most 1
    total: Tensor  # [draws, rows]: their sum; of no legal logit 0, else at least 1


class QuickSoftmax:
    """See above, and ``MaskedSoftmax`` for what is named alike.

    Args:
        rows: of the batch. Logits are copied, so that what becomes of the caller's memory is nothing to us.
        tables: of the draws, which are one axis of what has rows: ``[draws, rows]``.
    """

    def __init__(self, rows: Rows, tables: DrawTables):
        choices = None if rows.choices is None else rows.choices.contiguous()
        self.rows, self.tables = Rows(_copied(rows.logits), rows.words.contiguous(), choices), tables
        self.log_total: Tensor
        self.entropy: Tensor
        self.asked: Tensor  # probabilities of ``PackedDraws.asked``
        self.log_total, self.entropy, self.asked, total, self.peak, *kept = _forward(self.rows, tables.packed)
        self._kept = Weights(kept[0], kept[1], total) if kept else None
        self.total = self.log_total  # for its dtype
        self.invalid = total == 0
        self._whole: StackedSoftmax | None = None

    @property
    def whole(self) -> StackedSoftmax:
        """The same by its other passes, for what is asked for less often, and for transforms."""
        if self._whole is not None:
            return self._whole
        with torch.enable_grad():
            made = stack(self.rows, self.tables, ordered=True)
        if is_plain() and not torch.is_inference_mode_enabled() and not intercepted():  # else it serves nobody outside
            self._whole = made
        return made

    def usage(self) -> Tensor:
        """Probabilities of the uses of ``PackedDraws``, ``[uses, rows]``."""
        packed = self.tables.packed
        ops = self.asked.index_select(0, packed.use_ops)
        if not len(packed.use_slots):
            return ops
        alone, in_slots = ops.split_with_sizes([len(ops) - len(packed.use_slots), len(packed.use_slots)])
        return torch.cat([alone, in_slots * self.asked.index_select(0, packed.use_slots)])

    def raw_entropy(self) -> Tensor:
        return self.entropy

    def normalized_entropy(self) -> Tensor:
        return normalized(self.entropy, self.legal_actions())

    def legal_actions(self) -> Tensor:
        packed, dtype = self.tables.packed, self.peak.dtype
        made = [_sum(piece.kept(packed).to(dtype), packed) for _, piece in _pieces(self.rows, packed)]
        return made[0] if len(made) == 1 else torch.cat(made, -1)

    def log_probs(self) -> Slabs:
        return self.whole.log_probs()

    def probs(self) -> Slabs:
        return self.whole.probs()

    def mode(self) -> Tensor:
        return self.whole.mode()

    def draw_all(self, noise: Tensor, heads: Tensor) -> Tensor:
        if not is_plain():
            return self.whole.draw_all(noise, heads)
        packed, most = self.tables.packed, 1 - torch.finfo(noise.dtype).eps / 2
        noise = noise.nan_to_num(1.0).clamp_max_(most).index_select(-2, heads)
        if self._kept is not None and noise.ndim == self.peak.ndim:
            return _draw(self._kept, _running_sums(self._kept, packed), packed, noise).long()
        places = torch.empty_like(noise, dtype=torch.int64)
        for at, piece in _pieces(self.rows, packed):
            kept = self._kept or _weights(piece, packed)[0]
            sums = _running_sums(kept, packed)
            many = max(1, packed.rows // max(1, piece.words.shape[-1]))  # samples at a time
            for made, given in zip(*(torch.split(_by_rows(each, at), many) for each in (places, noise))):
                made.copy_(_draw(kept, sums, packed, given))
        return places

    def pick(self, at: Tensor, draw: Tensor, none: Tensor) -> Tensor:
        if not is_plain():
            return self.whole.pick(at, draw, none)
        if self._kept is not None:
            place_of = self.tables.packed.place_of
            shifted = gathered(self._kept.shifted, at if place_of is None else place_of.take(at))
        else:
            logits = gathered(self.rows.logits, self.tables.columns.take(at))
            shifted, none = logits - gathered(self.peak, draw), none | self.forbids_at(at)
        scores = shifted - gathered(self.log_total, draw)
        return scores.masked_fill((scores > -math.inf).logical_not_() | none, -math.inf)

    def forbids_at(self, at: Tensor) -> Tensor:
        if not is_plain():
            return self.whole.forbids_at(at)
        tables = self.tables
        forbids = gathered(self.rows.words, tables.words.take(at)).bitwise_and_(tables.bits.take(at)) == 0
        if self.rows.choices is None:
            return forbids
        words = gathered(self.rows.choices, tables.choice_words.take(at))
        return forbids | ((words & tables.choice_bits.take(at)) == 0)


class OrderedSoftmax(StackedSoftmax):
    """The plain one with the weights and sums of ``QuickSoftmax``, to the last bit: padding adds 0."""

    def _total(self) -> Tensor:
        [weights] = self._weights
        self._weights = [weights.masked_fill(weights <= NO_WEIGHT[weights.dtype], 0)]
        return super()._total()

    def running_sum(self, weights: Tensor) -> Tensor:
        width = len(weights)
        if width <= BLOCK:
            return torch.stack([*accumulate(weights.unbind(), torch.add)])
        missing = weights.new_zeros(-width % BLOCK, *weights.shape[1:])
        blocks = torch.cat([weights, missing]).view(-(-width // BLOCK), BLOCK, *weights.shape[1:])
        within = torch.stack([*accumulate(blocks.unbind(1), torch.add)], 1)
        before = torch.stack([*accumulate(within[:-1, -1].unbind(), torch.add)]).unsqueeze(1)
        return torch.cat([within[:1], within[1:] + before]).flatten(0, 1)[:width]


def stack(
    rows: Rows, tables: DrawTables, min_prob: float | Tensor = 0.0, capped: bool = False, ordered: bool = False
) -> StackedSoftmax:
    """The same in one tensor, ``[width, draws, rows]``, for any device and any transform, with floors.

    Args:
        rows: of the batch.
        tables: of the draws.
        min_prob: see ``MaskedSoftmax``.
        capped: see ``MaskedSoftmax``.
        ordered: whether sums are those of ``QuickSoftmax``.
    """
    illegal = (rows.words.index_select(0, tables.words) & tables.bits) == 0  # [width * draws, rows]
    if rows.choices is not None:
        illegal = illegal | ((rows.choices.index_select(0, tables.choice_words) & tables.choice_bits) == 0)
    logits, shape = rows.logits.index_select(0, tables.columns), (tables.width, tables.count, illegal.shape[-1])
    softmax = OrderedSoftmax if ordered else StackedSoftmax
    return softmax([logits.view(shape)], [illegal.view(shape)], min_prob=min_prob, capped=capped)


# -- piece by piece ---------------------------------------------------------------------------------------------------


def _copied(logits: Tensor) -> Tensor:
    """Logits side by side in rows, with inf for NaN: both leave a row without probabilities."""
    if torch.is_grad_enabled() and logits.requires_grad:
        own = logits.clone(memory_format=torch.contiguous_format)
        own.detach().nan_to_num_(math.inf, math.inf, -math.inf)
        return own
    own = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return torch.nan_to_num(logits.detach(), math.inf, math.inf, -math.inf, out=own)


def _pieces(rows: Rows, packed: PackedDraws) -> Iterator[tuple[slice, Rows]]:
    number = rows.logits.shape[-1]
    if number <= packed.rows:
        yield slice(None), rows
        return
    for start in range(0, number, packed.rows):
        at = slice(start, start + packed.rows)
        yield at, Rows(rows.logits[:, at], rows.words[:, at], None if rows.choices is None else rows.choices[:, at])


def _by_rows(values: Tensor, at: slice) -> Tensor:
    """Some rows of ``[*sample, draws, rows]`` as ``[samples, draws, rows]``, sharing its memory."""
    return values.view(math.prod(values.shape[:-2]), *values.shape[-2:])[..., at]


def _by_group(values: Tensor, packed: PackedDraws) -> Sequence[Tensor]:
    """``[..., draws, rows]`` as those of each group."""
    return [values] if len(packed.groups) == 1 else values.split_with_sizes(packed.counts, -2)


def _groups(values: Tensor, packed: PackedDraws) -> list[Tensor]:
    """Values of all places as those of each group, ``[width, draws, rows]``."""
    parts = [values] if len(packed.groups) == 1 else values.split_with_sizes(packed.sizes)
    shapes = ((group.width, count, values.shape[-1]) for group, count in zip(packed.groups, packed.counts))
    return [part.view(shape) for part, shape in zip(parts, shapes)]


def _joined(of_groups: Sequence[Tensor], dim: int = 0) -> Tensor:
    return of_groups[0] if len(of_groups) == 1 else torch.cat([*of_groups], dim)


def _weights(rows: Rows, packed: PackedDraws, alone: bool = False) -> tuple[Weights, Tensor, Tensor]:
    """Behind them their logarithms, none below ``LEAST``, and the largest legal logit of each draw, infinite where
    there are no probabilities.

    Args:
        rows: of a piece.
        packed: of the draws.
        alone: whether it is the only piece; else the logarithms are written over ``shifted``.
    """
    dtype = rows.logits.dtype
    infinity, least = INFINITIES[dtype], LEAST[dtype]
    kept = rows.kept(packed)
    kept = kept if kept.dtype == infinity.dtype else kept.to(infinity.dtype)
    # the bits of -inf where a choice is illegal; of inf, the other sign, where it is legal
    most = torch.add(infinity, kept, alpha=torch.iinfo(kept.dtype).min, out=kept).view(dtype)
    shifted = rows.logits.detach().index_select(0, packed.columns)
    torch.minimum(shifted, most, out=shifted)
    groups = _groups(shifted, packed)
    peak = _joined([group.amax(0) for group in groups])
    for group, own in zip(groups, _by_group(peak, packed)):
        group.sub_(own)
    shifted.nan_to_num_(-math.inf, -math.inf, -math.inf)
    logs = shifted.clamp_min(least) if alone else shifted.clamp_min_(least)
    weights = torch.threshold_(torch.exp(logs, out=most), NO_WEIGHT[dtype], 0)
    return Weights(shifted, weights, _sum(weights, packed)), logs, peak


def _sum(values: Tensor, packed: PackedDraws) -> Tensor:
    """``[places, rows]`` -> ``[draws, rows]``, one after another, wherever in a batch a row stands: the choices of each
    block, then the blocks.
    """
    draws, blocks = len(packed.beyond), packed.block_draws
    count = draws if blocks is None else len(blocks)
    sums = values.new_zeros(count, values.shape[-1]).index_add_(0, packed.block_of, values)
    return sums if blocks is None else sums.new_zeros(draws, values.shape[-1]).index_add_(0, blocks, sums)


def _running_sums(kept: Weights, packed: PackedDraws) -> list[Tensor]:
    """Group by group, ``[width, draws, rows]``."""
    return [_running_sum(own, group) for own, group in zip(_groups(kept.weights, packed), packed.groups)]


def _running_sum(weights: Tensor, group: DrawGroup) -> Tensor:
    """In the order of ``_sum``, in float32: ``cumsum`` adds up in float64."""
    if min(group.width, BLOCK) * weights.numel() <= FEW:  # few operators, and the same sums
        choices, before = group.pairs
        running = torch.zeros_like(weights).index_add_(0, choices, weights.index_select(0, before))
    elif group.width <= BLOCK:
        running = weights.clone()
        for last, own in pairwise(running.unbind()):
            own.add_(last)
    else:
        running = weights.clone()
        for at in range(1, BLOCK):  # in all blocks at once
            own = running[at::BLOCK]
            own.add_(running[at - 1 :: BLOCK][: len(own)])
    for start in range(BLOCK, group.width, BLOCK):
        running[start : start + BLOCK].add_(running[start - 1])
    return running


def _draw(kept: Weights, sums: list[Tensor], packed: PackedDraws, noise: Tensor) -> Tensor:
    """The choice in whose stretch of the running sum the noise lies, a whole number; -1 in an invalid row.

    Args:
        kept: weights of a piece.
        sums: their running sums.
        packed: of the draws.
        noise: at least 0, less than 1, ``[draws, rows]``, or ``[samples, draws, rows]``.
    """
    reached, targets = [], _by_group(noise * kept.total, packed)
    for running, target in zip(sums, targets):
        below = torch.le(spread(running, target.ndim), target, out=running.new_empty(len(running), *target.shape))
        reached.append(below.sum(0))  # as many sums as there are choices before it; in an invalid row all of them
    return _joined(reached, -2).addcmul_(kept.total.clamp_max(1).sub_(1), packed.beyond)


def _results(kept: Weights, logs: Tensor, packed: PackedDraws) -> list[Tensor]:
    """Log of the sums of the weights, entropies, probabilities that are asked for."""
    total = kept.total.clamp_min(1)
    log_total = total.log()
    terms = torch.mul(kept.weights, logs, out=logs)
    mean = _sum(terms, packed).div_(total)
    asked = kept.weights.index_select(0, packed.asked).div_(total.index_select(0, packed.asked_draws))
    return [log_total, log_total - mean, asked]


def _forward(rows: Rows, packed: PackedDraws) -> tuple[Any, ...]:
    """What a gradient goes through: log of the sums of the weights, entropies, probabilities that are asked for; and
    the sums and the peaks. Where all rows are one piece, the other fields of ``Weights`` are behind them.
    """
    if torch.is_grad_enabled() and rows.logits.requires_grad:
        made: tuple[Any, ...] = _Forward.apply(*rows, packed)  # type: ignore[no-untyped-call]  # torch has no types
        return made
    return _passes(rows, packed)


def _passes(rows: Rows, packed: PackedDraws) -> tuple[Any, ...]:
    number = rows.logits.shape[-1]
    if number <= packed.rows:
        kept, logs, peak = _weights(rows, packed, alone=True)
        return *_results(kept, logs, packed), kept.total, peak, *kept[:-1]
    draws = len(packed.beyond)
    wholes = rows.logits.new_empty(4, draws, number).unbind()
    asked = rows.logits.new_empty(len(packed.asked), number)
    log_total, entropy, total, peak = wholes
    results = log_total, entropy, asked, total, peak
    for at, piece in _pieces(rows, packed):
        kept, logs, own = _weights(piece, packed)
        for whole, part in zip(results, (*_results(kept, logs, packed), kept.total, own)):
            whole[:, at] = part
    return results


class _Forward(torch.autograd.Function):
    """``_forward`` and its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, words: Tensor, choices: Tensor | None, packed: PackedDraws) -> Any:
        made = _passes(Rows(logits, words, choices), packed)
        log_total, entropy, asked, total, peak, *kept = made
        shifted, weights = kept[:2] if kept else (None, None)
        ctx.save_for_backward(logits, words, choices, log_total, entropy, asked, total, shifted, weights)
        ctx.packed = packed
        ctx.mark_non_differentiable(total, peak, *([] if weights is None else [weights]))
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        logits, words, choices, *made = ctx.saved_tensors
        rows, packed = Rows(logits, words, choices), ctx.packed
        wanted = [*gradients[:3], gradients[5] if len(gradients) > 5 else None]  # of what is differentiable
        if all(gradient is None for gradient in wanted):
            return None, None, None, None
        if is_plain() and not torch.is_grad_enabled():
            return _backward(rows, packed, made, *wanted), None, None, None
        return _backward_by_operators(rows, packed, wanted), None, None, None


def _backward(
    rows: Rows,
    packed: PackedDraws,
    made: Sequence[Tensor],
    of_log_total: Tensor | None,
    of_entropy: Tensor | None,
    of_asked: Tensor | None,
    of_shifted: Tensor | None,
) -> Tensor:
    """The gradient of ``[columns, rows]``: exactly 0 of what has no weight, but for that of ``shifted``."""
    log_total, entropy, asked, total, *kept = made
    total = total.clamp_min(1)
    slope = torch.zeros_like(total) if of_log_total is None else of_log_total
    if of_entropy is not None:  # its slope is -p * (log(p) + entropy)
        slope = torch.addcmul(slope, of_entropy, log_total - entropy)
        of_entropy = of_entropy / total
    if of_asked is not None:
        of_asked = of_asked * asked
        slope = slope.index_add(0, packed.asked_draws, of_asked, alpha=-1)
    slope = slope / total
    if kept[0] is not None:
        return _slopes(rows, packed, kept[0], kept[1], slope, of_entropy, of_asked, of_shifted)
    gradient = torch.empty_like(rows.logits)
    for at, piece in _pieces(rows, packed):
        weights, logs, _ = _weights(piece, packed)
        given = slope[:, at], *(None if each is None else each[:, at] for each in (of_entropy, of_asked)), None
        gradient[:, at] = _slopes(piece, packed, logs, weights.weights, *given)
    return gradient


def _slopes(
    rows: Rows,
    packed: PackedDraws,
    shifted: Tensor,
    weights: Tensor,
    slope: Tensor,
    of_entropy: Tensor | None,
    of_asked: Tensor | None,
    of_shifted: Tensor | None,
) -> Tensor:
    """Of a piece, ``[columns, rows]``: ``weights * (slope - of_entropy * shifted)``, and what is asked for."""
    part = torch.clamp_min(shifted, LEAST[shifted.dtype])
    factors = [] if of_entropy is None else _by_group(of_entropy, packed)
    for at, (group, own) in enumerate(zip(_groups(part, packed), _by_group(slope, packed))):
        if factors:
            torch.addcmul(own, factors[at], group, value=-1, out=group)
        else:
            group.copy_(own)
    part.mul_(weights)
    if of_asked is not None:
        part.index_add_(0, packed.asked, of_asked)
    if of_shifted is not None:
        part.add_(of_shifted)
    gradient = torch.zeros_like(rows.logits).index_add_(0, packed.columns, part)
    if intercepted() or not math.isfinite(gradient.sum()):  # 0 times infinity is no 0; a mode may have no values
        part = torch.where(weights == 0, torch.zeros_like(part) if of_shifted is None else of_shifted, part)
        gradient = gradient.zero_().index_add_(0, packed.columns, part)
    return gradient


def _backward_by_operators(rows: Rows, packed: PackedDraws, gradients: Sequence[Tensor | None]) -> Tensor:
    """The same by operators that have gradients, and rules of transforms, themselves."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        softmaxes = [
            StackedSoftmax([own], [kept == 0])
            for own, kept in zip(
                _groups(rows.logits.index_select(0, packed.columns), packed), _groups(rows.kept(packed), packed)
            )
        ]
        log_total = torch.cat([softmax.log_total for softmax in softmaxes])
        shifted = torch.cat([softmax.shifted[0].flatten(0, 1) for softmax in softmaxes])
        asked = shifted.index_select(0, packed.asked) - log_total.index_select(0, packed.asked_draws)
        outputs = [log_total, torch.cat([softmax.raw_entropy() for softmax in softmaxes]), asked.exp(), shifted]
        wanted = [(of, given[: len(of)]) for of, given in zip(outputs, gradients) if given is not None]
        sums = [of for of, _ in wanted], [given for _, given in wanted]
        made: Tensor
        [made] = torch.autograd.grad(sums[0], rows.logits, sums[1], create_graph=again)
    return made
