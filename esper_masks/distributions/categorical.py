"""One categorical distribution per row, over its legal actions only."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from esper_masks.checks import (
    before_last,
    broadcast_batch,
    check_bool,
    check_expands,
    check_generator,
    check_integer,
    check_logits,
    check_min_prob,
    check_noise,
    no_gradient,
)
from esper_masks.distributions.faults import Validate, check_mode, raise_faults
from esper_masks.distributions.forms import of_row
from esper_masks.distributions.softmax import (
    MaskedSoftmax,
    StackedSoftmax,
    UnrolledSoftmax,
    arithmetic,
    exceeds,
    normalized,
)


class MaskedCategorical(Distribution):
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

    arg_constraints = {}  # noqa: RUF012  # an attribute of torch's base class; arguments are checked above torch
    has_enumerate_support = True
    fault_names: Sequence[str] = ()  # one head needs no name

    faults: Tensor  # bool [...]: active rows that are faulty

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
        self._set(batch, logits.expand(*batch, width), mask.expand(*batch, width), active)
        if validate == "raise":
            raise_faults(self.faults, lambda: self.faults, self.fault_names)

    def _set(self, batch: torch.Size, logits: Tensor, mask: Tensor, active: Tensor | None) -> None:
        super().__init__(batch, validate_args=False)  # torch's validation fails under compile; ours is in faults
        self._logits, self.mask, self.active = logits, mask, active
        width = logits.shape[-1]
        softmax: type[MaskedSoftmax] = UnrolledSoftmax if of_row(width) == "unrolled" else StackedSoftmax
        values, illegal = arithmetic(logits).movedim(-1, 0), ~mask.movedim(-1, 0)  # [n, ...]
        slabs, capped = (softmax.split(values), softmax.split(illegal)), exceeds(self.min_prob, width)
        self._rows = softmax(*slabs, min_prob=self.min_prob, capped=capped)
        self.faults = self._rows.invalid if active is None else self._rows.invalid & active
        self._ignored = self._rows.invalid if active is None else self._rows.invalid | ~active

    # -- probabilities ------------------------------------------------------------------------------------------------

    @property
    def probs(self) -> Tensor:
        """Probabilities ``[..., n]``: exactly 0 where illegal, and in all of a faulty or inactive row."""
        return self._rows.join([self._zero_ignored(p) for p in self._rows.probs()])

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities ``[..., n]``: -inf where illegal; 0 in all of a faulty or inactive row."""
        without = [x.masked_fill(x == -math.inf, -math.inf) for x in self._rows.log_probs()]  # nor a gradient
        return self._rows.join([self._zero_ignored(x) for x in without])

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
        return self._zero_ignored(self._rows.score(self._check_value("value", value)))

    def action_faults(self, action: Tensor) -> Tensor:
        """Active rows that are faulty, or whose action is illegal or does not exist: bool ``[*sample, ...]``.

        Args:
            action: integer ``[*sample, ...]``, stored ones above all, whose masks may have changed since.

        Raises:
            ValueError: see ``log_prob``.
        """
        return self.faults | (self._rows.forbids(self._check_value("action", action)) & ~self._ignored)

    def _check_value(self, name: str, value: Tensor) -> Tensor:
        """Actions as int64 ``[*sample, ...]``; those of ``enumerate_support(expand=False)`` for each row."""
        check_integer(name, value)
        batch = self.batch_shape
        if value.shape[max(value.ndim - len(batch), 0) :] == batch:
            return value.long()
        if value.shape == (self.mask.shape[-1], *[1] * len(batch)):
            return value.long().expand(-1, *batch)
        raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted [*sample, {', '.join(map(str, batch))}]")

    def raw_entropy(self) -> Tensor:
        """Entropy in nats, ``[...]``, of the distribution that is sampled."""
        return self._zero_ignored(self._rows.entropy())

    def entropy(self) -> Tensor:
        """Normalized entropy ``[...]``, ``raw_entropy() / log(number of legal actions)``; 0 where one is legal."""
        return normalized(self.raw_entropy(), self._rows.legal_actions())

    def perplexity(self) -> Tensor:
        """``exp(raw_entropy())``, the effective number of actions, ``[...]``."""
        return self.raw_entropy().exp()

    # -- actions ------------------------------------------------------------------------------------------------------

    # torch's own signature; the default cannot be changed in place
    def sample(
        self,
        sample_shape: Any = torch.Size(),  # noqa: B008
        *,
        noise: Tensor | None = None,
        generator: None = None,
    ) -> Tensor:
        """Legal actions, by inverse CDF from one uniform each.

        Args:
            sample_shape: leading shape.
            noise: uniform in [0, 1], ``[*sample_shape, ...]``, of any float dtype; by default from torch's generator.
            generator: none is taken; draw ``noise`` from it.

        Returns: int64 ``[*sample_shape, ...]``; -1 for faulty and inactive rows.
        Raises:
            ValueError: noise that does not fit.
            TypeError: a generator.
        """
        shape, like = self._extended_shape(torch.Size(sample_shape)), self._rows.total
        check_generator(generator, shape)
        if noise is None:
            noise = torch.rand(shape, dtype=like.dtype, device=like.device)
        else:
            noise = check_noise(noise, shape, like)
        with torch.no_grad():
            return self._rows.draw(noise).long().masked_fill(self._ignored, -1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Actions have no gradient.

        Raises:
            NotImplementedError: always; says what has one.
        """
        raise no_gradient("over all actions by probs")

    @property
    def mode(self) -> Tensor:
        """The most probable action, the first of equals: int64 ``[...]``; -1 for faulty and inactive rows."""
        return self._rows.mode().long().masked_fill(self._ignored, -1)

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
        return self._derive(batch, self._logits.expand(*batch, -1), self.mask.expand(*batch, -1), active)

    def __getitem__(self, index: Any) -> Self:
        """Some of the rows: any index of the batch axes.

        Raises:
            IndexError: more axes than the batch has, or out of range.
        """
        batch, wide = self.faults[index].shape, before_last(index)
        active = None if self.active is None else self.active[index]
        return self._derive(batch, self._logits[wide], self.mask[wide], active)

    def _derive(self, *rows: Any) -> Self:
        """The same settings for other rows, which need no second validation."""
        new = type(self).__new__(type(self))
        new.min_prob, new._validate = self.min_prob, self._validate
        new._set(*rows)
        return new

    def __repr__(self) -> str:
        floor = f", min_prob={self.min_prob}" if self.min_prob else ""
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, actions={self.mask.shape[-1]}{floor})"

    def _zero_ignored(self, values: Tensor) -> Tensor:
        return values.masked_fill(self._ignored, 0)


def _kl(p: MaskedCategorical, q: MaskedCategorical) -> Tensor:
    """KL(p || q) in nats, ``[...]``: +inf only where q lacks p's support, gradients finite; 0 for ignored rows."""
    if p.mask.shape[-1] != q.mask.shape[-1]:
        raise ValueError(f"p has {p.mask.shape[-1]} actions, q has {q.mask.shape[-1]}")
    batch = broadcast_batch("q", q.batch_shape, p.batch_shape)
    p, q = p.expand(batch), q.expand(batch)  # in one form, whichever each was made in
    return p._rows.divergence(q._rows).masked_fill(p._ignored | q._ignored, 0)


register_kl(MaskedCategorical, MaskedCategorical)(_kl)  # type: ignore[no-untyped-call]  # torch has no types here
