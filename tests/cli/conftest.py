"""A terminal of 80 columns for every command, a log, and a folder with rules of one's own."""

from pathlib import Path

import pytest

from tests.logs import germinate, move
from tests.own_rules import OWN


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    path.write_bytes(germinate() + move("GERMINATED", "BLENDING") + b"junk\n")
    return path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_rules.py").write_text(OWN)
    (tmp_path / "broken_rules.py").write_text("import a_module_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    return tmp_path
