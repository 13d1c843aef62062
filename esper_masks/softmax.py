"""Masked softmax of rows of logits: the one place where logits meet a mask.

Everything a distribution needs of a row is derived here from its legal logits alone, so that nothing under the mask,
NaN and infinities included, reaches a result or a gradient.

The actions of a row lie in *slabs*, in one of two forms of the same arithmetic:

    stacked     one slab ``[n, ...]``    few ops, each over all actions: what eager code wants
    unrolled    n slabs ``[...]``        many ops on vectors over rows, which a compiler fuses into one loop over rows
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

Slabs = Sequence[Tensor]

UNROLLED_ACTIONS = 128  # with more than this a compiled row is stacked: unrolled code takes long to build


def unrolls(actions: int) -> bool:
    """The choice of form, for rows of so many actions in all their contexts."""
    return torch.compiler.is_compiling() and actions <= UNROLLED_ACTIONS


def arithmetic(logits: Tensor) -> Tensor:
    """Logits in the dtype of the arithmetic: fp32 for half precision, otherwise their own."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class MaskedSoftmax:
    """Probabilities over the legal actions of rows, unnormalized.

        weights[i] / total  ==  exp(logits[i]) / sum(exp(logits[j]) for j in legal)     if i in legal, else 0

    A row is *lost* when no probabilities exist: no legal action, all legal logits -inf, or a legal one NaN or +inf.
    Its weights are 0, its log-probabilities -inf, its entropy 0, its action -1, and no gradient reaches its logits.

    Args:
        logits: slabs of float32 or float64.
        illegal: slabs of bool, True where the mask forbids an action; None where it never does.
        stacked: the form.
        actions: the number of each slab's action, where some are left out because they are never legal.
    """

    shifted: Slabs  # log of the weights: logits less the largest legal one, -inf where the weight is 0 by rule
    weights: Slabs  # at most 1
    empty: Slabs  # bool: where the weight is 0
    total: Tensor  # [...]: their sum, at least 1
    log_total: Tensor  # [...]
    lost: Tensor  # bool [...]: rows without probabilities

    def __init__(
        self,
        logits: Slabs,
        illegal: Sequence[Tensor | None],
        *,
        stacked: bool,
        actions: Sequence[int] | None = None,
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
        self.weights = [x.exp() for x in self.shifted]
        self.total = self._total().clamp_min(1)  # the largest logit gives 1; a lost row has 0
        self.log_total = self.total.log()
        self.empty = [w == 0 for w in self.weights]
        self._entropy: Tensor | None = None

    # -- results over all actions -------------------------------------------------------------------------------------

    def log_probs(self) -> Slabs:
        """Log-probabilities, -inf where there is none; not through ``weights``, which underflow."""
        return [x - self.log_total for x in self.shifted]

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[...]``: exactly 0 with exactly zero gradient where one action is legal."""
        if self._entropy is None:
            with torch.enable_grad():  # asked for first by a caller who wants no gradient, it serves one who does
                finite = [x.masked_fill(none, 0) for x, none in zip(self.shifted, self.empty)]
                mean = self._sum([w * x for w, x in zip(self.weights, finite)]) / self.total
                entropy = self.log_total - mean
            if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
                return entropy  # not kept: it could never have a gradient
            self._entropy = entropy
        return self._entropy

    def legal_actions(self) -> Tensor:
        """Number of legal actions, ``[...]``."""
        masks = [forbidden for forbidden in self.illegal if forbidden is not None]
        if self.stacked:
            return (~masks[0]).sum(0)
        always = torch.full_like(self.total, len(self.illegal) - len(masks))
        return reduce(torch.add, [(~forbidden).to(always.dtype) for forbidden in masks], always)

    def mode(self) -> Tensor:
        """The first action of the largest probability, ``[...]``; -1 in a lost row. Whole numbers, as in ``draw``."""
        if self.stacked:
            return self.shifted[0].argmax(0).masked_fill(self.lost, -1)
        best, action = self.shifted[0], torch.full_like(self.total, self.actions[0]).masked_fill(self.lost, -1)
        for i, x in zip(self.actions[1:], self.shifted[1:]):
            better = x > best
            best, action = torch.where(better, x, best), action.masked_fill(better, i)
        return action

    # -- a floor under every legal action -----------------------------------------------------------------------------

    def floored(self, min_prob: float | Tensor) -> Slabs:
        """Probabilities mixed with the uniform ones: ``(1 - n e) p + e`` over the n legal actions, at least e."""
        keep = 1 - self.legal_actions().to(self.total.dtype) * min_prob  # an integer times a float is fp32
        return [
            (w / self.total * keep + min_prob).masked_fill(self.lost if forbidden is None else forbidden | self.lost, 0)
            for w, forbidden in zip(self.weights, self.illegal)
        ]

    # -- sums along the actions ---------------------------------------------------------------------------------------

    def draw(self, noise: Tensor, probs: Slabs | None = None) -> Tensor:
        """Actions by inverse CDF; -1 where all weights are 0. Unrolled, they are whole numbers in the dtype of the
        weights: mixed widths would halve the lanes of a vectorizing compiler.

            max(i for i if weights[i] > 0 and not sum(weights[:i]) > noise * total)

        Only an action with a weight can come out, whatever the noise (0, 1, NaN) and however sums are rounded.

        Args:
            noise: uniform in [0, 1], ``[*sample, ...]``.
            probs: normalized probabilities to draw from; by default the weights.
        """
        weights = self.weights if probs is None else probs
        empty = self.empty if probs is None else [p == 0 for p in probs]
        target = noise * self.total if probs is None else noise
        if not self.stacked:
            action, before = torch.full_like(target, -1), torch.zeros_like(target)
            for i, w, none in zip(self.actions, weights, empty):
                action = torch.where(none | (before > target), action, i)
                before = before + w
            return action
        [w], [none] = weights, empty  # [n, ...]
        skipped = (self._running if probs is None else w.cumsum(0)) - w
        if extra := target.ndim + 1 - w.ndim:
            skipped, none = (x.view(len(w), *[1] * extra, *w.shape[1:]) for x in (skipped, none))
        skipped = (skipped > target) | none
        index = torch.arange(len(w), device=w.device).view(-1, *[1] * target.ndim)
        return index.expand(skipped.shape).masked_fill(skipped, -1).amax(0)

    def entropy_of(self, probs: Slabs) -> Tensor:
        """Entropy in nats of normalized probabilities, ``[...]``."""
        return -self._sum([p * p.masked_fill(p == 0, 1).log() for p in probs])

    def _largest(self, slabs: Slabs) -> Tensor:
        return slabs[0].amax(0) if self.stacked else reduce(torch.maximum, slabs)

    def _total(self) -> Tensor:
        """Sum of the weights, the same to the last bit wherever in a batch a row stands.

        torch adds up an outer axis in an order that depends on the position of the row, so that the log-probability of
        a minibatch would not be that of the rollout. A running sum has one order, and drawing needs it anyway.
        """
        if not self.stacked:
            return self._sum(self.weights)
        [weights] = self.weights
        if not weights.requires_grad:
            self._running = weights.cumsum(0)
            return self._running[-1]
        with torch.no_grad():
            self._running = weights.cumsum(0)
        summed = weights.sum(0)  # for its gradient; the difference is exact, since the two are close
        return summed + (self._running[-1] - summed).detach()

    def _sum(self, slabs: Slabs) -> Tensor:
        return slabs[0].sum(0) if self.stacked else sum(slabs[1:], slabs[0])


def log_of(probs: Tensor) -> Tensor:
    """Log-probabilities of probabilities: -inf with zero gradient where there is none."""
    none = probs == 0
    return probs.masked_fill(none, 1).log().masked_fill(none, -math.inf)


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
