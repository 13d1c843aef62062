"""The environment for Gymnasium: what its checkers want, masks of the state that is acted in, nothing illegal."""

import warnings
from typing import Any

import numpy as np
import pytest

import esper_masks as em

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode

from esper_masks.interop.gymnasium import LifecycleEnv, LifecycleVectorEnv

FORMS = ("joint", "factored")


def sample(env: LifecycleVectorEnv, masks: Any) -> Any:
    """By the library's own sampler, environment by environment."""
    space = env.single_action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.array([space.sample(mask) for mask in masks])
    ends = np.cumsum(space.nvec)[:-1]
    return np.array([space.sample(tuple(np.split(mask, ends))) for mask in masks])


@pytest.mark.parametrize("action", FORMS)
def test_the_single_environment_passes_the_checker(action: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity")  # improvements have no bound
        check_env(LifecycleEnv(action=action), skip_render_check=True)
    env = gymnasium.make("esper/Lifecycle-v0", action=action, episode_length=3)
    _, info = env.reset(seed=1)
    assert info["action_mask"].shape == (43 if action == "joint" else 15,)
    ends = [env.step(0 if action == "joint" else np.zeros(4, dtype=np.int64))[2] for _ in range(3)]
    assert ends == [False, False, True]


@pytest.mark.parametrize("action", FORMS)
def test_steps_are_those_of_the_spaces(action: Any) -> None:
    env = gymnasium.make_vec("esper/Lifecycle-v0", num_envs=6, action=action, episode_length=5)
    assert env.metadata["autoreset_mode"] == env.autoreset_mode == AutoresetMode.SAME_STEP  # some read one, some other
    assert isinstance(env.unwrapped, LifecycleVectorEnv)
    env.action_space.seed(0)
    env.single_action_space.seed(0)
    obs, info = env.reset(seed=3)
    for step in range(1, 12):
        assert obs in env.observation_space
        assert info["action_mask"].dtype == np.int8
        assert set(info) >= {"action_mask", "_action_mask", "illegal_actions", "_illegal_actions"}
        actions = sample(env.unwrapped, info["action_mask"])
        assert actions.astype(np.int64) in env.action_space
        before = obs.copy()
        last = obs
        obs, reward, terminated, truncated, info = env.step(actions)
        assert np.array_equal(before, last)  # nothing is written over
        assert reward.shape == terminated.shape == truncated.shape == (6,)
        assert not truncated.any()
        assert terminated.all() == (step % 5 == 0)
        assert ("final_obs" in info) == (step % 5 == 0)
        if "final_obs" in info:
            assert info["_final_obs"].all()
            assert all(final in env.single_observation_space for final in info["final_obs"])
            assert not np.array_equal(info["final_obs"][0], obs[0])
            assert set(info["final_info"]) >= {"action_mask", "_action_mask", "illegal_actions", "_illegal_actions"}
            assert (info["final_info"]["action_mask"] != info["action_mask"]).any(1).all()  # of the state before it
            assert np.array_equal(obs, np.broadcast_to(obs[0], obs.shape))  # fresh, as every other
            assert info["action_mask"].sum(1).tolist() == ([37] * 6 if action == "joint" else [12] * 6)
    assert action == "factored" or info["illegal_actions"].sum() == 0


def test_masks_belong_to_the_state_that_is_acted_in() -> None:
    """Whole actions that a mask allows are counted as none; any other is."""
    env = LifecycleVectorEnv(64, episode_length=10)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(25):
        mask = info["action_mask"]
        pick = rng.random(mask.shape)
        before = info["illegal_actions"].copy()
        wrong = rng.random(64) < 0.3
        actions = np.where(wrong, np.where(mask == 0, pick, -1).argmax(1), np.where(mask, pick, -1).argmax(1))
        *_, info = env.step(actions)
        assert np.array_equal(info["illegal_actions"] - before, wrong & (mask.min(1) == 0))


def test_the_share_of_illegal_pairs() -> None:
    """Drawn by the library's own samplers: none of whole actions, many where heads are drawn by themselves."""
    shares = {}
    for action in FORMS:
        env = LifecycleVectorEnv(40, action=action)  # type: ignore[arg-type]
        env.single_action_space.seed(0)
        _, info = env.reset(seed=0)
        for _ in range(25):
            *_, info = env.step(sample(env, info["action_mask"]))
        shares[action] = env.illegal_actions.sum() / (25 * 40)
    print(f"gymnasium: {shares['joint']:.1%} of whole actions illegal, {shares['factored']:.1%} of factored ones")
    assert shares["joint"] == 0
    assert 0.1 < shares["factored"] < 0.6


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.uint64, ">i4"])
def test_actions_of_any_integers_and_layout(dtype: Any) -> None:
    env = LifecycleVectorEnv(4)
    env.reset(seed=0)
    actions = np.array([3, 2, 1, 0]).astype(dtype)
    actions.setflags(write=False)
    twins = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (actions, actions[::-1][::-1], actions.tolist()):
            env.reset(seed=0)
            twins.append(env.step(given)[0])
    assert np.array_equal(twins[0], twins[1])
    assert np.array_equal(twins[0], twins[2])


