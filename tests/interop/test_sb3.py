"""The environment for stable-baselines3: MaskablePPO trains in it, and nothing of the joint form is ever illegal."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import esper_masks as em
from tests.rollout import kilns

pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor, VecNormalize

from esper_masks.interop.gymnasium import LifecycleEnv
from esper_masks.interop.sb3 import LifecycleVecEnv

FORMS = ("joint", "factored")


def ppo(env: Any, **settings: Any) -> MaskablePPO:
    return MaskablePPO("MlpPolicy", env, n_steps=25, batch_size=200, n_epochs=2, seed=0, device="cpu", **settings)


def test_it_learns_and_nothing_is_illegal() -> None:
    env = LifecycleVecEnv(64)
    model = ppo(VecMonitor(env), learning_rate=3e-3)
    model.learn(64 * 25 * 12)
    returns = [episode["r"] for episode in model.ep_info_buffer]
    assert np.mean(returns) > 2  # 0 at random
    assert env.illegal_actions.sum() == 0
    mean, _ = evaluate_policy(model, VecMonitor(env), n_eval_episodes=64, warn=False)
    assert mean > 2
    assert env.illegal_actions.sum() == 0  # masks are used at inference, too


def test_the_share_of_illegal_pairs() -> None:
    shares = {}
    for action in FORMS:
        env = LifecycleVecEnv(64, action=action)  # type: ignore[arg-type]
        ppo(env).learn(64 * 25)
        shares[action] = env.illegal_actions.sum() / (64 * 25)
    print(f"sb3: {shares['joint']:.1%} of whole actions illegal, {shares['factored']:.1%} of factored ones")
    assert shares["joint"] == 0
    assert 0.1 < shares["factored"] < 0.6


@pytest.mark.parametrize("action", FORMS)
def test_masks_come_as_the_library_asks_for_them(action: Any) -> None:
    env = LifecycleVecEnv(5, action=action)
    env.reset()
    assert is_masking_supported(env)
    masks = get_action_masks(VecNormalize(env))
    lifecycles = env.lifecycles.masks()
    assert np.array_equal(masks, (lifecycles.joint() if action == "joint" else lifecycles.flat()).numpy())
    assert np.array_equal(env.env_method("action_masks", indices=[3]), masks[3:4])
    assert np.array_equal(env.env_method("action_masks", indices=2), masks[2:3])
    assert [of().tolist() for of in env.get_attr("action_masks", [4, 0])] == [masks[4].tolist(), masks[0].tolist()]
    env.step(np.full(5, 42) if action == "joint" else np.full((5, 4), [0, 0, 0, 3]))  # FOSSILIZE in an empty slot
    assert env.get_attr("illegal_actions", [1, 3]) == [1, 1]


def test_steps_are_those_of_the_environment() -> None:
    env, twin = (
        LifecycleVecEnv(6, episode_length=5),
        em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 6, episode_length=5),
    )
    np.random.seed(0)  # the library's own draw of a seed
    assert env.seed(None) != env.seed(None)
    env.seed(np.int64(11))
    assert np.array_equal(env.reset(), twin.reset(seed=11).numpy())
    for step in range(1, 12):
        actions = em.FactoredCategorical(torch.zeros(6, 15), twin.masks()).sample()
        obs, reward, done, infos = env.step(twin.engine.joint_actions.encode(actions).numpy())
        wanted, gained, terminated, _, info = twin.step(actions)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert done.tolist() == terminated.tolist() == [step % 5 == 0] * 6
        for at, one in enumerate(infos):
            assert ("terminal_observation" in one) == (step % 5 == 0)
            if one:
                assert np.array_equal(one["terminal_observation"], info["final_obs"][at].numpy())
                assert one["TimeLimit.truncated"] is False
    assert np.array_equal(env.reset(), twin.reset().numpy())  # the seed was for one reset


def test_final_masks_that_nobody_sees_are_not_made() -> None:
    """So that ``given=`` may look up the epoch in a table as long as an episode."""
    table = torch.ones(6, 3, dtype=torch.bool)
    dynamics = partial(kilns.Kilns, horizon=6)
    env = LifecycleVecEnv(
        3, rules=kilns.RULES, dynamics=dynamics, given=lambda state: {"restrict": {"op": table[state.epoch.long()]}}
    )
    env.reset()
    ends = [env.step(np.zeros(3, dtype=np.int64))[2].any() for _ in range(13)]
    assert any(ends)


def test_the_library_makes_environments_by_their_name() -> None:
    venv = make_vec_env("esper/Lifecycle-v0", 2, seed=1)
    model = ppo(venv)
    model.learn(100)
    assert sum(venv.get_attr("unwrapped")[at].vector.illegal_actions[0] for at in range(2)) == 0
    MaskablePPO("MlpPolicy", "esper/Lifecycle-v0", n_steps=25, batch_size=25, device="cpu")


@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_processes_of_the_library_have_the_masks() -> None:
    """Each process imports what registers the environment, by the module in its name."""
    settings = {"rules": kilns.RULES, "dynamics": partial(kilns.Kilns, horizon=5)}
    venv = make_vec_env(
        "esper_masks.interop.gymnasium:esper/Lifecycle-v0",
        2,
        seed=1,
        env_kwargs=settings,
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "spawn"},
    )
    try:
        venv.reset()
        assert is_masking_supported(venv)
        ends = 0
        for _ in range(12):
            masks = get_action_masks(venv)
            assert np.array_equal(masks, np.stack(venv.env_method("action_masks")))
            obs, _, done, infos = venv.step([np.flatnonzero(mask)[-1] for mask in masks])
            assert [info["illegal_actions"] for info in infos] == [0, 0]
            for at in np.flatnonzero(done):
                assert infos[at]["terminal_observation"][-1] > 0 == obs[at][-1]  # the time
                assert infos[at]["action_mask"].dtype == np.int8  # of that observation
                ends += 1
        assert ends >= 4
        ppo(venv).learn(50)
        assert get_action_masks(venv).shape == (2, 5)
    finally:
        venv.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("action", FORMS)
def test_a_single_environment_passes_its_checker(action: Any) -> None:
    check_env(LifecycleEnv(action=action))


def test_what_does_not_fit_is_named() -> None:
    env = LifecycleVecEnv(4)
    env.reset()
    assert env.get_attr("render_mode") == [None] * 4
    assert env.env_is_wrapped(VecMonitor, indices=[0, 1]) == [False, False]
    for call, error, reason in (
        (lambda: env.step(np.zeros(3, dtype=np.int64)), ValueError, r"actions have shape \(3,\); wanted \(4,\)"),
        (lambda: env.step(np.full(4, 99)), ValueError, "the action of environment 0 is 99; wanted from 0 to 42"),
        (lambda: env.env_method("render"), AttributeError, r"no method 'render' .*; it has action_masks\(\)"),
        (lambda: env.get_attr("difficulty"), AttributeError, "difficulty"),
        (lambda: env.set_attr("difficulty", 3), AttributeError, "'difficulty' cannot be set for single environments"),
        (lambda: env.seed([1, 2]), ValueError, r"seed \[1, 2\]: the environments share one generator; give one int"),  # type: ignore[arg-type]
        (lambda: env.set_options({"reset_mask": 1}), ValueError, r"options \{'reset_mask': 1\}: there are none"),
        (lambda: LifecycleVecEnv(4, slots=3), TypeError, r"argument 'slots' \(did you mean slot_ids\?\)"),
        (lambda: LifecycleVecEnv(4, action="pair"), ValueError, "action='pair' is not one of"),  # type: ignore[arg-type]
    ):
        with pytest.raises(error, match=reason):
            call()
