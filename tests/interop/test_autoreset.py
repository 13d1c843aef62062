"""What follows the end of an episode: each mode of Gymnasium's, against its own loop over single environments."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_masks.rollout import LifecycleEnv
from tests.interop.lifecycles import ALIKE, kilns

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

from esper_masks.interop.gymnasium import LifecycleEnv as SingleEnv
from esper_masks.interop.gymnasium import LifecycleVectorEnv

MODES = tuple(AutoresetMode)
SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
STEPS = 16


class Alone(gymnasium.Env[Any, Any]):
    """One environment by its dynamics alone, which begins nothing by itself."""

    def __init__(self, env: LifecycleEnv, noise: Callable[[], torch.Tensor]):
        self.dynamics, self.joint, self.noise = env.dynamics, env.engine.joint_actions, noise
        self.observation_space = spaces.Box(-np.inf, np.inf, (env.obs_size,), np.float32)
        self.action_space = spaces.Discrete(self.joint.size)
        self.illegal = 0

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        mask = self.dynamics.masks(self.state).joint()[0].numpy().astype(np.int8)
        return self.dynamics.observe(self.state)[0].numpy(), {"action_mask": mask, "illegal_actions": self.illegal}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.state = self.dynamics.fresh(1)
        return self._seen()

    def step(self, action: Any) -> Any:
        epoch, returns = self.state.epoch + 1, self.state.returns.clone()
        actions = self.joint.decode(torch.tensor([int(action)]))
        after, outcome = self.dynamics.advance(self.state, actions, self.noise())
        self.state = after._replace(epoch=epoch, returns=returns + outcome.reward)
        self.illegal += int(outcome.illegal)
        obs, info = self._seen()
        return obs, float(outcome.reward), bool(outcome.terminated), False, info


def both(
    make: Callable[..., LifecycleEnv], batch: int, horizon: int, mode: AutoresetMode, table: torch.Tensor
) -> tuple[LifecycleVectorEnv, SyncVectorEnv, SimpleNamespace]:
    """Ours, Gymnasium's over single ones, and the clock by which both read the same noise."""
    clock, env = SimpleNamespace(step=0), make(batch, horizon)
    env.draw = lambda: table[clock.step, :batch, : env.dynamics.uniforms]  # type: ignore[method-assign]

    def alone(at: int) -> Alone:
        one = make(1, horizon)
        return Alone(one, lambda: table[clock.step, at : at + 1, : one.dynamics.uniforms])

    theirs = SyncVectorEnv([partial(alone, at) for at in range(batch)], autoreset_mode=mode)
    return LifecycleVectorEnv(env, autoreset_mode=mode), theirs, clock


