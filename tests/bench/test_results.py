"""The baselines compute the same, so that a ratio compares like with like; committed results tell no machine."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_distributions, bench_dropin, bench_masks
from benchmarks.__main__ import SUITES, is_installed, main
from benchmarks.bench_masks import LIMIT, Case, bools
from benchmarks.results import merged, with_ratios
from benchmarks.tables import print_table
from esper_masks.bench.inputs import Decision, Head
from esper_masks.bench.libraries import LIBRARIES, PEERS
from esper_masks.bench.rows import Row, check
from tests.bench.committed import RESULTS, SCALING, TRAINING
from tests.helpers import ROOT, assert_same_masks

# suite -> the rows of a whole run, and what tells them apart
ROWS = {
    "masks": (
        ("rules", "batch", "slots", "way"),
        [(*key, way) for key in bench_masks.GRID for way in bench_masks.WAYS],
    ),
    "distributions": (
        bench_distributions.Key._fields,
        [key for peer in SUITES["distributions"] for key in bench_distributions.grid(peer)],
    ),
    "dropin": (
        ("rules", "slots", "batch", "way"),
        [(*key, way) for key in bench_dropin.GRID for way in bench_dropin.WAYS],
    ),
}


@pytest.mark.parametrize("way", ["small_tensors", "one_tensor"])
@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_loops_equal_the_engine(rules: str, slots: int, way: str) -> None:
    case = Case(rules, 300, slots)
    masks = case.engine(case.states, case.totals)
    assert_same_masks(masks, case.loop(way)(), case.states)
    assert set(case.loop(way)()) == set(bools(masks, rules == "esper-2026-06"))
    assert case.totals.max() > LIMIT > case.totals.min()  # the limit decides in some rows


def agree(library: str) -> None:
    """Both steps of a library's eager rows on a small batch, checked as before a timing."""
    torch.manual_seed(0)
    for inputs in (Head(13, 50), Decision("esper-2025-12", 50), Decision("esper-2026-06", 50)):
        row = Row(inputs, f"{library} eager")
        check(row, "forward", row.run("forward")(row.forward()))
        check(row, "forward+backward", row.run("forward+backward")(row.score()))


@pytest.mark.parametrize("library", [name for name in LIBRARIES if name not in PEERS])
def test_distributions_agree(library: str) -> None:
    agree(library)


@pytest.mark.parametrize("library", PEERS)
def test_distributions_of_peers_agree(library: str) -> None:
    if not is_installed(library):
        pytest.skip(f"{LIBRARIES[library].package} is not installed; `make bench` installs it")
    code = f"from tests.bench.test_results import agree; agree({library!r})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_check_of_distributions_can_fail() -> None:
    row = Row(Head(13, 50), "torch eager")
    action, log_prob, entropy = row.run("forward")(row.forward())
    values, gradient = row.run("forward+backward")(row.score())
    illegal = row.inputs.mask.int().argmin(1)
    wrong = {
        "forward": [(illegal, log_prob, entropy), (action, log_prob + 1e-3, entropy)],
        "forward+backward": [((values[0], values[1] + 1e-3), gradient), (values, gradient + 1e-3)],
    }
    for step, results in wrong.items():
        for result in results:
            with pytest.raises(AssertionError):
                check(row, step, result)


def test_inputs_are_what_they_promise() -> None:
    head = Head(13, 4000)
    assert 0.55 < head.mask.float().mean() < 0.7
    assert head.mask.any(-1).all()
    assert head.mask.gather(1, head.action[:, None]).all()
    case = Decision("esper-2026-06", 300)
    assert case.masks.permits(case.action).all()
    assert all(m.gather(1, a[:, None]).all() for m, a in zip(case.head_masks, case.action.unbind(-1)))
    assert len(case.sizes) == 8


def test_ratios_are_to_the_rows_of_the_same_work() -> None:
    def part(*rows: tuple[str, int, float]) -> dict[str, Any]:
        names = ("way", "batch", "ns_per_env")
        return {"benchmarks": [{"case": "a", "step": "forward", **dict(zip(names, row))} for row in rows]}

    own = part(("torch eager", 4, 10.0), ("torch eager", 8, 40.0))
    rows = merged([own, part(("sb3 eager", 8, 20.0))])["benchmarks"]
    assert [row["x_torch_eager"] for row in rows] == [1, 1, 2]
    assert "x_torch_eager" not in with_ratios(part(("sb3 eager", 4, 1.0))["benchmarks"])[0]


def test_a_run_without_a_peer_leaves_the_result_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"case": "a", "step": "forward", "batch": 4, "way": "ours eager", "ns_per_env": 1.0}
    ran = []

    def run_part(name: str, peer: str, options: Any) -> Any:
        ran.append(peer)
        return 0, {"machine_info": {"cpu": "a", "torch": "2", "python": "3"}, "benchmarks": [row]}

    monkeypatch.setattr("benchmarks.__main__.run_part", run_part)
    monkeypatch.setattr("benchmarks.__main__.is_installed", lambda part: not part)
    before = {path: path.read_bytes() for path in RESULTS}
    assert main(["distributions"]) == 0
    assert ran == [""]
    out = capsys.readouterr().out
    assert "torchrl is not installed" in out
    assert "sb3-contrib is not installed" in out
    assert "left as it was" in out
    assert before == {path: path.read_bytes() for path in sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))}


@pytest.mark.parametrize(
    "path", [path for path in RESULTS if path not in SCALING + TRAINING], ids=lambda path: path.stem
)
def test_results_are_complete_and_anonymous(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text(encoding="utf-8")
    result: dict[str, Any] = json.loads(text)
    assert set(result["machine_info"]) == {"cpu", "architecture", "cores", "system", "python", "torch", "capability"}
    assert re.fullmatch("[0-9a-f]{40}", result["commit_info"]["id"])
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    suite = path.stem.removesuffix("-cpu")
    names, expected = ROWS[suite]
    rows = result["benchmarks"]
    assert sorted(tuple(row[name] for name in names) for row in rows) == sorted(tuple(key) for key in expected)
    for row in rows:
        assert row["ns_per_env_median"] >= row["ns_per_env"] > 0
        assert ("compile_s" in row) == ("compiled" in row["way"])
    if suite == "distributions":
        assert set(result["peers"]) == {LIBRARIES[peer].package for peer in PEERS}
        assert all({"x_torch_eager", "x_torch_compiled"} <= set(row) for row in rows)
    print_table(suite, result)
    out = capsys.readouterr().out
    assert all(row["way"] in out for row in rows)
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out  # no column is cut off
