"""``train --world networks``: what it prints, that it goes on where it was, and what it refuses."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from esper_masks.cli import networks, train
from esper_masks.cli.entry import main
from esper_masks.rollout import PPOConfig, load_policy
from esper_masks.rollout.networks import memory, plans
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.tasks import digits
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.train import TrainSettings
from esper_masks.rules import MaskRules
from tests.cli.running import ended_by

WORLD = ("train", "--world", "networks", "--task", "spirals", "--hosts", "6", "--epochs", "1", "--threads", "1")


@pytest.fixture(autouse=True)
def _few_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "HOSTS_IN_TEST", 4)
    monkeypatch.setattr(networks, "HOSTS_PLANNED", 4)
    monkeypatch.setattr(plans, "BIRTHS", (2,))
    monkeypatch.setattr(plans, "PLANS", 1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path)
    assert main([*WORLD, "--steps", "120", "--logdir", folder]) == 0
    out = capsys.readouterr().out
    for name in ("learned", "no_op", "random", "heuristic", "fixed_plan", "known_task", "test", "spirals"):
        assert name in out
    assert "fixed plan, the best of 1:" in out
    assert main(["train", "--logdir", folder, "--resume", "--steps", "240", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "going on from 120 steps" in err
    facts = json.loads(out)
    assert facts["env_steps"] == 240
    assert facts["illegal_actions"] == facts["faults"] == 0
    assert facts["host_epochs_per_s"] > 0
    assert set(facts["baselines"]) == {"no_op", "random", "heuristic", "fixed_plan", "known_task"}
    for told in (facts, *facts["baselines"].values()):
        assert set(told["score_validation"]) == set(told["score_test"]) == {"mean", "se"}
    assert facts["baselines"]["no_op"]["score_test"] == {"mean": 0.0, "se": 0.0}
    assert facts["return_mean"] == facts["score_validation"]["mean"]

    for name, told in facts["baselines"].items():
        difference = facts["score_test"]["mean"] - told["score_test"]["mean"]
        assert told["learned_ahead"]["mean"] == pytest.approx(difference, abs=1e-5), name

    assert main(["evaluate", folder, "--episodes", "4", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["episodes"] == 4
    assert evaluated["baselines"]["no_op"]["score_test"] == {"mean": 0.0, "se": 0.0}
    assert evaluated["baselines"]["fixed_plan"]["score_test"] == facts["baselines"]["fixed_plan"]["score_test"]

    policy = load_policy(folder)
    assert isinstance(policy.task.dynamics, NetworkDynamics)
    assert policy.task.dynamics.samples.tasks[0].name == "spirals"
    assert policy.act_in(policy.env(3)).decision.actions.shape == (3, 4)
    assert main(["train", "--logdir", folder, "--resume", "--task", "digits"]) == 2
    assert "--task digits: the checkpoint was begun with spirals; leave it out" in capsys.readouterr().err


@pytest.mark.cpu
def test_a_training_that_was_killed_ends_where_another_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the rules of June: weights, optimizer, environments and generators, to the last bit."""
    monkeypatch.setattr(train, "_summarize", lambda *_: None)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    flags = (*WORLD[1:], "--rules", "esper-2026-06", "--steps", "720", "--save-every", "1", "--json")
    assert ended_by(signal.SIGKILL, killed, *flags).returncode == -signal.SIGKILL
    assert 0 < checkpoint.load(killed)["env_steps"] < 720
    assert main(["train", "--logdir", str(killed), "--resume", "--json"]) == 0
    assert main(["train", *flags, "--logdir", str(whole)]) == 0
    one, other = (checkpoint.load(folder) for folder in (killed, whole))
    assert one["env_steps"] == other["env_steps"] == 720
    leaves, its = (tree_flatten_with_path(content["training"])[0] for content in (one, other))
    assert len(leaves) == len(its) > 50
    for (path, mine), (_, theirs) in zip(leaves, its):
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, path


@pytest.mark.parametrize(
    ("rules", "steps", "horizon"), [("esper-2025-12", 20, 480_000), ("esper-2026-06", 30, 720_000)]
)
def test_a_rollout_is_an_episode_and_a_host_has_200(
    rules: str, steps: int, horizon: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[PPOConfig] = []

    def build(its: MaskRules, settings: TrainSettings, config: PPOConfig, *_: Any) -> None:
        dynamics = settings.environment(its, 2, 0, "cpu", "eager").dynamics
        assert isinstance(dynamics, NetworkDynamics)
        assert dynamics.episode_length == steps
        configs.append(config)
        raise ValueError("it is enough")

    monkeypatch.setattr(train, "build", build)
    assert main(["train", "--world", "networks", "--rules", rules, "--task", "spirals", "--logdir", str(tmp_path)]) == 2
    assert [(config.steps, config.horizon) for config in configs] == [(steps, horizon)]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--hosts", "6"), "--hosts is of --world networks: name that, too, or give --envs"),
        (("--task", "digits"), "task='digits' is of the world 'networks': name that, too"),
        (("--world", "networks", "--dynamics", "docs/scheduler.py:DYNAMICS"), "has dynamics of its own"),
        (("--world", "networks", "--hosts", str(10**6)), "would fit"),
    ],
)
def test_flags_that_no_training_can_have(
    flags, reason: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**9)
    assert main(["train", *flags, "--logdir", str(tmp_path / "log")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


def test_a_task_that_is_not_installed_is_a_line(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    digits.cache_clear()
    assert main(["train", "--world", "networks", "--task", "digits", "--logdir", str(tmp_path / "log")]) == 2
    assert "rollout.networks needs sklearn: pip install 'esper-masks[networks]'" in capsys.readouterr().err
