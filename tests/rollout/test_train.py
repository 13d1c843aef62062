"""A training by command: it goes on to the last bit, survives what ends it, and refuses what is not its own."""

import io
import json
import math
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from random import Random
from termios import TIOCSWINSZ
from threading import Thread
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
import torch

import esper_masks as em
from esper_masks.cli.entry import main
from esper_masks.cli.train import _command
from esper_masks.rollout import MECHANICS, PPO, PPOConfig, load_policy
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.lock import FolderLock
from esper_masks.rollout.training.logs import TrainingLog, draw_curve, learning_curve, read_metrics, sparklines
from esper_masks.rollout.training.processes import World
from esper_masks.rollout.training.stopping import NUMBERS, Stopping
from esper_masks.rollout.training.train import TrainSettings, build, train

NO_SPACE = "No space left on device; make room, or name another place"
SMALL = TrainSettings(envs=16, width=8)


def begin(**settings: Any) -> PPO:
    config = PPOConfig(steps=10, horizon=16 * 10 * 5)
    return build(em.ruleset("esper-2025-12"), TrainSettings(**{**SMALL.to_dict(), **settings}), config)


def nothing(figures: dict[str, float]) -> None:
    pass


@pytest.mark.parametrize(("policy", "compile"), [("mlp", False), ("lstm", False), ("mlp", True)])
def test_a_training_goes_on_to_the_last_bit(tmp_path: Path, policy: str, compile: bool) -> None:
    whole = begin(policy=policy, compile=compile)
    path = train(whole, 16 * 10 * 3, SMALL.to_dict(), tmp_path / "part", report=nothing)
    train(whole, 16 * 10 * 6, SMALL.to_dict(), tmp_path / "whole", report=nothing)
    torch.rand(7)  # something else draws in between
    other = begin(policy=policy, compile=compile, seed=9)
    checkpoint.restore(other, checkpoint.load(path))
    train(other, 16 * 10 * 6, SMALL.to_dict(), tmp_path / "part", report=nothing)
    for mine, its in zip(other.policy.parameters(), whole.policy.parameters()):
        assert torch.equal(mine, its)
    assert other.env_steps == whole.env_steps == 960
    assert torch.equal(other.env.states, whole.env.states)
    assert torch.equal(other.at.obs, whole.at.obs)
    assert torch.equal(other.obs_moments.square, whole.obs_moments.square)
    assert other.learning_rate == whole.learning_rate == pytest.approx(2e-4)  # beyond the horizon


def test_what_was_learned_goes_on_in_any_number_of_environments(tmp_path: Path) -> None:
    begun = begin(policy="lstm")
    path = train(begun, 16 * 10 * 3, SMALL.to_dict(), tmp_path, report=nothing)
    content = checkpoint.load(path)
    other = begin(policy="lstm", envs=5, seed=9)
    weights, states = [p.clone() for p in other.policy.parameters()], other.env.states.clone()
    wrong = r"the state is of 16 environments, and there are 5 here: make as many, or load it with environments=False"
    with pytest.raises(ValueError, match=wrong):
        other.load_state_dict(content["training"])
    with pytest.raises(checkpoint.CheckpointError, match="does not fit: " + wrong):
        checkpoint.restore(other, content)
    assert all(torch.equal(p, before) for p, before in zip(other.policy.parameters(), weights))  # nothing was changed
    drawn = torch.get_rng_state()
    checkpoint.restore(other, content, environments=False)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(other.env.states, states)
    assert all(torch.equal(p, its) for p, its in zip(other.policy.parameters(), begun.policy.parameters()))
    for mine, its in ((other.obs_moments, begun.obs_moments), (other.return_moments, begun.return_moments)):
        assert torch.equal(mine.mean, its.mean)
        assert torch.equal(mine.square, its.square)
    mine, its = (one.optimizer.state_dict()["state"] for one in (other, begun))
    assert all(torch.equal(mine[at]["exp_avg"], its[at]["exp_avg"]) for at in its)
    assert other.env_steps == 480
    assert other.iterate()["learning_rate"] == other.learning_rate < begun.learning_rate
    assert other.env_steps == 480 + 5 * 10


