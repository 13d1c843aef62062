"""Training with masks and without: the arms are what they should be, and a row is what the page shows of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import learning
from benchmarks.learning import ARMS, CASES, PROGRAM, Case
from esper_masks.bench import plot
from tests.helpers import ROOT
from tests.lifecycles.tables import LIFECYCLES

FEW = [Case("unmasked", batch=8), Case("wait", batch=8)]


def test_an_arm_is_trained_kept_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them, as short as can be, and a baseline; the picture is made of the file."""
    out, drawn = tmp_path / "a.json", tmp_path / "a.png"
    assert learning.main(["-o", str(out), "--steps", "200"], FEW) == 0
    told = [line.removeprefix(f"{PROGRAM}: ").partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["unmasked, 3 slots", "wait, 3 slots"]
    result = json.loads(out.read_text(encoding="utf-8"))
    assert (result["group"], result["device"], result["interrupted"]) == ("learning", "cpu", False)
    made, waited = result["rows"]
    assert made["steps"] == 200
    assert len(made["runs"]) == learning.SEEDS
    assert made["ratio_off"] < learning.NEAR
    assert all(any(run["curve"]["illegal_share"]) for run in made["runs"])
    assert waited["return_mean"] == waited["standard_error"] == 0
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    assert learning.main(["--from", str(out), "--plot", str(drawn)]) == 0
    assert drawn.read_bytes().startswith(b"\x89PNG")
    figure = learning.picture([made, {**waited, "way": "heuristic"}])
    assert figure.get_suptitle() == "esper-2025-12, seeds: 5 (line: mean, band: least to most)"


def learned(case: Case, steps: int) -> dict[str, Any]:
    """What a baseline gives; WAIT is interrupted, and the arms are not what they should be."""
    if case.way == "wait":
        raise KeyboardInterrupt
    if case.way in ARMS:
        raise AssertionError("a ratio\nis off")
    return {"return_mean": 1.0, "standard_error": 0.1}


def test_ctrl_c_keeps_the_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learning, "learn", learned)
    out, beside = tmp_path / "a.json", tmp_path / "a-interrupted.json"
    cases = [Case("random"), Case("wait"), Case("heuristic")]
    assert learning.main(["-o", str(out)], cases[1:]) == 130
    assert not out.exists()  # there was nothing to keep
    assert learning.main(["-o", str(out)], cases) == 130
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["interrupted"] is True
    assert [row["way"] for row in kept["rows"]] == ["random"]
    before = out.read_bytes()
    capsys.readouterr()
    assert learning.main(["-o", str(out)], cases) == 130  # over a result that may be whole it does not write
    assert out.read_bytes() == before
    assert json.loads(beside.read_text(encoding="utf-8"))["rows"] == kept["rows"]
    said = f"{PROGRAM}: {out} is left as it was; what was measured is in {beside}"
    assert said in capsys.readouterr().err.splitlines()


