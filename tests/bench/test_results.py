"""The baselines compute the same, so that a ratio compares like with like; committed results tell no machine."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from benchmarks import learning
from docs import make_bench, tables
from esper_masks.bench import measure, suite
from esper_masks.bench.cases import FIRST_CALL, LOOPS, STEPS, Case, group
from esper_masks.bench.checking import Scored, check_oracle
from esper_masks.bench.inputs import LIMIT, Decision, Head, random_states, state_dicts
from esper_masks.bench.libraries import LIBRARIES, PEERS
from esper_masks.bench.loops import MODULES, small_tensors
from esper_masks.bench.ways import make_engine, prepare
from esper_masks.cli.entry import main
from tests.helpers import ROOT, assert_same_masks

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))
ENDURANCE = sorted((ROOT / "benchmarks" / "results").glob("*/endurance/*.json"))
EXPERIMENTS = sorted((ROOT / "benchmarks" / "results").glob("*/experiments/*.json"))


@pytest.mark.parametrize("way", ["small_tensors", "one_tensor"])
@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_loops_equal_the_engine(rules: str, slots: int, way: str) -> None:
    ids = [f"slot{i}" for i in range(slots)]
    engine = em.MaskEngine(em.ruleset(rules), ids, max_seeds=LIMIT)
    states, totals = random_states(engine, 300)
    masks = engine(states, totals)
    loop = partial(small_tensors, rules) if way == "small_tensors" else MODULES[rules].one_tensor
    made = loop(state_dicts(engine, states), ids, ids, totals.tolist(), LIMIT)
    assert_same_masks(masks, made, states)
    assert set(made) == {*masks, *(["slot_by_op"] if rules == "esper-2026-06" else [])}
    assert totals.max() > LIMIT > totals.min()  # the limit decides in some rows


def agree(library: str) -> None:
    """Both steps of a library's eager rows on a small batch, checked as before a timing."""
    torch.manual_seed(0)
    cases = Case(work="head of 13"), Case(), Case(rules="esper-2026-06")
    for case, step in product(cases, STEPS):
        run, verify = prepare(replace(case, batch=50, step=step, way=f"{library} eager"), "cpu")
        verify(run())


@pytest.mark.parametrize("library", [name for name in LIBRARIES if name not in PEERS])
def test_distributions_agree(library: str) -> None:
    agree(library)


@pytest.mark.parametrize("library", PEERS)
def test_distributions_of_peers_agree(library: str) -> None:
    if find_spec(LIBRARIES[library].module) is None:
        pytest.skip(f"{LIBRARIES[library].package} is not installed; `make bench` installs it")
    code = f"from tests.bench.test_results import agree; agree({library!r})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_check_of_distributions_can_fail() -> None:
    for step in STEPS:
        run, verify = prepare(Case(work="head of 13", way="torch eager", batch=50, step=step), "cpu")
        made = run()
        verify(made)
        log_prob, entropy = made.values
        wrong = [
            made._replace(action=Head(13, 50).mask.int().argmin(1)),
            made._replace(values=(log_prob + 1e-3, entropy)),
            made._replace(values=(log_prob, entropy + 1e-3)),
            *([made._replace(gradient=made.gradient + 1e-3)] if step == "forward+backward" else []),
        ]
        for one in wrong:
            with pytest.raises(AssertionError):
                verify(one)


def test_the_oracle_judges_whole_actions_of_ours() -> None:
    case = Case(way="ours eager", batch=8)
    run, _ = prepare(case, "cpu")
    made: Scored = run()
    inputs = Decision(make_engine(case, "cpu"), 8)
    check_oracle(inputs, made)
    for values in ((made.values[0] + 1e-3, made.values[1]), (made.values[0], made.values[1] + 1e-3)):
        with pytest.raises(AssertionError):
            check_oracle(inputs, made._replace(values=values))