@pytest.mark.parametrize("keep", [1, 2, 4, 9])
def test_only_the_last_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    train(begin(), 16 * 10 * 5, SMALL.to_dict(), tmp_path, report=nothing, save_every=1, keep=keep)
    expected = [f"checkpoint-{steps:012}.pt" for steps in range(0, 801, 160)][-keep:]
    assert [one.name for (one,) in checkpoint.found(tmp_path)] == expected
    assert checkpoint.load(tmp_path)["env_steps"] == 800


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    left = [".checkpoint-000000000100.pt.77.part", "checkpoint-000000000900-1-of-2.pt"]
    checkpoint.save(begin(), SMALL.to_dict(), tmp_path)
    for name in (*left, "checkpoint-mine.pt"):
        (tmp_path / name).write_bytes(b"")
    train(begin(), 160, SMALL.to_dict(), tmp_path, report=nothing)
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "checkpoint-mine.pt"
    assert not any((tmp_path / name).exists() for name in left)


def test_a_part_that_lies_alone_is_kept_and_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = checkpoint.load(checkpoint.save(begin(), {"rules": "esper-2025-12", **SMALL.to_dict()}, tmp_path / "a"))
    folder, name = tmp_path / "b", "checkpoint-000000000900-1-of-2.pt"
    folder.mkdir()
    torch.save({**content, "processes": 2}, folder / name)
    assert main(["train", "--steps", "160", "--logdir", str(folder)]) == 2
    assert f"has a part of a checkpoint, {name}, without the others" in capsys.readouterr().err
    assert load_policy(folder).env_steps == 0
    train(begin(), 160, SMALL.to_dict(), folder, report=nothing)
    assert (folder / name).exists()


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    ppo = begin()
    path = checkpoint.save(ppo, SMALL.to_dict(), tmp_path)
    with torch.no_grad():
        ppo.policy.output.bias[0] = torch.nan
    with pytest.raises(checkpoint.CheckpointError, match="parameters of the policy are not finite"):
        checkpoint.save(ppo, SMALL.to_dict(), tmp_path)
    assert checkpoint.load(path)["env_steps"] == 0


def test_a_seed_is_of_its_own_for_actions_and_environment() -> None:
    one, other = begin(seed=3), begin(seed=4)
    assert one.env._generator.initial_seed() != other.env._generator.initial_seed() != torch.initial_seed()
    assert begin(seed=3).env._generator.initial_seed() == one.env._generator.initial_seed()


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
    older = checkpoint.save(begin(), SMALL.to_dict(), tmp_path / "two")
    (tmp_path / "two" / "checkpoint-000000000005.pt").write_bytes(content[:999])
    with pytest.raises(
        checkpoint.CheckpointError, match=r"5\.pt: damaged, .*checkpoint-000000000000\.pt is the one before"
    ):
        checkpoint.load(tmp_path / "two")
    assert checkpoint.load(older)["env_steps"] == 0
    made = checkpoint.load(path)
    with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
        checkpoint.restore(begin(envs=17), made)
    other = build(em.ruleset("esper-2025-11"), SMALL, PPOConfig())
    with pytest.raises(checkpoint.CheckpointError, match="of other rules"):
        checkpoint.restore(other, made)


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_noticed_wherever_it_is(tmp_path: Path, seed: int) -> None:
    path = checkpoint.save(begin(), SMALL.to_dict(), tmp_path)
    content, random = bytearray(path.read_bytes()), Random(seed)
    # many bytes, or one of those at the end, which say what the others should be
    for at in random.sample(range(len(content)), 64) if seed < 10 else [len(content) - 1 - 8 * (seed - 10)]:
        content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=rf"{path.name}: damaged, or no checkpoint \("):
        checkpoint.load(tmp_path)


