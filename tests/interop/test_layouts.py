"""Masks beside an observation, as PettingZoo and RLlib want them; by the samplers that read them."""

from typing import Any

import numpy as np
import pytest
import torch

import esper_masks as em
from esper_masks.interop import pettingzoo as zoo
from esper_masks.interop import rllib
from tests.helpers import random_states

ENGINE = em.MaskEngine(em.ruleset("esper-2025-12"))


def masks_of(batch: int) -> em.ActionMasks:
    masks: em.ActionMasks = ENGINE(random_states(ENGINE, batch))
    return masks


def test_agents_have_rows() -> None:
    masks, seen = masks_of(6), torch.randn(6, 7)
    made = zoo.observations(masks, seen, [f"agent_{i}" for i in range(6)])
    for at, (agent, one) in enumerate(made.items()):
        assert agent == f"agent_{at}"
        assert set(one) == {"observation", "action_mask"}
        assert np.array_equal(one["observation"], seen[at].numpy())
        assert one["action_mask"].dtype == np.int8
        assert np.array_equal(one["action_mask"], masks.joint()[at].numpy())
    kept = made["agent_0"]["observation"].copy()
    seen += 1
    assert np.array_equal(made["agent_0"]["observation"], kept)  # memory of its own
    heads = zoo.observations(masks, seen, list(made), action="factored")["agent_4"]["action_mask"]
    for head, mask in zip(heads, masks.values(), strict=True):
        assert head.dtype == np.int8
        assert np.array_equal(head, mask[4].numpy())


def test_the_sampler_of_spaces_takes_them() -> None:
    spaces = pytest.importorskip("gymnasium").spaces
    masks, names = masks_of(50), [str(i) for i in range(50)]
    whole, each = spaces.Discrete(ENGINE.joint_actions.size, seed=0), spaces.MultiDiscrete([3, 5, 3, 4], seed=0)
    drawn = [whole.sample(one["action_mask"]) for one in zoo.observations(masks, torch.zeros(50, 1), names).values()]
    assert masks.joint().gather(1, torch.tensor(drawn).unsqueeze(1)).all()
    rows = zoo.observations(masks, torch.zeros(50, 1), names, action="factored").values()
    drawn = [each.sample(one["action_mask"]) for one in rows]
    for at, mask in enumerate(masks.values()):
        assert mask.gather(1, torch.tensor(np.array(drawn))[:, at : at + 1]).all()


def test_a_parallel_environment_passes_the_librarys_test() -> None:
    pettingzoo = pytest.importorskip("pettingzoo")
    from gymnasium import spaces
    from pettingzoo.test import parallel_api_test

    class Lifecycles(pettingzoo.ParallelEnv):  # type: ignore[misc]
        """Every environment of a batch is an agent."""

        metadata = {"name": "lifecycles", "render_modes": []}  # noqa: RUF012  # the library's form

        def __init__(self) -> None:
            self.possible_agents = ["one", "two", "three"]
            self.env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 3, episode_length=10)
            observation = spaces.Box(-np.inf, np.inf, (self.env.obs_size,), np.float32)
            mask = spaces.Box(0, 1, (43,), np.int8)
            self.seen = {
                agent: spaces.Dict(observation=observation, action_mask=mask) for agent in self.possible_agents
            }
            self.acts = {agent: spaces.Discrete(43) for agent in self.possible_agents}

        def observation_space(self, agent: str) -> spaces.Space[Any]:
            return self.seen[agent]

        def action_space(self, agent: str) -> spaces.Space[Any]:
            return self.acts[agent]

        def _seen(self, obs: torch.Tensor) -> dict[str, Any]:
            return zoo.observations(self.env.masks(), obs, self.possible_agents)

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            self.agents = list(self.possible_agents)
            return self._seen(self.env.reset(seed=seed)), {agent: {} for agent in self.agents}

        def step(self, actions: dict[str, int]) -> Any:
            index = torch.tensor([actions[agent] for agent in self.possible_agents])
            obs, reward, ended, cut, _ = self.env.step(self.env.engine.joint_actions.decode(index))
            rows = [dict(zip(self.agents, row.tolist())) for row in (reward, ended, cut)]
            seen = self._seen(obs)
            made = seen, *rows, {agent: {} for agent in self.agents}
            self.agents = [] if bool(ended.all()) else self.agents
            return made

    env = Lifecycles()
    parallel_api_test(env, num_cycles=25)
    assert env.env.illegal_actions.sum() == 0  # its sampler reads the masks


def test_a_vector_environment_of_rllib_has_arrays() -> None:
    masks, seen = masks_of(6), torch.randn(6, 7, dtype=torch.float64)
    for action, flat in (("joint", masks.joint()), ("factored", masks.flat())):
        made = rllib.observations(masks, seen, action=action)  # type: ignore[arg-type]
        assert set(made) == {"observations", "action_mask"}
        assert made["observations"].dtype == made["action_mask"].dtype == np.float32
        assert np.array_equal(made["observations"], seen.float().numpy())
        grown = seen.bfloat16().requires_grad_()
        assert np.array_equal(rllib.observations(masks, grown)["observations"], seen.bfloat16().float().numpy())
        assert np.array_equal(rllib.observations(masks, seen.numpy())["observations"], made["observations"])
        assert np.array_equal(made["action_mask"], flat.float().numpy())


def test_what_does_not_fit_is_named() -> None:
    masks, seen = masks_of(3), torch.zeros(3, 2)
    for call, reason in (
        (lambda: zoo.observations(masks, seen, ["one"]), "1 agents, and masks of 3 rows; wanted a row for each agent"),
        (lambda: zoo.observations(masks, torch.zeros(2, 2), ["a", "b", "c"]), r"masks of shape \(3,\) beside"),
        (lambda: rllib.observations(masks, torch.zeros(4, 2)), r"an observation of shape \(4, 2\); wanted \[batch\]"),
        (lambda: zoo.observations(masks, seen, ["a", "b", "b"]), "2 agents, and masks of 3 rows"),
        (lambda: zoo.observations(masks.joint(), seen, list("abc")), "masks must be ActionMasks, got Tensor"),  # type: ignore[arg-type]
        (lambda: rllib.observations(masks, {"obs": seen}), r"must be numbers \[batch, ...\], got dict"),
        (lambda: rllib.observations(masks.select(0), seen), r"masks of shape \(\) beside"),
        (lambda: rllib.observations(masks, seen, action="heads"), "action='heads' is not one of"),  # type: ignore[arg-type]
        (lambda: zoo.observations(masks, seen, list("abc"), action="heads"), "action='heads' is not one of"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=reason):
            call()
