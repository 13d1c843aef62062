"""One categorical distribution per row, over its legal actions only."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from esper_masks.checks import (
    before_last,
    broadcast_batch,
    check_bool,
    check_expands,
    check_integer,
    check_logits,
    check_min_prob,
    check_noise,
)
from esper_masks.distributions.base import MaskedDistribution
from esper_masks.distributions.faults import Validate, check_mode, raise_faults
from esper_masks.distributions.softmax import MaskedSoftmax, normalized, softmax_of


class MaskedCategorical(MaskedDistribution):
    """Categorical distributions over the legal actions of rows.

        for row in rows:
            probs[row, i]  ==  exp(logits[row, i]) / sum(exp(logits[row, j]) for j in legal)   if i in legal, else 0

    What the logits hold under the mask, NaN and infinities included, reaches no result and no gradient. Arithmetic and
    results are fp32 for half-precision logits; a legal logit that lies further below the largest than the dtype reaches
    counts as -inf. A faulty row (no legal action, only legal logits of -inf, or a legal one
    that is NaN or +inf) and a row that is not active have action -1, log-probability 0 and entropy 0, and give no
    gradient to their logits.

    >>> import torch
    >>> dist = MaskedCategorical(torch.zeros(1, 3), torch.tensor([[True, False, True]]))
    >>> dist.probs
    tensor([[0.5000, 0.0000, 0.5000]])
    >>> dist.sample(noise=torch.tensor([0.9]))
    tensor([2])

    Args:
        logits: fp16, bf16, fp32 or fp64 ``[..., n]``; its leading axes broadcast with those of the mask. They are not
            copied: write to them again when all is computed.
        mask: bool ``[..., n]``, True where an action is legal: a tensor or a numpy array. Copied, as is ``active``.
        active: bool ``[...]``, broadcasts; False for padding rows and agents that do not act, which are never faulty.
        min_prob: floor e under every legal action: probabilities become ``(1 - k e) p + e`` over the k legal ones. In a
            row where k actions cannot all have it, e is ``0.99 / k``. None is no floor.
        validate: what becomes of faulty rows. ``"raise"``: an error; an assertion on the device under
            ``torch.compile``, and as ``"flag"`` under ``vmap``. ``"flag"``: nothing is read from the device, ``faults``
            tells. ``"off"``: as ``"flag"``; the caller vouches for the rows.

    Raises:
        ValueError: a mask that is not bool, logits that are no floats, shapes or devices that do not fit, a floor that
            is not in [0, 1), an unknown mode.
        InvalidStateMachineError: faulty rows under ``validate="raise"``; names them.
    """

    fault_names: Sequence[str] = ()  # one head needs no name
    _expectation = "over all actions by probs"

    faults: Tensor  # bool [...]: active rows that are faulty
    _form: MaskedSoftmax
    _ignored: Tensor

    def __init__(
        self,
        logits: Tensor,
        mask: Tensor,
        *,
        active: Tensor | None = None,
        min_prob: float | None = 0.0,
        validate: Validate = "raise",
    ):
        check_mode(validate)
        check_logits("logits", logits)
        width, shape = logits.shape[-1], logits.shape
        batch = broadcast_batch("mask", getattr(mask, "shape", shape), shape)[:-1]
        mask = check_bool("mask", mask, (*batch, width), logits.device, own=True)
        if active is not None:
            active = check_bool("active", active, batch, logits.device, fixed=0, own=True).expand(batch)
        self.min_prob, self._validate = check_min_prob("min_prob", min_prob), validate
        self._set(logits.expand(*batch, width), mask.expand(*batch, width), active)
        if validate == "raise":
            raise_faults(self.faults, lambda: self.faults, self.fault_names)

    def _set(self, logits: Tensor, masks: Tensor, active: Tensor | None) -> None:
        super().__init__(masks.shape[:-1], validate_args=False)  # torch's fails under compile; ours is in faults
        self._logits, self.mask, self.active = logits, masks, active
        self._form = softmax_of(logits, masks, self.min_prob)
        invalid = self._form.invalid
        self.faults, self._ignored = (invalid, invalid) if active is None else (invalid & active, invalid | ~active)

    # -- probabilities ------------------------------------------------------------------------------------------------

    @property
    def probs(self) -> Tensor:
        """Probabilities ``[..., n]``: exactly 0 where illegal, and in all of a faulty or inactive row."""
        return self._form.join([self._zero_ignored(p) for p in self._form.probs()])

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities ``[..., n]``: -inf where illegal; 0 in all of a faulty or inactive row."""
        without = [x.masked_fill(x == -math.inf, -math.inf) for x in self._form.log_probs()]  # nor a gradient
        return self._form.join([self._zero_ignored(x) for x in without])

    @property
    def logits(self) -> Tensor:
        """``log_probs``, as in ``torch.distributions.Categorical``: under the mask and above the floor."""
        return self.log_probs

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of actions.

        Args:
            value: integer ``[*sample, ...]``, or what ``enumerate_support(expand=False)`` gives.

        Returns: ``[*sample, ...]``; -inf, without a gradient, for an action that is illegal or does not exist.
        Raises:
            ValueError: not integers, or a shape whose last axes are not those of the batch.
        """
        return self._zero_ignored(self._form.score(self._check_value("value", value)))

    def action_faults(self, action: Tensor) -> Tensor:
        """Active rows that are faulty, or whose action is illegal or does not exist: bool ``[*sample, ...]``.

        Args:
            action: integer ``[*sample, ...]``, stored ones above all, whose masks may have changed since.

        Raises:
            ValueError: see ``log_prob``.
        """
        return self.faults | (self._form.forbids(self._check_value("action", action)) & ~self._ignored)

    def _check_value(self, name: str, value: Tensor) -> Tensor:
        """Actions as int64 ``[*sample, ...]``; those of ``enumerate_support(expand=False)`` for each row."""
        check_integer(name, value)
        batch = self.batch_shape
        if value.shape[max(value.ndim - len(batch), 0) :] == batch:
            return value.long()
        if value.shape == (self.mask.shape[-1], *[1] * len(batch)):
            return value.long().expand(-1, *batch)
        raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted [*sample, {', '.join(map(str, batch))}]")

    def entropy(self) -> Tensor:
        """Normalized entropy ``[...]``, ``raw_entropy() / log(number of legal actions)``; 0 where one is legal."""
        return normalized(self.raw_entropy(), self._form.legal_actions())

    # -- actions ------------------------------------------------------------------------------------------------------

    def _draw(self, shape: torch.Size, noise: Tensor | None) -> Tensor:
        like = self._form.total
        if noise is None:
            noise = torch.rand(shape, dtype=like.dtype, device=like.device)
        else:
            noise = check_noise(noise, shape, like)
        return self._form.draw(noise).long().masked_fill(self._ignored, -1)

    @property
    def mode(self) -> Tensor:
        """The most probable action, the first of equals: int64 ``[...]``; -1 for faulty and inactive rows."""
        return self._form.mode().long().masked_fill(self._ignored, -1)

    # -- as a torch distribution --------------------------------------------------------------------------------------

    @property
    def support(self) -> constraints.Constraint:
        # torch has no types here
        return constraints.integer_interval(0, self.mask.shape[-1] - 1)  # type: ignore[no-untyped-call]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All actions, legal or not: int64 ``[n, ...]``, or ``[n, *1]`` unless expanded."""
        values = torch.arange(self.mask.shape[-1], device=self.mask.device)
        values = values.view(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution for more rows, in a batch shape to which this one's broadcasts.

        Raises:
            ValueError: a shape to which it does not.
        """
        batch = torch.Size(batch_shape)
        check_expands(self.batch_shape, batch)
        active = None if self.active is None else self.active.expand(batch)
        return self._derive(self._logits.expand(*batch, -1), self.mask.expand(*batch, -1), active)

    def __getitem__(self, index: Any) -> Self:
        """Some of the rows: any index of the batch axes.

        Raises:
            IndexError: more axes than the batch has, or out of range.
        """
        self.faults[index]  # refuses what is no index of the batch axes
        active, wide = None if self.active is None else self.active[index], before_last(index)
        return self._derive(self._logits[wide], self.mask[wide], active)

    def __repr__(self) -> str:
        floor = f", min_prob={self.min_prob}" if self.min_prob else ""
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, actions={self.mask.shape[-1]}{floor})"


def _kl(p: MaskedCategorical, q: MaskedCategorical) -> Tensor:
    """KL(p || q) in nats, ``[...]``: +inf only where q lacks p's support, gradients finite; 0 for ignored rows."""
    if p.mask.shape[-1] != q.mask.shape[-1]:
        raise ValueError(f"p has {p.mask.shape[-1]} actions, q has {q.mask.shape[-1]}")
    batch = broadcast_batch("q", q.batch_shape, p.batch_shape)
    p, q = p.expand(batch), q.expand(batch)  # in one form, whichever each was made in
    return p._form.divergence(q._form).masked_fill(p._ignored | q._ignored, 0)


register_kl(MaskedCategorical, MaskedCategorical)(_kl)  # type: ignore[no-untyped-call]  # torch has no types here