def test_a_check_that_fails_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learning, "learn", learned)
    assert learning.main(["-o", str(tmp_path / "a.json")], FEW) == 1
    assert capsys.readouterr().err == f"{PROGRAM}: unmasked, 3 slots: a ratio is off\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "none/a.json"], "none/a.json: its folder is not there"),
        (["-o", "."], ".: is a folder"),
        (["-o", "a.json", "--plot", "a.txt"], "--plot a.txt: wanted a name in .png, .svg, .pdf"),
        (["-o", "a.png", "--plot", "a.png"], "--plot a.png: the result itself goes there"),
        (["--from", "b.json", "--plot", "a.png"], "b.json: No such file or directory"),
        (["--from", "empty.json", "--plot", "a.png"], "empty.json is no result of"),
        (["--from", "empty.json", "--plot", "empty.json"], "--plot empty.json: wanted a name in"),
    ],
)
def test_what_cannot_be_done_is_told_before_a_training(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "find_spec", lambda name: name)
    Path("empty.json").write_text('{"rows": []}', encoding="utf-8")
    assert learning.main(arguments, [Case("wait")]) == 2
    assert capsys.readouterr().err.startswith(f"{PROGRAM}: {says}")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "wanted -o FILE for the result of trainings, or --from FILE"),
        (["--from", "a.json"], "it needs --plot"),
        *[
            (["--from", "a.json", "--plot", "a.png", *more], "it needs --plot, and all else would be ignored")
            for more in (
                ["-o", "b.json"],
                ["--steps", "9"],
                ["--rules", "a.py:A"],
                ["--rules", "a.py:A", "--dynamics", "a.py:B"],
                ["--dynamics", "a.py:B"],
                ["--envs", "8"],
                ["--ppo", "gamma=0.9"],
            )
        ],
        (["-o", "a.json", "--steps", "0"], "'0' is not above 0"),
        (["-o", "a.json", "--rules", "a.py:A"], "--rules and --dynamics go together"),
        (["-o", "a.json", "--ppo", "gamma=2"], "'gamma=2': gamma must be a number from 0 to 1, got 2"),
        (["-o", "a.json", "--ppo", "gama=1"], "unexpected keyword argument 'gama'"),
        (["-o", "a.json", "--ppo", "gamma"], "'gamma': could not convert string to float: ''"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        learning.main(arguments)
    assert says in " ".join(capsys.readouterr().err.split())


def test_it_does_not_run_without_assertions(tmp_path: Path) -> None:
    command = [sys.executable, "-O", "-m", "benchmarks.learning", "-o", str(tmp_path / "a.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Python runs without assertions" in done.stderr


def test_rows_are_all_arms_and_all_baselines() -> None:
    assert len(set(CASES)) == len(CASES) == 12
    assert {case.way for case in CASES} == {*ARMS, "heuristic", "random", "wait"}


@pytest.mark.parametrize("arm", ["masked", "penalized"])
def test_the_check_of_a_training_can_fail(arm: str) -> None:
    """What the masks of one arm permit is not what those of the other do."""
    ppo = learning.build(Case(arm, batch=8), 0, 1000)
    with pytest.raises(AssertionError):
        learning.check(ppo, masked=arm != "masked")


@pytest.mark.parametrize(("name", "arm"), [("jobs", "masked"), ("pods", "unmasked")])
def test_an_environment_of_ones_own(name: str, arm: str) -> None:
    code = str(LIFECYCLES / f"{name}.py")
    cases = learning.own_cases(f"{code}:{name.upper()}", f"{code}:DYNAMICS")
    assert [case.way for case in cases] == [*ARMS, "random", "wait", "heuristic"]
    case = replace(cases[ARMS.index(arm)], batch=8, config=(("gae_lambda", 0.9),))
    ppo = learning.build(case, 0, 1000)
    assert ppo.config.gae_lambda == 0.9
    assert learning.check(ppo, masked=arm == "masked") < learning.NEAR


def test_rules_and_dynamics_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = str(LIFECYCLES / "jobs.py")
    assert learning.main(["-o", str(tmp_path / "a.json"), "--rules", f"{code}:JOBS", "--dynamics", f"{code}:NONE"]) == 2
    assert "has no NONE; dynamics in it: DYNAMICS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "instead", "says"),
    [
        (").sum(-1)\n", ").sum(-1).long()\n", "reward is torch.int64 (64,) on cpu; wanted torch.float32 (64,)"),
        ("{Job.QUEUED: 0.25}", "{Job.DONE: 0.25}", "file {file} does not import: RulesError: leaves of NONE"),
        ("DYNAMICS = em.rollout.RuleDynamics(", "DYNAMICS = dict(rules=", "dynamics must be a function of an engine"),
    ],
)
def test_dynamics_that_cannot_be_used(
    what: str, instead: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, file = (ROOT / "docs" / "scheduler.py").read_text(encoding="utf-8"), tmp_path / "scheduler.py"
    assert code.count(what) == 1
    file.write_text(code.replace(what, instead), encoding="utf-8")
    arguments = ["-o", str(tmp_path / "a.json"), "--rules", f"{file}:SCHEDULER", "--dynamics", f"{file}:DYNAMICS"]
    assert learning.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"{PROGRAM}: {says.format(file=file)}")


def test_a_result_has_the_name_of_the_rules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However one's own were named on the command line, as in a picture's title."""
    run = {"return_mean": 1.0, "curve": {"env_steps": [10], "return_mean": [1.0], "illegal_share": [0.0]}}
    monkeypatch.setattr(learning, "learn", lambda case, steps: {"runs": [run]} if case.way in ARMS else run)
    code, out = ROOT / "docs" / "scheduler.py", tmp_path / "a.json"
    arguments = ["-o", str(out), "--rules", f"{code}:SCHEDULER", "--dynamics", f"{code}:DYNAMICS"]
    assert learning.main(arguments) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {row["rules"] for row in rows} == {"scheduler"}
    assert f"{PROGRAM}: masked, scheduler: return 1.00 to 1.00" in capsys.readouterr().err.splitlines()
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    assert learning.picture(rows).get_suptitle() == "scheduler, seeds: 1 (line: mean, band: least to most)"


def test_an_arm_in_a_line() -> None:
    def run(*returns: float) -> dict[str, Any]:
        curve = {"env_steps": [10, 20], "return_mean": list(returns), "illegal_share": [0.5, 0.25]}
        return {"return_mean": returns[-1], "curve": curve}

    line = learning.summary({"runs": [run(9.0, 10.0), run(8.0, 12.0)]}, heuristic=10.0)
    assert line == {"mean": 11, "least": 10, "most": 12, "reached": 20, "first": 0.5, "last": 0.25}
    assert learning.summary({"runs": [run(9.0, 10.0), run(8.0, 8.5)]}, heuristic=10.0)["reached"] is None
