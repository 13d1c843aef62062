"""What a batch of environments is at one time, and what an epoch gives."""

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """The state of a batch of environments, without what follows from other fields."""

    states: Tensor  # int32 [batch, slots, features]: the engine's
    elapsed: Tensor  # int32 [slots, batch]: epochs in the stage
    dwell: Tensor  # int32 [slots, batch]: epochs after which the stage is left by itself
    blueprint: Tensor  # int32 [slots, batch]
    quality: Tensor  # float32 [slots, batch]: accuracy points that the seed adds with its whole share; not observed
    evidence: Tensor  # float32 [slots, batch]: readings times the seed's share in each
    weight: Tensor  # float32 [slots, batch]: squares of the shares
    epoch: Tensor  # int32 [batch]
    total_seeds: Tensor  # int32 [batch]
    gain: Tensor  # float32 [batch]: accuracy points of all seeds
    returns: Tensor  # float32 [batch]: rewards of the episode


class Outcome(NamedTuple):
    """What an epoch gives, before environments whose episode ended are empty again."""

    reward: Tensor  # float32 [batch]
    terminated: Tensor  # bool [batch]
    illegal: Tensor  # bool [batch]: the action was illegal, and was taken for WAIT
    returns: Tensor  # float32 [batch]: rewards of the episode


def improvement(state: State) -> Tensor:
    """The measured improvement of each seed, by least squares over its readings, float32 ``[slots, batch]``; or 0."""
    return state.evidence / state.weight.masked_fill(state.weight == 0, 1)
