"""Training with masks and without: the arms are what they should be, and a row is what the page shows of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import learning
from benchmarks.learning import ARMS, CASES, Case


def test_an_arm_is_trained_and_drawn() -> None:
    """One of them is run, as short as can be."""
    told: list[str] = []
    result = learning.run([Case("unmasked", batch=8), Case("wait", batch=8)], steps=200, live=told.append)
    made, waited = result["rows"]
    assert made["steps"] == 200
    assert len(made["runs"]) == learning.SEEDS
    assert made["ratio_off"] < learning.NEAR
    assert all(any(run["curve"]["illegal_share"]) for run in made["runs"])
    assert waited["return_mean"] == waited["standard_error"] == 0
    assert [line.partition(":")[0] for line in told] == ["unmasked, 3 slots", "wait, 3 slots"]
    assert json.loads(json.dumps(result)) == result
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    figure = learning.picture([made, {**waited, "way": "heuristic"}])
    assert figure.get_suptitle() == "esper-2025-12, seeds: 5 (line: mean, band: least to most)"


def test_the_command_writes_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        learning.main(["-o", str(tmp_path / "none" / "a.json")])
    assert f"{tmp_path}/none: is no folder; make it" in capsys.readouterr().err


def test_rows_are_all_arms_and_all_baselines() -> None:
    assert len(set(CASES)) == len(CASES) == 12
    assert {case.way for case in CASES} == {*ARMS, "heuristic", "random", "wait"}


@pytest.mark.parametrize("arm", ["masked", "penalized"])
def test_the_check_of_a_training_can_fail(arm: str) -> None:
    """What the masks of one arm permit is not what those of the other do."""
    ppo = learning.build(Case(arm, batch=8), 0, 1000)
    with pytest.raises(AssertionError):
        learning.check(ppo, masked=arm != "masked")


def test_an_arm_in_a_line() -> None:
    def run(*returns: float) -> dict[str, Any]:
        curve = {"env_steps": [10, 20], "return_mean": list(returns), "illegal_share": [0.5, 0.25]}
        return {"return_mean": returns[-1], "curve": curve}

    line = learning.summary({"runs": [run(9.0, 10.0), run(8.0, 12.0)]}, heuristic=10.0)
    assert line == {"mean": 11, "least": 10, "most": 12, "reached": 20, "first": 0.5, "last": 0.25}
    assert learning.summary({"runs": [run(9.0, 10.0), run(8.0, 8.5)]}, heuristic=10.0)["reached"] is None
