"""``explain``, ``show`` and ``verify`` on the command line: 80 columns, JSON, one line for bad input."""

import json
import re
from pathlib import Path

import pytest

import esper_masks as em
from esper_masks.cli.entry import main
from esper_masks.inspection.describe import difference, mermaid
from tests.own_rules import OWN, odd_rules


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_rules.py").write_text(OWN)
    (tmp_path / "broken_rules.py").write_text("import a_module_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    printed = capsys.readouterr()
    text = printed.out if code == 0 else printed.err
    assert max(map(len, printed.out.splitlines()), default=0) <= 80 or "--json" in arguments
    return text


# -- rules of one's own -----------------------------------------------------------------------------------------------


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


# -- explain ----------------------------------------------------------------------------------------------------------


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = ("--total-seeds", "2", "--max-seeds", "2")
    printed = run(capsys, "explain", "mid=BLENDING:0", "late=6:3", *seeds)
    assert "  mid: BLENDING, age 0" in printed
    assert "CULL mid: age 0 < 1" in printed
    assert "GERMINATE early: seed limit 2 of 2" in printed
    result = json.loads(run(capsys, "explain", "mid=BLENDING:0", *seeds, "--json"))
    assert result["legal"] == {"WAIT": True, "GERMINATE": False, "CULL": False, "FOSSILIZE": False}
    assert result["reasons"]["CULL"]["mid"] == "age 0 < 1"
    assert result["slots"]["early"] == "DORMANT (empty)"
    assert json.loads(run(capsys, "explain", "--max-seeds", "0", "--total-seeds", "9", "--json"))["legal"]["GERMINATE"]


def test_explain_slots_features_and_switches(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "explain",
        "--rules",
        "esper-2026-06",
        "--slot-ids",
        "a,b",
        "--enabled",
        "a",
        "a=HOLDING:7:UP",
        "--json",
    )
    result = json.loads(run(capsys, *arguments))
    assert result["reasons"]["PRUNE"] == {"a": "alpha_mode UP, needs HOLD", "b": "the slot is not enabled"}
    result = json.loads(run(capsys, *arguments, "--switch", "allow_governor_override=True"))
    assert result["reasons"]["PRUNE"]["a"] is None


def test_explain_an_environment_of_a_file(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("states.json").write_text(json.dumps([{}, {"mid": {"stage": "BLENDING", "age": 0}, "late": None}]))
    result = json.loads(run(capsys, "explain", "--states", "states.json", "--env", "1", "--json"))
    assert result["reasons"]["CULL"]["mid"] == "age 0 < 1"
    Path("bad.json").write_text("{}")
    Path("worse.json").write_text("{")
    Path("odd.json").write_text('[{"mid": 3}]')
    Path("list.json").write_text('[{"mid": {"stage": [4]}}]')
    Path("twice.json").write_text('[{"mid": null, "mid": null}]')
    Path("deep.json").write_text("[" * 200_000)
    Path("latin.json").write_bytes(b"[\xff]")
    Path("exits.py").write_text("raise SystemExit(0)")
    Path("moves.py").write_text("import os; os.chdir('/')")
    Path("attribute.py").write_text("import os; os.nothing")
    for arguments, message in (
        (("--states", "states.json", "--env", "2"), "there is no environment 2"),
        (("--states", "bad.json"), "does not hold a list of environments"),
        (("--states", "worse.json"), "worse.json is no JSON"),
        (("--states", "odd.json"), "slot 'mid' holds 3; wanted null or an object"),
        (("--states", "nowhere.json"), "No such file"),
        (("--states", "list.json"), "stage [4] is no integer"),
        (("--states", "twice.json"), "'mid' is given twice"),
        (("--states", "deep.json"), "deep.json is no JSON"),
        (("--states", "latin.json"), "latin.json is no JSON"),
        (("--states", "states.json", "--env", "-1"), "there is no environment -1"),
        (("mid=--3",), "stage '--3' is no integer"),
        (("mid=4", "mid=3"), "'mid' is given twice"),
        (("--slot-ids", "a,,b"), "slot_ids must be a sequence of names"),
        (("--total-seeds", "4294967296", "--max-seeds", "2"), "total seeds 4294967296 is no 32-bit integer"),
        (("--switch", "rules=x"), "has no rule switch 'rules'"),
        (("--switch", "device=meta"), "has no rule switch 'device'"),
        (("--rules", "exits:X"), "module exits does not import: SystemExit"),
        (("--rules", "attribute:X"), "module attribute does not import: AttributeError"),
        (("mid=BLENDING", "--states", "states.json"), "either as arguments or in a file"),
        (("mid",), "not of the form SLOT=STAGE"),
        (("mid=BLOOMING",), "stage 'BLOOMING' is no integer and none of UNKNOWN, DORMANT"),
        (("mid=BLENDING:old",), "age 'old' is no integer"),
        (("mid=BLENDING:1:2",), "has 3 values; esper-2025-12 has stage, age"),
        (("nowhere=BLENDING",), "nowhere"),
        (("--rules", "esper-2027"), "unknown rule set 'esper-2027'"),
        (("--rules", "no_such_module:RULES"), "module no_such_module does not import: ModuleNotFoundError"),
        (("--rules", "broken_rules:RULES"), "module broken_rules does not import: ModuleNotFoundError"),
        (("--rules", "own_rules:RULES"), "module own_rules has no RULES"),
        (("--rules", "own_rules:NUMBER"), "own_rules:NUMBER is a int, wanted MaskRules"),
        (("--switch", "topology=cnn"), "has no rule switch 'topology'"),
        (("--enabled", "nowhere"), "enabled names no slot"),
        (("--rules", "own_rules"), "unknown rule set 'own_rules'"),
        (("--rules", "moves:X"), "module moves has no X"),  # the last, since it leaves the folder
    ):
        error = run(capsys, "explain", *arguments, code=2)
        assert message in error
        assert error.startswith("esper-masks explain: ")
        assert len(error.splitlines()) == 1


# -- show -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", em.rulesets())
def test_show(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "show", name)
    for word in (*em.ruleset(name).head_names, "FOSSILIZE", "whole actions", "TRAINING", "gated"):
        assert word in printed
    facts = json.loads(run(capsys, "show", name, "--json"))
    assert list(facts["heads"]) == list(em.ruleset(name).head_names)
    assert facts["whole_actions"] == em.MaskEngine(em.ruleset(name)).joint_actions.size
    assert facts["ops"]["FOSSILIZE"]["stages"] == ["HOLDING" if name == "esper-2026-06" else "PROBATIONARY"]


def test_show_says_what_gates_an_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert "CULL: age >= 1" in run(capsys, "show")
    newer = " ".join(run(capsys, "show", "esper-2026-06").split())
    assert "PRUNE: age >= 5; alpha_mode HOLD, unless allow_governor_override" in newer
    assert "ADVANCE: never with disable_advance" in newer
    assert "GERMINATE: below the seed limit; no enabled slot in GERMINATED, TRAINING, PRUNED" in newer


def test_rules_of_odd_names_and_many_ops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = mermaid(odd_rules(moves=True)).splitlines()
    assert lines[1:5] == [
        '    state "in use" as stage0',
        '    state "note" as stage1',
        "    [*] --> stage0",
        lines[4],
    ]
    assert lines[4].startswith("    stage0 --> stage1: A_RATHER")
    assert "    alone" in lines
    assert "    C" in lines
    monkeypatch.setattr("esper_masks.cli.show.find_rules", lambda name: odd_rules(moves=name == "a"))
    printed = run(capsys, "show", "a")
    assert "…" not in printed
    assert "A_RATHER_LONG_NAME_11: in use" in printed
    assert difference(odd_rules(moves=True), odd_rules(moves=False))[1][0].startswith("ops.A_RATHER_LONG_NAME_1.")
    assert "are the same" in run(capsys, "show", "--diff", "a", "a")


def test_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "show", "esper-2026-06", "--mermaid").splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> DORMANT"]
    assert "    DORMANT --> GERMINATED: GERMINATE" in lines
    assert "    BLENDING --> HOLDING: ADVANCE" in lines
    assert "    PRUNED --> EMBARGOED" in lines
    assert "    note right of HOLDING: SET_ALPHA_TARGET without moving" in lines
    for name in em.rulesets():
        rules = em.ruleset(name)
        edges = [line for line in mermaid(rules).splitlines() if "-->" in line]
        assert len(edges) == 1 + sum(map(len, rules.transitions.values()))
    assert json.loads(run(capsys, "show", "--mermaid", "--json"))["mermaid"].startswith("stateDiagram-v2")


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    older, old = em.ruleset("esper-2025-11"), em.ruleset("esper-2025-12")
    changes = {path: (a, b) for path, a, b in difference(older, old)}
    assert changes["stages.SHADOWING"] == (5, None)
    assert changes["transitions.BLENDING"] == (["SHADOWING", "CULLED"], ["PROBATIONARY", "CULLED"])
    assert not any(path.startswith("heads") for path in changes)
    printed = run(capsys, "show", "--diff", "esper-2025-11", "esper-2025-12")
    assert "stages.SHADOWING" in printed
    run(capsys, "show", "--diff", "esper-2025-12", "esper-2026-06")
    as_json = json.loads(run(capsys, "show", "--diff", "esper-2025-11", "esper-2025-12", "--json"))
    assert as_json["stages.SHADOWING"] == [5, None]
    assert difference(old, old) == []
    assert "unknown rule set 'x'" in run(capsys, "show", "--diff", "x", "esper-2025-12", code=2)
    error = run(capsys, "show", "esper-2025-12", "--diff", "esper-2025-11", "esper-2025-12", code=2)
    assert "--diff compares the two rule sets behind it, and esper-2025-12 is a third: leave it out" in error


# -- verify -----------------------------------------------------------------------------------------------------------


def test_verify(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "verify", "own_rules:JOBS")
    assert printed.startswith("jobs: all agree: ")
    [result] = json.loads(run(capsys, "verify", "own_rules:JOBS", "--json"))
    assert result["agrees"]
    assert result["notes"] == []
    assert "unknown rule set" in run(capsys, "verify", "own_rules:JOBS", "x", code=2)


def test_the_readme_s_command_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n\$ esper-masks (explain.*?)\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for command, promised in blocks:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == promised
