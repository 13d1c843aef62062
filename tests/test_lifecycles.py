"""The example rule sets of ``docs/lifecycles``: each says what its truth table says, which is written by hand.

Engine and oracle both read the rules, so that a wrong rule would go unnoticed by either; the tables do not.
"""

import dataclasses
import re
import time
from functools import cache

import pytest
import torch

import esper_masks as em
from esper_masks.inspection.verify import verify
from tests.documents import text_of
from tests.lifecycles import jobs, pods, servers, units
from tests.lifecycles.mutants import mutants
from tests.lifecycles.tables import LIFECYCLES, Batch, Case, S, batches, choices_of, example, oracle, reason, wrong

TABLES = {"servers": [servers.TABLE], "jobs": [jobs.TABLE], "pods": [pods.TABLE], "units": [units.TABLE, units.FOES]}
RULES = {name: example(name) for name in TABLES}
SETS = pytest.mark.parametrize("name", TABLES)


@cache
def all_batches(name: str) -> list[Batch]:
    made = (batches(RULES[name], table, table.every_case(RULES[name])) for table in TABLES[name])
    return [batch for some in made for batch in some]


@SETS
def test_rules_say_what_the_table_says(name: str) -> None:
    assert [said for batch in all_batches(name) for said in wrong(batch)] == []


@SETS
def test_the_oracle_says_what_the_table_says(name: str) -> None:
    for batch in all_batches(name):
        for case, said in zip(batch.cases, oracle(batch)):
            assert said == case.verdict, case


@SETS
def test_explanations_say_what_the_table_says(name: str) -> None:
    for batch in all_batches(name):
        for env, case in enumerate(batch.cases):
            told = reason(batch, env)
            if isinstance(case.want, str):
                # of a head of slots a table says that there is none, and an explanation of each slot why
                why = case.want.startswith("no choice of ") and str(told).startswith(f"{case.want}: ")
                assert why or told == case.want, case
            else:
                assert (told is None) == bool(case.want), case


@SETS
def test_a_table_is_long_enough(name: str) -> None:
    [table, *_] = TABLES[name]
    assert len(table.cases) >= 20
    assert len({(case.ask, str(case)) for case in table.cases}) == len(table.cases)


@SETS
def test_a_table_has_both_answers_to_each_op(name: str) -> None:
    [table, *_] = TABLES[name]
    cases = table.every_case(RULES[name])
    for op in RULES[name].op_rules:
        said = {bool(case.verdict) for case in cases if case.op == op.name}
        assert said == {True} | ({False} if not op.always else set()), op.name


@SETS
def test_a_table_and_its_page_name_the_same_facts(name: str) -> None:
    [table, *_] = TABLES[name]
    said = dict(re.findall(r"^\| (F\d+) \|.*\| ([^|]+) \| [A-Z]\d", text_of(LIFECYCLES / f"{name}.md"), re.MULTILINE))
    known = {case.fact for case in table.cases} - {"contract"}
    assert known <= set(said), "cases of facts that the page does not list"
    assert {fact for fact, where in said.items() if re.search("guard|head|stages", where)} == known