def test_every_bit_counts_in_every_part(tmp_path: Path) -> None:
    path = checkpoint.save(begin(), SMALL.to_dict(), tmp_path)
    content = checkpoint.load(path)
    whole, value = path.read_bytes(), content["training"]["policy"]["output.weight"].numpy().tobytes()
    assert value in whole
    at = whole.index(value) + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(checkpoint.CheckpointError, match="its bytes are not those that were written, by their SHA-256"):
        checkpoint.load(path)
    parts = [tmp_path / f"checkpoint-000000000010-{rank}-of-2.pt" for rank in range(2)]
    unsealed = io.BytesIO()
    torch.save({**content, "processes": 2}, unsealed)
    parts[0].write_bytes(checkpoint._sealed(unsealed.getvalue()))
    parts[1].write_bytes(checkpoint._sealed(unsealed.getvalue())[:-1] + b"x")
    assert checkpoint.load(tmp_path, World(0, 2))["processes"] == 2
    with pytest.raises(checkpoint.CheckpointError, match=r"1-of-2\.pt: damaged"):
        checkpoint.load(tmp_path, World(1, 2))


def test_files_without_a_checksum_load(tmp_path: Path) -> None:
    """As those of earlier versions; and who knows only torch and zip files reads those of this one."""
    path = checkpoint.save(begin(), SMALL.to_dict(), tmp_path)
    content = checkpoint.load(path)
    torch.save(content, tmp_path / "before.pt")
    again = checkpoint.load(tmp_path / "before.pt")
    assert again["training"]["policy"].keys() == content["training"]["policy"].keys()
    assert torch.load(path, weights_only=True)["env_steps"] == 0
    with ZipFile(path) as file:
        assert file.testzip() is None
        assert file.comment.startswith(b"sha256:")


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
    code, out, err = run(capsys, "--logdir", folder, "--resume", "--json")
    assert code == 0
    assert json.loads(out)["env_steps"] == 1000  # as it was begun for
    assert "no less than the 1,000 that it was begun for: nothing is trained; a larger --steps goes on" in err
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
    assert [line["env_steps"] for line in read_metrics(Path(folder))] == [500, 1000, 1500, 2000]
    with open(Path(folder) / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"env_steps": 2500}\n{"env_st')  # of a run that was killed
    for _ in range(2):
        TrainingLog(Path(folder), 2000).close()
    assert [line["env_steps"] for line in read_metrics(Path(folder))] == [500, 1000, 1500, 2000]
    older, newer = (path for (path,) in checkpoint.found(Path(folder))[-2:])
    code, _, err = run(capsys, "--steps", "3000", "--logdir", folder, "--resume", str(older))
    assert code == 2
    assert f"has another checkpoint as its newest, {newer.name}" in err
    code, *_ = run(capsys, "--steps", "2500", "--logdir", str(tmp_path / "other"), "--resume", str(older), "--json")
    assert code == 0


@pytest.mark.parametrize(
    ("begun", "flags", "now", "told"),
    [
        (None, (), 1, ": 1 thread where the checkpoint does not say how many"),  # a checkpoint from before --threads
        (2, (), 2, ""),
        (2, ("--threads", "2"), 2, ""),
        (2, ("--threads", "1"), 1, ": 1 thread instead of 2"),
        (1, ("--threads", "3"), 3, ": 3 threads instead of 1"),
    ],
)
def test_a_training_goes_on_with_the_threads_of_its_checkpoint(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    begun: int | None,
    flags: tuple[str, ...],
    now: int,
    told: str,
) -> None:
    settings = {"rules": "esper-2025-12", **SMALL.to_dict(), "threads": begun}
    if begun is None:
        settings.pop("threads")
    checkpoint.save(begin(), settings, tmp_path)
    before = torch.get_num_threads()
    code = main(["train", "--steps", "160", "--logdir", str(tmp_path), "--resume", "--json", *flags])
    out, err = capsys.readouterr()
    assert code == 0
    assert json.loads(out)["threads"] == now
    assert checkpoint.load(tmp_path)["settings"] == {**settings, "threads": now}
    assert torch.get_num_threads() == before
    assert err.splitlines()[0] == "going on from 0 steps" + f", but not to the last bit{told}" * bool(told)


def test_threads_are_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, threads in (((), 1), (("--threads", "2"), 2)):
        folder = tmp_path / str(threads)
        code, out, _ = run(capsys, "--steps", "500", "--logdir", str(folder), "--json", *flags)
        assert code == 0
        assert json.loads(out)["threads"] == checkpoint.load(folder)["settings"]["threads"] == threads


@pytest.mark.parametrize(
    ("begun", "flag", "told"),
    [
        (True, "--no-compile", ", but not to the last bit: not compiled"),
        (False, "--compile", ", but not to the last bit: compiled"),
        (False, "--no-compile", ""),
        (True, "--compile", ""),
    ],
)
def test_a_training_goes_on_with_or_without_compiling(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    begun: bool,
    flag: str,
    told: str,
) -> None:
    modes = []

    def eagerly(rules: em.MaskRules, settings: TrainSettings, *rest: Any) -> PPO:  # it takes a minute otherwise
        modes.append(settings.compile)
        return build(rules, replace(settings, compile=False), *rest)

    monkeypatch.setattr("esper_masks.rollout.training.train.build", eagerly)
    settings = {"rules": "esper-2025-12", **SMALL.to_dict(), "compile": begun, "threads": 1}
    checkpoint.save(begin(), settings, tmp_path)
    assert main(["train", "--steps", "160", "--logdir", str(tmp_path), "--resume", "--json", flag]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"going on from 0 steps{told}"
    assert modes == [flag == "--compile"]
    assert checkpoint.load(tmp_path)["settings"] == {**settings, "compile": flag == "--compile"}


def test_figures_that_cannot_be_kept_end_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainingLog(tmp_path)
    log._stream.close()
    with open("/dev/full", "w", encoding="utf-8") as log._stream:
        log({"env_steps": 1.0})
        log({"env_steps": 2.0})
        assert capsys.readouterr().err == f"{tmp_path}: figures are not kept from here on: No space left on device\n"
        log.close()


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = TrainingLog(tmp_path)
    for step in range(5):
        log({"env_steps": step * 1e6, "return_mean": math.nan if step == 2 else step * 1.5})
    log.close()
    assert "return_mean" not in read_metrics(tmp_path)[2]
    assert draw_curve(tmp_path, {"random": 0.0, "heuristic": 2.5}) == tmp_path / "learning-curve.png"
    axis = learning_curve(read_metrics(tmp_path), {"random": 0.0, "heuristic": 2.5}).axes[0]
    assert axis.lines[0].get_xydata().tolist() == [[0, 0], [1, 1.5], [3, 4.5], [4, 6]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["learned", "heuristic: 2.50", "random: 0.00"]


KIND = """
from dataclasses import replace
from esper_masks import ruleset
RULES = replace(ruleset("esper-2025-12"), name={!r})
"""


@pytest.mark.parametrize("flag", ["--logdir", "--resume", "--calibration", "--rules"])
def test_an_empty_name_is_no_name(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", flag, ""])
    assert ended.value.code == 2
    assert f"argument {flag}: is empty; give a name, or leave the flag out" in capsys.readouterr().err


def test_a_module_may_bring_the_mechanics_of_its_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enters = "from esper_masks.rollout import MECHANICS\nMECHANICS['known-kind'] = MECHANICS['esper-2025-12']\n"
    (tmp_path / "known_kind.py").write_text(KIND.format("known-kind") + enters, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, *_ = run(capsys, "--rules", "known_kind:RULES", "--steps", "500", "--max-seeds", "0", "--json")
    assert code == 0
    monkeypatch.delitem(MECHANICS, "known-kind")


def test_rules_in_python_code_go_on_by_whichever_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(KIND.format("esper-2025-12"), encoding="utf-8")
    (tmp_path / "below").mkdir()
    settings = {"rules": "./mine.py:RULES", **SMALL.to_dict(), "threads": 1}
    checkpoint.save(begin(), settings, tmp_path / "log")
    monkeypatch.chdir(tmp_path / "below")
    go_on = ["train", "--logdir", "../log", "--resume", "--json", "--steps"]
    assert main([*go_on, "160"]) == 2
    assert "give --rules too" in capsys.readouterr().err
    assert main([*go_on, "160", "--rules", "../mine.py:RULES"]) == 0
    assert checkpoint.load("../log")["settings"]["rules"] == "../mine.py:RULES"
    other = "from esper_masks import ruleset\nRULES = ruleset('esper-2025-11')\n"
    (tmp_path / "other.py").write_text(other, encoding="utf-8")
    capsys.readouterr()
    assert main([*go_on, "320", "--rules", "../other.py:RULES"]) == 2
    assert "the checkpoint is of other rules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "device", "told"),
    [
        (1, "cpu", "esper-masks train --logdir far --resume"),
        (1, "cuda:1", "esper-masks train --logdir far --resume --device cuda:1"),
        (2, "cuda:1", "torchrun --nproc-per-node 2 -m esper_masks train --logdir far --resume --device cuda"),
    ],
)
def test_the_command_to_go_on_with(size: int, device: str, told: str) -> None:
    ppo = SimpleNamespace(
        world=World(0, size), config=PPOConfig(horizon=100), env=SimpleNamespace(device=torch.device(device))
    )
    options = Namespace(logdir="far", device=device)
    assert _command(ppo, 100, {"rules": "esper-2025-12"}, options) == f"to go on: {told}"


def test_the_command_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "no.pt").write_text("sha-256", encoding="utf-8")
    content = checkpoint.load(checkpoint.save(begin(), SMALL.to_dict(), tmp_path / "some"))
    odd = {"rules": "esper-2025-12", **SMALL.to_dict(), "policy": "gru"}
    torch.save({**content, "settings": odd}, tmp_path / "odd.pt")
    torch.save({**content, "settings": {**odd, "policy": "mlp", "envs": 21}}, tmp_path / "other.pt")
    torch.save({**content, "settings": {**odd, "policy": "mlp", "envs": 20}}, tmp_path / "same.pt")
    torch.save({**content, "processes": 2}, tmp_path / "two.pt")
    torch.save(content, tmp_path / "bare.pt")
    torch.save({**content, "settings": {**odd, "rules": "evil:RULES"}}, tmp_path / "evil.pt")
    (tmp_path / "evil.py").write_text("open('was-run', 'w')", encoding="utf-8")
    (tmp_path / "unknown_kind.py").write_text(KIND.format("unknown-kind"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for arguments, reason in (
        (["--logdir", str(tmp_path / "file")], "File exists"),
        (["--resume", str(tmp_path / "none")], "No such file"),
        (["--resume", str(tmp_path / "bad.pt")], "damaged"),
        (["--rules", "esper-2026-06", "--logdir", str(tmp_path / "a")], "no mechanics are known"),
        (["--rules", "nonsense"], "nonsense"),
        (["--seed", "-1", "--logdir", str(tmp_path / "b")], "seed must be from 0 to 4294967295"),
        (["--device", "nonsense", "--logdir", str(tmp_path / "c")], "device"),
        (["--resume", str(tmp_path / "odd.pt")], "policy='gru' is not one of mlp, lstm"),
        (["--resume", str(tmp_path / "other.pt")], "--envs 20: the checkpoint was begun with 21; leave it out"),
        (["--resume", str(tmp_path / "bare.pt")], "does not say its rules"),
        (["--resume", str(tmp_path / "no.pt")], "no.pt: no checkpoint of esper-masks train; give one of its checkp"),
        (["--resume", str(tmp_path / "same.pt"), "--slots", "4"], "--slots 4: the checkpoint was begun with 3; leave"),
        (["--resume", str(tmp_path / "same.pt"), "--slots", "3"], "of 16 environments, and there are 20 here"),
        (["--resume", str(tmp_path / "same.pt"), "--max-seeds", "2"], "was begun with 0, no limit; leave it out"),
        (["--rules", "unknown_kind:RULES", "--logdir", "e"], "rollout.MECHANICS['unknown-kind']"),
        (
            ["--learning-rate", "1e30", "--steps", "1000", "--logdir", "far"],
            "after 500 steps the policy has diverged (gradient_norm: a fault (nan)): begin again with a smaller "
            "--learning-rate than 1e+30 and another --logdir; the last checkpoint is far/checkpoint-000000000000.pt\n",
        ),
        (["--resume", str(tmp_path / "evil.pt")], "of rules in Python code, 'evil:RULES': give --rules too"),
        (["--clip", "-1", "--logdir", "e"], "clip must be a number not below 0, got -1.0"),
        (
            ["--final-learning-rate", "nan", "--logdir", "e"],
            "final_learning_rate must be a number not below 0, got nan",
        ),
        (["--gamma", "inf", "--logdir", "e"], "gamma must be a number from 0 to 1, got inf"),
        (["--entropy-weight", "inf", "--logdir", "e"], "entropy_weight must be a number not below 0, got inf"),
        (["--gae-lambda", "1.5", "--logdir", "e"], "gae_lambda must be a number from 0 to 1, got 1.5"),
        (["--minibatches", "501", "--logdir", "e"], "501 minibatches cannot be made of 500 steps of a rollout"),
        (["--minibatches", "21", "--policy", "lstm", "--logdir", "e"], "21 minibatches cannot be made of 20 env"),
        (["--seed", "4294967296", "--logdir", "e"], "seed must be from 0 to 4294967295"),
        (["--resume", str(tmp_path / "two.pt")], "two.pt: one of 2 parts, of as many processes; the others are not"),
        (["--calibration", str(tmp_path / "bad.pt"), "--logdir", str(tmp_path / "d")], "no calibration"),
        (["--calibration", str(tmp_path / "none"), "--logdir", str(tmp_path / "d")], "No such file"),
        *([(["--device", "cuda"], "no CUDA device")] if not torch.cuda.is_available() else []),
    ):
        code, _, err = run(capsys, "--steps", "100", *arguments)
        assert code == 2, arguments
        assert reason in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "was-run").exists()
    assert main(["train", "--steps", "100", "--resume", str(tmp_path / "other.pt")]) == 2
    assert "the checkpoint does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_it_the_last_checkpoint_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "esper_masks", "train", "--envs", "20", "--logdir", str(tmp_path)]
    pipe, long = subprocess.PIPE, [*command, "--steps", "100000000", "--json"]
    with subprocess.Popen(long, stdout=pipe, stderr=pipe, text=True) as process:
        deadline = time.monotonic() + 120
        while len(checkpoint.found(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    steps = checkpoint.load(tmp_path)["env_steps"]
    assert steps > 0
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert err.splitlines() == [
            "stopping after this update; again to quit without saving",
            f"esper-masks train: stopped after {steps:,} of 100,000,000 steps; "
            f"to go on: esper-masks train --logdir {tmp_path} --resume",
        ]
        summary = json.loads(out)
        assert summary["interrupted"] is True
        assert summary["env_steps"] == steps
    subprocess.run([*command, "--steps", str(steps + 500), "--resume"], check=True, timeout=120, capture_output=True)
    assert checkpoint.load(tmp_path)["env_steps"] == steps + 500


def test_curves_are_shown_in_the_terminal_too() -> None:
    lines = [{"env_steps": at, "return_mean": at / 10, "entropy_op": 1 - at / 80} for at in range(80)]
    lines[3].pop("return_mean")
    rise, fall = sparklines(lines, 8)
    assert rise == f"return mean          {rise.split()[2]} ▁▂▃▄▅▆▇█ 7.45"
    assert fall == "entropy op           0.94 █▇▆▅▄▃▂▁ 0.07"
    assert sparklines([{"env_steps": 0, "return_mean": 1.0}] * 3)[0].split()[3] == "▁▁▁"
    assert sparklines(lines[:1]) == []


@pytest.mark.parametrize("appears", [True, False])
def test_a_file_of_another_process_may_appear_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appears: bool
) -> None:
    """As on a folder behind a network."""
    path, waited = tmp_path / "part.pt", []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if appears and len(waited) == 3:
            path.touch()

    monkeypatch.setattr(checkpoint.time, "sleep", wait)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: sum(waited))
    assert checkpoint._appears(path) == appears
    assert appears == (sum(waited) < checkpoint.APPEARS_S)


def test_a_picture_that_cannot_be_kept_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "learning-curve.png"))

    monkeypatch.setattr("esper_masks.rollout.training.logs.draw_curve", full)
    code, out, err = run(capsys, "--steps", "500", "--logdir", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["env_steps"] == 500
    assert err == f"esper-masks train: no learning curve: {tmp_path}/learning-curve.png: {NO_SPACE}\n"


def test_a_reader_that_goes_away_fails_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -m esper_masks train --envs 20 --steps 500 --logdir {tmp_path}"
    piped = ["bash", "-c", f"set -o pipefail; {command} | true"]
    done = subprocess.run(piped, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert checkpoint.load(tmp_path)["env_steps"] == 500


# -- what ends a training early ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("within_a_write", [False, True])
def test_a_second_signal_quits_and_loses_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within_a_write: bool
) -> None:
    ppo, fsync, told = begin(), os.fsync, [0]

    def interrupt(*given: Any) -> None:
        told.append(len(told))
        os.kill(os.getpid(), signal.SIGINT)
        if not within_a_write:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted(descriptor: int) -> None:
        if len(told) > 1:
            os.kill(os.getpid(), signal.SIGINT)
        fsync(descriptor)

    if within_a_write:
        monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(ppo, 100_000, SMALL.to_dict(), tmp_path, report=interrupt)
    assert ppo.env_steps == 160
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000000000.pt"]
    assert checkpoint.load(tmp_path)["env_steps"] == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_may_be_another_one() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        assert [signal.getsignal(number) for number in NUMBERS] == before
    assert stopping.caught == signal.SIGINT


def test_off_the_main_thread_it_runs_without_signals(tmp_path: Path) -> None:
    codes: list[int] = []
    for arguments in (["show"], ["train", "--envs", "20", "--steps", "500", "--logdir", str(tmp_path), "--json"]):
        thread = Thread(target=lambda given=arguments: codes.append(main(given)))
        thread.start()
        thread.join(timeout=120)
    assert codes == [0, 0]


def test_what_is_ignored_is_still_ignored() -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.caught == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_that_reaches_its_end_was_not_interrupted(tmp_path: Path) -> None:
    stopping = Stopping()
    late = lambda figures: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    train(begin(), 160, SMALL.to_dict(), tmp_path, report=late, stopping=stopping)
    assert (stopping.caught, stopping.number) == (signal.SIGINT, 0)


def test_a_full_disk_ends_it_by_a_line_that_says_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = checkpoint.write_file, []

    def full(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_file", full)
    code, _, err = run(capsys, "--steps", "5000", "--save-every", "2", "--logdir", str(tmp_path))
    assert code == 2
    names = [tmp_path / f"checkpoint-{steps:012}.pt" for steps in (1000, 0)]
    left = f"the last checkpoint is {names[1]}, from which --resume goes on"
    assert err == f"esper-masks train: {names[0]}: {NO_SPACE}; {left}\n"


def command(folder: Path | bytes, *flags: str) -> list[Any]:
    return [sys.executable, "-m", "esper_masks", "train", "--envs", "20", "--steps", "500", "--logdir", folder, *flags]


def test_a_summary_that_cannot_be_printed_costs_no_training(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    path = tmp_path / "checkpoint-000000000500.pt"
    reason = f"the summary cannot be printed ({NO_SPACE}); all is saved: {path}"
    assert (done.returncode, done.stderr) == (2, f"esper-masks train: {reason}\n")
    assert checkpoint.load(path)["env_steps"] == 500


def test_a_folder_whose_name_the_locale_does_not_know(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + "/fü".encode()
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command(folder), capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"checkpoint-000000000500.pt" in done.stdout
    assert os.path.exists(folder + b"/checkpoint-000000000500.pt")


def test_a_terminal_has_one_line_that_fits(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    ioctl(its, TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    out, environment = b"", {**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"}
    with subprocess.Popen(command(tmp_path), stdout=its, env=environment, stderr=subprocess.PIPE) as process:
        os.close(its)
        with suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 4096):
                out += part
    os.close(ours)
    assert process.returncode == 0
    live, rest = [], out.decode().split("\r\x1b[K")
    assert rest.pop(0) == ""
    *live, summary = rest
    assert live[0] == "0 %"
    assert live[1].startswith("100 %  return ")
    names = ("learned", "random", "wait", "heuristic")
    assert [text for text in live[2:] if text] == [f"comparing with baselines: {name}" for name in names]
    assert all(len(text) < 60 and "\n" not in text for text in live)
    assert "500 environment steps" in summary


# -- one training a folder --------------------------------------------------------------------------------------------


def test_a_folder_is_of_one_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(begin(), {"rules": "esper-2025-12", **SMALL.to_dict()}, tmp_path)
    with FolderLock(tmp_path) as lock:
        lock.take()
        lock.take()  # nothing, a second time
        for flags in ([], ["--resume"]):
            assert main(["train", "--logdir", str(tmp_path), "--steps", "500", *flags]) == 2
            reason = f"another training is at work there (process {os.getpid()} on "
            err = capsys.readouterr().err
            assert err.startswith(f"esper-masks train: {tmp_path}: {reason}")
            assert err.endswith("); end it first, or name another folder (--logdir)\n")
    assert main(["train", "--logdir", str(tmp_path), "--steps", "500", "--resume", "--json"]) == 0
    with FolderLock(tmp_path) as other:
        other.take()


def test_a_folder_is_looked_at_again_once_it_is_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take, folder = FolderLock.take, tmp_path / "new"

    def late(lock: FolderLock) -> None:
        checkpoint.save(begin(), SMALL.to_dict(), folder)  # another, which began and ended after the first look
        take(lock)

    monkeypatch.setattr(FolderLock, "take", late)
    code, _, err = run(capsys, "--steps", "500", "--logdir", str(folder))
    assert (code, f"{folder} has checkpoints: --resume goes on from them" in err) == (2, True)


def test_flags_that_none_can_have_make_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--seed", "-1", "--logdir", str(tmp_path / "new"))[0] == 2
    assert not (tmp_path / "new").exists()


def test_children_of_a_killed_training_hold_no_lock(tmp_path: Path) -> None:
    code = f"""
import os, subprocess, sys, time
from pathlib import Path
from esper_masks.rollout.training.lock import FolderLock
FolderLock(Path({str(tmp_path)!r})).take()
started = subprocess.Popen(["sleep", "60"])
forked = os.fork()
if not forked:
    time.sleep(60)
    os._exit(0)
print(started.pid, forked, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        children = [int(word) for word in process.stdout.readline().split()]
        try:
            with FolderLock(tmp_path) as lock:
                with pytest.raises(BlockingIOError, match=f"process {process.pid} on "):
                    lock.take()
                process.kill()
                process.wait(timeout=60)
                for child in children:
                    os.kill(child, 0)  # lives
                lock.take()
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
    assert len(children) == 2


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    code, _, err = run(capsys, "--steps", "500", "--logdir", str(tmp_path / "new"), "--json")
    assert code == 0
    reason = "cannot be locked (No locks available), so nothing keeps a second training out of this folder"
    assert err == f"{tmp_path / 'new'}: {reason}\n"