def assert_same_info(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """All that Gymnasium says; of masks ours says more, of environments that were not reset."""
    assert set(ours) == set(theirs)
    for name in (name for name in theirs if not name.startswith("_")):
        where = theirs[f"_{name}"]
        assert (where <= ours[f"_{name}"]).all()
        if isinstance(theirs[name], dict):
            assert np.array_equal(where, ours[f"_{name}"])
            assert all(np.array_equal(ours[name][part], theirs[name][part]) for part in theirs[name])
            assert set(ours[name]) == set(theirs[name])
        else:
            for mine, other in zip(ours[name][where], theirs[name][where]):
                np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("mode", MODES)
@given(
    name=st.sampled_from(sorted(ALIKE)),
    batch=st.sampled_from([4, 3, 1]),
    horizon=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    resets=st.sampled_from([0.0, 0.2]),
)
@settings(deadline=None, max_examples=8)
def test_each_mode_is_the_librarys(
    mode: AutoresetMode, name: str, batch: int, horizon: int, seed: int, resets: float
) -> None:
    table = torch.rand(STEPS, batch, 8, generator=torch.Generator().manual_seed(seed))
    table[..., 1] *= 0.4  # every fourth step of kilns is the last one, of some and not of others
    ours, theirs, clock = both(ALIKE[name], batch, horizon, mode, table)
    rng = np.random.default_rng(seed)
    made, wanted = ours.reset(), theirs.reset()
    np.testing.assert_array_equal(made[0], wanted[0])
    assert_same_info(made[1], wanted[1])
    ended, mask = np.zeros(batch, dtype=np.bool_), made[1]["action_mask"]
    for clock.step in range(STEPS):
        where = rng.random(batch) < resets
        where |= ended if mode == DISABLED else False
        if where.any():
            made, wanted = (each.reset(options={"reset_mask": where.copy()}) for each in (ours, theirs))
            np.testing.assert_array_equal(made[0], wanted[0])
            assert_same_info(made[1], wanted[1])
            mask = made[1]["action_mask"]
            assert np.array_equal(mask.astype(np.bool_), ours.action_masks())
        actions = np.where(
            rng.random(batch) < 0.8, (rng.random(mask.shape) * mask).argmax(1), rng.integers(mask.shape[1])
        )
        made, wanted = ours.step(actions), theirs.step(actions)
        for mine, other in zip(made[:4], wanted[:4]):
            np.testing.assert_array_equal(mine, other)
        assert made[1].dtype == np.float32
        assert_same_info(made[4], wanted[4])
        assert np.array_equal(made[4]["action_mask"].astype(np.bool_), ours.action_masks())
        assert np.array_equal(ours.illegal_actions, [each.illegal for each in theirs.envs])  # type: ignore[attr-defined]
        ended, mask = wanted[2], wanted[4]["action_mask"]
        for part in (*made[:3], made[4]["action_mask"]):
            part.fill(1)  # it is the caller's


@pytest.mark.parametrize("name", ALIKE)
def test_a_single_environment_is_its_dynamics(name: str) -> None:
    env, table = ALIKE[name](1, 5), torch.rand(STEPS, 1, 8, generator=torch.Generator().manual_seed(0))
    clock = SimpleNamespace(step=0)
    env.draw = lambda: table[clock.step, :, : env.dynamics.uniforms]  # type: ignore[method-assign]
    ours, theirs = SingleEnv(env), Alone(ALIKE[name](1, 5), env.draw)
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
    rng, mask, ends = np.random.default_rng(0), ours.action_masks(), 0
    for clock.step in range(STEPS):
        action = (rng.random(mask.shape) * mask).argmax()
        made, wanted = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(made[0], wanted[0])
        assert made[1:4] == wanted[1:4]
        mask = ours.action_masks()
        assert np.array_equal(mask, wanted[4]["action_mask"])
        assert np.array_equal(made[4]["action_mask"], mask)
        assert made[4]["illegal_actions"] == wanted[4]["illegal_actions"] == 0
        if made[2]:
            np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
            mask, ends = ours.action_masks(), ends + 1
    assert ends >= 2


def test_what_is_ignored_may_be_anything() -> None:
    env = LifecycleVectorEnv(kilns(4, 1), autoreset_mode="NextStep")
    env.reset(seed=0)
    _, _, ended, _, info = env.step(np.zeros(4, dtype=np.int64))
    assert ended.all()
    obs, reward, ended, _, info = env.step(np.full(4, -99))
    assert not ended.any()
    assert reward.tolist() == info["illegal_actions"].tolist() == [0] * 4
    assert np.array_equal(obs, env.reset()[0])
    with pytest.raises(ValueError, match="the action of environment 0 is -99"):
        env.step(np.full(4, -99))


def test_without_autoreset_the_ended_are_named() -> None:
    env = LifecycleVectorEnv(kilns(3, 2), autoreset_mode=DISABLED)
    env.reset(seed=0)
    env.lifecycles.state = env.lifecycles.state._replace(epoch=torch.tensor([0, 1, 1], dtype=torch.int32))
    wait = np.zeros(3, dtype=np.int64)
    env.lifecycles.draw = lambda: torch.full((3, 2), 0.5)  # type: ignore[method-assign]
    assert env.step(wait)[2].tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"the episode of environment 1 has ended, of 2 in all: reset them first"):
        env.step(wait)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    with pytest.raises(ValueError, match="the episode of environment 2 has ended, of 1 in all"):
        env.step(wait)
    assert env.lifecycles.state.epoch.tolist() == [1, 0, 0]  # nothing was stepped
    env.reset(options={"reset_mask": np.array([False, False, True])})
    assert env.step(wait)[2].tolist() == [True, False, False]
    env.reset()
    assert env.step(wait)[2].tolist() == [False] * 3
    one = SingleEnv(kilns(1, 1))
    one.reset(seed=0)
    assert one.step(0)[2]
    with pytest.raises(ValueError, match="the episode of environment 0 has ended"):
        one.step(0)


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "NormalizeReward": wrappers.NormalizeReward,
    "NormalizeObservation": wrappers.NormalizeObservation,
    "DtypeObservation": partial(wrappers.DtypeObservation, dtype=np.float64),
    "TransformObservation": lambda env: wrappers.TransformObservation(env, lambda obs: 2 * obs),
    "FlattenObservation": wrappers.FlattenObservation,
    "ClipReward": partial(wrappers.ClipReward, min_reward=-0.25, max_reward=0.25),
}
REFUSED = {
    ("NormalizeObservation", SAME_STEP),
    ("NormalizeObservation", DISABLED),
    *((name, SAME_STEP) for name in ("DtypeObservation", "TransformObservation", "FlattenObservation")),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRAPPED)
