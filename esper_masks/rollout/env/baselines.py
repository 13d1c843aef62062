"""What a policy should be better than: functions of an environment to actions, int64 ``[batch, heads]``."""

from collections.abc import Callable

import torch
from torch import Tensor

from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rules.names import OP


def random_legal(env: LifecycleEnv) -> Tensor:
    """Any legal action: each head uniformly over its legal choices given the op, from torch's own generator."""
    logits = torch.zeros(env.num_envs, env.engine.layout.logit_size, dtype=torch.float32, device=env.device)
    return FactoredCategorical(logits, env.masks(), validate="off").sample()


def always_wait(env: LifecycleEnv) -> Tensor:
    """WAIT, always."""
    heads = env.engine.layout.heads
    row = [env.dynamics.wait if head.name == OP else head.canonical for head in heads]
    return torch.stack([torch.full((env.num_envs,), value, device=env.device) for value in row], -1)


def heuristic(env: LifecycleEnv) -> Tensor:
    """What the dynamics of the environment have for one.

    Raises:
        ValueError: they have none.
    """
    if env.dynamics.heuristic is None:
        raise ValueError(f"{type(env.dynamics).__name__} has no heuristic")
    return env.dynamics.heuristic(env.state)


BASELINES: dict[str, Callable[[LifecycleEnv], Tensor]] = {
    "random": random_legal,
    "wait": always_wait,
    "heuristic": heuristic,
}


def baselines_of(env: LifecycleEnv) -> dict[str, Callable[[LifecycleEnv], Tensor]]:
    """``BASELINES``, without the heuristic where the dynamics have none."""
    return {name: play for name, play in BASELINES.items() if name != "heuristic" or env.dynamics.heuristic}
