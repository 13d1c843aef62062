"""First calls of a process: what is timed is one that nothing has begun, and what it gives is the same in each."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper_masks.bench import first_call, measure
from esper_masks.bench.cases import COLD, FIRST_CALL, QUICK, WARM, Case, first_calls
from esper_masks.compiled import kept

CASE = Case(work=FIRST_CALL, slots=1, batch=8, way=COLD)


class Processes:
    """In place of processes: a cold call takes 10 s, and others 1 s if an earlier one has left code in their folder."""

    def __init__(self) -> None:
        self.bits: list[str] = []
        self.folders: list[str] = []

    def run(self, command: list[str], *, env: dict[str, str], **_: Any) -> "subprocess.CompletedProcess[str]":
        assert json.loads(command[-1])["work"] == FIRST_CALL
        folder = env["TORCHINDUCTOR_CACHE_DIR"]
        assert env[kept.VARIABLE] == os.path.join(folder, "kept")
        assert " " not in folder, "in which torch's compiler finds no file"
        seconds = 1.0 if folder in self.folders else 10.0
        self.folders.append(folder)
        bits = self.bits.pop(0) if self.bits else "same"
        return subprocess.CompletedProcess(command, 0, f"noise\n{json.dumps([seconds, bits])}\n", "")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


def test_a_cold_call_finds_nothing(processes: Processes) -> None:
    assert first_call.measure(CASE, 3) == [10.0] * 3
    assert len(set(processes.folders)) == 3
    assert not any(Path(folder).exists() for folder in processes.folders)


def test_a_warm_call_finds_what_another_has_left(processes: Processes) -> None:
    assert first_call.measure(replace(CASE, way=WARM), 3) == [1.0] * 3
    assert len(processes.folders) == 4
    assert len(set(processes.folders)) == 1


@pytest.mark.parametrize("way", [COLD, WARM])
def test_other_bits_end_a_row(way: str, processes: Processes) -> None:
    processes.bits = ["same", "other"]
    with pytest.raises(AssertionError, match="other bits"):
        first_call.measure(replace(CASE, way=way), 2)


def test_a_row_has_the_seconds_of_the_call(processes: Processes) -> None:
    made = measure.measure(CASE, QUICK)
    assert made["compile_s"] == 10.0
    assert made["ns_per_env"] * CASE.batch == made["ns_per_env_median"] * CASE.batch == pytest.approx(1e10)
    assert made["blocks"] == len(processes.folders) == measure.FEWEST


def test_rows_are_cold_and_warm() -> None:
    rows = first_calls()
    assert {case.way for case in rows} == {COLD, WARM}
    assert all(replace(case, way=WARM) in rows for case in rows)
    assert not any(case.has_limit or case.is_built for case in rows)


def test_a_process_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not even code that runs op by op, since no compiler was there, passes for a first call."""
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(AssertionError, match=r"failed: AssertionError: DecisionStep\.decide runs op by op"):
        first_call.measure(CASE, 1)


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("way", [COLD, WARM])
def test_processes_make_first_calls(way: str) -> None:
    """What they give is checked by themselves, and their bits against each other."""
    assert all(seconds > 0 for seconds in first_call.measure(replace(CASE, way=way), 2 if way == COLD else 1))
