"""The baselines compute the same masks, so that a ratio compares like with like; committed results tell no machine."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import print_table
from benchmarks.bench_masks import LIMIT, Case, bools
from tests.helpers import assert_same_masks

RESULTS = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*/*.json"))


@pytest.mark.parametrize("way", ["small_tensors", "one_tensor"])
@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_loops_equal_the_engine(rules: str, slots: int, way: str) -> None:
    case = Case(rules, 300, slots)
    masks = case.engine(case.states, case.totals)
    assert_same_masks(masks, case.loop(way)(), case.states)
    assert set(case.loop(way)()) == set(bools(masks, rules == "esper-2026-06"))
    assert case.totals.max() > LIMIT > case.totals.min()  # the limit decides in some rows


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_complete_and_anonymous(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text(encoding="utf-8")
    result: dict[str, Any] = json.loads(text)
    assert set(result["machine_info"]) == {"cpu", "architecture", "cores", "system", "python", "torch", "capability"}
    assert re.fullmatch("[0-9a-f]{40}", result["commit_info"]["id"])
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    for row in result["benchmarks"]:
        assert row["ns_per_env_median"] >= row["ns_per_env"] > 0
    print_table(result)
    assert "words compiled" in capsys.readouterr().out
