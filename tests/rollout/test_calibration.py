"""Statistics of logs: what is measured from a log written by hand, and the file they are kept in."""

import gzip
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from esper_masks.cli.entry import main
from esper_masks.rollout import Calibration, Measurement
from tests.helpers import SHARED
from tests.logs import life, timed

LOGS = sorted((SHARED / "telemetry").glob("*.jsonl"))


def measure(lines: list[str]) -> tuple[Measurement, Calibration]:
    measurement = Measurement()
    measurement.read(BytesIO("\n".join(lines).encode()))
    return measurement, measurement.calibration()


def test_statistics_by_hand() -> None:
    lines = life("env0_seed_0", 0, "FOSSILIZED", 2.0) + life("env0_seed_1", 20, "CULLED", -1.0)
    lines += [timed("SEED_STAGE_CHANGED", 58, "env0_seed_1", **{"from": "CULLED", "to": "TRAINING"})]  # logs go on
    lines += [timed("SEED_CULLED", 59, "env0_seed_1", epochs_total=30, improvement=50.0)]
    lines += life("env0_seed_2", 40, "FOSSILIZED", None, "depthwise")  # an end without an improvement
    lines += ["{", timed("SEED_GERMINATED", None, "env0_seed_3", blueprint_id="norm", params=129)]
    lines += [timed("SEED_GERMINATED", 57, "env0_seed_4", blueprint_id="attention", params=9)]
    for second, stage in ((57, "TRAINING"), (59, "CULLED")):
        lines += [timed("SEED_STAGE_CHANGED", second, "env0_seed_4", **{"from": "-", "to": stage})]
    lines += [timed("SEED_CULLED", 59, "env0_seed_4", epochs_total=2, improvement=-0.5)]
    measurement, made = measure(lines)
    assert (measurement.lines, measurement.malformed, measurement.unusable) == (26, 1, 1)
    norm = made.blueprints["norm"]
    assert (norm.seeds, norm.params) == (2, 129)
    assert (norm.improvement.seeds, norm.improvement.mean, norm.improvement.spread) == (2, 0.5, 1.5)
    assert {stage: part.mean for stage, part in norm.by_outcome.items()} == {"FOSSILIZED": 2.0, "CULLED": -1.0}
    assert norm.share("CULLED") == 0.5
    assert norm.share("PRUNED") == 0
    assert made.blueprints["depthwise"].improvement.seeds == 0
    assert made.dwell == {"GERMINATED": {0: 4}, "TRAINING": {3: 3}, "BLENDING": {5: 3}}
    assert made.ends == {"PROBATIONARY": {"FOSSILIZED": 2, "CULLED": 1}, "TRAINING": {"CULLED": 1}}
    assert (made.unblended.seeds, made.unblended.mean) == (1, -0.5)


def test_numbers_that_no_measurement_gives_are_none() -> None:
    lines = life("env0_seed_0", 0, "FOSSILIZED", 2.0) + life("env0_seed_1", 20, "CULLED", 10**400)  # once a crash
    lines += life("env0_seed_2", 40, "CULLED", float("nan"))
    lines = [line.replace('"epochs_total": 8', '"epochs_total": 1' + "0" * 400, 1) for line in lines]
    measurement, made = measure(lines)
    assert measurement.malformed == 0
    assert made.blueprints["norm"].improvement.seeds == 1
    assert made.dwell == {}


def test_a_seed_without_an_age_has_no_epochs() -> None:
    lines = life("env0_seed_0", 0, "FOSSILIZED", 2.0)[:-1]
    _, made = measure(lines)
    assert made.dwell == {}
    assert made.ends == {"PROBATIONARY": {"FOSSILIZED": 1}}


