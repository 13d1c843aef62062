"""The runner of ``make matrix``: with pairs that are tiny, missing, broken or failing."""

import re
import sys
from pathlib import Path

import pytest

from tests import matrix
from tests.helpers import ROOT

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two tests, and environments that are this one."""
    (tmp_path / ".matrix").mkdir()
    (tmp_path / "test_two.py").write_text(
        "import os\n\n\ndef test_one(): pass\n\n\ndef test_two(): assert 'FAIL' not in os.environ\n"
    )
    monkeypatch.setattr(matrix, "make_environment", lambda *given: (given[2] / "bin").mkdir(parents=True))
    monkeypatch.setattr(matrix, "find_python", lambda version: None if version == "3.13" else sys.executable)
    run = matrix.subprocess.run

    def run_here(command: list[str], **settings: object) -> object:
        return run([sys.executable, *command[1:]], **settings)

    monkeypatch.setattr(matrix.subprocess, "run", run_here)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def test_a_table_tells_what_became_of_each_pair(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert matrix.main(["--pairs", "3.12/2.11.0", "3.13/2.13.0"], folder) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[0] == ["| Python", "torch", "passed", "failed", "skipped", "minutes", "verdict |"]
    assert rows[2][:5] == ["| 3.12", "2.11.0", "2", "0", "0"]
    assert rows[2][-1] == "passed |"
    assert rows[3][-1] == "skipped: no Python 3.13 here |"
    monkeypatch.setenv("FAIL", "1")
    assert matrix.main(["--pairs", "3.12/2.12.0"], folder) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"\| 3\.12 \| 2\.12\.0 \| 1 \| 1 \| 0 \| \d+\.\d \| failed: see \.matrix/py3\.12-torch2\.12\.0\.log \|", out
    )
    assert "test_two" in (folder / ".matrix/py3.12-torch2.12.0.log").read_text()


def test_what_cannot_be_installed_is_no_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise matrix.subprocess.CalledProcessError(1, "pip install")

    monkeypatch.setattr(matrix, "make_environment", broken)
    assert matrix.run_pair("3.12", "2.11.0", [], folder).verdict.startswith("not installed: ")
    assert matrix.main(["--pairs", "3.12/2.11.0"], folder) == 1


def test_a_run_without_a_report_is_no_pass(folder: Path) -> None:
    assert matrix.run_pair("3.12", "2.11.0", ["--no-such-option"], folder).verdict.startswith("pytest ended with 4")


def test_this_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / f"python{HERE}"
    link.symlink_to(sys.executable)
    (tmp_path / "python2.0").symlink_to(sys.executable)  # of another version than its name says
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.find_python(HERE) == str(link)
    assert matrix.find_python("2.0") is None


def test_no_pair_that_ran_is_no_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["--pairs", "3.13/2.13.0"], folder) == 1
    assert "no pair ran" in capsys.readouterr().err


def test_the_pairs_are_those_of_the_classifiers() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r"Python :: (3\.\d+)", text)) == {python for python, _ in matrix.PAIRS}
    lowest = re.search(r'"torch>=([\d.]+)"', text)
    assert lowest is not None
    assert min(torch for _, torch in matrix.PAIRS).startswith(lowest[1])
