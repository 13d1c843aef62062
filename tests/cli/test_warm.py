"""``esper-masks warm``: what it refuses, and which slots it builds for. What it keeps is tested with the folder."""

import json
from pathlib import Path

import pytest
import torch

import esper_masks as em
from esper_masks.cli.warm import _slot_ids
from tests.cli.running import run
from tests.own_rules import odd_rules


def test_without_a_folder_there_is_nothing_to_fill(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no folder to keep code in; ESPER_MASKS_CACHE names one" in run(capsys, "warm", code=2)
    said = run(capsys, "warm", "--slots", "2", "--slot-ids", "a,b,c", code=2)
    assert "--slot-ids has 3 names for 2 slots" in said


@pytest.mark.parametrize(
    ("place", "answer", "words"),
    [("os.access", False, "kept takes no file"), ("esper_masks.cli.warm.has_compiler", False, "no C++ compiler")],
)
def test_what_could_not_be_kept_is_not_built(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    place: str,
    answer: bool,
    words: str,
) -> None:
    monkeypatch.setenv("ESPER_MASKS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(place, lambda *_: answer)
    assert words in run(capsys, "warm", code=2)


def test_what_is_refused_of_a_package(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = str(tmp_path / "step.pt2")
    assert "step.onnx' does not end in .pt2" in run(capsys, "warm", "--export", "step.onnx", code=2)
    assert "its folder is not there" in run(capsys, "warm", "--export", str(tmp_path / "no" / "step.pt2"), code=2)
    assert "--device cuda goes with --export" in run(capsys, "warm", "--device", "cuda", code=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no GPU here" in run(capsys, "warm", "--device", "cuda", "--export", package, code=2)
    monkeypatch.setattr("esper_masks.decision.export.has_compiler", lambda: False)
    assert "RuntimeError: no C++ compiler is found" in run(capsys, "warm", "--export", package, code=2)


def test_a_package_is_told_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is built as if by ``export_step``, which has tests of its own."""
    made: list[tuple[str, ...]] = []

    def export(step: em.DecisionStep, path: str) -> None:
        made.append(step.engine.slot_ids)
        Path(path).write_bytes(bytes(2_000_000))

    monkeypatch.setattr("esper_masks.cli.warm.export_step", export)
    monkeypatch.chdir(tmp_path)
    package = "step.pt2"
    assert f"{package}: 2.0 MB; for cpu, " in run(capsys, "warm", "--slots", "2", "--export", package)
    said = json.loads(run(capsys, "warm", "--json", "--export", package))
    assert (said["file"], said["bytes"], said["threads"]) == (package, 2_000_000, torch.get_num_threads())
    assert [len(slots) for slots in made] == [2, 3]


def test_slots_have_the_names_that_a_training_gives_them() -> None:
    rules = odd_rules(moves=True)
    assert _slot_ids(rules, 2, None) == ["slot0", "slot1"]
    assert _slot_ids(rules, 2, ["a", "b"]) == ["a", "b"]
    assert _slot_ids(rules, None, None) is None
