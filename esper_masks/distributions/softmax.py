"""Masked softmax of rows of logits: the one place where logits meet a mask.

Everything a distribution needs of a row is derived here from its legal logits alone, so that nothing under the mask,
NaN and infinities included, reaches a result or a gradient.

The actions of a row lie in *slabs*, in one of two forms of the same arithmetic:

    stacked     one slab ``[n, ...]``    few ops, each over all actions: what eager code wants
    unrolled    n slabs ``[...]``        many ops on vectors over rows, which a compiler fuses into one loop over rows
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from esper_masks.distributions.sampling import draw_in_blocks, draw_in_row

Slabs = Sequence[Tensor]

# with more actions than this compiled code is stacked, because unrolled code takes about a second an action to build
UNROLLED_ROW = 16  # in one row: a stacked one is nearly as fast
UNROLLED_DECISION = 128  # in all heads and contexts: stacked ones are padded to the widest


def unrolls(actions: int, most: int = UNROLLED_ROW) -> bool:
    """The choice of form."""
    return torch.compiler.is_compiling() and actions <= most


def exceeds(min_prob: float, actions: int) -> bool:
    """Whether a floor is more than so many legal actions may have."""
    return min_prob * actions > 0.99  # a literal, as in ``_capped``: a global float is an input to compiled code


def arithmetic(logits: Tensor) -> Tensor:
    """Logits in the dtype of the arithmetic: fp32 for half precision, otherwise their own."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class MaskedSoftmax:
    """Probabilities over the legal actions of rows, unnormalized.

        weights[i] / total  ==  exp(logits[i]) / sum(exp(logits[j]) for j in legal)     if i in legal, else 0

    A row is *lost* when no probabilities exist: no legal action, all legal logits -inf, or a legal one NaN or +inf.
    Its weights are 0, its log-probabilities -inf, its entropy 0, its action -1, and no gradient reaches its logits.

    What is sampled and scored are the weights, or, above a floor e, their mixture with the uniform distribution:
    ``(1 - n e) p + e`` over the n legal actions, ``e = min(min_prob, 0.99 / n)``, so that the logits always count.

    Args:
        logits: slabs of float32 or float64.
        illegal: slabs of bool, True where the mask forbids an action; None where it never does.
        stacked: the form.
        actions: the number of each slab's action, where some are left out because they are never legal.
        min_prob: the floor; a tensor ``[...]`` for one that differs between rows, some of which may be 0.
        capped: whether some row may have more legal actions than the floor is possible for, see ``exceeds``.
    """

    shifted: Slabs  # log of the weights: logits less the largest legal one, -inf where the weight is 0 by rule
    total: Tensor  # [...]: their sum, at least 1
    log_total: Tensor  # [...]
    lost: Tensor  # bool [...]: rows without probabilities
    mixed: Slabs | None  # probabilities above the floor; None without one

    def __init__(
        self,
        logits: Slabs,
        illegal: Sequence[Tensor | None],
        *,
        stacked: bool,
        actions: Sequence[int] | None = None,
        min_prob: float | Tensor = 0.0,
        capped: bool = False,
    ):
        self.stacked, self.illegal = stacked, illegal
        self.actions = range(len(logits)) if actions is None else actions
        legal = [
            x if forbidden is None else x.masked_fill(forbidden, -math.inf) for x, forbidden in zip(logits, illegal)
        ]
        with torch.no_grad():  # it cancels
            peak = self._largest(legal)
        self.lost = (peak - peak) != 0  # a difference of infinities or NaN is NaN
        self.shifted = [(x - peak).masked_fill(self.lost, -math.inf) for x in legal]
        self._weights = [x.exp() for x in self.shifted]
        self._running: Tensor | None = None
        self.total = self._total().clamp_min(1)  # the largest logit gives 1; a lost row has 0
        self.log_total = self.total.log()
        self._made: dict[str, Any] = {}
        self.mixed, self._unmixed = None, None  # the second: bool [...], rows whose floor is 0
        if isinstance(min_prob, Tensor) or min_prob:
            self.mixed = self._above(self._capped(min_prob) if capped else min_prob)
            self.empty_mixed = [p == 0 for p in self.mixed]
            self._unmixed = min_prob == 0 if isinstance(min_prob, Tensor) else None

    def _capped(self, min_prob: float | Tensor) -> Tensor:
        possible = 0.99 / self.legal_actions().clamp_min(1)
        return torch.minimum(possible, torch.zeros_like(possible) + min_prob)  # of a clamp, compilers build twice

    def _above(self, min_prob: float | Tensor) -> Slabs:
        keep = 1 - self.legal_actions() * min_prob
        return [
            (w / self.total * keep + min_prob).masked_fill(self.lost if forbidden is None else forbidden | self.lost, 0)
            for w, forbidden in zip(self.weights, self.illegal)
        ]

    @property
    def weights(self) -> Slabs:
        """Exponentials, at most 1.

        Each use has its own in stacked compiled code: what two uses share would be written to memory, and within a loop
        it is taken once anyway.
        """
        return [x.exp() for x in self.shifted] if self.stacked and torch.compiler.is_compiling() else self._weights

    # -- results over all actions -------------------------------------------------------------------------------------

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

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[...]``: exactly 0 with exactly zero gradient where one action is legal."""
        if self.mixed is None:
            return self.entropy_without_floor()
        return -self._sum([p * log for p, log in zip(self.mixed, self._logs(self.mixed))])

    def entropy_without_floor(self) -> Tensor:
        """The same, of the weights."""

        def make() -> Tensor:
            finite = [x.clamp_min(-1e3) for x in self.shifted]  # the exponential of which is 0 in every dtype
            return self.log_total - self._sum([w * x for w, x in zip(self.weights, finite)]) / self.total

        entropy: Tensor = self._once("entropy", make)
        return entropy

    def legal_actions(self) -> Tensor:
        """Number of legal actions, ``[...]``, in the dtype of the arithmetic."""

        def make() -> Tensor:
            masks = [forbidden for forbidden in self.illegal if forbidden is not None]
            if self.stacked:
                return (~masks[0]).sum(0, dtype=self.total.dtype)
            always = torch.full_like(self.total, len(self.illegal) - len(masks))
            return reduce(torch.add, [(~forbidden).to(always.dtype) for forbidden in masks], always)

        number: Tensor = self._once("legal_actions", make)
        return number

    def mode(self) -> Tensor:
        """The first action of the largest probability, ``[...]``; -1 in a lost row. Whole numbers, as in ``draw``."""
        if self.stacked:
            return self.shifted[0].argmax(0).masked_fill(self.lost, -1)
        best, action = self.shifted[0], torch.full_like(self.total, self.actions[0]).masked_fill(self.lost, -1)
        for i, x in zip(self.actions[1:], self.shifted[1:]):
            better = x > best
            best, action = torch.where(better, x, best), action.masked_fill(better, i)
        return action

    # -- drawing ------------------------------------------------------------------------------------------------------

    def draw(self, noise: Tensor) -> Tensor:
        """Actions by inverse CDF; -1 in a lost row.

            max(i for i if weights[i] > 0 and not sum(weights[:i]) > noise * total)

        Only an action with a weight can come out, whatever the noise (0, 1, NaN) and however sums are rounded.

        Args:
            noise: uniform in [0, 1], ``[*sample, ...]``.
        """
        if not self.stacked:
            return self.draw_and_score(noise)[0]
        if self.mixed is not None:
            return draw_in_row(self.mixed[0].cumsum(0), self.empty_mixed[0], noise)
        [weights] = self.weights
        running = weights.cumsum(0) if self._running is None else self._running
        return draw_in_row(running, weights == 0, noise * self.total)

    def draw_and_score(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with the log-probabilities of the actions, -inf in a lost row.

        The actions are whole numbers in the dtype of the weights: mixed widths would halve the lanes of a vectorizing
        compiler. Unrolled, what is scored is known when it is drawn, so that a compiler need not look it up again.
        """
        target = noise * self.total if self.mixed is None else noise
        if self.stacked:
            blocks = target.ndim + 1 == self.shifted[0].ndim
            action = draw_in_blocks(self._some_weights, len(self.shifted[0]), target) if blocks else self.draw(noise)
            return action.to(target.dtype), self.score(action)
        action, before = torch.full_like(target, -1), torch.zeros_like(target)
        score = torch.full_like(target, -math.inf)
        for i, w, log_prob in zip(self.actions, self.mixed or self.weights, self.log_probs()):
            passed = (w == 0) | (before > target)
            action, score = torch.where(passed, action, i), torch.where(passed, score, log_prob)
            before = before + w
        return action, score

    def score(self, value: Tensor) -> Tensor:
        """Log-probabilities of actions ``[*sample, ...]``; -inf, without a gradient, where there is none."""
        if self.stacked:
            [slab], less = (self.shifted, self.log_total) if self.mixed is None else (self.log_probs(), 0)
            slab = slab.view(len(slab), *[1] * (value.ndim + 1 - slab.ndim), *slab.shape[1:])
            index = torch.arange(len(slab), device=value.device).view(-1, *[1] * value.ndim)
            score = torch.where(value == index, slab, -math.inf).amax(0)
            return (score - less).masked_fill(score == -math.inf, -math.inf)
        score = torch.full_like(value, -math.inf)
        for k, log_prob in zip(self.actions, self.log_probs()):
            score = torch.where((value == k) & (log_prob != -math.inf), log_prob, score)
        return score

    def forbids(self, value: Tensor) -> Tensor:
        """Whether the mask forbids actions, or there are none such: bool ``[*sample, ...]``."""
        if self.stacked:
            slab = self.illegal[0]
            assert slab is not None  # a stacked row has them all
            slab = slab.view(len(slab), *[1] * (value.ndim + 1 - slab.ndim), *slab.shape[1:])
            index = torch.arange(len(slab), device=value.device).view(-1, *[1] * value.ndim)
            return ((value != index) | slab).all(0)
        illegal = torch.ones_like(value, dtype=torch.bool)
        for k, forbidden in zip(self.actions, self.illegal):
            illegal = illegal & (value != k if forbidden is None else (value != k) | forbidden)
        return illegal

    def _some_weights(self, actions: slice) -> Tensor:
        """Of some actions of a stacked row, not under the floor but above it."""
        return self.shifted[0][actions].exp() if self.mixed is None else self.mixed[0][actions]

    # -- sums along the actions ---------------------------------------------------------------------------------------

    def _largest(self, slabs: Slabs) -> Tensor:
        return slabs[0].amax(0) if self.stacked else reduce(torch.maximum, slabs)

    def _total(self) -> Tensor:
        """Sum of the weights, the same to the last bit wherever in a batch a row stands.

        Eager torch adds up an outer axis in an order that depends on the position of the row, so that the
        log-probability of a minibatch would not be that of the rollout. A running sum has one order, and drawing needs
        it anyway. Compiled sums have one order, and fuse with what is around them.
        """
        if not self.stacked or torch.compiler.is_compiling():
            return self._sum(self.weights)
        [weights] = self.weights
        with torch.no_grad():
            self._running = weights.cumsum(0)
        if not weights.requires_grad:
            return self._running[-1]
        summed = weights.sum(0)  # for its gradient; the difference is exact, since the two are close
        return summed + (self._running[-1] - summed).detach()

    def _sum(self, slabs: Slabs) -> Tensor:
        return slabs[0].sum(0) if self.stacked else sum(slabs[1:], slabs[0])

    # -- results that are made once -----------------------------------------------------------------------------------

    def _logs(self, mixed: Slabs) -> Slabs:
        """Logarithms of the mixture, 0 with zero gradient where there is none."""
        parts = zip(mixed, self.empty_mixed)
        logs: Slabs = self._once("logs", lambda: [p.masked_fill(none, 1).log() for p, none in parts])
        return logs

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name in self._made:
            return self._made[name]
        with torch.enable_grad():  # asked for first by a caller who wants no gradient, it serves one who does
            made = make()
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():  # which would take its gradient away
            self._made[name] = made
        return made


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
