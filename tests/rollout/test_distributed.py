"""Trainings of several processes: one model, one decision, and an end for all when one ends. By gloo, on a CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import esper_masks as em
from esper_masks.rollout import PPO, PPOConfig
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.train import TrainSettings, build

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


class Pretended(Processes):
    """One process of several that are not there."""

    def agreed(self, number: int, device: torch.device) -> int:
        return number

    def most(self, number: int, device: torch.device) -> int:
        return number


TRAIN = ("-m", "esper_masks", "train", "--envs", "20", "--width", "8")

GRADIENTS = """
import torch
import esper_masks as em
from esper_masks.rollout import PPO, FactoredActorCritic, FactoredRecurrentActorCritic, LifecycleEnv
from esper_masks.rollout.training.processes import Processes

processes = Processes.from_env()


def made(kind, envs, processes=None):
    torch.manual_seed(0)
    env = LifecycleEnv(em.ruleset("esper-2025-12"), envs, seed=1)
    return PPO(env, kind(em.DecisionStep(env.engine, mode='eager'), env.obs_size, 16), None, processes)


def check():
    for kind in (FactoredActorCritic, FactoredRecurrentActorCritic):
        whole, half = made(kind, 12), made(kind, 6, processes)
        whole.rollout()
        advantages, returns = torch.randn(2, 25, 12)
        everyone, mine = torch.arange(12), torch.arange(12).chunk(2)[processes.rank]
        hidden = whole.first_hidden
        share = None if hidden is None else tuple(state[mine] for state in hidden)
        whole.learner.learn(whole.buffer.sequences(everyone), hidden, advantages, returns)
        half.learner.learn(whole.buffer.sequences(mine), share, advantages[:, mine], returns[:, mine])
        for a, b in zip(whole.policy.parameters(), half.policy.parameters()):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        seen = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(3))
        moments, alone = type(half.obs_moments)(5, processes=processes), type(half.obs_moments)(5)
        for _ in range(2):
            moments.update(seen[processes.rank])
            alone.update(seen)
        torch.testing.assert_close(moments.mean, alone.mean)
        torch.testing.assert_close(moments.spread, alone.spread)
        assert moments.count == alone.count
        torch.manual_seed(processes.rank)
        figures = [half.iterate() for _ in range(2)]
        flat = torch.cat([p.flatten() for p in half.policy.parameters()] + [torch.tensor([figures[-1]["return_mean"]])])
        assert torch.equal(processes.mean(flat.clone()), flat), "the processes have different models"
        actions = half.buffer.actions.float()
        assert not torch.equal(processes.mean(actions), actions), "the processes act alike"


with processes.joined("cpu"):
    check()
