"""The command for a GPU: parts that fail or hang, and what is written of them; with parts of a line or two."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import child, decisions, networks, rollouts, speed
from benchmarks.gpu.__main__ import SUMMARY, main
from benchmarks.gpu.child import in_turn
from benchmarks.gpu.parts import LOG, PARTS, ROOT, Part
from benchmarks.gpu.report import Report
from benchmarks.gpu.summary import summary

TELLS = (
    "import json, sys\ndef tell(kind, **line): print(json.dumps({'kind': kind, **line}), file=open(sys.argv[1], 'a'))\n"
)
PASSES = TELLS + "tell('environment', device=sys.argv[3], torch='9.9')\ntell('checks', name='it holds', error='')\n"
CELL = "tell('cells', table='T', row={!r}, column='4,096', value={!r}, compared='time', share={!r}, note={!r})\n"


def fake(letter: str, code: str, limit: float = 60) -> Part:
    return Part(letter, "fake", f"the part {letter}", limit, (sys.executable, "-c", code))


def ran(folder: Path, *parts: Part, options: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and summary."""
    code = main(["-o", str(folder), "--device", "cuda", *options], parts)
    return code, (folder / SUMMARY).read_text(encoding="utf-8")


def result(folder: Path, letter: str) -> dict[str, object]:
    return dict(json.loads((folder / f"{letter}-fake.json").read_text(encoding="utf-8")))


def test_the_next_part_begins_where_one_fails(tmp_path: Path) -> None:
    raises = TELLS + "tell('checks', name='it holds', error='')\nprint('before'); raise ValueError('too soon')"
    wrong = PASSES + "tell('checks', name='legal', error='AssertionError: row 3\\n\\nis not\\n' + 9 * 'more\\n')"
    code, text = ran(tmp_path, fake("a", raises), fake("b", wrong), fake("c", PASSES), fake("d", TELLS))
    assert code == 1
    assert "| a: the part a | **failed: ended with exit code 1; of its checks 1 had passed** |" in text
    assert "| b: the part b | **failed: 1 of 2 checks** |" in text
    assert "| c: the part c | passed |" in text
    assert "| d: the part d | **failed: it checked nothing** |" in text
    assert "**b: legal**\n\n```\nAssertionError: row 3\nis not\nmore\nmore\nmore\nmore\n```" in text
    assert "- torch: 9.9\n" in text
    log = (tmp_path / LOG).read_text(encoding="utf-8")
    assert "===== a, the part a =====\nbefore\n" in log
    assert "ValueError: too soon" in log
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{x}-fake.json" for x in "abcd"), LOG, SUMMARY]


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    hangs = (
        PASSES
        + "open(sys.argv[1], 'a').write('{\"kind\": \"che')\n"
        + "import subprocess, time\n"
        + "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        + f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    began = time.monotonic()
    code, text = ran(tmp_path / "out", fake("a", hangs, limit=5), fake("b", PASSES))
    assert time.monotonic() - began < 60
    assert code == 1
    assert "| a: the part a | **stopped at its limit of 5 s; of its checks 1 had ended, 0 had failed** |" in text
    assert "| b: the part b | passed |" in text
    assert result(tmp_path / "out", "a")["exit_code"] is None
    child = Path("/proc") / (tmp_path / "pid").read_text()
    assert not child.exists() or ") Z" in (child / "stat").read_text()  # gone, or dead and not yet buried


def test_some_parts_again(tmp_path: Path) -> None:
    fails, passes, others = fake("a", TELLS + "sys.exit(3)"), fake("a", PASSES), [fake("b", PASSES), fake("c", PASSES)]
    code, text = ran(tmp_path, fails, *others, options=("--quick",))
    assert (code, text.count("| passed |")) == (1, 2)
    before = result(tmp_path, "b")
    code, text = ran(tmp_path, passes, *others, options=("--only", "a, c"))
    assert (code, text.count("| passed |")) == (0, 3)
    assert result(tmp_path, "b") == before
    assert before["options"] == ["--device", "cuda", "--quick"]
    assert result(tmp_path, "a")["options"] == ["--device", "cuda"]
    ran(tmp_path, passes)  # a part that does not run keeps its file
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-fake.json",
        "b-fake.json",
        "c-fake.json",
        LOG,
        SUMMARY,
    ]
    ran(tmp_path, passes, *others)
    assert (tmp_path / LOG).read_text(encoding="utf-8").count("=====") == 2 * 3