# what an example's slots hold, the action by names, and what they hold afterwards: by hand, from the facts of the pages
AFTER: list[tuple[str, dict[str, em.SlotState], dict[str, str], dict[str, em.SlotState]]] = [
    ("servers", {"vm0": S("ACTIVE", 3)}, {"op": "LOCK"}, {"vm0": S("ACTIVE", 3, lock="OWNER")}),  # F16
    (
        "servers",
        {"vm0": S("ERROR", 3, lock="OWNER")},
        {"op": "ADMIN_LOCK"},
        {"vm0": S("ERROR", 3, lock="ADMIN")},
    ),  # F16
    ("servers", {"vm0": S("PAUSED", 3, lock="OWNER")}, {"op": "UNLOCK"}, {"vm0": S("PAUSED", 3)}),  # F16
    (
        "servers",
        {"vm0": S("ACTIVE", 3, host="H1")},
        {"op": "SOFT_REBOOT"},
        {"vm0": S("ACTIVE", 3, "REBOOTING", host="H1")},
    ),  # F24
    ("servers", {"vm0": S("PAUSED", 3)}, {"op": "HARD_REBOOT"}, {"vm0": S("ACTIVE", 3, "REBOOTING_HARD")}),  # F8, F24
    ("servers", {"vm0": S("ACTIVE", 3, flavor="SMALL")}, {"op": "DELETE"}, {}),
    ("servers", {}, {"op": "CREATE", "slot": "vm2", "flavor": "LARGE"}, {"vm2": S("BUILDING")}),
    ("jobs", {"job0": S("RUNNING", 9, own=1)}, {"op": "HOLD"}, {"job0": S("RUNNING", 9, own=1, hold="USER")}),  # F2
    ("jobs", {"job0": S("PENDING", 9, "USER")}, {"op": "ADMIN_HOLD"}, {"job0": S("PENDING", 9, "ADMIN")}),  # F2
    ("jobs", {"job0": S("PENDING", 9, "USER", own=1)}, {"op": "RELEASE"}, {"job0": S("PENDING", 9, own=1)}),  # F2
    (
        "jobs",
        {"job0": S("FAILED", 9, own=1, requeue=1)},
        {"op": "REQUEUE"},
        {"job0": S("PENDING", 9, own=1, requeue=1, cleaning=1)},
    ),  # F3, F7
    (
        "jobs",
        {"job0": S("RUNNING", 9, own=1, requeue=1)},
        {"op": "REQUEUE_HOLD"},
        {"job0": S("PENDING", 9, "USER", own=1, requeue=1, cleaning=1)},
    ),
    (
        "jobs",
        {"job0": S("PENDING", 9, own=1, dependency="NEVER")},
        {"op": "CLEAR_DEPENDENCY"},
        {"job0": S("PENDING", 9, own=1)},
    ),
    (
        "jobs",
        {"job0": S("PENDING", 9, qos="HIGH"), "job3": S("RUNNING", 20, requeue=1)},
        {"op": "PREEMPT", "victim": "job3"},
        {"job0": S("RUNNING", 9, qos="HIGH"), "job3": S("PENDING", 20, requeue=1, cleaning=1)},
    ),  # F14, F7
    ("jobs", {"job0": S("TIMEOUT", 9, own=1)}, {"op": "PURGE"}, {}),  # F17
    ("pods", {}, {"op": "CREATE", "slot": "pod6"}, {"pod6": S("PENDING")}),
    (
        "pods",
        {"pod0": S("PENDING", 4, "LARGE")},
        {"op": "BIND", "node": "n12"},
        {"pod0": S("CREATING", 4, size="LARGE")},
    ),  # F11
    ("pods", {"pod0": S("READY", 4, "LARGE")}, {"op": "FORCE_DELETE"}, {}),  # F8
    (
        "units",
        {"u0": S("WORKER", 9, cargo=40), "u1": S("BASE", 2)},
        {"op": "RETURN", "store": "u1"},
        {"u0": S("WORKER", 9), "u1": S("BASE", 2)},
    ),  # F4
    (
        "units",
        {"u0": S("WORKER", 9, cargo=120, road=3)},
        {"op": "BUILD_BASE", "slot": "u2", "builder": "u0"},
        {"u0": S("WORKER", 9, road=3), "u2": S("BASE")},
    ),  # F10
]


@pytest.mark.parametrize(("name", "slots", "named", "wanted"), AFTER)
def test_what_an_op_leaves_behind(
    name: str, slots: dict[str, em.SlotState], named: dict[str, str], wanted: dict[str, em.SlotState]
) -> None:
    engine = em.MaskEngine(RULES[name])
    states, row = engine.pack_slots([slots]), TABLES[name][0].row
    given = {"row": {key: torch.tensor([value]) for key, value in row.items()}}
    if named["op"].startswith("ADMIN"):
        given["row"] |= {key: torch.tensor([1]) for key in {"admin", "operator"} & set(row)}
    action = [head.choices.index(named.get(head.name, head.choices[head.canonical])) for head in engine.layout.heads]
    after, legal = engine.successors(states, torch.tensor([action]), **given)
    assert legal.item(), engine.explain(states, 0, **given)
    assert after.tolist() == engine.pack_slots([wanted]).tolist()


