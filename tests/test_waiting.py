"""How the threads of a training wait, and how many there are: by the work, and only where the command runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esper_masks.rollout.training.train import threads_for
from esper_masks.starting import wait_briefly

BRIEF = {"GOMP_SPINCOUNT": "1000"}
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}


@pytest.mark.parametrize(
    ("argv", "whole", "set"),
    [
        (["-m", "train", "--envs", "4"], ["python", "-m", "esper_masks", "train", "--envs", "4"], BRIEF),
        (["-m", "evaluate", "runs"], ["python", "-u", "-X", "dev", "-m", "esper_masks", "evaluate", "runs"], BRIEF),
        (["-m", "train"], ["python", "-mesper_masks", "train"], BRIEF),
        (["/usr/bin/esper-masks", "train"], ["python", "/usr/bin/esper-masks", "train"], BRIEF),
        (["-m", "bench", "train"], ["python", "-m", "esper_masks", "bench", "train"], {}),
        (["/usr/bin/esper-masks", "bench"], ["python", "/usr/bin/esper-masks", "bench"], {}),
        (["-m", "train"], ["python", "-m", "controller", "train"], {}),  # whose package imports this one
        (["train.py", "train"], ["python", "train.py", "train"], {}),
        (["-m"], ["python", "-m", "esper_masks"], {}),
        (["-c", "train"], ["python", "-c", "import esper_masks", "train"], {}),
        ([""], ["python"], {}),
        ([], ["python"], {}),
    ],
)
def test_the_policy_is_set_for_two_commands_alone(argv: list[str], whole: list[str], set: dict[str, str]) -> None:
    environ: dict[str, str] = {}
    wait_briefly(argv, whole, environ)
    assert environ == set


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_set_stays(name: str) -> None:
    environ = {name: "7"}
    wait_briefly(["esper-masks", "train"], ["python", "esper-masks", "train"], environ)
    assert environ == {name: "7"}


def spins(*arguments: str, **environ: str) -> str:
    """How long threads wait actively, as OpenMP tells it when torch loads it."""
    told = subprocess.run(
        [sys.executable, *arguments],
        env={**CLEAN, **environ, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stderr
    found = [line.split("'")[1] for line in told.splitlines() if "GOMP_SPINCOUNT" in line]
    if not found:
        pytest.skip("torch has another OpenMP than GNU's")
    return found[0]


def test_openmp_hears_of_it_in_time(tmp_path: Path) -> None:
    """Set after torch was imported, it would do nothing."""
    script = tmp_path / "esper-masks"
    script.write_text("import sys\nfrom esper_masks.cli import main\nsys.exit(main())\n", encoding="utf-8")
    usual = spins("-c", "import esper_masks")
    assert int(usual) > 1000
    assert spins("-m", "esper_masks", "train", "--help") == "1000"
    assert spins(str(script), "evaluate", "--help") == "1000"
    assert spins(str(script), "bench", "--help") == usual
    assert spins(str(script), "train", "--help", GOMP_SPINCOUNT="5000") == "5000"


def test_threads_follow_from_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    work = (1, 64, 512, 1024, 2048, 8192, 1 << 20)
    assert [threads_for(envs, 64) for envs in work] == [1, 1, 1, 1, 2, 8, 8]
    assert [threads_for(1024, width) for width in (8, 64, 128, 512, 4096)] == [1, 1, 2, 8, 8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as under OMP_NUM_THREADS=1, which torchrun sets
    assert [threads_for(envs, 64) for envs in work] == [1] * len(work)