def test_without_the_device_results_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(tmp_path, fake("a", PASSES), fake("b", PASSES))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    none = TELLS + "tell('checks', name='device', error='no CUDA device'); sys.exit(1)"
    assert ran(tmp_path, fake("a", none), fake("b", none))[0] == 1
    assert "there is no cuda device here" in capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.pop(LOG).startswith(before.pop(LOG))
    assert after == before


def test_figures_stand_in_tables_with_ratios_and_shares(tmp_path: Path) -> None:
    rows = [("eager", 2000.0, 0.0625, ""), ("compiled", 40.0, None, "in L2"), ("graph", "none", None, "")]
    cells = "".join(
        CELL.format(*row).replace("compared='time'", "compared=''" if row[1] == "none" else "compared='time'")
        for row in rows
    )
    _, text = ran(tmp_path, fake("a", PASSES + cells))
    assert "**T**\n\n| | 4,096 |\n|---|---:|\n| eager | 2,000 (6.2 %) |\n" in text
    assert "| compiled | 40 (50 \N{MULTIPLICATION SIGN}, in L2) |\n| graph | none |\n" in text


def test_a_summary_stays_short(tmp_path: Path) -> None:
    many = "for i in range(30): tell('checks', name=f'n{i}', error=f'line {i}' * 99)\n"
    code, text = ran(tmp_path, fake("a", PASSES + many), fake("b", PASSES + many.replace("f'line {i}' * 99", "''")))
    assert code == 1
    assert text.count("**a: n") == 20
    assert "**a: 10 more**" in text
    assert max(map(len, text.splitlines())) <= 200
    assert "Passed: it holds." in text
    assert "31 checks passed." in text


def test_results_of_two_environments_are_noted() -> None:
    one = {
        "part": "a",
        "title": "t",
        "options": [],
        "seconds": 1,
        "limit": 2,
        "verdict": "passed",
        "checks": [],
        "cells": [],
    }
    same, other = [{**one, "environment": {"torch": version}} for version in ("9.9", "9.8")]
    assert "different environments" not in summary([same, same, {**one, "environment": {}}])
    assert "different environments" in summary([same, other])


def test_what_cannot_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for options, words in (
        (["-o", str(tmp_path / "out"), "--only", "a,q"], "--only q: the parts are a, b"),
        (["-o", str(tmp_path / "out"), "--only", ""], "--only names no part; the parts are a, b"),
        (["-o", str(tmp_path / "out"), "--only", " ,"], "--only names no part; the parts are a, b"),
        (["-o", str(tmp_path / "file")], "is a file; it names a folder"),
        ([], "-o/--output"),
    ):
        with pytest.raises(SystemExit) as error:
            main(options, [fake("a", PASSES), fake("b", PASSES)])
        assert error.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_short_and_writes_few_files() -> None:
    assert "".join(part.letter for part in PARTS) == "abcde"
    assert sum(part.limit for part in PARTS) < 300
    assert len({part.file for part in PARTS} | {LOG, SUMMARY}) == len(PARTS) + 2 <= 8


def test_without_a_gpu_the_summary_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    [part] = [part for part in PARTS if part.letter == "c"]
    code, text = ran(tmp_path, part)
    assert code == 1
    assert "finds no CUDA device here" in text


# -- the parts themselves, on a CPU and a small scale -----------------------------------------------------------------


def told_by(report: Report) -> tuple[list[str], set[str]]:
    """Checks that failed, and tables with a figure."""
    lines = [json.loads(line) for line in report.path.read_text(encoding="utf-8").splitlines()]
    failed = [f"{line['name']}: {line['error']}" for line in lines if line["kind"] == "checks" and line["error"]]
    return failed, {line["table"] for line in lines if line["kind"] == "cells"}


