"""Checkpoints: which are kept, and what is refused because it is damaged, foreign or code."""

import io
import json
import os
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any
from zipfile import ZipFile

import pytest
import torch

import esper_masks as em
from esper_masks.cli.entry import main
from esper_masks.rollout import PPOConfig, load_policy
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.train import build, train
from tests.rollout.begun import SMALL, begin, nothing

HELD = Path(__file__).parents[1] / "held" / "checkpoint-000000000600.pt"  # of 0.1.0, four environments and an LSTM


def test_a_checkpoint_of_the_first_version_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held, policy = checkpoint.load(HELD), load_policy(HELD)
    assert (policy.env_steps, policy.settings["policy"]) == (600, "lstm")
    assert torch.equal(policy.network.output.weight, held["training"]["policy"]["output.weight"])
    assert policy.act_in(policy.env(9)).decision.actions.shape == (9, 4)
    (tmp_path / HELD.name).write_bytes(HELD.read_bytes())
    assert main(["train", "--logdir", str(tmp_path), "--resume", "--steps", "700", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("going on from 600 steps\n")  # with its one thread: to the last bit
    assert json.loads(out)["env_steps"] == 700
    resumed = checkpoint.load(tmp_path)
    other = {"env_steps": 700, "training": None, "id": 0}
    assert resumed | other == held | other
    assert resumed["training"].keys() == held["training"].keys()
    assert resumed["training"]["env"].keys() == held["training"]["env"].keys()
    learned, before = (part["training"]["policy"]["output.weight"] for part in (resumed, held))
    assert learned.isfinite().all()
    assert not torch.equal(learned, before)


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
    parts[0].write_bytes(checkpoint.seal(unsealed.getvalue()))
    parts[1].write_bytes(checkpoint.seal(unsealed.getvalue())[:-1] + b"x")
    assert checkpoint.load(tmp_path, Processes(0, 2))["processes"] == 2
    with pytest.raises(checkpoint.CheckpointError, match=r"1-of-2\.pt: damaged"):
        checkpoint.load(tmp_path, Processes(1, 2))


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


def test_a_file_of_another_process_may_appear_late(tmp_path: Path) -> None:
    """As on a folder behind a network."""
    path = tmp_path / "part.pt"
    assert not checkpoint.appears(path, seconds=0.1)
    writer = Timer(0.2, path.touch)
    writer.start()
    assert checkpoint.appears(path, seconds=60)
    writer.join()
    assert checkpoint.appears(path, seconds=0)
