"""``verify`` on the command line."""

import json
from pathlib import Path

import pytest

from tests.cli.running import run


def test_verify(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "verify", "own_rules:JOBS")
    assert printed.startswith("jobs: all agree: ")
    [result] = json.loads(run(capsys, "verify", "own_rules:JOBS", "--json"))
    assert result["agrees"]
    assert result["notes"] == []
    assert "unknown rule set" in run(capsys, "verify", "own_rules:JOBS", "x", code=2)