def test_the_librarys_wrappers_apply_as_to_its_own(name: str, mode: AutoresetMode) -> None:
    table = torch.rand(STEPS, 3, 8, generator=torch.Generator().manual_seed(0))
    table[..., 1] = 0.5  # no kiln's episode ends early: what waits for a reset is all of them
    *plain, clock = both(kilns, 3, 5, mode, table)
    if (name, mode) in REFUSED:
        for env in plain:
            with pytest.raises(ValueError, match="autoreset_mode"):
                WRAPPED[name](env)
        return
    ours, theirs = (WRAPPED[name](env) for env in plain)
    made, wanted = ours.reset(), theirs.reset()
    ends, rng = 0, np.random.default_rng(0)
    for clock.step in range(STEPS):
        np.testing.assert_array_equal(made[0], wanted[0])
        mask = made[-1]["action_mask"]
        assert np.array_equal(mask, wanted[-1]["action_mask"])
        actions = (rng.random(mask.shape) * mask).argmax(1)
        made, wanted = ours.step(actions), theirs.step(actions)
        for mine, other in zip(made[:4], wanted[:4]):
            np.testing.assert_array_equal(mine, other)
        for part in ("r", "l") if "episode" in wanted[4] else ():
            np.testing.assert_array_equal(made[4]["episode"][part], wanted[4]["episode"][part])
        ends += int(made[2].all())
        assert ("episode" in made[4]) == (made[2].all() and name == "RecordEpisodeStatistics")
        if made[2].all() and mode == DISABLED:
            made, wanted = ours.reset(), theirs.reset()
    assert ends == (2 if mode == NEXT_STEP else 3)


def test_statistics_of_environments_that_are_reset_alone() -> None:
    env = wrappers.RecordEpisodeStatistics(LifecycleVectorEnv(kilns(3, 4), autoreset_mode=DISABLED))
    env.unwrapped.lifecycles.draw = lambda: torch.full((3, 2), 0.5)
    env.reset()
    lengths: list[list[int]] = []
    for step in range(10):
        *_, ended, _, info = env.step(np.zeros(3, dtype=np.int64))
        if "episode" in info:
            lengths.append(info["episode"]["l"].tolist())
        where = ended | (np.arange(3) == 1) & (step == 1)  # one begins again after two steps
        if where.any():
            env.reset(options={"reset_mask": where})
    assert lengths == [[4, 0, 4], [0, 4, 0], [4, 0, 4], [0, 4, 0]]


def test_a_registered_environment_has_a_mode() -> None:
    for mode in MODES:
        for given_mode in (mode, mode.value):
            env = gymnasium.make_vec("esper/Lifecycle-v0", num_envs=2, autoreset_mode=given_mode)
            assert env.metadata["autoreset_mode"] is env.unwrapped.autoreset_mode is mode
    assert LifecycleVectorEnv.metadata["autoreset_mode"] is SAME_STEP
    with pytest.raises(ValueError, match="autoreset_mode='next' is not one of 'NextStep', 'SameStep', 'Disabled'"):
        LifecycleVectorEnv(2, autoreset_mode="next")