def test_events_of_another_seed_are_not_its_own() -> None:
    lines = life("env0_seed_0", 0, "FOSSILIZED", 2.0)
    lines.insert(2, timed("SEED_STAGE_CHANGED", 1, "env0_seed_7", **{"from": "TRAINING", "to": "CULLED"}))
    assert measure(lines)[1] == measure(life("env0_seed_0", 0, "FOSSILIZED", 2.0))[1]


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    _, made = measure(life("env0_seed_0", 0, "FOSSILIZED", 2.25))
    made.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == made
    assert hash(made) == hash(Calibration.load(tmp_path / "c.json"))


@pytest.mark.skipif(not LOGS, reason="the project's logs are not here")
def test_the_packages_calibration_is_of_the_logs() -> None:
    measurement = Measurement()
    for path in LOGS:
        with open(path, "rb") as stream:
            measurement.read(stream)
    assert measurement.calibration() == Calibration.default()
    assert measurement.malformed == measurement.unusable == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "[" * 100_000, '{"format": 1}'),
        '{"format": 2, "blueprints": {}, "dwell": {"A": {"x": 1}}}',
        '{"format": 2, "blueprints": {"a": {"seeds": -1}}, "dwell": {}, "ends": {}}',
        Calibration.default().to_json().replace("129", "NaN"),
        Calibration.default().to_json().replace('"mean": 2.5', '"mean": ' + "1" * 400),
        Calibration.default().to_json().replace('"spread": 2.5', '"spread": -2.5'),
    ],
)
def test_something_else_is_no_calibration(text: str) -> None:
    with pytest.raises(ValueError, match="here: no calibration"):
        Calibration.from_json(text, "here")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "c.json"
    log.write_text("\n".join(life("env0_seed_0", 0, "FOSSILIZED", 2.0)), encoding="utf-8")
    assert main(["calibrate", str(log), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "norm" in shown
    assert "2.00" in shown
    assert str(out) in shown
    assert main(["calibrate", str(log), "-o", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(out.read_text(encoding="utf-8")) | {"files": 1, "lines": 6, "malformed": 0}


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, good = tmp_path / "log.jsonl", tmp_path / "good.jsonl"
    log.write_text("{}\n", encoding="utf-8")
    good.write_text("\n".join(life("env0_seed_0", 0, "FOSSILIZED", 2.0)), encoding="utf-8")
    for arguments, reason in (
        ([str(tmp_path / "none"), "-o", "c.json"], "No such file"),
        ([str(good), "-o", str(tmp_path / "no" / "c.json")], "its folder is not there; make it"),
        ([str(good), "-o", str(tmp_path)], "is a folder; name a file in it"),
        ([str(log), str(good), "-o", str(tmp_path / "." / "good.jsonl")], "is one of the inputs; name another file"),
        ([str(log), "-o", str(tmp_path / "c.json")], "no seed ended in these logs"),
    ):
        assert main(["calibrate", *arguments]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert len(error.splitlines()) == 1
    assert set(tmp_path.iterdir()) == {log, good}
    assert good.read_text(encoding="utf-8").startswith("{")


def test_standard_output_has_the_statistics_alone(tmp_path: Path) -> None:
    text = "\n".join(life("env0_seed_0", 0, "FOSSILIZED", 2.0))
    for packed, name in ((text.encode(), "-"), (gzip.compress(text.encode()), "/dev/stdout")):
        command = [sys.executable, "-m", "esper_masks", "calibrate", "-", "-o", name]
        done = subprocess.run(command, input=packed, capture_output=True, check=True)
        assert Calibration.from_json(done.stdout.decode(), "output").blueprints["norm"].seeds == 1
        assert b"norm" in done.stderr  # the tables


def test_an_input_that_is_standard_output_is_no_output(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(life("env0_seed_0", 0, "FOSSILIZED", 2.0)), encoding="utf-8")
    before = log.read_bytes()
    for command in ('calibrate log.jsonl -o - >> "log.jsonl"', "calibrate - -o log.jsonl < log.jsonl"):
        done = subprocess.run(f'"{sys.executable}" -m esper_masks {command}', shell=True, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert log.read_bytes() == before
