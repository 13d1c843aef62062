"""``explain`` on the command line: 80 columns, JSON, one line for bad input."""

import json
import re
from pathlib import Path

import pytest

from esper_masks.cli.entry import main
from tests.cli.running import run
from tests.helpers import ROOT


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


CREWS = """
from enum import IntEnum
import esper_masks as em
Site = IntEnum("Site", "IDLE BUSY", start=0)
Do = IntEnum("Do", "WAIT BUILD LIGHT CALL", start=0)
CREWS = em.MaskRules(
    name="crews", stages=Site, transitions={Site.IDLE: [Site.BUSY], Site.BUSY: [Site.IDLE]}, empty=Site.IDLE,
    row_features={"night": bool, "cranes": int}, kinds={"paved": ["a"], "lit": ["b"]}, slot_ids=["a", "b"],
    op_rules=[em.Op(Do.WAIT, always=True),
              em.Op(Do.BUILD, enters=Site.BUSY, uses=["slot"], when=[em.Kind("paved"), em.Row("night", in_=[False])]),
              em.Op(Do.LIGHT, acts_in=[Site.IDLE], uses=["slot"], when=[em.Kind("lit")]),
              em.Op(Do.CALL, when=[em.Row("cranes", at_least=1)])],
    heads=[em.Head("slot"), em.Head("op")],
)
"""


def test_explain_rows_and_kinds(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("crews.py").write_text(CREWS)
    crews = ("explain", "--rules", "crews:CREWS", "--row")
    result = json.loads(run(capsys, *crews, "night=False", "--row", "cranes=2", "--json"))
    assert result["legal"] == {"WAIT": True, "BUILD": True, "LIGHT": True, "CALL": True}
    assert result["reasons"]["BUILD"] == {"a": None, "b": "b is not of kind paved"}
    result = json.loads(run(capsys, *crews, "night=True", "--row", "cranes=0", "--kind", "paved=b,a", "--json"))
    assert result["reasons"]["BUILD"] == dict.fromkeys("ab", "night True, needs False")
    assert result["reasons"]["CALL"] == dict.fromkeys("ab", "cranes 0, needs at least 1")
    assert result["reasons"]["LIGHT"] == {"a": "a is not of kind lit", "b": None}  # a kind that is not given stays
    others = ("--slot-ids", "x,y", "--kind", "paved=x", "--kind", "lit=y")
    result = json.loads(run(capsys, *crews, "night=False", "--row", "cranes=0", *others, "--json"))
    assert result["reasons"]["LIGHT"] == {"x": "x is not of kind lit", "y": None}
    for row, says in (
        (("night=1",), "row 'cranes' is missing, which guards read: --row cranes=VALUE, "),
        (("cranes=1",), "row 'night' is missing, which guards read: --row night=VALUE, False or True"),
        (("day=1",), "no row 'day'; crews has night, cranes"),
        (("cranes=few",), "cranes 'few' is no integer"),
        (("night=1", "--row", "night=0"), "'night' is given twice"),
        (("night=1", "--row", "cranes=1", "--kind", "paved=z"), "names no slot of the engine: ['z']"),
    ):
        assert says in run(capsys, *crews, *row, code=2)


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


def test_the_readme_s_command_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n\$ esper-masks (explain.*?)\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for command, promised in blocks:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == promised
