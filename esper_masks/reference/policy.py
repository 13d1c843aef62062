"""The oracle of one categorical row: masked softmax, entropy and sampling in Python floats.

One row at a time, in double precision, by the definition. A row is at fault when it has no probabilities: no action is
legal, all legal logits are -inf, or one of them is NaN or +inf. Masked logits are never looked at.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

Floats = Sequence[float]  # one row: logits or probabilities, one an action
Mask = Sequence[bool]  # one row; True is legal


def probabilities(logits: Floats, mask: Mask, *, min_prob: float | None = 0.0) -> list[float] | None:
    """The masked softmax of one row, exactly 0 where masked; None for a row at fault.

        p[i]  ==  exp(logits[i]) / sum(exp(logits[j]) for legal j)  if i is legal else 0
        with a floor, over the n legal actions:  (1 - n * e) * p[i] + e,  e = min(min_prob, 0.99 / n)

    Raises:
        ValueError: logits and mask of different lengths, or a ``min_prob`` that is not in [0, 1); None is 0.
    """
    check_row(logits, mask, min_prob)
    legal = [logit for logit, on in zip(logits, mask) if on]
    if any(math.isnan(logit) or logit == math.inf for logit in legal) or max(legal, default=-math.inf) == -math.inf:
        return None
    weights = [math.exp(logit - max(legal)) if on else 0.0 for logit, on in zip(logits, mask)]
    total = sum(weights)
    floor = min(min_prob or 0.0, 0.99 / len(legal))
    scale = 1 - len(legal) * floor
    return [scale * weight / total + floor if on else 0.0 for weight, on in zip(weights, mask)]


def log_probability(logits: Floats, mask: Mask, action: int, *, min_prob: float | None = 0.0) -> float:
    """Logarithm of ``probabilities(...)[action]``; -inf for an action that is masked or does not exist, -1 included.

    Without a floor nothing underflows: logits that differ by 10,000 give -10,000.

    Raises:
        ValueError: a row at fault, and what ``probabilities`` raises.
    """
    p = probabilities(logits, mask, min_prob=min_prob)
    if p is None:
        raise ValueError(f"the row is at fault, so it has no log-prob: logits {logits}, mask {mask}")
    if not 0 <= action < len(mask) or not mask[action]:
        return -math.inf
    if min_prob:
        return math.log(p[action])
    legal = [logit for logit, on in zip(logits, mask) if on]
    return logits[action] - max(legal) - math.log(sum(math.exp(logit - max(legal)) for logit in legal))


def raw_entropy(p: Floats) -> float:
    """Entropy in nats; an action of probability 0 adds nothing."""
    return -sum(q * math.log(q) for q in p if q > 0) or 0.0


def entropy(p: Floats, legal: int) -> float:
    """Entropy over the logarithm of the number of legal actions: 0 to 1, and 0 where one or none is legal."""
    return raw_entropy(p) / math.log(legal) if legal > 1 else 0.0


def kl(p: Floats, q: Floats) -> float:
    """Divergence of q from p in nats; +inf where p has an action that q lacks.

    Raises:
        ValueError: rows of different lengths.
    """
    pairs = [(a, b) for a, b in zip(p, q, strict=True) if a > 0]
    return sum(a * (math.log(a) - math.log(b)) if b > 0 else math.inf for a, b in pairs)


def sample(p: Floats, noise: float) -> int:
    """Inverse CDF: the first action of positive probability whose running sum exceeds noise × total, else the last one.

    >>> [sample([0.0, 0.25, 0.75, 0.0], noise) for noise in (0.0, 0.2, 0.3, 1.0)]
    [1, 1, 2, 2]

    Args:
        p: probabilities, at least one of them positive.
        noise: uniform in [0, 1]; both ends are allowed.
    """
    sums = list(accumulate(p))
    possible = [i for i, q in enumerate(p) if q > 0]
    return next((i for i in possible if sums[i] > noise * sums[-1]), possible[-1])


def edge_distance(p: Floats, noise: float) -> float:
    """How far the noise is from where ``sample`` changes its answer; +inf for a row of one possible action.

    Args:
        p: probabilities, at least one of them positive.
        noise: uniform in [0, 1]. Neither end is an edge.
    """
    sums = list(accumulate(p))
    edges = [total / sums[-1] for total, q in zip(sums, p) if q > 0][:-1]
    return min((abs(noise - edge) for edge in edges), default=math.inf)


def mode(p: Floats) -> int:
    """The most likely action, the first of equals."""
    return max(range(len(p)), key=lambda i: p[i])


def check_row(logits: Floats, mask: Mask, min_prob: float | None) -> None:
    """Raise ``ValueError`` unless logits and mask are one row and the floor is a probability below 1."""
    if len(logits) != len(mask):
        raise ValueError(f"{len(logits)} logits and a mask of {len(mask)}")
    if not 0 <= (min_prob or 0.0) < 1:
        raise ValueError(f"min_prob={min_prob}; wanted at least 0 and below 1, or None for no floor")