@pytest.mark.parametrize(
    ("module", "job", "tables"),
    [
        (decisions, ["decision", "esper-2026-06"], 1),
        (decisions, ["masks", "esper-2025-12"], 1),
        (decisions, ["update", "esper-2025-12"], 1),
        (rollouts, ["eager"], 1),
        (speed, ["eager", "32", "50"], 3),
        (speed, ["networks"], 2),
    ],
)
def test_the_jobs_of_the_parts(
    module: Any, job: list[str], tables: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "ways", lambda device: ["eager"])
    monkeypatch.setattr(decisions, "BATCHES", (64,))
    monkeypatch.setattr(decisions, "QUICK", (64, 100))
    monkeypatch.setattr(rollouts, "QUICK", 32)
    monkeypatch.setattr(networks, "QUICK", (6,))
    report = Report(tmp_path / "told")
    work = module.work(report, "cpu", True, *job)
    next(work)
    assert next(work, None) is None
    failed, named = told_by(report)
    assert not failed
    assert len(named) == tables


def test_a_training_in_a_group_of_one(tmp_path: Path) -> None:
    """In a process of its own, which a group may not outlive; it waits for its turn."""
    report = Report(tmp_path / "told")
    in_turn(report, "training", "cpu", True, [["group"]])
    failed, named = told_by(report)
    assert not failed
    assert named == {"gloo, eager"}


def test_a_job_that_crashes_is_a_failed_check(tmp_path: Path) -> None:
    report = Report(tmp_path / "told")
    in_turn(report, "no_such_part", "cpu", True, [["any", "thing"]])
    assert told_by(report)[0] == ["job: any thing: its process ended with exit code 1"]


@pytest.mark.slow
def test_tests_are_told_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2, 'worse'\n"
        "@pytest.fixture\ndef broken(): raise ValueError('no fixture')\ndef test_ugly(broken): pass\n"
        "@pytest.mark.skip\ndef test_not(): pass\n"
    )
    (tmp_path / "test_none.py").write_text("import no_such_module\n")
    for names, failures, said in (
        (["test_some.py"], ["test_bad", "test_ugly"], "(1 passed, 2 failed, 1 skipped)"),
        (["test_some.py", "-k", "good"], [], "(1 passed, 3 deselected)"),
        (["test_none.py"], ["test_none.py"], "()"),
    ):
        report = Report(tmp_path / f"told-{len(names)}-{names[0]}.jsonl")
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu.tests",
            str(report.path),
            "some tests",
            "-p",
            "no:cacheprovider",
        ]
        paths = [str(tmp_path / name) if name.endswith(".py") else name for name in names]
        done = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
        checks = [json.loads(line) for line in report.path.read_text().splitlines()]
        assert [check["name"].rsplit("::")[-1].rsplit("/")[-1] for check in checks[:-1]] == failures, done.stderr
        assert checks[-1]["name"] == f"some tests {said}"
        assert bool(checks[-1]["error"]) == bool(failures)
    assert checks[0]["error"].count("no_such_module")


@pytest.mark.slow
def test_tests_have_their_tensors_on_the_device_that_is_asked_for(tmp_path: Path) -> None:
    """Those of the module too, which are made before any fixture; "meta" is a device that every machine has."""
    test = tmp_path / "test_here.py"
    test.write_text(
        "import pytest, torch\nfrom tests.helpers import HERE\nMADE = torch.zeros(2)\n"
        "def test_here(): assert MADE.device == torch.tensor([1]).device == HERE == torch.device('meta')\n"
        "@pytest.mark.cpu\ndef test_of_a_cpu(): assert torch.zeros(2).device.type == 'cpu'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(test)]
    for device, said in (("meta", "1 passed, 1 deselected"), ("cpu", "1 failed, 1 passed")):
        done = subprocess.run([*command, f"--device={device}"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert said in done.stdout, done.stdout + done.stderr


def test_a_job_that_never_ends_to_build_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = "import time; print('ready', flush=True) if 'quick' in sys.argv else time.sleep(600)"
    monkeypatch.setattr(child, "CHILD", (sys.executable, "-c", f"import sys; {waits}"))
    monkeypatch.setattr(child, "BUILDING", 1 / 60)
    report = Report(tmp_path / "told")
    report.check("began")
    in_turn(report, "none", "cuda", False, [["slow"], ["quick"]])
    assert told_by(report)[0] == [
        "job: slow: its process ended with exit code -9: it built for more than 1 s, or memory was short"
    ]
