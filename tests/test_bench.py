"""The benchmark command: its rows, that their checks can fail, and what it says where it cannot go on."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks import bench_cli
from esper_masks.bench import measure, report, suite
from esper_masks.bench.cases import CENTRE, LOOPS, OURS, PEERS, Case, star
from esper_masks.bench.report import compare
from esper_masks.cli import main
from tests.test_benchmarks import ROOT

FIGURES = {"ns_per_env": 50.0, "ns_per_env_median": 55.0, "ns_per_env_q1": 52.0, "ns_per_env_q3": 60.0, "blocks": 9}
FIGURES |= {"first_call_s": 12.0, "peak_bytes": 4_000_000, "copy_gb_per_s": 20.0, "limit_ns_per_env": 3.9}


def row(case: Case = CENTRE, **figures: Any) -> suite.Row:
    return {**asdict(case), **FIGURES, "share_of_limit": 0.08, **figures}


def result(*rows: suite.Row) -> dict[str, Any]:
    return {**suite.machine("cpu"), "device": "cpu", "rows": suite.with_ratios(rows)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result(row(), row(Case(way=LOOPS[0]), ns_per_env=5e4), row(Case(batch=4)))))
    return path


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_rows_are_a_star(device: str) -> None:
    rows = star(device, 2)
    assert 40 <= len(rows) <= 52
    assert len(set(rows)) == len(rows)
    assert rows[0] == CENTRE
    for case in rows:
        differs = [name for name, value in asdict(case).items() if value != asdict(CENTRE)[name]]
        # one axis, which may be measured at several batches; a loop and the masks alone are measured for other rules
        assert len(set(differs) - {"batch"}) <= 1 or case.way == LOOPS[0]
        assert case.way in (*OURS, *LOOPS, *PEERS)
    assert any(case.way == "cuda-graph" for case in rows) == (device == "cuda")
    assert len({(case.name, case.batch) for case in rows}) == len(rows)


def test_the_limit_by_hand() -> None:
    assert CENTRE.limit_bytes == 3 * 2 + 15 * 4 + 4 + 4 + 4
    assert Case(rules="esper-2026-06").limit_bytes == 3 * 3 + 41 * 4 + 8 + 8
    assert Case(work="words", slots=64).limit_bytes == 64 * 2 + 64


@pytest.mark.parametrize(
    "case",
    [
        Case(batch=8, way="eager"),
        Case(batch=8, way="eager", step="forward+backward", layout="batch-last", slots=5),
        Case(batch=8, way=LOOPS[0], rules="esper-2026-06"),
        Case(batch=8, way=LOOPS[1]),
        Case(batch=8, way="torch eager"),
        Case(batch=8, way="eager", work="words"),
        Case(batch=8, way=LOOPS[0], work="words"),
    ],
    ids=lambda case: case.name,
)
def test_a_row_is_checked_and_timed(case: Case) -> None:
    made = measure.measure(case, "cpu", seconds=0.01)
    assert 0 < made["ns_per_env"] <= made["ns_per_env_median"] <= made["ns_per_env_q3"]
    assert made["limit_ns_per_env"] == pytest.approx(case.limit_bytes / made["copy_gb_per_s"])


def test_a_row_has_a_process_of_its_own() -> None:
    made = suite.run_row(Case(batch=8, way="eager"), "cpu", 0.01)
    assert made["batch"] == 8
    assert made["ns_per_env"] > 0
    assert "error" not in made


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = em.DecisionStep._decide

    def wrong(self: em.DecisionStep, *arguments: Any) -> Any:
        made = decide(self, *arguments)
        return made._replace(raw_entropy=made.raw_entropy + 0.01)

    monkeypatch.setattr(em.DecisionStep, "_decide", wrong)
    with pytest.raises(AssertionError):
        measure.measure(Case(batch=8, way="eager"), "cpu", seconds=0.01)


def test_a_failed_check_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nAssertionError: blueprint")
    monkeypatch.setattr(suite.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(suite, "machine", lambda device: {})
    assert main(["bench", "--rows", "eager, batch 4"]) == 1
    assert "outputs are wrong: eager, batch 4: Traceback AssertionError: blueprint" in capsys.readouterr().err


def test_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Raised by torch, or a process that the system killed; the others go on."""
    code = f"""
import resource, json
from esper_masks.bench import measure
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
measure.main(json.dumps({{**{asdict(Case(batch=1 << 28, way="eager"))!r}, "device": "cpu"}}))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert json.loads(made.stdout) == {"error": "out of memory"}, made.stderr
    killed, fine = (
        subprocess.CompletedProcess([], -9, "", ""),
        subprocess.CompletedProcess([], 0, json.dumps(FIGURES), ""),
    )
    answers = iter([killed, fine])
    monkeypatch.setattr(suite, "machine", lambda device: {})
    monkeypatch.setattr(suite.subprocess, "run", lambda *_, **__: next(answers))
    both, whole = suite.run([Case(batch=4), Case(batch=8)], "cpu", 1.0)
    assert whole
    assert [one.get("error") for one in both["rows"]] == ["out of memory", None]
    assert "out of memory" in report.line(both["rows"][0])


def test_an_interrupted_run_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_row(case: Case, *_: Any) -> suite.Row:
        if case.batch == 4:
            return row(case)
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "run_row", run_row)
    out = tmp_path / "kept.json"
    assert main(["bench", "--rows", "eager, batch 4", "-o", str(out)]) == 130
    assert [one["batch"] for one in suite.load(out)["rows"]] == [4]
    assert "eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu"], "--device tpu: the devices are cpu and cuda"),
        (["--device", "cuda"], "--device cuda: torch finds no GPU here"),
        (["--rows", "fastest"], "no row is called fastest; --list prints them"),
        (["--batch", "0"], "--batch 0: wanted 1 or more"),
        (["--batch", str(1 << 50)], "would fit"),
        (["--seconds", "0"], "--seconds 0.0: wanted more than 0"),
        (["-o", "/no/such/folder/a.json"], "cannot write /no/such/folder/a.json: its folder is not there"),
        (["-o", "/"], "cannot write /: a folder"),
        (["--plot", "/no/such/folder/a.png"], "its folder is not there"),
        (["--from", "/no/such/file"], "/no/such/file: No such file or directory"),
        (["--compare", "README.md", "README.md"], "README.md is no result of esper-masks bench"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(suite, "run", lambda *_: pytest.fail("it must not start"))
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("esper-masks bench: ")
    assert says in line


def test_the_table_fits_and_says_all(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--from", str(saved)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "loop, small tensors" in out
    assert "1,000" in out  # 50,000 over 50 nanoseconds
    assert main(["bench", "--from", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["x_loop"] == 1000


def test_ratios_are_to_the_nearest_loop() -> None:
    rows = suite.with_ratios(
        [
            row(Case(batch=4), ns_per_env=1.0),
            row(Case(batch=1 << 20), ns_per_env=1.0),
            row(Case(batch=1 << 20, slots=8)),
            row(Case(way=LOOPS[0]), ns_per_env=300.0),
            row(Case(way=LOOPS[0], batch=8), ns_per_env=200.0),
            {**asdict(Case(batch=16)), "error": "out of memory"},
        ]
    )
    assert [(r.get("x_loop"), r.get("x_loop_batch")) for r in rows] == [
        (200, 8), (300, 65536), (None, None), (1, 65536), (1, 8), (None, None)
    ]  # fmt: skip


def test_two_results_side_by_side(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faster = {"ns_per_env_median": 11.0, "ns_per_env_q1": 10.0, "ns_per_env_q3": 13.0}
    other = result(
        row(**faster), row(Case(batch=4), **faster), {**asdict(Case(way=LOOPS[0])), "error": "out of memory"}
    )
    other["versions"]["torch"] = "3.0"
    [first, second] = compare(suite.load(saved), other)
    assert first[1:] == second[1:] == (5.0, 4.0, 6.0)
    path = tmp_path / "b.json"
    path.write_text(json.dumps(other))
    assert main(["bench", "--compare", str(saved), str(path)]) == 0
    out = capsys.readouterr().out
    assert f"another torch: {torch.__version__}, then 3.0" in out
    assert "5.00" in out
    other["rows"] = other["rows"][2:]
    path.write_text(json.dumps(other))
    assert main(["bench", "--compare", str(saved), str(path)]) == 2
    assert "no row in common" in capsys.readouterr().err


def test_the_picture(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    path = tmp_path / "scaling.png"
    assert main(["bench", "--from", str(saved), "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "--from", str(saved), "--plot", str(tmp_path / "scaling.xyz")]) == 2
    assert "xyz" in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_cli, "find_spec", lambda name: None)
    assert main(["bench", "--plot", "a.png"]) == 2
    assert "pip install 'esper-masks[viz]'" in capsys.readouterr().err
