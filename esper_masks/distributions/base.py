"""What both distributions are: rows, some of them ignored, whose actions are drawn from uniforms."""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from esper_masks.checks import check_generator
from esper_masks.distributions.faults import Validate

ONCE = torch.Size()  # one sample a row, without leading axes


class MaskedDistribution(Distribution):
    """Rows of actions. A row that is faulty or not active is ignored: action -1, log-probability 0, entropy 0."""

    arg_constraints = {}  # noqa: RUF012  # torch's own form; arguments are checked here, in every mode
    has_enumerate_support = True

    active: Tensor | None  # bool [...]; None for all
    min_prob: Any
    _validate: Validate
    _form: Any  # what computes: ``MaskedSoftmax`` or ``AnyHeads``
    _ignored: Tensor | None  # bool [...]; None for none
    _expectation: str  # over what to sum, and by what, in place of an action with a gradient

    def sample(self, sample_shape: Any = ONCE, *, noise: Tensor | None = None, generator: None = None) -> Tensor:
        """Legal actions, by inverse CDF from one uniform a number.

        Args:
            sample_shape: leading shape.
            noise: uniform in [0, 1], one for each number of the result: ``[*sample_shape, ...]``, of whole actions
                ``[*sample_shape, ..., heads]``. Of any float dtype; by default from torch's generator.
            generator: none is taken; draw ``noise`` from it.

        Returns: int64 ``[*sample_shape, ...]``, whole actions ``[*sample_shape, ..., heads]``; -1 in faulty and
            inactive rows.
        Raises:
            ValueError: noise that does not fit.
            TypeError: a generator.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        check_generator(generator, shape)
        with torch.no_grad():
            return self._draw(shape, noise)

    @abstractmethod
    def _draw(self, shape: torch.Size, noise: Tensor | None) -> Tensor:
        """What ``sample`` gives, of a shape."""

    def rsample(self, sample_shape: Any = ONCE) -> Tensor:
        """Actions have no gradient.

        Raises:
            NotImplementedError: always; says what has one.
        """
        raise NotImplementedError(
            "actions are discrete and have no gradient: weight log_prob(sample()) by what the action was worth, or sum "
            f"{self._expectation} (docs/policies.md, expectations)"
        )

    def raw_entropy(self) -> Tensor:
        """Entropy in nats, ``[...]``, of what is sampled; of whole actions ``H(op) + sum(P(op) * H(head | op))``."""
        return self._zero_ignored(self._form.raw_entropy())

    def perplexity(self) -> Tensor:
        """``exp(raw_entropy())``, the effective number of actions, ``[...]``."""
        return self.raw_entropy().exp()

    @abstractmethod
    def _set(self, logits: Any, masks: Any, active: Tensor | None) -> None:
        """Become the distribution of these rows, under the settings that are there."""

    def _derive(self, logits: Any, masks: Any, active: Tensor | None) -> Self:
        """The same settings for other rows, which need no second validation."""
        new = type(self).__new__(type(self))
        new.min_prob, new._validate = self.min_prob, self._validate
        new._set(logits, masks, active)
        return new

    def _zero_ignored(self, values: Tensor) -> Tensor:
        return values if self._ignored is None else values.masked_fill(self._ignored, 0)
