"""Environments as agents for PettingZoo: its own checks, each agent by its own loop, and what an end is."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import esper_masks as em
from esper_masks.rollout import LifecycleEnv
from tests.helpers import random_states
from tests.interop.lifecycles import ALL, kilns
from tests.rollout.kilns import RULES, Kilns, KilnsInPlace, Twin

pytest.importorskip("pettingzoo")

from gymnasium import spaces
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec

from esper_masks.interop.pettingzoo import LifecycleParallelEnv, observations

ENGINE = em.MaskEngine(em.ruleset("esper-2025-12"))
FORMS = ("joint", "factored")


# -- masks beside an observation --------------------------------------------------------------------------------------


def masks_of(batch: int) -> em.ActionMasks:
    masks: em.ActionMasks = ENGINE(random_states(ENGINE, batch))
    return masks


def test_agents_have_rows() -> None:
    masks, seen = masks_of(6), torch.randn(6, 7)
    made = observations(masks, seen, [f"agent_{i}" for i in range(6)])
    for at, (agent, one) in enumerate(made.items()):
        assert agent == f"agent_{at}"
        assert set(one) == {"observation", "action_mask"}
        assert np.array_equal(one["observation"], seen[at].numpy())
        assert one["action_mask"].dtype == np.int8
        assert np.array_equal(one["action_mask"], masks.joint()[at].numpy())
    kept = made["agent_0"]["observation"].copy()
    seen += 1
    assert np.array_equal(made["agent_0"]["observation"], kept)  # memory of its own
    heads = observations(masks, seen, list(made), action="factored")["agent_4"]["action_mask"]
    for head, mask in zip(heads, masks.values(), strict=True):
        assert head.dtype == np.int8
        assert np.array_equal(head, mask[4].numpy())


def test_the_sampler_of_spaces_takes_them() -> None:
    masks, names = masks_of(50), [str(i) for i in range(50)]
    whole, each = spaces.Discrete(ENGINE.joint_actions.size, seed=0), spaces.MultiDiscrete([3, 5, 3, 4], seed=0)
    drawn = [whole.sample(one["action_mask"]) for one in observations(masks, torch.zeros(50, 1), names).values()]
    assert masks.joint().gather(1, torch.tensor(drawn).unsqueeze(1)).all()
    rows = observations(masks, torch.zeros(50, 1), names, action="factored").values()
    drawn = [each.sample(one["action_mask"]) for one in rows]
    for at, mask in enumerate(masks.values()):
        assert mask.gather(1, torch.tensor(np.array(drawn))[:, at : at + 1]).all()


def test_rows_that_are_not_of_agents_are_named() -> None:
    masks, seen = masks_of(3), torch.zeros(3, 2)
    for call, reason in (
        (lambda: observations(masks, seen, ["one"]), "1 agents, and masks of 3 rows; wanted a row for each agent"),
        (lambda: observations(masks, torch.zeros(2, 2), ["a", "b", "c"]), r"masks of shape \(3,\) beside"),
        (lambda: observations(masks, seen, ["a", "b", "b"]), "2 agents, and masks of 3 rows"),
        (lambda: observations(masks.joint(), seen, list("abc")), "masks must be ActionMasks, got Tensor"),  # type: ignore[arg-type]
        (lambda: observations(masks, seen, list("abc"), action="heads"), "action='heads' is not one of"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=reason):
            call()


# -- environments as agents -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:(Observation|Action):UserWarning")  # of any space but Box and Discrete
@pytest.mark.parametrize("action", FORMS)
@pytest.mark.parametrize("name", ALL)
def test_the_librarys_checks_pass(name: str, action: Any) -> None:
    env = LifecycleParallelEnv(ALL[name](3, 12), action=action)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(env, num_cycles=60)
    assert action == "factored" or not env.lifecycles.illegal_actions.any()  # its sampler reads the masks
    api_test(parallel_to_aec(LifecycleParallelEnv(ALL[name](3, 12), action=action)), num_cycles=20)


def test_a_seed_decides() -> None:
    parallel_seed_test(lambda: LifecycleParallelEnv(2, episode_length=4), num_cycles=10)


@pytest.mark.parametrize("dynamics", [Kilns, KilnsInPlace])
@pytest.mark.parametrize("action", FORMS)
def test_agents_are_by_themselves(dynamics: Any, action: Any) -> None:
    lifecycles, generator = LifecycleEnv(RULES, 8, dynamics=dynamics), torch.Generator().manual_seed(0)
    names = [f"kiln {at}" for at in range(8)]
    env, joint = LifecycleParallelEnv(lifecycles, action=action, agents=names), lifecycles.engine.joint_actions
    rng, apart, table = np.random.default_rng(0), 0, torch.zeros(8, 2)
    lifecycles.draw = lambda: table  # type: ignore[method-assign]
    counts = dict.fromkeys(names, 0)
    for _ in range(3):
        seen, infos = env.reset()
        twins = {name: Twin() for name in names}
        assert env.agents == names
        while env.agents:
            acting, table = list(env.agents), torch.rand(8, 2, generator=generator)
            chosen = {}
            for agent in acting:
                twin, one = twins[agent], seen[agent]
                assert one in env.observation_space(agent)
                np.testing.assert_allclose(one["observation"], twin.observe(), rtol=1e-5)
                whole = [twin.is_legal(*pair) for pair in joint.decode(torch.arange(joint.size)).tolist()]
                if action == "joint":
                    assert one["action_mask"].astype(bool).tolist() == whole
                    chosen[agent] = np.int64(rng.integers(joint.size))
                else:
                    ops = [any(twin.is_legal(slot, op) for slot in range(2)) for op in range(3)]
                    assert one["action_mask"][1].astype(bool).tolist() == ops
                    chosen[agent] = rng.integers([2, 3])
            made = env.step(chosen)
            seen, rewards, ends, cut, infos = made
            assert all(list(part) == acting for part in made)
            for agent in acting:
                pair = joint.decode(torch.as_tensor(chosen[agent])).tolist() if action == "joint" else chosen[agent]
                reward, ended, legal = twins[agent].step(pair, table[names.index(agent)].tolist())
                counts[agent] += not legal
                assert rewards[agent] == pytest.approx(reward, abs=1e-5)
                assert (ends[agent], cut[agent]) == (ended, False)
                assert infos[agent] == {"illegal_actions": counts[agent]}
                np.testing.assert_allclose(seen[agent]["observation"], twins[agent].observe(), rtol=1e-5)
            if action == "joint":  # at an end, too, the mask is of what is seen
                every = joint.decode(torch.arange(joint.size)).tolist()
                for agent in acting:
                    whole = [twins[agent].is_legal(*pair) for pair in every]
                    assert seen[agent]["action_mask"].astype(bool).tolist() == whole
            assert env.agents == [agent for agent in acting if not ends[agent]]
            apart += 0 < len(env.agents) < len(acting)
        assert env.lifecycles.illegal_actions.tolist() == list(counts.values())  # of those that ended, none
    assert apart > 3
    assert sum(counts.values()) > 10


def test_nothing_is_counted_of_an_agent_that_has_ended() -> None:
    """Whatever is done in its place: here WAIT is illegal, too."""
    nothing = torch.zeros(3, dtype=torch.bool)
    lifecycles = kilns(2, 3, given=lambda _: {"restrict": {"op": nothing}})
    lifecycles.draw = lambda: torch.tensor([[0.5, 0.0], [0.5, 0.5]])  # type: ignore[method-assign]
    env = LifecycleParallelEnv(lifecycles)
    env.reset()
    for acting in (["agent_0", "agent_1"], ["agent_1"], ["agent_1"]):
        assert env.agents == acting
        *_, infos = env.step(dict.fromkeys(acting, 0))
    assert env.agents == []
    assert infos == {"agent_1": {"illegal_actions": 3}}
    assert env.reset()[1] == {"agent_0": {"illegal_actions": 1}, "agent_1": {"illegal_actions": 3}}


def test_what_does_not_fit_is_named() -> None:
    env = LifecycleParallelEnv(2, agents=["a", "b"])
    with pytest.raises(ValueError, match=r"there is no agent: reset\(\) begins an episode"):
        env.step({})
    env.reset(seed=1, options={"anything": 1})
    for actions, reason in (
        ({"a": 0}, "'b' has no action; 1 of 2 agents have none"),
        ({"a": 0, "b": 0, "c": 0}, "'c' is not among the agents that act: a, b"),
        ({"a": 0, "b": 43}, "the action of environment 1 is 43; wanted from 0 to 42"),
        ({"a": 0, "b": 1.5}, "actions must be an array of integers, got float64"),
        ({"a": 0, "b": [0, 0]}, "actions must be an array of integers, got list"),
    ):
        with pytest.raises(ValueError, match=reason):
            env.step(actions)
    with pytest.raises(ValueError, match="1 agents, and 2 environments; wanted one for each"):
        LifecycleParallelEnv(2, agents=["a", "a"])
    with pytest.raises(TypeError, match="max_seeds= and rules= beside a LifecycleEnv"):
        LifecycleParallelEnv(env.lifecycles, max_seeds=3, rules="esper-2025-12")