def test_every_value_that_an_example_sets_has_a_case() -> None:
    said = {(name, named["op"]) for name, _, named, _ in AFTER}
    for name, rules in RULES.items():
        setting = {op.name for op in rules.op_rules if op.sets}
        setting |= {op.name for op in rules.op_rules for head in rules.slot_heads if head.sets and head.name in op.uses}
        assert {op for op in setting if (name, op) not in said} == set()


@pytest.mark.slow
@SETS
def test_a_table_notices_each_change(name: str) -> None:
    tried, unnoticed = 0, []
    for what, mutant in mutants(RULES[name]):
        tried += 1
        if not any(next(wrong(batch, mutant), None) for batch in all_batches(name)):
            unnoticed.append(what)
    assert unnoticed == []
    assert tried > 20


@SETS
def test_none_needs_restrict(name: str) -> None:
    """Every case above is answered without it; nor does the page leave something to it."""
    assert "restrict" not in {field.name for field in dataclasses.fields(Case)}
    assert "restrict" not in text_of(LIFECYCLES / f"{name}.md")


@pytest.mark.slow
@SETS
def test_engine_and_oracle_agree_over_all_that_a_slot_can_be(name: str) -> None:
    began = time.perf_counter()
    found = verify(RULES[name])
    assert found.agrees, found.disagreements
    assert time.perf_counter() - began < 120


@pytest.mark.slow
def test_a_million_binds_choose_nodes_with_room() -> None:
    """The op is forced; the nodes that fit are said again here, by hand."""
    generator = torch.Generator().manual_seed(0)
    engine = em.MaskEngine(RULES["pods"])
    pods, nodes = engine.slot_ids, choices_of(engine, "node")
    envs, draws = 1000, 1000

    def drawn(high: int) -> list[list[int]]:
        made: list[list[int]] = torch.randint(high, (envs, len(pods)), generator=generator).tolist()
        return made

    sizes, tolerates, waits = drawn(3), drawn(2), drawn(2)
    states = engine.pack_slots(
        {
            pod: S("PENDING" if waits[env][at] else "READY", size=sizes[env][at], tolerates=tolerates[env][at])
            for at, pod in enumerate(pods)
        }
        for env in range(envs)
    )
    room = torch.rand(envs, len(pods), len(nodes), generator=generator) < 0.2
    row = {"throttled": torch.zeros(envs, dtype=torch.bool), "always_allow": torch.zeros(envs, dtype=torch.bool)}
    masks = engine(states, row=row, head_masks={"node": room})
    bind = engine.rules.ops["BIND"]
    able = masks["op"][:, bind].nonzero()[:, 0]
    assert 0.8 * envs < len(able) < envs  # some have no pod that a node has room for
    forced = masks.select(able).restrict(op=torch.arange(len(engine.rules.ops)) == bind)
    logits = {
        "slot": torch.zeros(len(able), len(pods)),
        "node": torch.randn(len(able), len(pods), len(nodes), generator=generator),
        "cordon": torch.zeros(len(able), len(nodes)),
        "uncordon": torch.zeros(len(able), len(nodes)),
        "op": torch.zeros(len(able), len(engine.rules.ops)),
    }
    actions = em.FactoredCategorical(logits, forced, by_slot=("node",)).sample((draws * envs // len(able) + 1,))
    assert actions[..., 0].numel() >= 1_000_000
    slot_at, node_at, op_at = (engine.layout.position(head) for head in ("slot", "node", "op"))
    assert (actions[..., op_at] == bind).all()
    fits = torch.zeros(3, 2, len(nodes), dtype=torch.bool)  # size, tolerates, node
    fits[0, :, :14] = fits[1, :, 12:14] = fits[0, 1, 14:] = fits[2, 1, 14:] = True
    legal = fits[torch.tensor(sizes), torch.tensor(tolerates)] & room & torch.tensor(waits).bool().unsqueeze(-1)
    chosen = legal[able].expand(len(actions), -1, -1, -1)
    at = torch.arange(len(actions))[:, None], torch.arange(len(able)), actions[..., slot_at], actions[..., node_at]
    assert chosen[at].all()
