"""Truth tables written by hand guard the rules themselves: the engine and the oracle could both read a wrong rule.

Each table is checked through the engine, bit by bit, so that a wrong bit order fails here too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.rulesets import esper_2025_11, esper_2025_12, esper_2026_06


@dataclass
class TruthTable:
    """What one rule set must say."""

    rules: str
    stages: dict[str, int]
    ops: list[str]  # in index order
    legal: dict[str, set[str]]  # stage -> ops legal there with every gate open, WAIT left out
    min_age: dict[str, int]
    needs_hold: set[str]
    blockers: set[str]  # stages in which a seed anywhere forbids GERMINATE
    heads: dict[str, list[str]]  # names of the choices, slot and op left out
    uses: dict[str, set[str]]
    canonical: dict[str, str]
    joint_actions: int


COOLING = ("FOSSILIZED", "EMBARGOED", "RESETTING", "UNKNOWN")
BLEND_HEADS = {
    "blueprint": ["NOOP", "CONV_LIGHT", "ATTENTION", "NORM", "DEPTHWISE"],
    "blend": ["LINEAR", "SIGMOID", "GATED"],
}
STAGES_2025_12 = {
    "UNKNOWN": 0,
    "DORMANT": 1,
    "GERMINATED": 2,
    "TRAINING": 3,
    "BLENDING": 4,
    "PROBATIONARY": 6,
    "FOSSILIZED": 7,
    "CULLED": 8,
    "EMBARGOED": 9,
    "RESETTING": 10,
}
TABLE_2025_12 = TruthTable(
    rules="esper-2025-12",
    stages=STAGES_2025_12,
    ops=["WAIT", "GERMINATE", "CULL", "FOSSILIZE"],
    legal={
        "DORMANT": {"GERMINATE"},
        "GERMINATED": {"CULL"},
        "TRAINING": {"CULL"},
        "BLENDING": {"CULL"},
        "PROBATIONARY": {"CULL", "FOSSILIZE"},
        **{stage: set() for stage in (*COOLING, "CULLED")},
    },
    min_age={"CULL": 1},
    needs_hold=set(),
    blockers=set(),
    heads=BLEND_HEADS,
    uses={
        "WAIT": {"op"},
        "GERMINATE": {"op", "slot", "blueprint", "blend"},
        "CULL": {"op", "slot"},
        "FOSSILIZE": {"op", "slot"},
    },
    canonical={"blueprint": "NOOP", "blend": "LINEAR"},
    joint_actions=43,
)
TABLE_2025_11 = replace(
    TABLE_2025_12,
    rules="esper-2025-11",
    stages={**STAGES_2025_12, "SHADOWING": 5},
    legal={**TABLE_2025_12.legal, "SHADOWING": {"CULL"}},
)
TABLE_2026_06 = TruthTable(
    rules="esper-2026-06",
    stages={
        "UNKNOWN": 0,
        "DORMANT": 1,
        "GERMINATED": 2,
        "TRAINING": 3,
        "BLENDING": 4,
        "HOLDING": 6,
        "FOSSILIZED": 7,
        "PRUNED": 8,
        "EMBARGOED": 9,
        "RESETTING": 10,
    },
    ops=["WAIT", "GERMINATE", "SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE", "ADVANCE"],
    legal={
        "DORMANT": {"GERMINATE"},
        "GERMINATED": {"PRUNE", "ADVANCE"},
        "TRAINING": {"PRUNE", "ADVANCE"},
        "BLENDING": {"SET_ALPHA_TARGET", "PRUNE", "ADVANCE"},
        "HOLDING": {"SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE"},
        **{stage: set() for stage in (*COOLING, "PRUNED")},
    },
    min_age={"PRUNE": 5},
    needs_hold={"SET_ALPHA_TARGET", "PRUNE"},
    blockers={"GERMINATED", "TRAINING", "PRUNED", "EMBARGOED", "RESETTING"},
    heads={
        "blueprint": [
            "NOOP",
            "CONV_LIGHT",
            "ATTENTION",
            "NORM",
            "DEPTHWISE",
            "BOTTLENECK",
            "CONV_SMALL",
            "CONV_HEAVY",
            "LORA",
            "LORA_LARGE",
            "MLP_SMALL",
            "MLP",
            "FLEX_ATTENTION",
        ],
        "style": ["LINEAR_ADD", "LINEAR_MULTIPLY", "SIGMOID_ADD", "GATED_GATE"],
        "tempo": ["FAST", "STANDARD", "SLOW"],
        "alpha_target": ["HALF", "SEVENTY", "FULL"],
        "alpha_speed": ["INSTANT", "FAST", "MEDIUM", "SLOW"],
        "alpha_curve": ["LINEAR", "COSINE", "SIGMOID_GENTLE", "SIGMOID", "SIGMOID_SHARP"],
    },
    uses={
        "WAIT": {"op"},
        "GERMINATE": {"op", "slot", "blueprint", "style", "tempo", "alpha_target"},
        "SET_ALPHA_TARGET": {"op", "slot", "style", "alpha_target", "alpha_speed", "alpha_curve"},
        "PRUNE": {"op", "slot", "alpha_speed", "alpha_curve"},
        "FOSSILIZE": {"op", "slot"},
        "ADVANCE": {"op", "slot"},
    },
    canonical={
        "blueprint": "NOOP",
        "style": "SIGMOID_ADD",
        "tempo": "STANDARD",
        "alpha_target": "FULL",
        "alpha_speed": "INSTANT",
        "alpha_curve": "LINEAR",
    },
    joint_actions=1543,
)
TABLES = (TABLE_2025_11, TABLE_2025_12, TABLE_2026_06)


def check(table: TruthTable, rules: em.MaskRules) -> None:
    """Raise AssertionError unless rules and engine say what the table says."""
    assert {stage.name: int(stage) for stage in rules.stages} == table.stages
    assert [op.name for op in sorted(rules.ops)] == table.ops
    assert {op.name: set(heads) for op, heads in rules.relevance.items()} == table.uses
    assert {head.name: list(head.choices) for head in rules.heads if head.choices} == table.heads
    assert {head.name: head.canonical for head in rules.heads if head.choices} == table.canonical
    assert rules.head_names == ("slot", *table.heads, "op")
    assert rules.empty.name == "DORMANT"

    engine = em.MaskEngine(rules, ["here", "there"])
    assert engine.joint_actions.size == 1 + (table.joint_actions - 1) * 2 // 3  # every op but WAIT names a slot
    assert em.MaskEngine(rules, ["a", "b", "c"]).joint_actions.size == table.joint_actions

    def ops(stage: str, age: int = 99, alpha: int = 0, other: str = "FOSSILIZED") -> set[str]:
        extra = [0] * (len(rules.feature_names) - 2)
        here = [table.stages[stage], age, *([alpha] if extra else [])]
        word = int(engine(torch.tensor([[here, [table.stages[other], 0, *extra]]])).slot_words[0, 0])
        return {name for bit, name in enumerate(table.ops) if word >> bit & 1}

    for stage, legal in table.legal.items():
        assert ops(stage) == legal | {"WAIT"}, stage
        for op in legal:
            if op in table.min_age:
                assert op not in ops(stage, age=table.min_age[op] - 1)
                assert op in ops(stage, age=table.min_age[op])
            else:
                assert op in ops(stage, age=0)
            if len(rules.feature_names) > 2:
                assert (op not in ops(stage, alpha=1)) == (op in table.needs_hold)
                assert (op not in ops(stage, alpha=2)) == (op in table.needs_hold)
    for stage in table.stages:
        assert ("GERMINATE" not in ops("DORMANT", other=stage)) == (stage in table.blockers), stage


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.rules)
def test_rules_say_what_the_table_says(table: TruthTable) -> None:
    check(table, em.ruleset(table.rules))


def test_switches_of_june_2026() -> None:
    rules = em.ruleset("esper-2026-06")
    young_up = torch.tensor(
        [[[4, 4, 1], [6, 5, 1], [4, 5, 2]]]
    )  # BLENDING too young; HOLDING, BLENDING with alpha moving

    def legal(op: int, **switches: Any) -> list[bool]:
        return em.MaskEngine(rules, **switches)(young_up).slot_by_op[0, op].tolist()

    assert legal(3) == [False, False, False]
    assert legal(3, allow_governor_override=True) == [False, True, True]  # the age still counts
    assert legal(2, allow_governor_override=True) == [False, False, False]  # only pruning is overridden
    assert legal(5) == [True, False, True]
    assert legal(5, disable_advance=True) == [False, False, False]
    assert em.MaskEngine(rules, disable_advance=True).joint_actions.size == 1540
    blueprint = {
        topology: [i for i, ok in enumerate(em.MaskEngine(rules, topology=topology)(young_up)["blueprint"][0]) if ok]
        for topology in ("cnn", "transformer")
    }
    assert blueprint == {"cnn": [1, 2, 3, 4, 5, 6, 7], "transformer": [2, 3, 8, 9, 10, 11, 12]}


def test_style_and_alpha_target_open_with_germinate_or_set_alpha() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), ["a"])
    masks = engine(torch.tensor([[[1, 0, 0]], [[4, 0, 0]], [[4, 0, 1]], [[3, 9, 0]], [[7, 0, 0]]]))
    opened = [True, True, False, False, False]  # empty; blending and held; blending and moving; training; fossilized
    assert masks["style"].tolist() == [[True] * 4 if o else [False, False, True, False] for o in opened]
    assert masks["alpha_target"].tolist() == [[True] * 3 if o else [False, False, True] for o in opened]


@pytest.mark.parametrize("name", em.rulesets())
def test_seed_limit_forbids_germination_alone(name: str) -> None:
    engine = em.MaskEngine(em.ruleset(name), ["a", "b"])
    states = engine.empty_slots(4)
    states[:, 1, 0] = 6  # a seed on probation
    totals = torch.tensor([0, 1, 2, 3])
    free = engine(states).slot_words
    limited = engine(states, totals, max_seeds=2).slot_words
    assert limited[:2].equal(free[:2])
    assert limited[2:].equal(free[2:] & ~0b10)
    for unlimited in (0, -1):
        assert engine(states, totals, max_seeds=unlimited).slot_words.equal(free)


def without(*targets: str) -> Callable[[em.MaskRules], em.MaskRules]:
    """Rules without the transition of the first stage to the second."""
    source, target = targets

    def mutate(rules: em.MaskRules) -> em.MaskRules:
        stages: Any = rules.stages
        to = tuple(stage for stage in rules.transitions[stages[source]] if stage.name != target)
        return replace(rules, transitions={**rules.transitions, stages[source]: to})

    return mutate


def also(source: str, target: str) -> Callable[[em.MaskRules], em.MaskRules]:
    def mutate(rules: em.MaskRules) -> em.MaskRules:
        stages: Any = rules.stages
        to = (*rules.transitions[stages[source]], stages[target])
        return replace(rules, transitions={**rules.transitions, stages[source]: to})

    return mutate


def changed(op: str, **changes: Any) -> Callable[[em.MaskRules], em.MaskRules]:
    def mutate(rules: em.MaskRules) -> em.MaskRules:
        return replace(
            rules, op_rules=tuple(replace(rule, **changes) if rule.name == op else rule for rule in rules.op_rules)
        )

    return mutate


class Swapped(IntEnum):
    """The ops of 2025 with two bits exchanged."""

    WAIT = 0
    GERMINATE = 1
    FOSSILIZE = 2
    CULL = 3


def swapped(rules: em.MaskRules) -> em.MaskRules:
    return replace(rules, op_rules=tuple(replace(rule, id=Swapped[rule.name]) for rule in rules.op_rules))


S06 = esper_2026_06.SeedStage
MUTANTS = [
    (TABLE_2025_12, without("TRAINING", "CULLED")),
    (TABLE_2025_12, also("BLENDING", "FOSSILIZED")),
    (TABLE_2025_12, also("FOSSILIZED", "CULLED")),
    (TABLE_2025_12, changed("CULL", min_age=2)),
    (TABLE_2025_12, changed("CULL", min_age=0)),
    (TABLE_2025_12, changed("CULL", uses=("slot", "blend"))),
    (TABLE_2025_12, changed("GERMINATE", uses=("slot", "blueprint"))),
    (TABLE_2025_12, changed("GERMINATE", blocked_by=(esper_2025_12.SeedStage.CULLED,))),
    (TABLE_2025_12, swapped),
    (TABLE_2025_11, without("SHADOWING", "CULLED")),
    (TABLE_2025_11, also("SHADOWING", "FOSSILIZED")),
    (TABLE_2026_06, without("HOLDING", "PRUNED")),
    (TABLE_2026_06, changed("PRUNE", min_age=4)),
    (TABLE_2026_06, changed("PRUNE", requires={}, waived_by=None)),
    (TABLE_2026_06, changed("SET_ALPHA_TARGET", acts_in=(S06.BLENDING,))),
    (TABLE_2026_06, changed("GERMINATE", blocked_by=(S06.GERMINATED, S06.TRAINING, S06.PRUNED, S06.EMBARGOED))),
    (TABLE_2026_06, changed("ADVANCE", moves={S06.GERMINATED: S06.TRAINING, S06.TRAINING: S06.BLENDING})),
    (TABLE_2026_06, changed("PRUNE", uses=("slot", "alpha_speed"))),
]


@pytest.mark.parametrize("index", range(len(MUTANTS)))
def test_a_mutated_rule_is_caught(index: int) -> None:
    table, mutate = MUTANTS[index]
    mutant = mutate(em.ruleset(table.rules))
    with pytest.raises(AssertionError):
        check(table, mutant)


def test_november_and_december_differ_in_shadowing_alone() -> None:
    november, december = esper_2025_11.VALID_TRANSITIONS, esper_2025_12.VALID_TRANSITIONS
    names = {stage.name: [to.name for to in targets] for stage, targets in november.items()}
    assert names.pop("SHADOWING") == ["PROBATIONARY", "CULLED"]
    names["BLENDING"] = ["PROBATIONARY", "CULLED"]
    assert names == {stage.name: [to.name for to in targets] for stage, targets in december.items()}
