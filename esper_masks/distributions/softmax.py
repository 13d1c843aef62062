"""Masked softmax of rows of logits: the one place where logits meet a mask.

Everything a distribution needs of a row is derived here from its legal logits alone, so that nothing under the mask,
NaN and infinities included, reaches a result or a gradient.

The actions of a row lie in *slabs*, tensors with one or all of the actions. ``MaskedSoftmax`` has what is computed
slab by slab, which is most of it. What runs along the actions differs between the forms, see ``forms``:

    StackedSoftmax     one slab ``[n, ...]``
    UnrolledSoftmax    n slabs ``[...]``
    LongSoftmax        one slab among the vectors of an unrolled whole action
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from esper_masks.distributions.forms import apply, of_row
from esper_masks.distributions.sampling import draw_in_blocks, draw_in_row, walk

Slabs = Sequence[Tensor]
Made = TypeVar("Made", Tensor, Slabs)


def exceeds(min_prob: float, actions: int) -> bool:
    """Whether a floor is more than so many legal actions may have."""
    return min_prob * actions > 0.99  # a literal, as in ``_capped``: a global float is an input to compiled code


def arithmetic(logits: Tensor) -> Tensor:
    """Logits in the dtype of the arithmetic: fp32 for half precision, otherwise their own."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class MaskedSoftmax(ABC):
    """Probabilities over the legal actions of rows, unnormalized.

        weights[i] / total  ==  exp(logits[i]) / sum(exp(logits[j]) for j in legal)     if i in legal, else 0

    A row is *invalid* when no probabilities exist: no legal action, all legal logits -inf, or a legal one NaN or +inf.
    Its weights are 0, its log-probabilities -inf, its entropy 0, its action -1, and no gradient reaches its logits.

    What is sampled and scored are the weights, or, above a floor e, their mixture with the uniform distribution:
    ``(1 - n e) p + e`` over the n legal actions, ``e = min(min_prob, 0.99 / n)``, so that the logits always count.

    Args:
        logits: slabs of float32 or float64.
        illegal: slabs of bool, True where the mask forbids an action; in an unrolled row None where it never does.
        actions: the number of each slab's action, where an unrolled row leaves out some that are never legal.
        min_prob: the floor; a tensor ``[...]`` for one that differs between rows, some of which may be 0.
        capped: whether some row may have more legal actions than the floor is possible for, see ``exceeds``.
        again: see ``apply``.
    """

    illegal: Sequence[Tensor | None]
    shifted: Slabs  # log of the weights: logits less the largest legal one, -inf where the weight is 0 by rule
    total: Tensor  # [...]: their sum, at least 1
    log_total: Tensor  # [...]
    invalid: Tensor  # bool [...]: rows without probabilities
    mixed: Slabs | None  # probabilities above the floor; None without one

    def __init__(
        self,
        logits: Slabs,
        illegal: Sequence[Tensor | None],
        *,
        actions: Sequence[int] | None = None,
        min_prob: float | Tensor = 0.0,
        capped: bool = False,
        again: bool = False,
    ):
        self.illegal, self.actions = illegal, range(len(logits)) if actions is None else actions
        self._again = again
        self.invalid, self.shifted, self._weights = apply(self._weighed, logits, again=again)
        self.total = self._total().clamp_min(1)  # the largest logit gives 1; an invalid row has 0
        self.log_total = self.total.log()
        self._made: dict[str, Any] = {}
        self.mixed, self._unmixed = None, None  # the second: bool [...], rows whose floor is 0
        if isinstance(min_prob, Tensor) or min_prob:
            self.mixed = self._above(self._capped(min_prob) if capped else min_prob)
            self.empty_mixed = [p == 0 for p in self.mixed]
            self._unmixed = min_prob == 0 if isinstance(min_prob, Tensor) else None

    def _weighed(self, logits: Slabs) -> tuple[Tensor, Slabs, Slabs]:
        """Which rows are invalid, logarithms of the weights, and the weights."""
        legal = [
            x if forbidden is None else x.masked_fill(forbidden, -math.inf)
            for x, forbidden in zip(logits, self.illegal)
        ]
        with torch.no_grad():  # it cancels
            peak = self._largest(legal)
        invalid = (peak - peak) != 0  # a difference of infinities or NaN is NaN
        shifted = [(x - peak).masked_fill(invalid, -math.inf) for x in legal]
        return invalid, shifted, [x.exp() for x in shifted]

    def _capped(self, min_prob: float | Tensor) -> Tensor:
        possible = 0.99 / self.legal_actions().clamp_min(1)
        return torch.minimum(possible, torch.zeros_like(possible) + min_prob)  # of a clamp, compilers build twice

    def _above(self, min_prob: float | Tensor) -> Slabs:
        keep = 1 - self.legal_actions() * min_prob
        return [
            (w / self.total * keep + min_prob).masked_fill(
                self.invalid if forbidden is None else forbidden | self.invalid, 0
            )
            for w, forbidden in zip(self.weights, self.illegal)
        ]

    # -- what the forms do differently --------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def join(slabs: Slabs) -> Tensor:
        """Slabs as ``[..., n]``."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The first action of the largest probability, ``[...]``, a whole number of any dtype; -1 in an invalid row."""

    @abstractmethod
    def draw(self, noise: Tensor) -> Tensor:
        """Actions by inverse CDF, see ``sampling``, whole numbers of any dtype; -1 in an invalid row.

        Args:
            noise: uniform in [0, 1], ``[*sample, ...]``; the target is ``noise * total``.
        """

    @abstractmethod
    def score(self, value: Tensor) -> Tensor:
        """Log-probabilities of actions ``[*sample, ...]``; -inf, without a gradient, where there is none."""

    @abstractmethod
    def forbids(self, value: Tensor) -> Tensor:
        """Whether the mask forbids actions, or there are none such: bool ``[*sample, ...]``."""

    @abstractmethod
    def _largest(self, slabs: Slabs) -> Tensor: ...

    @abstractmethod
    def _sum(self, slabs: Slabs) -> Tensor: ...

    @abstractmethod
    def _count_legal(self) -> Tensor: ...

    def _total(self) -> Tensor:
        return self._sum(self.weights)

    # -- results ------------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Slabs:
        """Exponentials, at most 1."""
        return self._weights

    def probs(self) -> Slabs:
        """Probabilities, 0 where there is none."""
        return [w / self.total for w in self.weights] if self.mixed is None else self.mixed

    def log_probs(self) -> Slabs:
        """Log-probabilities, -inf where there is none; where there is no floor not from weights, which underflow."""
        if self.mixed is None:
            return [x - self.log_total for x in self.shifted]
        logs = [x.masked_fill(none, -math.inf) for x, none in zip(self._logs(self.mixed), self.empty_mixed)]
        if self._unmixed is None:
            return logs
        return [torch.where(self._unmixed, x - self.log_total, log) for x, log in zip(self.shifted, logs)]

    def raw_entropy(self) -> Tensor:
        """Entropy in nats, ``[...]``: exactly 0 with exactly zero gradient where one action is legal."""
        if self.mixed is None:
            return self.raw_entropy_without_floor()
        return -self._sum([p * log for p, log in zip(self.mixed, self._logs(self.mixed))])

    def raw_entropy_without_floor(self) -> Tensor:
        """The same, of the weights."""

        def make() -> Tensor:
            finite = [x.clamp_min(-1e3) for x in self.shifted]  # the exponential of which is 0 in every dtype
            return self.log_total - self._sum([w * x for w, x in zip(self.weights, finite)]) / self.total

        return self._once("entropy", make)

    def normalized_entropy(self) -> Tensor:
        """Entropy of the weights over its maximum, ``[...]``: for regularizers, before any floor."""
        return normalized(self.raw_entropy_without_floor(), self.legal_actions())

    def divergence(self, other: Self) -> Tensor:
        """KL(self || other) in nats, ``[...]``: +inf where ``other`` lacks an action, with finite gradients."""
        ours, theirs = (dict(zip(row.actions, row.log_probs())) for row in (self, other))
        # where masks differ, one may leave out what the other has
        q = [theirs[k] if k in theirs else torch.full_like(self.total, -math.inf) for k in ours]
        return self._sum(divergence(list(ours.values()), q))

    def legal_actions(self) -> Tensor:
        """Number of legal actions, ``[...]``, in the dtype of the arithmetic."""
        return self._once("legal_actions", lambda: apply(self._count_legal, again=self._again))

    def draw_and_score(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What ``draw`` and ``score`` give; the actions in the dtype of the weights.

        Integers would halve the lanes of a compiler that vectorizes: all that is in a loop has the width of the widest.
        """
        action = self.draw(noise)
        return action.to(self.total.dtype), self.score(action)

    # -- results that are made once -----------------------------------------------------------------------------------

    def _logs(self, mixed: Slabs) -> Slabs:
        """Logarithms of the mixture, 0 with zero gradient where there is none."""
        parts = zip(mixed, self.empty_mixed)
        return self._once("logs", lambda: [p.masked_fill(none, 1).log() for p, none in parts])

    def _once(self, name: str, make: Callable[[], Made]) -> Made:
        if name in self._made:
            kept: Made = self._made[name]
            return kept
        with torch.enable_grad():  # asked for first by a caller who wants no gradient, it serves one who does
            made = make()
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():  # which would take its gradient away
            self._made[name] = made
        return made


class StackedSoftmax(MaskedSoftmax):
    """One slab ``[n, ...]``: each op over all actions, and lookups by gather."""

    illegal: Sequence[Tensor]  # a mask for all actions
    _running: Tensor | None = None  # running sum of the weights, where the total was taken from it

    @staticmethod
    def join(slabs: Slabs) -> Tensor:
        # contiguous, because samplers of other libraries fill their noise in the order of memory
        return slabs[0].movedim(0, -1).contiguous()

    @property
    def weights(self) -> Slabs:
        """Exponentials, at most 1.

        In compiled code each use has its own: what two uses share would be written to memory, and within one loop the
        compiler takes it once anyway.
        """
        return [x.exp() for x in self.shifted] if torch.compiler.is_compiling() else self._weights

    def mode(self) -> Tensor:
        return self.shifted[0].argmax(0).masked_fill(self.invalid, -1)

    def draw(self, noise: Tensor) -> Tensor:
        if self.mixed is not None:
            return draw_in_row(self.mixed[0].cumsum(0), self.empty_mixed[0], noise)
        [weights] = self.weights
        running = weights.cumsum(0) if self._running is None else self._running
        return draw_in_row(running, weights == 0, noise * self.total)

    def running_sum(self, weights: Tensor) -> Tensor:
        """Along the actions."""
        return weights.cumsum(0)

    # of several rows that are padded to one width, [n, draws, ...]

    def first_probs(self, number: int) -> Tensor:
        """Probabilities of the first actions of the first draw: ``[number, ...]``."""
        return self.weights[0][:number, 0] / self.total[0] if self.mixed is None else self.mixed[0][:number, 0]

    def draw_all(self, noise: Tensor, heads: Tensor) -> Tensor:
        """An action of each draw, ``[*sample, draws, ...]``, from the noise of heads, and the head of each draw."""
        return self.draw(noise.index_select(-2, heads))

    def pick(self, at: Tensor, draw: Tensor, none: Tensor) -> Tensor:
        """Log-probabilities of entries ``action * draws + draw``; -inf, without a gradient, where there is none."""
        if self.mixed is None:
            scores = gathered(self.shifted[0].flatten(0, 1), at) - gathered(self.log_total, draw)
        else:
            scores = gathered(self.log_probs()[0].flatten(0, 1), at)
        return scores.masked_fill((scores == -math.inf) | none, -math.inf)

    def forbids_at(self, at: Tensor) -> Tensor:
        """Whether the mask forbids such entries."""
        return gathered(self.illegal[0].flatten(0, 1), at)

    def score(self, value: Tensor) -> Tensor:
        [log_probs] = self.log_probs()
        picked, missing = self._pick(log_probs, value)
        return picked.masked_fill((picked == -math.inf) | missing, -math.inf)

    def forbids(self, value: Tensor) -> Tensor:
        picked, missing = self._pick(self.illegal[0], value)
        return picked | missing

    def _pick(self, slab: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Entries of a slab at actions ``[*sample, ...]``, and where there is no such action."""
        index = value.clamp(0, len(slab) - 1)
        picked = spread(slab, value.ndim).expand(-1, *value.shape).gather(0, index.unsqueeze(0)).squeeze(0)
        return picked, index != value

    def _largest(self, slabs: Slabs) -> Tensor:
        return slabs[0].amax(0)

    def _sum(self, slabs: Slabs) -> Tensor:
        return slabs[0].sum(0)

    def _count_legal(self) -> Tensor:
        return (~self.illegal[0]).sum(0, dtype=self.total.dtype)

    def _total(self) -> Tensor:
        """Sum of the weights, the same to the last bit wherever in a batch a row stands.

        Eager torch adds up an outer axis in an order that depends on the position of the row, so that the
        log-probability of a minibatch would not be that of the rollout. A running sum has one order, and drawing needs
        it anyway. Compiled sums have one order, and fuse with what is around them.
        """
        if torch.compiler.is_compiling():
            return super()._total()
        [weights] = self.weights
        with torch.no_grad():
            self._running = self.running_sum(weights)
        if not weights.requires_grad:
            return self._running[-1]
        summed = weights.sum(0)  # for its gradient; the difference is exact, since the two are close
        return summed + (self._running[-1] - summed).detach()


class LongSoftmax(StackedSoftmax):
    """A stacked row amid compiled code: comparisons with all actions, which a compiler vectorizes, and no gather."""

    def draw(self, noise: Tensor) -> Tensor:
        if noise.ndim + 1 > self.shifted[0].ndim:  # many samples of a row: a search is shorter
            return super().draw(noise)
        target = noise * self.total if self.mixed is None else noise
        return draw_in_blocks(self._some_weights, len(self.shifted[0]), target)

    def _some_weights(self, actions: slice) -> Tensor:
        return self.shifted[0][actions].exp() if self.mixed is None else self.mixed[0][actions]

    def score(self, value: Tensor) -> Tensor:
        [slab], less = (self.shifted, self.log_total) if self.mixed is None else (self.log_probs(), 0)
        score = torch.where(value == self._index(value), spread(slab, value.ndim), -math.inf).amax(0)
        return (score - less).masked_fill(score == -math.inf, -math.inf)

    def forbids(self, value: Tensor) -> Tensor:
        return ((value != self._index(value)) | spread(self.illegal[0], value.ndim)).all(0)

    def _index(self, value: Tensor) -> Tensor:
        """The numbers of the actions, to compare with ``[*sample, ...]``."""
        return torch.arange(len(self.illegal[0]), device=value.device).view(-1, *[1] * value.ndim)


class UnrolledSoftmax(MaskedSoftmax):
    """n slabs ``[...]``: every op on a vector over rows, so that a compiler fuses all of them into one loop."""

    @staticmethod
    def join(slabs: Slabs) -> Tensor:
        return torch.stack(tuple(slabs), -1)

    def mode(self) -> Tensor:
        best, action = self.shifted[0], torch.full_like(self.total, self.actions[0]).masked_fill(self.invalid, -1)
        for i, x in zip(self.actions[1:], self.shifted[1:]):
            better = x > best
            best, action = torch.where(better, x, best), action.masked_fill(better, i)
        return action

    def draw(self, noise: Tensor) -> Tensor:
        return self.draw_and_score(noise)[0]

    def draw_and_score(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        target, weights = (noise * self.total, self.weights) if self.mixed is None else (noise, self.mixed)
        return walk(weights, target, self.actions, self.log_probs())

    def score(self, value: Tensor) -> Tensor:
        score = torch.full_like(value, -math.inf, dtype=self.total.dtype)
        for same, log_prob in zip(apply(self._same, value, again=self._again), self.log_probs()):
            score = torch.where(same & (log_prob != -math.inf), log_prob, score)
        return score

    def _same(self, value: Tensor) -> Slabs:
        return [value == k for k in self.actions]

    def forbids(self, value: Tensor) -> Tensor:
        illegal = torch.ones_like(value, dtype=torch.bool)
        for k, forbidden in zip(self.actions, self.illegal):
            illegal = illegal & (value != k if forbidden is None else (value != k) | forbidden)
        return illegal

    def _largest(self, slabs: Slabs) -> Tensor:
        return reduce(torch.maximum, slabs)

    def _sum(self, slabs: Slabs) -> Tensor:
        return sum(slabs[1:], slabs[0])

    def _count_legal(self) -> Tensor:
        masks = [forbidden for forbidden in self.illegal if forbidden is not None]
        always = torch.full_like(self.total, len(self.illegal) - len(masks))
        return reduce(torch.add, [(~forbidden).to(always.dtype) for forbidden in masks], always)


def softmax_of(logits: Tensor, mask: Tensor, min_prob: float) -> MaskedSoftmax:
    """The softmax of one head, logits and mask ``[..., n]``, in the form for its number of actions."""
    values, illegal = arithmetic(logits).movedim(-1, 0), ~mask.movedim(-1, 0)  # [n, ...]
    capped = exceeds(min_prob, logits.shape[-1])
    if of_row(logits.shape[-1]) == "unrolled":
        return UnrolledSoftmax(values.unbind(), illegal.unbind(), min_prob=min_prob, capped=capped)
    return StackedSoftmax([values], [illegal], min_prob=min_prob, capped=capped)


def gathered(table: Tensor, index: Tensor) -> Tensor:
    """Entries ``[..., k, rows]`` of a table ``[n, rows]``."""
    return (table if index.ndim == 2 else table.expand(*index.shape[:-2], -1, -1)).gather(-2, index)


def spread(slab: Tensor, axes: int) -> Tensor:
    """``[n, ...]`` as ``[n, *1, ...]``, with ``axes`` axes behind the first, to be broadcast against samples."""
    missing = axes + 1 - slab.ndim
    return slab.view(len(slab), *[1] * missing, *slab.shape[1:]) if missing else slab


def normalized(entropy: Tensor, choices: Tensor) -> Tensor:
    """Entropy over its maximum, ``log(choices)``: in [0, 1] up to rounding, 0 where there are fewer than two."""
    return entropy / choices.clamp_min(2).to(entropy.dtype).log()


def divergence(p: Slabs, q: Slabs) -> Slabs:
    """Terms of KL(p || q) from log-probabilities: +inf where q lacks p's support, with finite gradients."""
    terms = []
    for log_p, log_q in zip(p, q):
        none, lacking = log_p == -math.inf, log_q == -math.inf
        ratio = log_p.masked_fill(none, 0) - log_q.masked_fill(lacking, 0)
        terms.append((log_p.exp() * ratio).masked_fill(lacking, math.inf).masked_fill(none, 0))
    return terms
