"""A long training, as short as can be."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import endurance


@pytest.fixture
def affinity() -> Iterator[None]:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    if cores is not None:
        os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("affinity")
def test_a_row_is_taken_for_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    assert endurance.main(["-o", str(out), "--steps", "500", "--every", "200", "--envs", "8", "--beside", "1"]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert (result["group"], result["envs"], result["beside"]) == ("endurance", 8, 1)
    assert [row["env_steps"] for row in result["rows"]] == [200, 400, 600]
    assert all(row["held_bytes"] is None or row["held_bytes"] > 1 << 20 for row in result["rows"])
    assert all(row["steps_per_s"] > 0 and row["steps_per_cpu_s"] > 0 for row in result["rows"])
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == result["rows"]


def test_who_keeps_a_core_busy_ends_with_the_training() -> None:
    other = subprocess.Popen([sys.executable, "-c", endurance.BUSY], stdin=subprocess.PIPE)
    assert other.poll() is None
    assert other.stdin is not None
    other.stdin.close()  # as the system does where a process is killed
    assert other.wait(60) == 0
