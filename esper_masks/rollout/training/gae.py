"""Advantages of a rollout."""

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, terminated: Tensor, last_value: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation.

        delta[t] = rewards[t] + gamma * values[t + 1] * (not terminated[t]) - values[t]
        advantages[t] = delta[t] + gamma * gae_lambda * (not terminated[t]) * advantages[t + 1]

    Source: Schulman et al., "High-dimensional continuous control using generalized advantage estimation", 2016.

    Args:
        rewards: ``[steps, ...]``.
        values: value of the state in which each step began, ``[steps, ...]``.
        terminated: bool ``[steps, ...]``: the episode ended with the step.
        last_value: value of the state after the last step, ``[...]``.
        gamma: discount of a step.
        gae_lambda: weight of a further step.

    Returns: advantages and the returns they stand for, advantages + values, ``[steps, ...]`` both.
    Raises:
        ValueError: shapes that do not fit, or ``terminated`` that is not bool.
    """
    if not rewards.shape == values.shape == terminated.shape or rewards.shape[1:] != last_value.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and terminated {tuple(terminated.shape)} "
            f"must be alike, and last_value {tuple(last_value.shape)} one step of them"
        )
    if terminated.dtype != torch.bool:
        raise ValueError(f"terminated must be bool, got {terminated.dtype}")
    on = (~terminated).to(rewards.dtype)
    deltas = rewards + gamma * torch.cat([values[1:], last_value.unsqueeze(0)]) * on - values
    advantage, made = torch.zeros_like(last_value), []
    for delta, weight in zip(reversed(deltas.unbind()), reversed((gamma * gae_lambda * on).unbind())):
        advantage = delta + weight * advantage
        made.append(advantage)
    advantages = torch.stack(made[::-1])
    return advantages, advantages + values
