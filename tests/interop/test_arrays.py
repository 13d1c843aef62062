"""The environment in numpy: what it gives as arrays, and arrays as it takes them; and no library unless asked."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import esper_masks as em
from esper_masks.interop.arrays import ArrayEnv

RULES = em.ruleset("esper-2025-12")


def test_actions_in_numpy_are_looked_at() -> None:
    joint, factored = ArrayEnv(3, "joint", {"rules": RULES}), ArrayEnv(3, "factored", {})
    with pytest.raises(ValueError, match="the action of environment 1 is 43; wanted from 0 to 42"):
        joint.step(np.array([0, 43, 44]))
    with pytest.raises(ValueError, match="the action of environment 2 is -1; wanted from 0 to 42"):
        joint.step(np.array([0, 42, -1]))
    with pytest.raises(ValueError, match=r"environment 1 is \[0, 5, 0, 0\]; wanted from 0 to \[2, 4, 2, 3\]"):
        factored.step(np.array([[0, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]))
    for arrays in (joint, factored):
        assert arrays.env.state.epoch.tolist() == [0, 0, 0]  # nothing was stepped
    with pytest.raises(ValueError, match="action='flat' is not one of"):
        ArrayEnv(2, "flat", {})  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["joint", "factored"])
def test_arrays_are_what_the_environment_gives(action: Any) -> None:
    arrays = ArrayEnv(5, action, {"rules": RULES, "max_seeds": 3, "episode_length": 4})
    env = em.rollout.LifecycleEnv(RULES, 5, max_seeds=3, episode_length=4)
    rng = np.random.default_rng(0)
    assert np.array_equal(arrays.reset(seed=7), env.reset(seed=7).numpy())
    for step in range(1, 10):
        mask = arrays.masks()
        assert np.array_equal(mask, (env.masks().joint() if action == "joint" else env.masks().flat()).numpy())
        sampled = em.FactoredCategorical(torch.zeros(5, 15), env.masks()).sample()
        given = env.engine.joint_actions.encode(sampled) if action == "joint" else sampled
        obs, reward, ended, final = arrays.step(given.numpy().astype(rng.choice(["int64", "int32"])))
        wanted, gained, terminated, _, info = env.step(sampled)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert ended.tolist() == terminated.tolist() == [step % 4 == 0] * 5
        assert (final is None) == (step % 4 != 0)
        if final is not None:
            assert np.array_equal(final.obs, info["final_obs"].numpy())
            assert not np.array_equal(final.obs, obs)


@pytest.mark.parametrize("name", ["frameskip", "max_episode_steps"])
def test_a_setting_that_there_is_not_is_refused_in_pythons_words(name: str) -> None:
    """By which TorchRL and others, who try arguments, know which one to leave out."""

    class Strict:
        def __init__(self, *, seed: int = 0):
            pass

    with pytest.raises(TypeError) as python:
        Strict(**{name: 1})
    with pytest.raises(TypeError) as ours:
        ArrayEnv(2, "joint", {name: 1})
    words = str(python.value).partition("__init__()")[2]
    assert f"'{name}'" in words
    assert str(ours.value).startswith(
        f"LifecycleEnv.__init__(){words}. There are action, assumptions, "
    )  # and no far guess


def test_importing_the_package_loads_no_library() -> None:
    code = """
import sys
import torch
from time import perf_counter
began = perf_counter()
import esper_masks as em
seconds = perf_counter() - began
em.interop
libraries = "gymnasium stable_baselines3 sb3_contrib torchrl tensordict pettingzoo ray matplotlib".split()
assert not set(libraries) & {name.split(".")[0] for name in sys.modules}
print(seconds)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(f"import esper_masks: {float(done.stdout):.2f} s after torch")


@pytest.mark.parametrize(
    ("module", "library"),
    [("gymnasium", "gymnasium"), ("sb3", "stable_baselines3"), ("torchrl", "tensordict"), ("pettingzoo", "pettingzoo")],
)
def test_a_missing_library_is_named_with_its_extra(module: str, library: str) -> None:
    code = f"""
import sys
sys.modules[{library!r}] = None
import esper_masks as em
try:
    em.interop.{module}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    wanted = f"esper_masks.interop.{module} needs {library}: pip install 'esper-masks[{module}]'\n"
    assert done.stdout == wanted, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'jax'; there are gymnasium, pettingzoo"):
        _ = em.interop.jax
