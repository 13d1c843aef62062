"""What runs on a forge and before a commit: that it can be read, and names what the project names."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests import matrix

ROOT = Path(__file__).parents[1]
FILES = {"workflow": ROOT / ".github/workflows/ci.yml", "pre-commit": ROOT / ".pre-commit-config.yaml"}


def load(name: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML, which comes with the extra `notebooks`, is not installed")
    read: dict[str, Any] = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    return read


def test_the_workflow_has_every_promised_pair() -> None:
    jobs = load("workflow")["jobs"]
    pairs = [(pair["python"], pair["torch"]) for pair in jobs["test"]["strategy"]["matrix"]["include"]]
    assert pairs == list(matrix.PAIRS)
    assert set(jobs) == {"lint", "test", "docs"}


def test_the_workflow_calls_targets_that_are_there() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [step["run"] for job in load("workflow")["jobs"].values() for step in job["steps"] if "run" in step]
    called = [command.split()[1] for command in commands if command.startswith("make ")]
    assert sorted(called) == ["lint", "matrix", "site"]
    assert set(called) <= set(targets)


def test_ruff_is_of_one_version() -> None:
    [pinned] = re.findall(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    ruff, local = load("pre-commit")["repos"]
    assert ruff["rev"] == f"v{pinned}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    [notebooks] = local["hooks"]
    assert notebooks["entry"].split()[-3:] == ["tests/test_notebooks.py", "-k", "committed"]
