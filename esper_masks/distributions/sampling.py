"""Inverse CDF: from weights and a target, the action in whose stretch of the running sum the target lies.

    max(i for i in range(n) if weights[i] > 0 and not sum(weights[:i]) > target)

Only an action with a weight can come out, whatever the target (NaN too) and however sums are rounded; -1 if there is
none. The same is computed in three orders: action by action, in blocks of actions, and from a running sum.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def walk(
    weights: Sequence[Tensor],
    target: Tensor,
    places: Sequence[int] | None = None,
    values: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Action by action, each a vector over rows, so that a compiler keeps the sum in a register.

    The log-probability of the action is picked on the way: it need not be looked up afterwards.

    Args:
        weights: of each action, ``[...]``.
        target: ``[*sample, ...]``.
        places: the numbers of the actions; by default 0, 1, ...
        values: their log-probabilities, ``[...]``.

    Returns: the action, in the dtype of the target, and its value, by default the sum of the weights before it; both
        ``[*sample, ...]``. Where no action has a weight, -1, and -inf or 0.
    """
    place, before = torch.full_like(target, -1), torch.zeros_like(target)
    value = before if values is None else torch.full_like(target, -math.inf)
    for at, weight in enumerate(weights):
        passed = (weight == 0) | (before > target)
        place = torch.where(passed, place, at if places is None else places[at])
        value = torch.where(passed, value, before if values is None else values[at])
        before = before + weight
    return place, value


def draw_in_blocks(weights: Callable[[slice], Tensor], number: int, target: Tensor) -> Tensor:
    """The block first, then the action within it: a compiler has no vectorized running sum.

    Args:
        weights: those of some actions, ``[some, ...]``, from their slice.
        number: how many actions there are.
        target: ``[...]``.
    """
    size = math.isqrt(number - 1) + 1
    starts = range(0, number, size)
    block, before = walk([weights(slice(start, start + size)).sum(0) for start in starts], target)
    at = torch.arange(len(starts), device=target.device).view(-1, *[1] * target.ndim)
    places = [weights(slice(place, None, size)) for place in range(size)]
    place, _ = walk([torch.where(block == at[: len(each)], each, 0).sum(0) for each in places], target - before)
    return torch.where(block < 0, -1, block * size + place)


def draw_in_row(running: Tensor, none: Tensor, target: Tensor) -> Tensor:
    """From the running sum: few ops, whatever the number of actions.

    Args:
        running: sum of the weights up to each action, ``[n, ...]``.
        none: bool ``[n, ...]``, actions without a weight.
        target: ``[*sample, ...]``.
    """
    before = pad(running[:-1], (*[0, 0] * (running.ndim - 1), 1, 0))
    index = torch.arange(len(none), device=none.device).view(-1, *[1] * (none.ndim - 1)).expand(none.shape)
    if target.ndim + 1 > none.ndim:
        return _search(before, none, index, target)
    return index.masked_fill((before > target) | none, -1).amax(0)


def _search(before: Tensor, none: Tensor, index: Tensor, target: Tensor) -> Tensor:
    """By a binary search for each of many samples of a row; ``before`` is the running sum without the action's own."""
    sample = target.ndim + 1 - before.ndim
    last = index.masked_fill(none, -1).cummax(0).values.movedim(0, -1)  # action with a weight up to each place
    first = index.masked_fill(none, len(index)).amin(0).unsqueeze(-1)
    samples = target.flatten(0, sample - 1).movedim(0, -1).contiguous()  # [..., samples]
    place = torch.searchsorted(before.movedim(0, -1).contiguous(), samples, right=True) - 1
    place = torch.maximum(place, first).clamp_max(len(index) - 1)
    return last.gather(-1, place).movedim(-1, 0).reshape(target.shape)
