"""Rules that a command takes from a file of one's own."""

import json
from pathlib import Path

import pytest

import esper_masks as em
from esper_masks.cli.common import find_in_code
from tests.cli.running import run
from tests.own_rules import OWN


def test_a_file_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its path is written: what else a command finds in it, such as dynamics, is of the same rules."""
    monkeypatch.chdir(tmp_path)
    Path("once.py").write_text("ONE = object()\nTWO = [ONE]\n")
    one, two = find_in_code("once.py:ONE", "things", bool), find_in_code(f"{tmp_path}/once.py:TWO", "things", bool)
    assert two == [one]


def test_a_file_that_did_not_import_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text("raise ValueError('not yet')")
    with pytest.raises(em.RulesError, match=r"does not import: ValueError: not yet"):
        find_in_code(f"{path}:ONE", "things", bool)
    path.write_text("ONE = 1")
    assert find_in_code(f"{path}:ONE", "things", bool) == 1


@pytest.mark.parametrize("place", ["own_rules.py", "./own_rules.py", "rules/json.py", "{here}/own_rules.py"])
def test_rules_in_a_file(place: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one with the name of a module that is there, and with a neighbour that it imports."""
    (own / "rules").mkdir()
    (own / "rules" / "json.py").write_text("from neighbour import *")
    (own / "rules" / "neighbour.py").write_text(OWN)
    path = place.format(here=own)
    assert json.loads(run(capsys, "show", f"{path}:JOBS", "--json"))["rules"] == "jobs"
    assert json.loads(run(capsys, "explain", "--rules", f"{path}:JOBS", "--json"))["legal"]["START"]


def test_what_a_file_of_rules_lacks_is_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "früh").mkdir()
    (own / "früh" / "empty.py").write_text("")
    for rules, message in (
        ("./own_rules.py", "'./own_rules.py' lacks the name that the rules have in it; write ./own_rules.py:NAME"),
        ("./own_rules.py:", "write ./own_rules.py:NAME"),
        ("own_rules:", "write own_rules:NAME"),
        ("./own_rules.py:RULES", "file ./own_rules.py has no RULES; rules in it: JOBS"),
        ("./own_rules.py:NUMBER", "./own_rules.py:NUMBER is a int, wanted MaskRules"),
        ("früh/empty.py:R", "file früh/empty.py has no R; rules in it: none"),
        ("./nowhere.py:R", "file ./nowhere.py does not import: FileNotFoundError"),
        ("./broken_rules.py:R", "file ./broken_rules.py does not import: ModuleNotFoundError"),
    ):
        error = run(capsys, "show", rules, code=2)
        assert message in error
        assert len(error.splitlines()) == 1