"""


def run(*arguments: str, code: int = 0, timeout: int = 240) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, *arguments], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_learn_what_one_would(tmp_path: Path) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    run(str(script))


@pytest.mark.slow
def test_a_training_of_two_processes_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    summary = json.loads(run(*TRAIN, "--steps", "1500", "--logdir", str(folder), "--json").split("\n")[-2])
    assert summary["env_steps"] == 1500
    part = ("--logdir", str(tmp_path / "part"), "--json")
    run(*TRAIN, "--steps", "1000", *part, "--final-learning-rate", "4e-3")
    whole = run(*TRAIN, "--steps", "1500", "--logdir", str(tmp_path / "same"), "--final-learning-rate", "4e-3")
    assert "checkpoint-000000001500-0-of-2.pt" in whole
    run(*TRAIN, "--steps", "1500", *part, "--resume")
    for rank in range(2):
        mine, its = (
            checkpoint.load(tmp_path / name, Processes(rank, 2))["training"]["policy"] for name in ("part", "same")
        )
        assert all(torch.equal(mine[name], its[name]) for name in its)
    own = [sys.executable, *TRAIN, "--logdir", str(tmp_path / "part"), "--resume", "--json"]
    alone = subprocess.run([*own, "--steps", "2000"], capture_output=True, text=True, timeout=240, check=True)
    assert "going on from 1,500 steps, but not to the last bit: 1 process instead of 2" in alone.stderr
    assert json.loads(alone.stdout)["env_steps"] == 2000
    two = run(*TRAIN, "--steps", "2500", *part, "--resume")
    assert "going on from 2,000 steps, but not to the last bit: 2 processes instead of 1" in two
    names = [[path.name for path in parts] for parts in checkpoint.found(tmp_path / "part")]
    assert names == [  # the last three, of whichever number of processes
        ["checkpoint-000000001500-0-of-2.pt", "checkpoint-000000001500-1-of-2.pt"],
        ["checkpoint-000000002000.pt"],
        ["checkpoint-000000002500-0-of-2.pt", "checkpoint-000000002500-1-of-2.pt"],
    ]


@pytest.fixture(scope="module", params=["mlp", "lstm"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PPO]]:
    """A checkpoint of two processes with six environments each, in the middle of an episode, and what they had."""
    folder = tmp_path_factory.mktemp(request.param)
    had: list[PPO] = []
    for rank in range(2):
        settings = TrainSettings(envs=6, width=8, policy=request.param, seed=rank)
        ppo = build(em.ruleset("esper-2025-12"), settings, PPOConfig(steps=10, minibatches=1))
        ppo.iterate()
        if rank:
            ppo.policy.load_state_dict(had[0].policy.state_dict())
        had.append(ppo)
        content = checkpoint.load(checkpoint.save(ppo, settings.to_dict(), folder / str(rank)))
        torch.save({**content, "processes": 2, "id": 77}, folder / f"checkpoint-000000000120-{rank}-of-2.pt")
    return folder, had


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_environments_are_divided_again(parts: tuple[Path, list[PPO]], size: int) -> None:
    """Environment 5 is the last of the first process, and 6 the first of the second."""
    folder, had = parts
    settings = TrainSettings(envs=12 // size, width=8, policy="lstm" if had[0].state.hidden else "mlp")
    generators = []
    for rank in range(size):
        ppo = build(em.ruleset("esper-2025-12"), settings, PPOConfig(steps=10, minibatches=1))
        ppo.processes = Pretended(rank, size)
        checkpoint.restore(ppo, checkpoint.load(folder, Processes(rank, size)))
        for env in range(12 // size):
            source, at = divmod(rank * (12 // size) + env, 6)
            old = had[source]
            assert torch.equal(ppo.env.states[env], old.env.states[at])
            for name, field in ppo.env.state._asdict().items():
                its = getattr(old.env.state, name)
                mine = field[:, env] if field.ndim == 2 else field[env]
                assert torch.equal(mine, its[:, at] if its.ndim == 2 else its[at]), name
            assert torch.equal(ppo.state.obs[env], old.state.obs[at])
            assert ppo.state.starts[env] == old.state.starts[at]
            for mine, its in zip(ppo.state.hidden or (), old.state.hidden or ()):
                assert torch.equal(mine[env], its[at])
            assert ppo.env.illegal_actions[env] == old.env.illegal_actions[at]
        assert ppo.env_steps == had[0].env_steps == 60
        assert torch.equal(ppo.policy.output.weight, had[0].policy.output.weight)
        generators += [ppo.env.state_dict()["generator"], torch.get_rng_state()]
    generators += [old.env.state_dict()["generator"] for old in had]
    assert len({bytes(state.tolist()) for state in generators}) == 2 * size + 2  # none is another's


def test_what_cannot_be_divided_is_refused(parts: tuple[Path, list[PPO]], tmp_path: Path) -> None:
    folder, _ = parts
    with pytest.raises(checkpoint.CheckpointError, match="12 environments of the checkpoint cannot be divided evenly"):
        checkpoint.load(folder, Processes(0, 5))
    for path in checkpoint.found(folder)[0]:
        content = checkpoint.read_any(path)
        torch.save({**content, "id": int("-1-of" in path.name)}, tmp_path / path.name)
    with pytest.raises(checkpoint.CheckpointError, match="the parts of the processes are of different checkpoints"):
        checkpoint.load(tmp_path)


@pytest.mark.slow
def test_environments_are_divided_evenly(tmp_path: Path) -> None:
    told = run(*TRAIN[:3], "--envs", "21", "--steps", "100", "--logdir", str(tmp_path), code=1)
    assert "21 environments cannot be divided evenly among 2 processes" in told


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_ends_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM to one of them: all save and end. SIGKILL: torchrun ends the rest, and the last checkpoint is whole."""
    command = [*TORCHRUN, *TRAIN, "--steps", "100000000", "--logdir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        deadline = time.monotonic() + 120
        while len(checkpoint.found(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[-1]), number)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out.decode()[-3000:]  # torchrun's own, of whatever its processes end by
    assert (b"esper-masks train: stopped after " in out) == (number == signal.SIGTERM)
    steps, others = (checkpoint.load(tmp_path, Processes(rank, 2))["env_steps"] for rank in range(2))
    assert steps == others > 0
    run(*TRAIN, "--steps", str(steps + 500), "--logdir", str(tmp_path), "--resume")
    assert checkpoint.load(tmp_path, Processes(0, 2))["env_steps"] == steps + 500


def test_what_torchrun_tells() -> None:
    assert Processes.from_env({}) == Processes(0, 1, 0)
    assert Processes.from_env({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Processes(3, 8, 1)
    with pytest.raises(ValueError, match="the environment has RANK, but torchrun sets RANK, WORLD_SIZE, LOCAL_RANK"):
        Processes.from_env({"RANK": "3"})
    assert Processes(3, 8, 1).device("cuda") == "cuda:1"
    assert Processes(3, 8, 1).device("cpu") == "cpu"
    assert Processes().device("cuda") == "cuda"
    assert Processes(3, 8).share(24, "environments") == 3
    seeds = {Processes(rank, 4).seed(seed, use) for rank in range(4) for seed in range(4) for use in ("a", "b")}
    assert len({float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in seeds}) == 32
    with pytest.raises(ValueError, match="cuda:0 would be the device of all 8 processes"):
        Processes(3, 8).device("cuda:0")


def test_a_checkpoint_without_the_part_of_a_process_is_none(tmp_path: Path) -> None:
    for name in (
        "000000000100",
        "000000000100-0-of-2",
        "000000000300-0-of-2",
        "000000000200-1-of-2",
        "000000000200-0-of-2",
    ):
        (tmp_path / f"checkpoint-{name}.pt").write_bytes(b"")
    (tmp_path / "checkpoint-1.pt").write_bytes(b"")
    names = [[path.name[16:-3] for path in parts] for parts in checkpoint.found(tmp_path)]
    assert names == [["0000100"], ["0000200-0-of-2", "0000200-1-of-2"]]
