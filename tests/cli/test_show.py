"""``show`` on the command line: facts, gates, diagrams and differences, in 80 columns and as JSON."""

import json
from pathlib import Path

import pytest

import esper_masks as em
from esper_masks.inspection.describe import difference, mermaid
from tests.cli.running import run
from tests.lifecycles.tables import LIFECYCLES, example
from tests.own_rules import odd_rules


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


def test_show_says_what_an_op_sets(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = f"{LIFECYCLES / 'jobs.py'}:JOBS"
    printed = " ".join(run(capsys, "show", jobs).split())
    assert "HOLD: own True, unless operator; hold NO; sets: hold USER" in printed
    # in the order of a slot state
    assert "feature begin_in: a number feature restarts: a number row operator: False, True row partition_up" in printed
    assert "moves: RUNNING to PENDING sets: cleaning True" in printed.replace("│", " ")
    facts = json.loads(run(capsys, "show", jobs, "--json"))
    assert facts["ops"]["ADMIN_HOLD"]["sets"] == {"hold": "ADMIN"}
    assert facts["heads"]["victim"]["sets"] == {"cleaning": "True"}
    assert facts["ops"]["WAIT"]["sets"] == {}


def test_rules_of_odd_names_and_many_ops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    (tmp_path / "odd.py").write_text("from tests.own_rules import odd_rules\nODD = odd_rules(moves=True)\n")
    odd = f"{tmp_path / 'odd.py'}:ODD"
    printed = run(capsys, "show", odd)
    assert "…" not in printed
    assert "A_RATHER_LONG_NAME_11: in use" in printed
    assert difference(odd_rules(moves=True), odd_rules(moves=False))[1][0].startswith("ops.A_RATHER_LONG_NAME_1.")
    assert "are the same" in run(capsys, "show", "--diff", odd, odd)


def test_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "show", "esper-2026-06", "--mermaid").splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> DORMANT"]
    assert "    DORMANT --> GERMINATED: GERMINATE" in lines
    assert "    BLENDING --> HOLDING: ADVANCE" in lines
    assert "    PRUNED --> EMBARGOED" in lines
    assert "    note right of HOLDING: SET_ALPHA_TARGET without moving" in lines
    assert "    RUNNING --> PENDING: REQUEUE, REQUEUE_HOLD, PREEMPT" in mermaid(example("jobs")).splitlines()
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
