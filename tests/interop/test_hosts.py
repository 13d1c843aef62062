"""Actions and masks as libraries write them: the engine's, whatever the form; and no library unless asked."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import esper_masks as em
from esper_masks.interop.hosts import ActionForm, HostEnv

RULES = em.ruleset("esper-2025-12")


@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_every_whole_action_comes_back(rules: str) -> None:
    engine = em.MaskEngine(em.ruleset(rules))
    joint, factored = ActionForm(engine), ActionForm(engine, "factored")
    size = engine.joint_actions.size
    index = torch.arange(size)
    assert joint.sizes == (size,)
    assert factored.sizes == tuple(head.size for head in engine.layout.heads)
    actions = joint.actions(index, size)
    assert torch.equal(engine.joint_actions.encode(actions), index)
    assert torch.equal(factored.actions(actions.to(torch.uint8), size), actions)
    masks = engine(engine.empty_slots(3))
    assert torch.equal(joint.masks(masks), masks.joint())
    assert torch.equal(factored.masks(masks), torch.cat(list(masks.values()), -1))


@pytest.mark.parametrize(
    ("form", "given", "reason"),
    [
        ("joint", torch.zeros(3), "actions must be an integer tensor, got torch"),
        ("joint", torch.zeros(3, 1, dtype=torch.int64), r"actions have shape \(3, 1\); wanted \(3,\), the joint form"),
        ("joint", torch.zeros(4, dtype=torch.int64), r"actions have shape \(4,\); wanted \(3,\)"),
        (
            "factored",
            torch.zeros(3, dtype=torch.int64),
            r"actions have shape \(3,\); wanted \(3, 4\), the factored form",
        ),
        ("factored", torch.zeros(3, 5, dtype=torch.int64), r"actions have shape \(3, 5\); wanted \(3, 4\)"),
        ("factored", torch.zeros(2, 4, dtype=torch.int64), r"actions have shape \(2, 4\); wanted \(3, 4\)"),
        ("factored", torch.zeros(3, 4, dtype=torch.bool), "actions must be an integer tensor, got torch"),
    ],
)
def test_actions_that_do_not_fit_are_named(form: Any, given: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ActionForm(em.MaskEngine(RULES), form).actions(given, 3)


def test_a_form_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="action='flat' is not one of 'joint', 'factored'"):
        ActionForm(em.MaskEngine(RULES), "flat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="action='flat' is not one of"):
        HostEnv(2, "flat", RULES, {})  # type: ignore[arg-type]


def test_actions_in_numpy_are_looked_at() -> None:
    joint, factored = HostEnv(3, "joint", RULES, {}), HostEnv(3, "factored", "esper-2025-12", {})
    with pytest.raises(ValueError, match="the action of environment 1 is 43; wanted from 0 to 42"):
        joint.step(np.array([0, 43, 44]))
    with pytest.raises(ValueError, match="the action of environment 2 is -1; wanted from 0 to 42"):
        joint.step(np.array([0, 42, -1]))
    with pytest.raises(ValueError, match=r"environment 1 is \[0, 5, 0, 0\]; wanted from 0 to \[2, 4, 2, 3\]"):
        factored.step(np.array([[0, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]))
    for env in (joint, factored):
        assert env.env.state.epoch.tolist() == [0, 0, 0]  # nothing was stepped


@pytest.mark.parametrize("action", ["joint", "factored"])
def test_arrays_are_what_the_environment_gives(action: Any) -> None:
    host = HostEnv(5, action, RULES, {"max_seeds": 3, "episode_length": 4})
    env = em.rollout.LifecycleEnv(RULES, 5, max_seeds=3, episode_length=4)
    rng = np.random.default_rng(0)
    assert np.array_equal(host.reset(seed=7), env.reset(seed=7).numpy())
    for step in range(1, 10):
        mask = host.masks()
        assert np.array_equal(mask, (env.masks().joint() if action == "joint" else env.masks().flat()).numpy())
        sampled = em.FactoredCategorical(torch.zeros(5, 15), env.masks()).sample()
        given = env.engine.joint_actions.encode(sampled) if action == "joint" else sampled
        obs, reward, ended, final = host.step(given.numpy().astype(rng.choice(["int64", "int32"])))
        wanted, gained, terminated, _, info = env.step(sampled)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert ended.tolist() == terminated.tolist() == [step % 4 == 0] * 5
        assert (final is None) == (step % 4 != 0)
        if final is not None:
            assert np.array_equal(final, info["final_obs"].numpy())
            assert not np.array_equal(final, obs)


def test_some_begin_anew_and_the_others_go_on() -> None:
    env = em.rollout.LifecycleEnv(RULES, 4, seed=3)
    for _ in range(6):
        env.step(em.FactoredCategorical(torch.zeros(4, 15), env.masks()).sample())
    before, where = env.state, torch.tensor([True, False, True, False])
    obs = env.reset(where)
    fresh = em.rollout.LifecycleEnv(RULES, 4)
    for name, field in env.state._asdict().items():
        parts = zip(field.movedim(0 if name == "states" else -1, 0), where.tolist())
        for at, (part, begins) in enumerate(parts):
            wanted = getattr(fresh.state if begins else before, name)
            assert torch.equal(part, wanted.movedim(0 if name == "states" else -1, 0)[at]), (name, at)
    assert env.states.stride() == before.states.stride()
    assert torch.equal(obs[where], fresh.obs[where])
    with pytest.raises(ValueError, match="where must be a bool tensor, got torch"):
        env.reset(torch.tensor([1, 0, 1, 0]))
    with pytest.raises(ValueError, match="where"):
        env.reset(torch.tensor([True, False]))


def test_a_seed_begins_the_noise_anew() -> None:
    env = em.rollout.LifecycleEnv(RULES, 50, seed=3)
    made = []
    for seed in (5, 6, 5):
        env.reset(seed=seed)
        torch.manual_seed(0)
        for _ in range(5):
            obs, *_ = env.step(em.FactoredCategorical(torch.zeros(50, 15), env.masks()).sample())
        made.append(obs)
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("name", ["frameskip", "max_episode_steps"])
def test_a_setting_that_there_is_not_is_refused_in_pythons_words(name: str) -> None:
    """By which TorchRL and others, who try arguments, know which one to leave out."""

    class Strict:
        def __init__(self, *, seed: int = 0):
            pass

    with pytest.raises(TypeError) as python:
        Strict(**{name: 1})
    with pytest.raises(TypeError) as ours:
        HostEnv(2, "joint", RULES, {name: 1})
    words = str(python.value).partition("__init__()")[2]
    assert f"'{name}'" in words
    assert str(ours.value).startswith(f"LifecycleEnv.__init__(){words}. There are assumptions, ")  # and no far guess


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
    [("gymnasium", "gymnasium"), ("sb3", "stable_baselines3"), ("torchrl", "tensordict")],
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