def test_what_is_handed_out_is_memory_of_its_own() -> None:
    env = LifecycleVectorEnv(4, episode_length=1)
    _, info = env.reset(seed=0)
    for _ in range(2):
        info["illegal_actions"][:] = 7
        info["_illegal_actions"][:] = False
        assert info["_action_mask"].all()
        assert not env.illegal_actions.any()
        _, _, ended, _, info = env.step(np.zeros(4, dtype=np.int64))
        ended[:] = False
        assert info["_final_obs"].all()
        info["_final_obs"][:] = False
        assert info["_final_info"].all()
        info["illegal_actions"][:] = 7
        assert not info["final_info"]["illegal_actions"].any()


def test_a_seed_decides() -> None:
    env = LifecycleVectorEnv(8)
    runs = []
    for seed in (1, 2, 1):
        obs, info = env.reset(seed=seed)
        env.single_action_space.seed(0)
        for _ in range(30):
            obs, *rest, info = env.step(sample(env, info["action_mask"]))
        runs.append((obs, *rest))
    assert data_equivalence(runs[0], runs[2])
    assert not data_equivalence(runs[0], runs[1])


def test_without_a_seed_no_two_are_alike() -> None:
    made = []
    for _ in range(2):
        env = LifecycleVectorEnv(8)
        env.reset()
        env.single_action_space.seed(0)
        for _ in range(20):
            obs, *_ = env.step(sample(env, env.action_masks().astype(np.int8)))
        made.append(obs)
    assert not np.array_equal(*made)


def test_some_environments_begin_anew() -> None:
    env = LifecycleVectorEnv(4)
    _, info = env.reset(seed=1)
    for _ in range(3):
        obs, *_, info = env.step(sample(env, info["action_mask"]))
    where = np.array([True, False, False, True])
    made, _ = env.reset(options={"reset_mask": where})
    assert np.array_equal(made[~where], obs[~where])
    assert np.array_equal(made[0], made[3])


def test_what_does_not_fit_is_named() -> None:
    env = LifecycleVectorEnv(4)
    for call, reason in (
        (lambda: env.reset(seed=[1, 2, 3, 4]), "4 seeds: the environments share one generator; give one int"),
        (lambda: env.reset(options={"difficulty": 3}), "options 'difficulty': there is 'reset_mask' and nothing else"),
        (
            lambda: env.reset(options={"reset_mask": np.ones(3, dtype=bool)}),
            r"reset_mask has shape \(3,\); wanted \(4,\)",
        ),
        (
            lambda: env.reset(options={"reset_mask": np.ones(4, dtype=int)}),
            "reset_mask must be an array of bools, got int64",
        ),
        (lambda: env.step(None), "actions must be an array of integers, got NoneType: None"),
        (lambda: env.step(["WAIT"] * 4), r"actions must be an array of integers, got list: \['WAIT'"),
        (
            lambda: LifecycleVectorEnv(4, calibration="x"),
            "calibration must be of rollout.Calibration, got 'x'",
        ),
        (lambda: LifecycleVectorEnv(4, max_seeds=-1), "max_seeds must be an int of at least 0, got -1"),
        (lambda: LifecycleVectorEnv(4, slot_ids=[]), "slot_ids are empty"),
        (lambda: LifecycleVectorEnv(4, mechanics=3), "mechanics must be of rollout.Mechanics, got 3"),
        (lambda: env.reset(options={"reset_mask": [[True], []]}), "reset_mask must be an array of bools, got list"),
        (lambda: env.reset(options=["x"]), "options must be a dict, got list"),  # type: ignore[arg-type]
        (lambda: env.step(np.zeros(3, dtype=np.int64)), r"actions have shape \(3,\); wanted \(4,\), the joint form"),
        (lambda: env.step(np.zeros((4, 4), dtype=np.int64)), r"actions have shape \(4, 4\); wanted \(4,\)"),
        (lambda: env.step(np.full(4, 43)), "the action of environment 0 is 43; wanted from 0 to 42"),
        (lambda: env.step(np.zeros(4)), "actions must be an array of integers, got float64"),
        (lambda: LifecycleVectorEnv(4, action="pair"), "action='pair' is not one of"),  # type: ignore[arg-type]
        (lambda: LifecycleVectorEnv(0), "num_envs must be an int of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()
    with pytest.raises(TypeError, match=r"argument 'max_seed' \(did you mean max_seeds\?\). There are action, .*"):
        LifecycleVectorEnv(4, max_seed=3)
    with pytest.raises(
        TypeError, match=r"'autoreset_mod' \(did you mean autoreset_mode\?\). There are action, .*, rules"
    ):
        LifecycleVectorEnv(4, autoreset_mod="NextStep")
    with pytest.raises(TypeError, match=r"one environment has no autoreset_mode: it ends.*vector_kwargs="):
        gymnasium.make("esper/Lifecycle-v0", autoreset_mode="NextStep")
    with pytest.raises(TypeError, match="render_mode='rgb_array': there is nothing"):  # as stable-baselines3 wants it
        gymnasium.make("esper/Lifecycle-v0", render_mode="rgb_array")
    with pytest.raises(TypeError, match="rules must be MaskRules or the name of a rule set, got NoneType"):
        LifecycleVectorEnv(4, rules=None)  # type: ignore[arg-type]
    assert gymnasium.make("esper/Lifecycle-v0", render_mode=None, seed=None).spec.to_json()
    with pytest.raises(em.RulesError, match="esper-2025-13"):
        LifecycleVectorEnv(4, rules="esper-2025-13")
