"""Hyper-parameters of proximal policy optimization."""

import math
from dataclasses import dataclass, fields

SHARES = ("gamma", "gae_lambda")
ENDLESS = ("max_grad_norm", "target_kl")  # limits that infinity switches off


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of ``PPO``.

    Args:
        steps: steps of every environment in a rollout.
        epochs: passes over a rollout in an update.
        minibatches: optimizer steps of a pass.
        learning_rate: learning rate of Adam at first.
        final_learning_rate: the learning rate falls to this, in a straight line over ``horizon``.
        horizon: environment steps of all environments, after which the learning rate is the final one; 0: it does not
            fall.
        gamma: discount of a step.
        gae_lambda: weight of a further step in advantages.
        clip: how far the ratio of probabilities may be from 1.
        value_weight: weight of the value loss, on returns of unit spread.
        entropy_weight: weight of the mean over heads of their normalized entropies.
        max_grad_norm: longer gradients are scaled down to this norm; infinity switches that off.
        target_kl: an update ends before a step at which its policy is further than 1.5 times this from that of the
            rollout, in nats; infinity switches that off.

    Raises:
        ValueError: a number out of range; names it.
    """

    steps: int = 25
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 4e-3
    final_learning_rate: float = 2e-4
    horizon: int = 0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.02
    max_grad_norm: float = 0.5
    target_kl: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), isinstance(field.default, int)
            least = 1 if whole and field.name != "horizon" else 0
            most = 1 if field.name in SHARES else math.inf
            kind = type(value) is int if whole else isinstance(value, int | float)
            if not kind or not least <= value <= most or (value == math.inf and field.name not in ENDLESS):
                bounds = f"from {least} to {most}" if field.name in SHARES else f"not below {least}"
                raise ValueError(f"{field.name} must be a {'whole ' * whole}number {bounds}, got {value!r}")
