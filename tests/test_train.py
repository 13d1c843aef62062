"""A training by command: it goes on to the last bit, survives what ends it, and refuses what is not its own."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.cli import main
from esper_masks.rollout import PPO, PPOConfig, checkpoint
from esper_masks.rollout.train import TrainSettings, build, train

SMALL = TrainSettings(envs=16, width=8)


def begin(**settings: Any) -> PPO:
    return build(em.ruleset("esper-2025-12"), TrainSettings(**{**SMALL.to_dict(), **settings}), PPOConfig(steps=10))


def nothing(figures: dict[str, float]) -> None:
    pass


@pytest.mark.parametrize("policy", ["mlp", "lstm"])
def test_a_training_goes_on_to_the_last_bit(tmp_path: Path, policy: str) -> None:
    whole = begin(policy=policy)
    train(whole, 16 * 10 * 6, SMALL.to_dict(), tmp_path / "whole", report=nothing)
    part = begin(policy=policy)
    path = train(part, 16 * 10 * 3, SMALL.to_dict(), tmp_path / "part", report=nothing)
    torch.rand(7)  # something else draws in between
    other = begin(policy=policy, seed=9)
    checkpoint.restore(other, checkpoint.load(path))
    train(other, 16 * 10 * 6, SMALL.to_dict(), tmp_path / "part", report=nothing)
    for mine, its in zip(other.policy.parameters(), whole.policy.parameters()):
        assert torch.equal(mine, its)
    assert other.env_steps == whole.env_steps == 960
    assert torch.equal(other.env.states, whole.env.states)
    assert torch.equal(other.obs, whole.obs)


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    ppo = begin()
    path = train(ppo, 16 * 10 * 5, SMALL.to_dict(), tmp_path, report=nothing, save_every=1, keep=2)
    assert [one.name for (one,) in checkpoint.found(tmp_path)] == ["checkpoint-000000000640.pt", path.name]
    assert checkpoint.load(tmp_path)["env_steps"] == 800


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "training": Evil()}, stream)
    (tmp_path / "c.pt").write_bytes(stream.getvalue())
    with pytest.raises(checkpoint.CheckpointError, match="damaged, or no checkpoint"):
        checkpoint.load(tmp_path / "c.pt")
    assert not (tmp_path / "evil").exists()


def test_what_is_no_checkpoint_of_this_training_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(begin(), SMALL.to_dict(), tmp_path)
    content = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    torch.save({"a": 1}, tmp_path / "foreign.pt")
    torch.save({"format": checkpoint.FORMAT}, tmp_path / "part.pt")
    foreign = "no checkpoint of esper-masks train"
    for name, reason in (("cut.pt", "damaged"), ("foreign.pt", foreign), ("part.pt", foreign)):
        with pytest.raises(checkpoint.CheckpointError, match=reason):
            checkpoint.load(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint in this folder"):
        checkpoint.load(tmp_path / "empty")
    made = checkpoint.load(path)
    with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
        checkpoint.restore(begin(envs=17), made)
    other = build(em.ruleset("esper-2025-11"), SMALL, PPOConfig())
    with pytest.raises(checkpoint.CheckpointError, match="of other rules"):
        checkpoint.restore(other, made)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["train", "--envs", "20", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "log")
    code, out, _ = run(capsys, "--steps", "1000", "--logdir", folder)
    assert code == 0
    assert "heuristic" in out
    assert "checkpoint-000000001000.pt" in out
    code, _, err = run(capsys, "--steps", "1000", "--logdir", folder)
    assert code == 2
    assert "--resume goes on from them" in err
    code, out, err = run(capsys, "--steps", "2000", "--logdir", folder, "--resume", "--json")
    assert code == 0
    assert "going on from 1,000 steps" in err
    assert "beyond 1,000 steps, which it was begun for, at the final learning rate" in err
    summary = json.loads(out)
    assert summary["env_steps"] == 2000
    assert summary["illegal_actions"] == summary["faults"] == 0
    assert set(summary["baselines"]) == {"random", "wait", "heuristic"}
    assert summary["baselines"]["wait"] == 0
    assert Path(summary["checkpoint"]).exists()
    assert summary["env_steps_per_s"] > 0


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04")
    content = checkpoint.load(checkpoint.save(begin(), SMALL.to_dict(), tmp_path / "some"))
    odd = {"rules": "esper-2025-12", **SMALL.to_dict(), "policy": "gru"}
    torch.save({**content, "settings": odd}, tmp_path / "odd.pt")
    torch.save({**content, "settings": {**odd, "policy": "mlp", "envs": 21}}, tmp_path / "other.pt")
    torch.save({**content, "processes": 2}, tmp_path / "two.pt")
    torch.save(content, tmp_path / "bare.pt")
    for arguments, reason in (
        (["--logdir", str(tmp_path / "file")], "File exists"),
        (["--resume", str(tmp_path / "none")], "No such file"),
        (["--resume", str(tmp_path / "bad.pt")], "damaged"),
        (["--rules", "esper-2026-06", "--logdir", str(tmp_path / "a")], "no mechanics are known"),
        (["--rules", "nonsense"], "nonsense"),
        (["--seed", "-1", "--logdir", str(tmp_path / "b")], "seed must be an int of at least 0"),
        (["--device", "nonsense", "--logdir", str(tmp_path / "c")], "device"),
        (["--resume", str(tmp_path / "odd.pt")], "--envs 20: the checkpoint was begun with 16; leave it out"),
        (["--resume", str(tmp_path / "bare.pt")], "does not say its rules"),
        (["--resume", str(tmp_path / "two.pt")], "of 2 processes, and this is one of 1; go on from it by torchrun"),
        (["--calibration", str(tmp_path / "bad.pt"), "--logdir", str(tmp_path / "d")], "no calibration"),
        (["--calibration", str(tmp_path / "none"), "--logdir", str(tmp_path / "d")], "No such file"),
        *([(["--device", "cuda"], "no CUDA device")] if not torch.cuda.is_available() else []),
    ):
        code, _, err = run(capsys, "--steps", "100", *arguments)
        assert code == 2, arguments
        assert reason in err
        assert len(err.splitlines()) == 1
    for name, reason in (("odd", "policy='gru' is not one of mlp, lstm"), ("other", "the checkpoint does not fit")):
        assert main(["train", "--steps", "100", "--resume", str(tmp_path / f"{name}.pt")]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_the_last_checkpoint_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "esper_masks", "train", "--envs", "20", "--logdir", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--steps", "100000000"], stdout=pipe, stderr=pipe) as process:
        deadline = time.monotonic() + 120
        while len(checkpoint.found(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=120)
    assert process.returncode == (0 if number == signal.SIGTERM else -number)
    steps = checkpoint.load(tmp_path)["env_steps"]
    assert steps > 0
    subprocess.run([*command, "--steps", str(steps + 500), "--resume"], check=True, timeout=120, capture_output=True)
    assert checkpoint.load(tmp_path)["env_steps"] == steps + 500
