"""Steps of environments in a second, of the environment alone and of training, in every mode; epochs of networks."""

import math
from collections.abc import Iterator
from typing import Any

import torch

import esper_masks as em
from benchmarks.gpu import networks
from benchmarks.gpu.child import in_turn
from benchmarks.gpu.measuring import seconds, wait
from benchmarks.gpu.ppo import CONFIG, RULES, training
from benchmarks.gpu.report import Report
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import random_legal

ENVS, QUICK = (4096, 16384, 65536, 262144), (512,)
ITERATIONS = 3
NETWORKS = "networks"  # the job of these
TABLES = {
    "env": f"LifecycleEnv, {RULES}, 3 slots: million steps/s (times as fast as eager)",
    "training": f"PPO.iterate, {RULES}, 3 slots, width 64, bfloat16 on a GPU: million steps/s (times as fast as eager)",
    "rollout": "rollouts of these trainings alone: million steps/s (times as fast as eager)",
}


def run(told: Report, device: str, quick: bool) -> None:
    sizes = [str(envs) for envs in (QUICK if quick else ENVS)]
    modes = ["compiled", *(["cuda-graph"] if device == "cuda" else [])]
    built = [[mode, envs] for mode in modes for envs in sizes]
    in_turn(told, "speed", device, quick, [["eager", *sizes], *built, [NETWORKS]])  # of the first nothing is built


def work(told: Report, device: str, quick: bool, mode: str, *sizes: str) -> Iterator[None]:
    if mode == NETWORKS:
        yield from networks.work(told, device, quick)
        return
    works = [
        (f"{what}, {mode}, {int(envs):,} environments", measure(told, device, mode, int(envs)))
        for envs in sizes
        for what, measure in (("environment", _env), ("training", _training))
    ]
    built = works if mode == "eager" else []
    for name, one in () if built else works:
        with told.piece(f"{name}: built"):
            next(one)
            built.append((name, one))
    yield
    for name, one in built:
        with told.piece(name):
            for _ in one:
                pass
        if device == "cuda":
            torch.cuda.empty_cache()


def _env(told: Report, device: str, mode: Any, envs: int) -> Iterator[None]:
    env, eager = (LifecycleEnv(em.ruleset(RULES), envs, device=device, mode=of) for of in (mode, "eager"))
    actions = random_legal(env)
    noise = torch.rand(env.dynamics.uniforms, envs, device=device).T  # in memory as what an environment draws itself
    for made, expected in zip(env.step(actions, noise)[:3], eager.step(actions, noise)[:3]):
        alike = torch.isclose(made.float(), expected.float(), rtol=1e-3, atol=1e-3).reshape(envs, -1).all(-1)
        assert alike.float().mean() > 0.99, f"{mode} and eager steps differ in {(~alike).sum()} environments"
    assert not env.illegal_actions.any()
    env.step(actions)  # which are legal no longer; what an environment computes is the same for all actions
    wait(device)
    yield
    rate = envs / seconds(lambda: env.step(actions), device) / 1e6
    told.cell(TABLES["env"], mode, f"{envs:,}", rate, compared="rate")


def _training(told: Report, device: str, mode: str, envs: int) -> Iterator[None]:
    ppo = training(mode, envs, device, autocast=device == "cuda")
    for _ in range(2):
        ppo.iterate()
    if device == "cuda":
        torch.cuda.empty_cache()
    yield
    figures = [ppo.iterate() for _ in range(ITERATIONS)]
    assert not any(one["illegal_actions"] for one in figures)
    assert all(math.isfinite(one["return_mean"]) for one in figures)
    rate = max(one["env_steps_per_s"] for one in figures) / 1e6
    rollout = envs * CONFIG.steps / min(one["rollout_seconds"] for one in figures) / 1e6
    told.cell(TABLES["training"], mode, f"{envs:,}", rate, compared="rate")
    told.cell(TABLES["rollout"], mode, f"{envs:,}", rollout, compared="rate")
