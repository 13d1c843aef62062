"""The experiments on real networks: each part runs on few hosts, and its figures are what they are called."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import experiments, learning
from esper_masks.cli import networks
from esper_masks.cli.entry import main
from esper_masks.rollout import LifecycleEnv, NetworkDynamics, load_policy
from esper_masks.rollout.networks import plans
from esper_masks.rollout.networks.hosts import CNNHost, MLPHost

FEW = {"HOSTS": 6, "EPISODES": 2, "HOSTS_IN_TEST": 6, "HOSTS_PLANNED": 6, "WIDTHS": (4,), "AGAIN": 1}
SHORT = {"SHORT": 1, "LONG": 1, "HOSTS_LONG": 2, "HOSTS_TRIED": 2, "MNIST1D_TRAINING": (2, 1)}


@pytest.fixture(autouse=True)
def _few_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the extra `networks` is not installed")
    for name, value in {**FEW, **SHORT}.items():
        monkeypatch.setattr(experiments, name, value)
    for name in ("HOSTS_IN_TEST", "HOSTS_PLANNED"):  # of the command
        monkeypatch.setattr(networks, name, 6)
    monkeypatch.setattr(plans, "BIRTHS", (0, 2))
    monkeypatch.setattr(plans, "PLANS", 2)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Log folders of two trainings, which hardly began."""
    made = []
    for seed in ("0", "1"):
        made.append(str(tmp_path / seed))
        command = ["train", "--world", "networks", "--hosts", "6", "--epochs", "1", "--seed", seed]
        assert main([*command, "--steps", "120", "--logdir", made[-1], "--threads", "1"]) == 0
    return made


def part(tmp_path: Path, name: str, *arguments: str) -> dict[str, Any]:
    out = tmp_path / f"{name}.json"
    assert experiments.main([name, "-o", str(out), *arguments]) == 0
    made: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert made["part"] == name
    return made


@pytest.mark.slow
def test_policies_side_by_side_and_on_other_widths(tmp_path: Path, runs: list[str]) -> None:
    made = part(tmp_path, "scores", *runs)
    rows = {row["policy"]: row for row in made["rows"]}
    assert rows["no_op"]["score_test"] == {"mean": 0, "se": 0}
    seeds = [rows[f"learned, seed {seed}"]["score_test"]["mean"] for seed in (0, 1)]
    assert made["over_seeds"]["test"]["mean"] == pytest.approx(sum(seeds) / 2, abs=1e-6)
    assert made["over_seeds"]["test"]["se_seeds"] == pytest.approx(abs(seeds[0] - seeds[1]) / 2, abs=1e-6)
    fixed = rows["fixed_plan"]["score_test"]["mean"]
    assert rows["learned, seed 1"]["ahead"]["fixed_plan"]["mean"] == pytest.approx(seeds[1] - fixed, abs=1e-6)
    by_task = [made["over_seeds"][name]["mean"] for name in made["tasks"]]
    assert sum(by_task) / 3 == pytest.approx(sum(seeds) / 2, abs=1e-6)
    assert [run["curve"]["env_steps"] for run in made["runs"]] == [[120], [120]]

    for name, grown in made["grown"].items():
        kept = sum(sum(each["kept"].values()) for each in grown.values()) / 3
        assert kept == pytest.approx(rows[name]["kept"], abs=1e-6)
        gained = sum(each["accuracy"] - made["grown"]["no_op"][task]["accuracy"] for task, each in grown.items()) / 3
        assert gained == pytest.approx(rows[name]["accuracy"]["mean"], abs=1e-6)

    [other] = {row["width"] for row in part(tmp_path, "widths", *runs)["rows"]}
    assert other == 4
    task = load_policy(runs[0]).task
    dynamics = task.another(1, 0, dynamics=experiments.of_width(task, other)).dynamics
    assert isinstance(dynamics, NetworkDynamics)
    assert dynamics.population.host == MLPHost(16, other)


def test_trainings_without_masks(tmp_path: Path) -> None:
    ppo = experiments.without_masks(0, LifecycleEnv)
    assert learning.check(ppo, masked=False) < learning.NEAR
    made = part(tmp_path, "unmasked", "--seeds", "1")
    assert any(made["runs"][0]["curve"]["illegal_share"])
    assert made["runs"][0]["curve"]["env_steps"] == [120, 240]


def test_a_charge_for_illegal_actions() -> None:
    rewards = []
    for kind in (LifecycleEnv, experiments.PenalizedHosts):
        env = experiments.without_masks(0, kind).env
        cull = torch.tensor([[0, 0, 0, 2]]).expand(6, -1)  # of an empty slot
        rewards.append(env.step(cull)[1])
    torch.testing.assert_close(rewards[0] - rewards[1], torch.full((6,), 0.01))


@pytest.mark.slow
def test_hosts_of_mnist1d(tmp_path: Path) -> None:
    pytest.importorskip("mnist1d", reason="the extra `networks` is not installed")
    for kind, made in part(tmp_path, "mnist1d")["kinds"].items():
        rows = {row["policy"]: row for row in made["rows"]}
        alone, large = rows["host alone"]["parameters"], rows["as large from the start"]["parameters"]
        assert alone == experiments.host_size(experiments.MNIST1D[kind][1])
        assert large >= max(rows[name]["parameters"] for name in ("learned", "fixed_plan"))
        assert all(0 <= row["accuracy_of_host"]["mean"] <= 1 for row in rows.values())


@pytest.mark.parametrize("host", [MLPHost(40, 16), CNNHost((1, 40), 8, kernel=5, stride=2, pooled=False)])
def test_the_narrowest_host_with_so_many_parameters(host: Any) -> None:
    size = experiments.host_size(host)
    assert experiments.wider(host, size) == host
    wider = experiments.wider(host, size + 1)
    assert experiments.host_size(wider) > size
    assert experiments.wider(host, experiments.host_size(wider)) == wider


def test_what_it_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "a.json")
    for wrong in (["scores", "-o", out], ["unmasked", "-o", out, "runs"]):
        with pytest.raises(SystemExit):
            experiments.main(wrong)
        assert "want log folders" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        experiments.main(["mnist1d", "-o", out, "RNN"])
    assert "'mlp', 'cnn'" in capsys.readouterr().err
    assert experiments.main(["scores", "-o", out, str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
