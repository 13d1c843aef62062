"""What the environments of examples must do: as their twins, which are plain loops, legal throughout, one graph."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

import esper_masks as em
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import random_legal
from tests.helpers import assert_near, seeded

Play = Callable[[LifecycleEnv], torch.Tensor]


class Twin(Protocol):
    """One environment, from the beginning of an episode."""

    slots: list[list[int]]

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""

    def observe(self) -> list[float]:
        """What the environment observes."""

    def situation(self) -> dict[str, Any]:
        """What decides legality beside the slots: ``row`` and ``head_masks``, as the oracle takes them."""


def in_lockstep(
    env: LifecycleEnv, begin: Callable[[], Twin], steps: int, seed: int = 0, play: Play | None = None
) -> set[int]:
    """Step an environment and its twins by legal actions and some that are not. Returns: the ops that were legal.

    Every second environment acts by ``play``, if it is given.
    """
    batch, generator, taken = env.num_envs, seeded(seed), set()
    heads, twins = env.engine.layout.heads, [begin() for _ in range(env.num_envs)]
    op_at = env.engine.layout.head_names.index("op")
    sizes = torch.tensor([len(head.choices) for head in heads])
    assert_near(env.reset(), torch.tensor([twin.observe() for twin in twins]))
    illegal = torch.zeros(batch, dtype=torch.int64)
    for _ in range(steps):
        logits = torch.zeros(batch, env.engine.layout.logit_size)
        noise = torch.rand(batch, len(heads), generator=generator)
        actions = em.FactoredCategorical(logits, env.masks()).sample(noise=noise)
        if play is not None:
            actions[::2] = play(env)[::2]
        anything = (torch.rand(batch, len(heads), generator=generator) * (sizes + 2)).long() - 1
        actions = torch.where(torch.rand(batch, 1, generator=generator) < 0.1, anything, actions)
        noise = torch.rand(batch, env.dynamics.uniforms, generator=generator)
        situations = [twin.situation() for twin in twins]
        for what, permits in zip(("row", "head_masks"), (env.given["row"], env.given["head_masks"])):
            for name, value in permits.items():
                assert value.tolist() == [situation[what][name] for situation in situations], name
        obs, reward, terminated, _, info = env.step(actions, noise)
        results = [twin.step(a, u) for twin, a, u in zip(twins, actions.tolist(), noise.tolist())]
        assert_near(reward, torch.tensor([points for points, _, _ in results], dtype=torch.float32))
        assert terminated.tolist() == [ended for _, ended, _ in results]
        assert_near(info["final_obs"], torch.tensor([twin.observe() for twin in twins]))
        taken |= {int(op) for op, (_, _, legal) in zip(actions[:, op_at], results) if legal}
        illegal += torch.tensor([not legal for _, _, legal in results])
        twins = [begin() if ended else twin for twin, (_, ended, _) in zip(twins, results)]
        assert env.states.tolist() == [twin.slots for twin in twins]
        assert_near(obs, torch.tensor([twin.observe() for twin in twins]))
        env.engine.check_slots(env.states)
    assert env.illegal_actions.tolist() == illegal.tolist()
    assert illegal.any()
    return taken


def go_at_random(env: LifecycleEnv, steps: int) -> None:
    """Every action is legal, and every state one that the rules know."""
    torch.manual_seed(0)
    for _ in range(steps):
        obs, *_ = env.step(random_legal(env))
        env.engine.check_slots(env.states)
        assert obs.isfinite().all()
    assert not env.illegal_actions.any()


def compiled_as_op_by_op(env: LifecycleEnv, steps: int) -> None:
    """A step as one graph is the same, to the last bit."""
    advance = torch.compile(env.dynamics.advance, backend="aot_eager", fullgraph=True)
    generator = seeded(0)
    torch.manual_seed(0)
    for _ in range(steps):
        actions = random_legal(env)
        noise = torch.rand(env.num_envs, env.dynamics.uniforms, generator=generator)
        (state, outcome), (other, told) = (step(env.state, actions, noise) for step in (env.dynamics.advance, advance))
        for name, mine, its in zip((*state._fields, *outcome._fields), (*state, *outcome), (*other, *told)):
            assert torch.equal(mine, its), name
        env.step(actions, noise)


def mean_return(env: LifecycleEnv, play: Play) -> float:
    """Of the first episode of each environment; every action of it is legal."""
    torch.manual_seed(0)
    env.reset()
    returns, done = torch.zeros(env.num_envs), torch.zeros(env.num_envs, dtype=torch.bool)
    for _ in range(env.dynamics.episode_length):
        _, _, terminated, _, info = env.step(play(env))
        returns, done = torch.where(terminated & ~done, info["returns"], returns), done | terminated
    assert done.all()
    assert not env.illegal_actions.any()
    return float(returns.mean())
