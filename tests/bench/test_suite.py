"""The benchmark command: its rows, that their checks can fail, and what it says where it cannot go on."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.bench import checking, loops_2025_12, loops_pods, measure, memory, plot, report, suite
from esper_masks.bench.cases import (
    ANY_BATCH,
    CENTRE,
    DROPINS,
    GROUPS,
    LOOPS,
    NETWORK_WAYS,
    OURS,
    PEERS,
    QUICK,
    SAME_WORK,
    SCALING,
    USUAL,
    WAYS,
    Case,
    Settings,
    group,
    star,
)
from esper_masks.bench.compare import compare
from esper_masks.bench.inputs import Head
from esper_masks.bench.libraries import LIBRARIES
from esper_masks.bench.lifecycles import GUARDS
from esper_masks.cli import bench as bench_cli
from esper_masks.cli.entry import main
from tests.helpers import ROOT

FIGURES = {"ns_per_env": 50.0, "ns_per_env_median": 55.0, "ns_per_env_q1": 52.0, "ns_per_env_q3": 60.0, "blocks": 9}
FIGURES |= {"compile_s": 12.0, "peak_bytes": 4_000_000, "copy_gb_per_s": 20.0, "limit_ns_per_env": 3.9}
AT_ONCE = Settings(seconds=0.01)


def row(case: Case = CENTRE, **figures: Any) -> suite.Row:
    return {**asdict(case), **FIGURES, "share_of_limit": 0.08, **figures}


def result(*rows: suite.Row) -> dict[str, Any]:
    return {"group": "scaling", **suite.machine("cpu"), "device": "cpu", "rows": suite.with_ratios(rows)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result(row(), row(Case(way=LOOPS[0]), ns_per_env=5e4), row(Case(batch=4)))))
    return path


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_rows_are_a_star(device: str) -> None:
    rows = star(device, 2)
    assert 40 <= len(rows) <= 64
    assert len(set(rows)) == len(rows)
    assert rows[0] == CENTRE
    for case in rows:
        differs = [name for name, value in asdict(case).items() if value != asdict(CENTRE)[name]]
        # one axis, which may be measured at several batches; a loop also by rules and work, others also with a gradient
        assert len(set(differs) - {"batch", "memory"}) <= 1 or case.way in (LOOPS[0], *PEERS)
        assert case.way in (*OURS, *LOOPS, *PEERS)
    assert any(case.way == "cuda-graph" for case in rows) == (device == "cuda")
    assert len({(case.name, case.batch) for case in rows}) == len(rows)


OURS_ALONE = "growth", "first-calls"  # which compare ours with itself


@pytest.mark.parametrize("name", list(GROUPS))
def test_rows_of_a_group_have_names_of_their_own(name: str) -> None:
    rows = GROUPS[name]()
    assert len({(case.name, case.batch) for case in rows}) == len(rows)
    assert {case.way for case in rows} <= set(WAYS)
    assert any(case.way in USUAL for case in rows) == (name not in OURS_ALONE)


@pytest.mark.parametrize("name", [SCALING, *GROUPS])
def test_rows_that_are_compared_are_measured_one_after_another(name: str) -> None:
    """Each row stands among those that do the same work on the same batch."""
    rows = group(name, "cpu", 2)
    assert len(rows) == len(set(rows))
    compared = [(*(getattr(case, field) for field in SAME_WORK), case.batch) for case in rows]
    runs = [key for key, _ in groupby(compared)]
    assert len(runs) == len(set(runs))


def test_a_row_for_any_batch_stands_beside_the_row_for_its_own() -> None:
    rows = group("distributions", "cpu", 2)
    for case in rows:
        if case.way == ANY_BATCH:
            assert replace(case, way="ours compiled") in rows


def test_how_long_a_row_takes_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def measure_row(case: Case, settings: Settings, *_: Any) -> suite.Row:
        asked.append(settings)
        return row(case)

    with suite.measured_by(measure_row):
        for arguments in ([], ["--seconds", "3"], ["--quick"]):
            assert main(["bench", "--rows", "eager, batch 4,096", *arguments]) == 0
        with pytest.raises(SystemExit):
            main(["bench", "--quick", "--seconds", "3"])
    assert list(dict.fromkeys(asked)) == [Settings(), Settings(seconds=3.0), QUICK]
    assert QUICK.seconds < Settings().seconds
    assert " rows in 0:00" in capsys.readouterr().out


def test_the_limit_by_hand() -> None:
    assert Case(work="head of 13").limit_bytes == 13 * 4 + 2 + 1 + 8
    assert Case(work="head of 13", step="forward+backward").limit_bytes == 13 * 8 + 2 + 1 + 8
    assert CENTRE.limit_bytes == 3 * 2 + 15 * 4 + 4 + 4 + 4
    assert Case(rules="esper-2026-06").limit_bytes == 3 * 3 + 41 * 4 + 8 + 8
    assert Case(step="forward+backward").limit_bytes == 3 + 15 * 8 + 4 + 8
    assert Case(work="words", slots=64).limit_bytes == 64 * 2 + 64
    room = 8 * 2  # 16 nodes for each pod
    assert Case(work="words", rules="pods", slots=8).limit_bytes == 8 * 4 + 1 + room + 8 + room
    assert Case(rules="pods", slots=8).limit_bytes == 8 * 4 + 1 + room + (8 + 16 + 6) * 4 + 3 + 8


def test_a_guard_costs_what_the_rules_without_it_do_not() -> None:
    """The figures of rows: calls of torch, and how much of what independent heads draw is no legal action."""
    of = {name: Case(batch=8, way="eager", work="words", rules=f"guard: {name}", slots=8) for name in GUARDS}
    ops = {name: measure.measure(case, AT_ONCE)["aten_ops"] for name, case in of.items()}
    assert all(ops[name] > ops["none"] for name in GUARDS if name != "none"), ops
    shares = {
        way: measure.measure(Case(batch=1000, way=way, rules="pods", slots=8), AT_ONCE)["illegal_share"]
        for way in ("ours eager", "torch eager")
    }
    assert shares["ours eager"] == 0
    assert 0.1 < shares["torch eager"] < 1


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
        Case(batch=8, way="eager", rules="esper-2025-11"),
        Case(batch=8, way="eager, bools", rules="esper-2026-06", work="words"),
        Case(batch=8, way="from objects", work="words", slots=5),
        Case(batch=8, way="ours eager", work="head of 13"),
        Case(batch=8, way="ours eager", step="forward+backward", layout="batch-last"),
        Case(batch=8, way="torch eager", work="head of 13", step="forward+backward"),
        Case(batch=1, way=LOOPS[0], work="dropin"),
        *(Case(batch=batch, way=way, work="dropin", rules="esper-2026-06") for batch in (1, 8) for way in DROPINS),
        Case(batch=1, way=DROPINS[1], work="dropin", rules="esper-2026-06", slots=16),
        *(Case(batch=8, way="eager", work="words", rules=f"guard: {name}", slots=8) for name in GUARDS),
        *(Case(batch=8, way=way, work="words", rules="pods", slots=8) for way in ("eager", LOOPS[0])),
        *(Case(batch=8, way=way, rules="pods", slots=8) for way in ("eager", LOOPS[0], "ours eager", "torch eager")),
        Case(batch=4, way="eager", work="rollout"),
        Case(batch=4, way="eager", work="training"),
        *(Case(batch=5, way=way, work="epoch of MLP of width 8") for way in NETWORK_WAYS),
        *(Case(batch=3, way=way, work="epoch of CNN of 8 channels with validation") for way in NETWORK_WAYS[:2]),
    ],
    ids=lambda case: case.name,
)
def test_a_row_is_checked_and_timed(case: Case) -> None:
    made = measure.measure(case, AT_ONCE)
    quartiles = made["ns_per_env_q1"], made["ns_per_env_median"], made["ns_per_env_q3"]
    assert 0 < made["ns_per_env"] <= quartiles[0] <= quartiles[1] <= quartiles[2]
    if case.has_limit:
        assert made["limit_ns_per_env"] == pytest.approx(case.limit_bytes / made["copy_gb_per_s"])
        assert made["share_of_limit"] == pytest.approx(made["limit_ns_per_env"] / made["ns_per_env"])
    else:  # what it computes is no copy of a decision's bytes
        assert case.work in ("dropin", "rollout", "training") or case.work.startswith("epoch of ")
        assert made["limit_ns_per_env"] is made["share_of_limit"] is made["copy_gb_per_s"] is None
    assert made["compile_s"] is None


def test_a_slow_row_has_a_spread_too() -> None:
    calls = []
    assert len(measure.times(lambda: calls.append(time.sleep(0.02)), 1, 0.01)) == measure.FEWEST
    assert len(calls) <= measure.FEWEST + 2  # what torch's timer runs first


def test_a_peak_is_seen_again_in_memory_that_was_freed() -> None:
    tensors = [torch.ones(1 << 14) for _ in range(400)]  # of a size that the allocator keeps
    size = sum(t.nbytes for t in tensors)
    del tensors
    before = memory.start_of_peak("cpu")
    again = [torch.ones(1 << 14) for _ in range(400)]
    peak = memory.end_of_peak("cpu", before)
    if peak is None:
        pytest.skip("the system does not tell")
    assert 0.8 * size < peak < 1.5 * size
    del again


@pytest.mark.parametrize("wrong", [None, *range(8)])
def test_a_large_batch_is_checked_piece_by_piece(wrong: int | None) -> None:
    """Rows 0 to 2, 3 to 5, and the two that are left."""
    inputs = Head(13, 8)
    make, masks = LIBRARIES["ours"].of(inputs)
    leaf = inputs.logits.clone().requires_grad_()
    made = checking.with_gradient(lambda x: checking.scores(make(x, masks), inputs.action), leaf, inputs.action)
    if wrong is None:
        checking.check_scores(make, inputs.logits, masks, made, piece=3)
        return
    assert made.gradient is not None
    log_prob, entropy = (value.detach().clone() for value in made.values)
    log_prob[wrong] += 0.01
    gradient = made.gradient.clone()
    gradient[wrong] += 0.01
    illegal = inputs.action.clone()
    illegal[wrong] = inputs.mask[wrong].int().argmin()
    spoiled = {"values": (log_prob, entropy)}, {"gradient": gradient}, {"action": illegal}
    for change in spoiled:
        with pytest.raises(AssertionError):
            checking.check_scores(make, inputs.logits, masks, made._replace(**change), piece=3)


def test_a_row_has_a_process_of_its_own() -> None:
    began = time.perf_counter()
    made = suite.run([Case(batch=8, way="eager")], AT_ONCE)
    assert 0 < made["seconds"] <= round(time.perf_counter() - began, 1)
    [made] = made["rows"]
    assert made["batch"] == 8
    assert made["ns_per_env"] > 0
    assert "error" not in made


def spoiled(decision: Any) -> Any:
    """Every slot is given the last op."""
    decision.actions.fill_(3)
    return decision


def spoil(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """What a function gives is changed."""
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments, **named: change(function(*arguments, **named)))


@pytest.mark.parametrize(
    ("case", "owner", "name", "change"),
    [
        (Case(way="eager"), em.DecisionStep, "decide", lambda d: d._replace(raw_entropy=d.raw_entropy + 0.01)),
        (Case(way="eager"), em.DecisionStep, "decide", lambda d: d._replace(log_prob=d.log_prob + 0.01)),
        (Case(way="eager"), em.DecisionStep, "decide", lambda d: d._replace(slot_words=d.slot_words ^ 8)),
        # a bit of no op, which masks that are made of words do not have
        (Case(way="eager"), em.DecisionStep, "decide", lambda d: d._replace(slot_words=d.slot_words | 64)),
        (Case(way="eager"), em.DecisionStep, "decide", lambda d: d._replace(actions=d.actions * 0 + 3)),
        (Case(way="eager", work="words"), em.DecisionStep, "_words", lambda w: (w[0] ^ 8, w[1])),
        (Case(way="eager", work="words"), em.DecisionStep, "_words", lambda w: (w[0], w[1] ^ 8)),
        (Case(way="eager", work="words"), loops_2025_12, "one_tensor", lambda m: {**m, "op": ~m["op"]}),
        (Case(way="eager", step="forward+backward"), em.DecisionStep, "_evaluate", lambda e: (e[0] * 1.01, *e[1:])),
        (Case(way=LOOPS[0]), loops_2025_12, "env_masks", lambda m: {**m, "op": ~m["op"]}),
        (Case(way=LOOPS[0], work="words"), loops_2025_12, "env_masks", lambda m: {"op": m["op"]}),
        (Case(way=LOOPS[1], work="words"), loops_2025_12, "one_tensor", lambda m: {}),
        (Case(way=LOOPS[0], work="words"), loops_2025_12, "env_masks", lambda m: {**m, "tempo": m["op"]}),
        (Case(way=LOOPS[0]), torch.distributions.Categorical, "entropy", lambda value: value + 0.01),
        (Case(way=LOOPS[1]), torch.distributions.Categorical, "log_prob", lambda value: value + 0.01),
        (Case(way="torch eager"), torch.distributions.Categorical, "entropy", lambda value: value + 0.01),
        (Case(way="torch eager"), torch.distributions.Categorical, "sample", lambda action: action * 0),
        (Case(way="ours eager", work="head of 13"), em.MaskedCategorical, "sample", lambda action: action * 0),
        (Case(way="eager, bools", work="words"), loops_2025_12, "one_tensor", lambda m: {**m, "op": ~m["op"]}),
        (Case(way="from objects", work="words"), em.MaskEngine, "pack_slots", lambda states: states * 0),
        (Case(way=LOOPS[0], work="dropin"), loops_2025_12, "env_masks", lambda m: {**m, "op": ~m["op"]}),
        (
            Case(way=DROPINS[0], work="dropin"),
            em.compat.esper_2025_12,
            "compute_action_masks",
            lambda m: {**m, "op": ~m["op"]},
        ),
        (Case(way=DROPINS[1], work="dropin"), em.compat.esper_2025_12, "compute_batch_masks", lambda m: {}),
        *(
            (
                Case(way=LOOPS[0], work=work, rules="pods", slots=8),
                loops_pods,
                "env_masks",
                lambda m: {**m, "op": ~m["op"]},
            )
            for work in ("words", "decision")
        ),
        (
            Case(way="eager", work="words", rules="pods", slots=8),
            em.reference,
            "masks",
            lambda m: {**m, "node_by_slot": [[[True] * 16] * 8] * 8},
        ),
        (
            Case(way="eager", rules="pods", slots=8),
            em.DecisionStep,
            "decide",
            lambda d: d._replace(packed=d.packed ^ 1),
        ),
        (Case(way="eager", work="rollout"), em.DecisionStep, "forward", lambda d: spoiled(d)),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "way", ""),  # the same in every process
)
def test_the_check_can_fail(
    case: Case, owner: Any, name: str, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, owner, name, change)
    with pytest.raises(AssertionError):
        measure.measure(replace(case, batch=8), AT_ONCE)


def test_values_without_a_gradient_are_not_taken() -> None:
    inputs, other = Head(13, 8), torch.zeros(8, requires_grad=True)
    with pytest.raises(AssertionError, match="no gradient"):
        checking.with_gradient(lambda _: (other + 1,), inputs.logits.clone().requires_grad_(), inputs.action)


def test_wrong_outputs_end_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the process of a row says comes out as one line."""
    spoil(monkeypatch, em.DecisionStep, "_words", lambda w: (w[0], w[1] ^ 8))
    assert measure.main(json.dumps([asdict(Case(batch=4, way="eager", work="words")), asdict(AT_ONCE)])) == 0
    said = capsys.readouterr().out
    monkeypatch.setattr(suite.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said, ""))
    monkeypatch.setattr(suite, "machine", lambda *_: {})
    assert main(["bench", "--rows", "eager, batch 1"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "esper-masks bench: eager, batch 1: outputs are wrong: (same_masks: assert torch.equal(made.op"
    )


def test_a_process_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  in a.py\nInvalidCxxCompiler: no compiler\n")
    monkeypatch.setattr(suite.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(suite, "machine", lambda *_: {})
    assert main(["bench", "--rows", "eager, batch 1"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == "esper-masks bench: eager, batch 1: ended with exit code 1: InvalidCxxCompiler: no compiler"


def test_an_interpreter_that_drops_assertions_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = {}

    def run(*_: Any, env: dict[str, str], **__: Any) -> Any:
        seen.update(env)
        return subprocess.CompletedProcess([], 0, "{}", "")

    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setattr(suite.subprocess, "run", run)
    suite.run_row(CENTRE, Settings(), tmp_path)
    assert "PATH" in seen
    assert "PYTHONOPTIMIZE" not in seen
    assert not Path(seen["TORCHINDUCTOR_CACHE_DIR"]).exists()  # nothing is left of what was compiled
    assert Path(seen["ESPER_MASKS_CACHE"]).parent == Path(seen["TORCHINDUCTOR_CACHE_DIR"])  # nor of what was kept


def test_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Raised by torch, or a process that the system killed; the others go on."""
    code = f"""
import resource, json
from esper_masks.bench import measure
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
measure.main(json.dumps([{asdict(Case(batch=1 << 28, way="eager"))!r}, {{}}]))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert json.loads(made.stdout) == {"error": "out of memory"}, made.stderr
    done = subprocess.CompletedProcess
    answers = iter(
        [
            done([], -9, "", ""),
            done([], -6, "", "terminate called\n  what():  std::bad_alloc\n"),
            done([], 0, json.dumps({**FIGURES, "share_of_limit": 0.08}), ""),
        ]
    )
    monkeypatch.setattr(suite, "machine", lambda *_: {})
    monkeypatch.setattr(suite.subprocess, "run", lambda *_, **__: next(answers))
    made = suite.run([Case(batch=batch, way="eager") for batch in (4, 8, 16)], Settings())
    assert not made["interrupted"]
    assert [one.get("error") for one in made["rows"]] == ["out of memory", "out of memory", None]
    assert "out of memory" in report.line(made["rows"][0])


def test_an_interrupted_run_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_row(case: Case, *_: Any) -> suite.Row:
        if case.batch == 4:
            return row(case)
        raise KeyboardInterrupt

    out = tmp_path / "kept.json"
    with suite.measured_by(run_row):
        assert main(["bench", "--rows", "eager, batch 4", "-o", str(out)]) == 130
    assert [one["batch"] for one in suite.load(out)["rows"]] == [4]
    assert suite.load(out)["interrupted"]
    assert "Interrupted: these are the rows up to that point." in capsys.readouterr().out
    assert main(["bench", "--from", str(out)]) == 0
    monkeypatch.setattr(plot, "find_spec", lambda name: name)
    before = out.read_bytes()
    with suite.measured_by(lambda *_: signal.raise_signal(signal.SIGINT)):
        assert main(["bench", "--rows", "eager", "--plot", str(tmp_path / "none.png"), "-o", str(out)]) == 130
    assert out.read_bytes() == before  # nothing was measured
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_a_run_keeps_its_rows(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_row(case: Case, *_: Any) -> suite.Row:
        if case.batch == 65536:
            signal.raise_signal(number)
        return row(case)

    out, whole = tmp_path / "kept.json", tmp_path / "kept-interrupted.json"
    arguments = ["bench", "--rows", "eager, batch 4,096", "eager, batch 65,536", "-o", str(out)]
    with suite.measured_by(run_row):
        assert main(arguments) == code
        assert {one["batch"] for one in suite.load(out)["rows"]} == {4096}
        assert signal.getsignal(number) is signal.SIG_DFL
        before = out.read_bytes()
        capsys.readouterr()
        assert main(arguments) == code  # over a result that may be whole it does not write
    assert out.read_bytes() == before
    assert suite.load(whole)["rows"] == suite.load(out)["rows"]
    assert f"{out} is left as it was; what was measured is in {whole}" in capsys.readouterr().err


def test_a_reader_that_goes_away_costs_no_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(*_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(report, "print_result", gone)
    out = tmp_path / "kept.json"
    with suite.measured_by(lambda case, *_: row(case)):
        assert main(["bench", "--rows", "eager, batch 4", "-o", str(out)]) == 0
    assert suite.load(out)["rows"]


def test_standard_output_has_the_result_alone(saved: Path) -> None:
    for name in ("-", "/dev/stdout"):
        command = [sys.executable, "-m", "esper_masks", "bench", "--from", str(saved), "-o", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == json.loads(saved.read_text())
        assert "ns/env" in done.stderr


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(suite, "find_spec", lambda module: None)
    assert main(["bench", "--rows", "torchrl", "sb3"]) == 2
    said = "torchrl and sb3-contrib not installed (pip install 'esper-masks[sb3,torchrl]')"
    assert capsys.readouterr().err == f"esper-masks bench: {said}\n"
    measured = []
    with suite.measured_by(lambda case, *_: measured.append(case) or row(case)):
        assert main(["bench", "--rows", "torchrl", "sb3", "torch eager"]) == 0
    assert capsys.readouterr().err.startswith(f"{said}: 8 rows are left out\n")
    assert {case.way for case in measured} == {"torch eager"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["speed"], "speed: the groups are scaling, masks, distributions, dropin, guards, growth, first-calls, train"),
        (["masks", "--from", "a"], "--from measures nothing, so masks would be ignored"),
        (["--device", "tpu"], "--device tpu: the devices are cpu and cuda"),
        (["--device", "cuda"], "--device cuda: torch finds no GPU here"),
        (["--rows", "fastest"], "no row is called fastest; --list prints them"),
        (["--batch", "0"], "--batch 0: wanted 1 or more"),
        (["--threads", "0"], "--threads 0: wanted 1 or more"),
        (["--batch", str(1 << 50)], "would fit"),
        (["--seconds", "nan"], "--seconds nan: wanted more than 0"),
        (["--seconds", "0"], "--seconds 0.0: wanted more than 0"),
        (["--from", "a", "--quick"], "--from measures nothing, so --quick"),
        (["-o", "/no/such/folder/a.json"], "/no/such/folder/a.json: its folder is not there; make it"),
        (["-o", "/"], "/: is a folder; name a file in it"),
        (["--plot", "a.png", "-o", "./a.png"], "--plot a.png: the result itself goes there"),
        (["--from", "README.md", "-o", "./README.md"], "./README.md: is one of the inputs; name another file"),
        (["--from", "a", "--rows", "b"], "--from measures nothing, so --rows would be ignored; leave one of them out"),
        (["--from", "a", "--seconds", "9"], "--from measures nothing, so --seconds"),
        (["--from", "a", "--batch", "9"], "--from measures nothing, so --batch"),
        (["--from", "a", "--device", "cuda"], "--from measures nothing, so --device"),
        (["--from", "a", "--list"], "--from measures nothing, so --list"),
        (["--list", "--seconds", "9"], "--list measures nothing, so --seconds"),
        (["--list", "-o", "a.json"], "--list measures nothing, so --output"),
        (["--list", "--plot", "a.png"], "--list measures nothing, so --plot"),
        (["--compare", "a", "b", "-o", "c"], "--compare prints two results, so --output"),
        (["--compare", "a", "b", "--from", "c"], "--compare prints two results, so --from"),
        (["--from", ""], ".: Is a directory"),
        (["--plot", "/no/such/folder/a.png"], "its folder is not there"),
        (["--plot", "scaling.xyz"], "--plot scaling.xyz: wanted a name in .png, .svg, .pdf"),
        (["--plot", "a.png", "--rows", "batch-last"], "--plot: none of these rows is in the picture"),
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
    monkeypatch.setattr(plot, "find_spec", lambda name: name)
    with suite.measured_by(lambda *_: pytest.fail("it must not start")):
        assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("esper-masks bench: ")
    assert says in line


def test_rows_are_measured_with_the_threads_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_cli.os, "cpu_count", lambda: 2)
    assert main(["bench", "--list", "--json"]) == 0
    usual = json.loads(capsys.readouterr().out)
    assert [case["threads"] for case in usual].count(2) == 1
    assert main(["bench", "--threads", "2", "--list", "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert {case["threads"] for case in asked} == {2}
    assert len(asked) == len(usual) - 1  # the row of all cores is the centre


def test_a_batch_that_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cli, "free_memory", lambda device: 8 << 30)
    with suite.measured_by(lambda case, *_: row(case)):
        assert main(["bench", "--rows", "torch compiled", "--batch", str(1 << 22)]) == 2
        assert main(["bench", "--rows", "words, batch", "--batch", str(1 << 24)]) == 0


def test_the_table_fits_and_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = {"ns_per_env": 98765.4, "peak_bytes": 123_456_789_012, "share_of_limit": 0.00004, "compile_s": 123.0}
    rows = [row(case, **wide) for case in star("cuda", 2) + star("cpu", 64)[-30:]]
    rows[7] = {**asdict(Case(batch=1 << 20)), "error": "out of memory"}
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(result(*rows)))
    assert main(["bench", "--from", str(path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "\u2026" not in out
    for words in ("loop, small tensors", "out of memory", "64 threads", "123G", "0.004%", "123s", "1 slot "):
        assert words in out
    assert main(["bench", "--from", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["x_usual"] == 1
    assert main(["bench", "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert main(["bench", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(names) == len(set(names))


def test_rows_stand_by_axis_and_batch(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--from", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = [next(i for i, line in enumerate(lines) if words in line) for words in ("  4 ", "65,536 ", "small tensors  ")]
    assert at == sorted(at)
    assert "1,000" in lines[at[1]]  # 50,000 over 50 nanoseconds


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.pop("machine"),
        lambda made: made.update(versions={}),
        lambda made: made.update(rows=None),
        lambda made: made.update(commit="abc"),
        lambda made: made["rows"][0].pop("compile_s"),
        lambda made: made["rows"][0].update(ns_per_env_median=0),
        lambda made: made["rows"][0].update(ns_per_env="fast"),
        lambda made: made["rows"][0].update(rules="esper-1999"),
        lambda made: made["rows"][0].update(batch=None),
    ],
)
def test_a_file_that_is_no_result(
    change: Callable[[Any], Any], saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = suite.load(saved)
    change(made)
    saved.write_text(json.dumps(made))
    assert main(["bench", "--from", str(saved)]) == 2
    assert capsys.readouterr().err == f"esper-masks bench: {saved} is no result of esper-masks bench\n"


def test_ratios_are_to_the_nearest_row_of_what_is_usual() -> None:
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
    assert [(r.get("x_usual"), r.get("x_usual_batch")) for r in rows] == [
        (200, 8), (300, 65536), (None, None), (1, 65536), (1, 8), (None, None)
    ]  # fmt: skip
    back = Case(step="forward+backward")
    other = suite.with_ratios([row(back, ns_per_env=2.0), row(replace(back, way="torch eager"), ns_per_env=6.0)])
    assert [r["x_usual"] for r in other] == [3, 1]


def test_two_results_side_by_side(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faster = {"ns_per_env_median": 11.0, "ns_per_env_q1": 10.0, "ns_per_env_q3": 13.0}
    other = result(
        row(**faster), row(Case(batch=4), **faster), {**asdict(Case(way=LOOPS[0])), "error": "out of memory"}
    )
    other["versions"]["torch"] = "3.0"
    [first, second] = compare(suite.load(saved), other)
    assert [(one["ratio"], one["low"], one["high"]) for one in (first, second)] == [(5.0, 4.0, 6.0)] * 2
    path = tmp_path / "b.json"
    path.write_text(json.dumps(other))
    assert main(["bench", "--compare", str(saved), str(path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert f"another torch: {torch.__version__}, then 3.0" in out
    assert "2 rows without a time in the other result" in out
    assert "  5     4   6" in out
    assert main(["bench", "--compare", str(saved), str(path), "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json["differences"] == {"torch": [torch.__version__, "3.0"]}
    assert as_json["rows"][1]["batch"] == 4
    assert main(["bench", "--compare", str(saved), str(saved)]) == 0
    assert capsys.readouterr().out.count("~") == 4  # three rows, and what it means
    other["rows"] = other["rows"][2:]
    path.write_text(json.dumps(other))
    assert main(["bench", "--compare", str(saved), str(path)]) == 2
    assert "no row in common" in capsys.readouterr().err


def test_the_commit_is_of_the_package() -> None:
    about = suite.machine("cpu", [Case(way="torchrl eager")] if suite.find_spec("torchrl") else [])
    assert about["commit"] is None or re.fullmatch("[0-9a-f]{40}", about["commit"]["id"])
    assert set(about["machine"]) == {"cpu", "cores", "architecture", "system", "capability", "gpu"}
    assert set(about["versions"]) - {"torchrl"} == {"esper_masks", "torch", "python"}


def test_a_change_of_a_script_that_measures_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def git(command: list[str], **_: Any) -> Any:
        said = " M learning.py" if "status" in command and "learning.py" in command else ""
        return subprocess.CompletedProcess(command, 0, said, "")

    monkeypatch.setattr(suite.subprocess, "run", git)
    assert suite.machine("cpu")["commit"]["dirty"] is False
    assert suite.machine("cpu", scripts=["learning.py"])["commit"]["dirty"] is True


def test_the_picture(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    path = tmp_path / "scaling.png"
    assert main(["bench", "--from", str(saved), "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    nothing = {**result(), "rows": []}
    with pytest.raises(suite.BenchError, match="no row to draw"):
        plot.plot(nothing, path)


def test_a_plot_without_matplotlib_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    assert main(["bench", "--plot", "a.png"]) == 2
    assert capsys.readouterr().err == "esper-masks bench: --plot needs matplotlib: pip install 'esper-masks[viz]'\n"
