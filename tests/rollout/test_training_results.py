"""Committed results of trainings: complete, of a clean commit, and telling no machine."""

import json
import re
from typing import Any

import pytest

from benchmarks import masked_training, training_speed
from tests.helpers import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "0.1.0"


def read(name: str) -> dict[str, Any]:
    text = (RESULTS / name).read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    result: dict[str, Any] = json.loads(text)
    assert re.fullmatch("[0-9a-f]{40}", result["commit"]["id"])
    assert not result["commit"]["dirty"], "of changes that are in no commit"
    return result


def test_masked_training(capsys: pytest.CaptureFixture[str]) -> None:
    result = read("masked-training-cpu.json")
    runs = {(row["slots"], row["arm"], row["seed"]): row for row in result["runs"]}
    assert set(runs) == {(slots, arm, seed) for slots in (3, 16) for arm in masked_training.ARMS for seed in range(5)}
    for (_, arm, _), row in runs.items():
        assert any(row["curve"]["illegal_share"]) == (arm != "masked")
        assert row["curve"]["env_steps"][-1] >= result["settings"]["steps"]
        assert row["ratio_off"] < masked_training.NEAR
    for slots, heuristic, arms in masked_training.groups(result):
        learned = [row["return_mean"] for row in arms["masked"]]
        assert min(learned) - heuristic > max(learned) - min(learned), f"{slots} slots"
    assert masked_training.main(["--from", str(RESULTS / "masked-training-cpu.json")]) == 0
    assert "16 slots" in capsys.readouterr().out


def test_training_speed(capsys: pytest.CaptureFixture[str]) -> None:
    result = read("training-speed-cpu.json")
    ways = {*training_speed.OURS, *training_speed.SB3}
    assert {(row["envs"], row["way"]) for row in result["rows"]} == {(e, w) for e in (8, 64, 1024) for w in ways}
    for row in result["rows"]:
        assert (row["illegal_share"] > 0) == (row["way"] == "sb3 heads")
        assert row["rollout_per_s"] >= row["rollout_per_s_median"] > row["iterate_per_s_median"]
    assert {(row["envs"], row["way"]) for row in result["profiles"]} == {
        (envs, way) for envs in (1024, 8192) for way in training_speed.PROFILED
    }
    assert training_speed.main(["--from", str(RESULTS / "training-speed-cpu.json")]) == 0
    assert "sb3 joint" in capsys.readouterr().out