def test_inputs_are_what_they_promise() -> None:
    head = Head(13, 4000)
    assert 0.55 < head.mask.float().mean() < 0.7
    assert head.mask.any(-1).all()
    assert head.mask.gather(1, head.action[:, None]).all()
    case = Decision(make_engine(Case(rules="esper-2026-06"), "cpu"), 300)
    assert case.masks.permits(case.action).all()
    assert all(m.gather(1, a[:, None]).all() for m, a in zip(case.head_masks, case.action.unbind(-1)))
    assert len(case.flat[0]) == 8
    assert sum(case.flat[0]) == case.flat[1].shape[-1] == case.logits.shape[-1]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_results_are_complete_and_anonymous(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    made: dict[str, Any] = json.loads(text)
    assert path.stem == f"{made.get('group', 'scaling')}-{made['device']}"
    assert set(made["machine"]) == {"cpu", "cores", "architecture", "system", "capability", "gpu"}
    assert re.fullmatch("[0-9a-f]{40}", made["commit"]["id"])
    assert not made["commit"]["dirty"], "of changes that are in no commit"
    assert not made["interrupted"]
    if path.stem.startswith("learning"):  # see below
        return
    cases = [suite.case_of(row) for row in made["rows"]]
    assert len(set(cases)) == len(cases)
    libraries = {LIBRARIES[name].package for case in cases if (name := case.way.split()[0]) in PEERS}
    assert libraries <= set(made["versions"])
    for case, row in zip(cases, made["rows"]):
        assert row.get("error") == "out of memory" or row["ns_per_env"] > 0
        if "illegal_share" in row:
            independent = case.way == "sb3 heads" or (case.work == "decision" and not case.way.startswith("ours"))
            if not independent:
                assert row["illegal_share"] == 0
            elif case.batch >= 100:  # fewer rows may all be legal by chance
                assert row["illegal_share"] > 0
    assert suite.load(path)["rows"]
    if path.parent.name == em.__version__:
        assert set(cases) == set(group(path.stem.rpartition("-")[0], made["device"], made["machine"]["cores"]))
    for case, row in zip(cases, made["rows"]):
        if "error" not in row:
            assert 0 < row["ns_per_env"] <= row["ns_per_env_q1"] <= row["ns_per_env_median"] <= row["ns_per_env_q3"]
            assert row["blocks"] >= measure.FEWEST
            assert (row["compile_s"] is not None) == (case.is_built or case.work == FIRST_CALL)
    assert main(["bench", "--from", str(path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out  # no column is cut off


def test_results_are_of_one_commit() -> None:
    """Tables stand side by side: what they say is of one state of the package, with nothing that is in no commit."""
    assert RESULTS
    for version, paths in groupby(RESULTS, key=lambda path: path.parent.name):
        commits = {path.stem: json.loads(path.read_text(encoding="utf-8"))["commit"] for path in paths}
        assert len({commit["id"] for commit in commits.values()}) == 1, f"{version}: make bench, all groups: {commits}"
        assert not any(commit["dirty"] for commit in commits.values())


def test_long_trainings_stay_as_fast_as_the_page_says() -> None:
    assert [path.stem for path in ENDURANCE] == ["alone-cpu", "beside-cpu"]
    for path in ENDURANCE:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|work|tmp|Users)/", text)
        made: dict[str, Any] = json.loads(text)
        assert made["commit"] == json.loads(RESULTS[-1].read_text(encoding="utf-8"))["commit"]
        assert not made["interrupted"]
        assert (made["beside"] > 0) == (path.stem == "beside-cpu")
        _, second, *others = made["rows"]
        assert others[-1]["env_steps"] >= 20_000_000
        assert others[-1]["held_bytes"] <= 1.01 * second["held_bytes"]
        if not made["beside"]:
            assert min(row["steps_per_s"] for row in others) >= 0.95 * second["steps_per_s"]
        assert others[-2]["steps_per_s"] >= 0.95 * second["steps_per_s"]  # the last whole million


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_are_of_a_commit_and_anonymous(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    made = json.loads(text)
    assert re.fullmatch("[0-9a-f]{40}", made["commit"]["id"])
    assert not made["commit"]["dirty"], "of changes that are in no commit"
    assert path.stem.startswith(("slots", made["part"]))
    assert made["machine"]["cpu"]


def test_what_was_learned() -> None:
    rows = tables.result("learning")["rows"]
    trained = {(row["slots"], row["way"]): row for row in rows}
    assert set(trained) == {(case.slots, case.way) for case in learning.CASES}
    for slots in (3, 16):
        for arm in learning.ARMS:
            row = trained[slots, arm]
            assert [run["seed"] for run in row["runs"]] == list(range(learning.SEEDS))
            assert row["ratio_off"] < learning.NEAR
            for run in row["runs"]:
                assert any(run["curve"]["illegal_share"]) == (arm != "masked")
                assert run["curve"]["env_steps"][-1] >= row["steps"] == learning.STEPS
        ends = [run["return_mean"] for run in trained[slots, "masked"]["runs"]]
        assert min(ends) - trained[slots, "heuristic"]["return_mean"] > max(ends) - min(ends), f"{slots} slots"


@pytest.mark.parametrize("page", make_bench.pages(), ids=lambda path: path.name)
def test_tables_are_those_of_the_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert make_bench.with_tables(text) == text, "make docs"


def test_the_commit_stands_below_each_table() -> None:
    """That of the file, whatever has been committed since."""
    shown = set()
    for page in make_bench.pages():
        for part in make_bench.PART.finditer(page.read_text(encoding="utf-8")):
            shown.add(part[2])
            below = re.findall(r"^Commit `(\w+)`,[^`]*\(((?:`[\w/-]+\.json`[,\s]*)+)\)\.$", part[0], re.MULTILINE)
            assert below
            for commit, files in below:
                for file in re.findall("`(.*?)`", files):
                    made = json.loads((tables.RESULTS / file).read_text(encoding="utf-8"))
                    assert made["commit"]["id"].startswith(commit)
                    assert len(commit) == tables.SHORT
    assert shown == set(make_bench.TABLES)


def test_a_table_is_of_the_rows_that_it_names() -> None:
    text = make_bench.with_tables("<!-- bench: masks -->\n<!-- end -->")
    row = tables.found("masks", {"work": "words", "way": LOOPS[0], "batch": 4})
    assert row is not None
    assert "| loop, small tensors | " in text
    assert tables.figure(row["ns_per_env"]) in text
    assert tables.found("masks", {"work": "words", "way": "none"}) is None
    assert tables.figure(float("nan")) == ""
