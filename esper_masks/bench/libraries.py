"""Masked distributions of several libraries, made by calls of one form: logits and masks in, a distribution out.

Each has ``sample()``, ``log_prob(action)`` and, by ``entropies`` below, an entropy in nats. TorchRL and sb3-contrib are
imported where one of their distributions is made: importing TorchRL switches off torch's validation of distributions
for the whole process, so that the two run in processes of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

import esper_masks as em
from esper_masks.bench.inputs import Decision, Head

Make = Callable[[Tensor, Any], Any]  # logits [batch, n], masks -> a distribution
FILL = -1e4  # what the audited program puts in the place of an illegal action's logit


@dataclass(frozen=True)
class Library:
    """How a library makes a distribution.

    Args:
        head: of one head, from a bool mask ``[batch, n]``.
        decision: of all heads, from logits side by side.
        takes: the form of the masks for ``decision``, an attribute of ``inputs.Decision``.
        module: what must be importable, for a library that is not always there.
        package: its name in the registry.
    """

    head: Make
    decision: Make
    takes: str = "head_masks"
    module: str = ""
    package: str = ""

    def of(self, inputs: Head | Decision) -> tuple[Make, Any]:
        """How its distribution of these inputs is made, and of which masks."""
        if isinstance(inputs, Head):
            return self.head, inputs.mask
        return self.decision, getattr(inputs, self.takes)


class Independent:
    """One distribution a head, each drawn and scored by itself: legal heads, but not always a legal action."""

    def __init__(self, make: Make, logits: Tensor, masks: Sequence[Tensor]):
        parts = logits.split([mask.shape[-1] for mask in masks], -1)
        self.heads = [make(part, mask) for part, mask in zip(parts, masks)]

    def sample(self) -> Tensor:
        return torch.stack([head.sample() for head in self.heads], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.stack([head.log_prob(a) for head, a in zip(self.heads, action.unbind(-1))]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([entropies(head)[0] for head in self.heads]).sum(0)


def entropies(dist: Any) -> tuple[Tensor, ...]:
    """Entropy in nats ``[batch]``; of our decision also the normalized one of each head, which training wants."""
    if isinstance(dist, em.FactoredCategorical):
        return dist.raw_entropy(), dist.head_entropies()
    return (dist.raw_entropy() if isinstance(dist, em.MaskedCategorical) else dist.entropy(),)


def ours_head(logits: Tensor, mask: Tensor) -> em.MaskedCategorical:
    return em.MaskedCategorical(logits, mask, validate="flag")


def ours_decision(logits: Tensor, masks: em.ActionMasks) -> em.FactoredCategorical:
    return em.FactoredCategorical(logits, masks, validate="flag")


def prefilled(logits: Tensor, mask: Tensor) -> Categorical:
    # torch's validation, on by default, does not compile
    validate = False if torch.compiler.is_compiling() else None
    return Categorical(logits=logits.masked_fill(~mask, FILL), validate_args=validate)


def torchrl_head(logits: Tensor, mask: Tensor) -> Any:
    from torchrl.modules.distributions import MaskedCategorical

    return MaskedCategorical(logits=logits, mask=mask)


def sb3_head(logits: Tensor, mask: Tensor) -> Any:
    from sb3_contrib.common.maskable.distributions import MaskableCategorical

    return MaskableCategorical(logits=logits, masks=mask)


def sb3_decision(logits: Tensor, masks: tuple[list[int], Tensor]) -> Any:
    from sb3_contrib.common.maskable.distributions import MaskableMultiCategoricalDistribution

    sizes, flat = masks
    dist = MaskableMultiCategoricalDistribution(sizes).proba_distribution(logits)
    dist.apply_masking(flat)
    return dist


LIBRARIES = {
    "ours": Library(ours_head, ours_decision, takes="masks"),
    "torch": Library(prefilled, partial(Independent, prefilled)),
    "torchrl": Library(torchrl_head, partial(Independent, torchrl_head), module="torchrl", package="torchrl"),
    "sb3": Library(sb3_head, sb3_decision, takes="flat", module="sb3_contrib", package="sb3-contrib"),
}
INDEPENDENT = Library(ours_head, partial(Independent, ours_head))  # one of ours a head, drawn as the others draw
PEERS = tuple(name for name, library in LIBRARIES.items() if library.module)
