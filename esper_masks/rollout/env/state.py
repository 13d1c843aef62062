"""What a batch of environments is at one time, what an epoch gives, and what was assumed about it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Assumptions:
    """What the logs do not say; see ``docs/environment.md``.

    Args:
        rent: accuracy points that one parameter costs in one epoch.
        noise: standard deviation of a reading of a seed's improvement, accuracy points; by default that of the
            calibration's seeds that ended before they had a share in the network.

    Raises:
        ValueError: a number out of range.
    """

    rent: float = 1e-6
    noise: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("rent", self.rent), ("noise", 0 if self.noise is None else self.noise)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of points, not negative, got {value!r}")


class State(NamedTuple):
    """Of a batch of environments; what follows from other fields is not in it."""

    states: Tensor  # int32 [batch, slots, features]: the engine's
    elapsed: Tensor  # int32 [slots, batch]: epochs in the stage
    dwell: Tensor  # int32 [slots, batch]: epochs after which it goes on by itself
    blueprint: Tensor  # int32 [slots, batch]
    quality: Tensor  # float32 [slots, batch]: accuracy points that the seed adds with its whole share; hidden
    evidence: Tensor  # float32 [slots, batch]: readings times the seed's share in each
    weight: Tensor  # float32 [slots, batch]: squares of the shares
    epoch: Tensor  # int32 [batch]
    total_seeds: Tensor  # int32 [batch]
    gain: Tensor  # float32 [batch]: accuracy points of all seeds
    returns: Tensor  # float32 [batch]: rewards of the episode


class Outcome(NamedTuple):
    """What an epoch gave, before environments whose episode ended are empty again."""

    reward: Tensor  # float32 [batch]
    terminated: Tensor  # bool [batch]
    illegal: Tensor  # bool [batch]: the action was, and counted as WAIT
    returns: Tensor  # float32 [batch]


def improvement(state: State) -> Tensor:
    """The measured improvement of each seed, float32 ``[slots, batch]``: of all readings by least squares; or 0."""
    return state.evidence / state.weight.masked_fill(state.weight == 0, 1)
