"""Small tasks and environments of real networks."""

from functools import partial
from typing import Any

import torch

import esper_masks as em
from esper_masks.rollout import LifecycleEnv, NetworkDynamics, Task
from esper_masks.rollout.networks.score import Scores, score_of

RULES = em.ruleset("esper-2025-12")
JUNE = em.ruleset("esper-2026-06")
WAIT, GERMINATE, CULL, FOSSILIZE = range(4)
CONV_LIGHT, ATTENTION, NORM, DEPTHWISE = range(1, 5)


def dots(name: str = "dots", seed: int = 0, sizes: tuple[int, int, int] = (60, 20, 25)) -> Task:
    """Points whose classes are the signs of two of their numbers."""
    inputs = torch.randn(sum(sizes), 6, generator=torch.Generator().manual_seed(seed))
    return Task(name, inputs, (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long(), sizes)


def bumps(*space: int, sizes: tuple[int, int, int] = (60, 20, 25)) -> Task:
    """Sequences or images of one channel with a bump, whose class is the part of the first axis that it is in."""
    generator = torch.Generator().manual_seed(len(space))
    inputs = 0.3 * torch.randn(sum(sizes), 1, *space, generator=generator)
    at = torch.randint(space[0], (len(inputs),), generator=generator)
    inputs[torch.arange(len(inputs)), 0, at] += 1
    return Task(f"bumps {space}", inputs, at * 3 // space[0], sizes)


TASKS = dots("dots"), dots("more dots", 1)
SMALL: dict[str, Any] = {"task": TASKS, "width": 4, "episode_length": 12, "steps": 3, "rows": 8}


def small(num_envs: int, slots: int = 3, **changes: Any) -> LifecycleEnv:
    """Environments in which an episode takes little time."""
    names = [f"slot{at}" for at in range(slots)]
    return LifecycleEnv(RULES, num_envs, names, dynamics=partial(NetworkDynamics, **{**SMALL, **changes}))


def june(
    num_envs: int, switches: dict[str, Any] | None = None, slot_ids: list[str] | None = None, **changes: Any
) -> LifecycleEnv:
    """The same under the rules of June, where an episode takes longer."""
    dynamics = partial(NetworkDynamics, **{**SMALL, "steps": 2, "episode_length": 22, **changes})
    return LifecycleEnv(JUNE, num_envs, slot_ids, dynamics=dynamics, **(switches or {}))


def acted(env: LifecycleEnv, op: int, slot: int = 0, blueprint: int = 0) -> torch.Tensor:
    """The same action everywhere."""
    return torch.tensor([[slot, blueprint, 0, op]]).expand(env.num_envs, -1).contiguous()


def played(env: LifecycleEnv, policy: Any, steps: int) -> torch.Tensor:
    """Rewards ``[steps, batch]``."""
    return torch.stack([env.step(policy(env))[1] for _ in range(steps)])


def rewards_that_are_the_score(env: LifecycleEnv, policy: Any) -> tuple[torch.Tensor, Scores]:
    """Sums of the rewards of an episode, asserted to be the scores of its end; and what ``score_of`` tells."""
    assert isinstance(env.dynamics, NetworkDynamics)
    torch.manual_seed(3)
    scores = score_of(policy, env)
    assert scores.illegal_actions == scores.diverged == 0
    final = scores.final
    torch.testing.assert_close(env.dynamics.score(final, "validation"), final.potential)
    torch.manual_seed(3)
    env.reset()
    rewards = played(env, policy, env.dynamics.episode_length).sum(0)
    torch.testing.assert_close(rewards, final.potential, rtol=1e-4, atol=1e-5)
    return rewards, scores
