"""The trainings that several parts build."""

from collections.abc import Callable
from typing import Any

import torch

import esper_masks as em
from esper_masks.rollout import PPO, LifecycleEnv, PPOConfig, State
from esper_masks.rollout.training.policy import FactoredActorCritic
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.rollouts import RolloutState

RULES = "esper-2025-12"
CONFIG = PPOConfig(target_kl=float("inf"))  # so that each update has as many optimizer steps


def training(
    mode: Any,
    envs: int,
    device: str,
    *,
    autocast: bool = False,
    width: int = 64,
    processes: Processes | None = None,
) -> PPO:
    """A training whose environment and decisions run in one mode; ``rollout.train.build`` has two of the three."""
    torch.manual_seed(0)
    env = LifecycleEnv(em.ruleset(RULES), envs, seed=0, device=device, mode=mode)
    step = em.DecisionStep(env.engine, mode=mode)
    policy = FactoredActorCritic(step, env.obs_size, width, autocast=autocast).to(env.device)
    return PPO(env, policy, CONFIG, processes)


def endless(ppo: PPO) -> tuple[Callable[[], None], list[torch.Tensor]]:
    """A rollout that reads where it begins from tensors, and writes where it ended into the same ones."""
    env = ppo.env
    places = [tensor.clone() for tensor in (*env.state, env.illegal_actions, ppo.state.obs, ppo.state.starts)]
    fields = len(State._fields)

    def once() -> None:
        env.state, env.illegal_actions = State(*places[:fields]), places[fields]
        after = ppo.collector.rollout(RolloutState(places[-2], None, places[-1]))
        for place, value in zip(places, (*env.state, env.illegal_actions, after.obs, after.starts)):
            place.copy_(value)

    return once, places
