"""Lints, and the proof that all masks of a rule set agree; a wrong engine is noticed."""

import dataclasses
from enum import IntEnum
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import esper_masks as em
from esper_masks.inspection.lint import lint
from esper_masks.inspection.subjects import tried_values
from esper_masks.inspection.trials import how_many
from esper_masks.inspection.verify import _Comparison, verify
from tests.strategies import LEAST, MOST, guarded_rules, random_rules

Stage = IntEnum("Stage", "EMPTY BUSY STUCK LOST", start=0)
Act = IntEnum("Act", "WAIT FILL FREE NEVER", start=0)
ODD = em.MaskRules(
    name="odd",
    stages=Stage,
    transitions={
        Stage.EMPTY: [Stage.BUSY],
        Stage.BUSY: [Stage.EMPTY, Stage.STUCK],
        Stage.STUCK: [],
        Stage.LOST: [Stage.BUSY],
    },
    empty=Stage.EMPTY,
    op_rules=[
        em.Op(Act.WAIT, always=True),
        em.Op(Act.FILL, enters=Stage.BUSY, uses=["slot"]),
        em.Op(Act.FREE, enters=Stage.EMPTY, uses=["slot"]),
        em.Op(Act.NEVER, acts_in=[Stage.LOST], uses=["slot"]),
    ],
    heads=[em.Head("slot"), em.Head("unused", ["A", "B"]), em.Head("op")],
    slot_ids=["one"],
)


Site = IntEnum("Site", {"EMPTY": 0, "BUILD": 1, "READY": 4})
Task = IntEnum("Task", "UNSET BUSY VERIFY", start=0)
Do = IntEnum("Do", "WAIT ACT SWAP CALL", start=0)
SITES = em.MaskRules(
    name="sites",
    stages=Site,
    transitions={stage: tuple(other for other in Site if other != stage) for stage in Site},
    empty=Site.EMPTY,
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(Do.ACT, acts_in=tuple(Site), uses=("slot", "node")),
        em.Op(Do.SWAP, acts_in=tuple(Site), when=(em.Feature("restarts", at_most=6),), uses=("slot", "target")),
        em.Op(Do.CALL, when=(em.Row("free", at_least=2),)),
    ],
    heads=[
        em.Head("slot"),
        em.Head(
            "node",
            ("n0", "n1"),
            by_stage={Site.EMPTY: ("n0",), Site.BUILD: ("n1",), Site.READY: ("n0", "n1")},
            by_feature=(
                "restarts",
                {
                    0: ("n0", "n1"),
                    3: ("n0", "n1"),
                    **dict.fromkeys(range(4, 8), ("n0", "n1")),
                    MOST: ("n0",),
                    LEAST: ("n0",),
                },
            ),
        ),
        em.SlotHead("target", when=(em.Feature("locked", in_=(False,)), em.Kind("gpu", "cpu"))),
        em.Head("op"),
    ],
    features={"restarts": int, "task": Task, "locked": bool},
    row_features={"night": bool, "free": int},
    kinds={"gpu": ("a", "b"), "cpu": ("c",)},
    slot_ids=("a", "b", "c"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "esper-2026-06")) for name in em.rulesets()]
)
def test_the_rule_sets_of_the_package(name: str) -> None:
    rules = em.ruleset(name)
    calls: list[tuple[float, int]] = []
    result = verify(rules, lambda done, of: calls.append((done, of)))
    assert result.agrees
    assert not result.interrupted
    expected = 8 if name == "esper-2026-06" else 1
    assert calls == sorted(calls)
    assert calls[-1] == (expected, expected)
    assert len(calls) > 2 * len(rules.op_rules)  # it moves within a setting too
    assert result.environments > expected * (1000 + 4 * 300)
    assert "stage UNKNOWN is never reached from DORMANT, unless an episode begins in it" in result.notes
    assert "stage FOSSILIZED: no op acts in it; it never ends" in result.notes
    assert not any("legal in nothing" in note for note in result.notes)


def test_every_threshold_and_its_neighbours_are_tried() -> None:
    tried = tried_values(em.ruleset("esper-2026-06"))
    assert tried["stage"] == list(range(-1, 12))
    assert tried["age"] == [LEAST, -1, 0, 1, 4, 5, 6, MOST]
    assert tried["alpha_mode"] == [-1, 0, 1, 2, 3]
    tried = tried_values(SITES)
    assert tried["restarts"] == [LEAST, LEAST + 1, *range(-1, 9), MOST - 1, MOST]
    assert tried["locked"] == [-1, 0, 1, 2]
    assert tried["rows.night"] == [-1, 0, 1, 2]
    assert tried["rows.free"] == [LEAST, -1, 0, 1, 2, 3, MOST]


@pytest.mark.parametrize(
    ("sizes", "together", "number"), [([2, 3], 0, 1), ([2, 3], 1, 4), ([2, 3], 2, 6), ([2, 3, 4], 2, 18), ([], 3, 1)]
)
def test_how_many_environments_differ_in_so_many_factors(sizes: list[int], together: int, number: int) -> None:
    assert how_many(sizes, together) == number
    counted = sum(sum(map(bool, values)) <= together for values in product(*map(range, sizes)))
    assert counted == number


def test_lints() -> None:
    assert lint(ODD) == [
        "stage STUCK: no op acts in it; it never ends",
        "stage LOST is never reached from EMPTY, unless an episode begins in it",
        "op FILL enters BUSY from EMPTY, where a slot is empty, and from LOST; moves says which of them are meant",
        "op NEVER never becomes legal, unless an episode begins with slots in LOST",
        "head unused is used by no op",
    ]
    assert verify(ODD).agrees
    guarded = dataclasses.replace(
        ODD,
        features={"charge": int, "kind": bool},
        op_rules=[
            *ODD.op_rules[:1],
            em.Op(
                Act.FILL,
                moves={Stage.EMPTY: Stage.BUSY, Stage.LOST: Stage.BUSY},
                when=[em.Feature("charge", at_least=3), em.Feature("kind", in_=(False,))],
                uses=["slot"],
            ),
            *ODD.op_rules[2:],
        ],
    )
    assert lint(guarded)[2] == "op FILL is never legal in EMPTY: there a slot is empty, and its charge is 0"
    assert len(lint(guarded)) == 5  # whatever 0 passes is no matter
    charge = em.Feature("charge", at_least=3)
    for waived in (em.Any(charge, em.Row("open", in_=(True,))), em.Unless("open", charge)):
        ops = [*ODD.op_rules[:1], dataclasses.replace(guarded.op_rules[1], when=[waived]), *ODD.op_rules[2:]]
        assert "is never legal" not in "".join(
            lint(dataclasses.replace(guarded, op_rules=ops, row_features={"open": bool}))
        )
    noted = dataclasses.replace(
        SITES,
        op_rules=(
            *SITES.op_rules[:2],
            em.Op(Do.SWAP, acts_in=tuple(Site), when=(em.Age(at_least={Site.READY: 2}),), uses=("slot", "partner")),
            *SITES.op_rules[3:],
        ),
        heads=(*SITES.heads[:-1], em.SlotHead("partner", when=(em.Age(at_most={Site.READY: 3}),)), SITES.heads[-1]),
        row_features={**SITES.row_features, "spare": int},
        kinds={**SITES.kinds, "odd": ("a",)},
    )
    assert set(lint(noted)) - set(lint(SITES)) == {
        "op SWAP: age has bounds by stage, and none in EMPTY or BUILD",
        "head target is used by no op",
        "head partner may choose an empty slot, in EMPTY; a guard of the stage can keep it from that",
        "head partner: age has bounds by stage, and none in EMPTY or BUILD",
        "row spare is read by no guard",
        "kind odd is asked for by no guard",
    }


@pytest.mark.parametrize("second", [{"moves": {Site.BUILD: Site.READY}}, {"sets": {"locked": True}}])
def test_an_op_acts_in_its_second_slot_too(second: Any) -> None:
    """BUILD is left by a second slot alone, which is moved out of it or set in it."""
    ops = [em.Op(Do.WAIT, always=True), em.Op(Do.ACT, moves={Site.EMPTY: Site.BUILD}, uses=("slot", "mate"))]
    ops += [em.Op(Do.SWAP, moves={Site.READY: Site.EMPTY}, uses=("slot",)), em.Op(Do.CALL, always=True)]
    when = (em.Feature("stage", in_=(Site.BUILD,)),)
    mates = [em.SlotHead("mate", when=when, distinct=True, **given) for given in (second, {})]
    changed, alone = (
        dataclasses.replace(
            SITES, op_rules=ops, heads=(em.Head("slot"), mate, em.Head("op")), row_features={}, kinds={}
        )
        for mate in mates
    )
    assert lint(changed) == []
    assert lint(alone) == ["stage BUILD: no op acts in it; it moves on by itself to EMPTY, READY"]


@pytest.mark.slow
@given(random_rules())
@settings(max_examples=8)
def test_rules_of_any_make(rules: em.MaskRules) -> None:
    assert verify(rules).agrees


@pytest.mark.slow
@given(guarded_rules())
@settings(max_examples=5)
def test_rules_with_guards_of_any_make(rules: em.MaskRules) -> None:
    assert verify(rules).agrees


def test_chunks_of_any_size() -> None:
    results = [verify(ODD, chunk=chunk) for chunk in (7, 100_000)]
    assert all(result.agrees for result in results)
    assert results[0].environments == results[1].environments


# -- rules with everything, and engines of rules that differ in one bound ---------------------------------------------


def engine_of(rules: em.MaskRules) -> Any:
    """What makes engines of other rules than those that are verified: engines with a mistake."""
    return lambda given, slot_ids, **settings: em.MaskEngine(rules, slot_ids, **settings)


def acting(*when: Any, **more: Any) -> em.MaskRules:
    act = dataclasses.replace(SITES.op_rules[Do.ACT], when=when, **more)
    return dataclasses.replace(SITES, op_rules=(SITES.op_rules[0], act, *SITES.op_rules[2:]))


def targets(*when: Any, **more: Any) -> em.MaskRules:
    head = dataclasses.replace(SITES.head("target"), **{"when": when, **more})
    return dataclasses.replace(SITES, heads=[head if one.name == "target" else one for one in SITES.heads])


def nodes(**more: Any) -> em.MaskRules:
    head = dataclasses.replace(SITES.head("node"), **more)
    return dataclasses.replace(SITES, heads=[head if one.name == "node" else one for one in SITES.heads])


def free(*when: Any) -> em.MaskRules:
    return dataclasses.replace(SITES, op_rules=(*SITES.op_rules[:3], dataclasses.replace(SITES.op_rules[3], when=when)))


R, B = Site.READY, Site.BUILD
FIVE = (
    em.Feature("restarts", at_least=2),
    em.Row("free", at_least=2),
    em.Age(at_least=3),
    em.Feature("task", in_=(Task.BUSY,)),
    em.Kind("gpu"),
)
MUTANTS: list[tuple[em.MaskRules, em.MaskRules, str]] = [  # the rules, what the engine takes for them, where it shows
    (acting(em.Feature("restarts", at_most=4)), acting(em.Feature("restarts", at_most=5)), "ACT"),
    (acting(em.Feature("restarts", at_most=4)), acting(em.Feature("restarts", at_most=3)), "ACT"),
    (acting(em.Feature("restarts", at_least=4)), acting(em.Feature("restarts", at_least=5)), "ACT"),
    (acting(em.Feature("restarts", at_least=4)), acting(), "ACT"),
    (acting(em.Feature("restarts", not_in=(MOST,))), acting(), "ACT"),
    (acting(em.Feature("restarts", not_in=(LEAST,))), acting(), "ACT"),
    (acting(em.Feature("task", in_=(Task.UNSET, Task.VERIFY))), acting(em.Feature("task", in_=(Task.VERIFY,))), "ACT"),
    (acting(em.Feature("task", not_in=(Task.BUSY,))), acting(em.Feature("task", at_most=0)), "ACT"),
    (acting(em.Age(at_least=2)), acting(em.Age(at_least=1)), "ACT"),
    (acting(em.Age(at_least=2)), acting(em.Feature("restarts", at_least=2)), "ACT"),  # of another column
    (acting(em.Age(at_least={R: 2})), acting(em.Age(at_least=2)), "ACT"),
    (acting(em.Age(at_least={R: 2})), acting(em.Age(at_least={B: 2})), "ACT"),
    (acting(em.Age(at_most={R: 2, B: 5})), acting(em.Age(at_most={R: 2, B: 6})), "ACT"),
    (acting(em.Feature("stage", in_=(R,))), acting(), "ACT"),
    (acting(em.Count((R,), of="others", at_least=2)), acting(em.Count((R,), of="others", at_least=1)), "ACT"),
    (acting(em.Count((R,), of="others", at_least=2)), acting(em.Count((R,), of="all", at_least=2)), "ACT"),
    (acting(em.Count((R,), of="all", at_most=2)), acting(em.Count((R,), of="all", at_most=3)), "ACT"),
    (acting(em.Count((R,), of="all", at_most=2)), acting(em.Count((R, B), of="all", at_most=2)), "ACT"),
    (acting(em.Count((R,), of="all", at_most=2)), acting(em.Count((R,), of="all", at_most=2, kind="gpu")), "ACT"),
    (acting(em.Count((R,), of="all", at_least=2, kind="gpu")), acting(em.Count((R,), of="all", at_least=2)), "ACT"),
    (acting(em.Count((R,), of="all", at_most={B: 1})), acting(em.Count((R,), of="all", at_most=1)), "ACT"),
    (acting(em.Row("free", at_least=2)), acting(em.Row("free", at_least=1)), "ACT"),
    (acting(em.Row("night", in_=(True,))), acting(em.Row("night", in_=(False,))), "ACT"),
    (acting(em.Kind("gpu")), acting(em.Kind("cpu")), "ACT"),
    (acting(em.Kind("gpu")), acting(em.Kind("gpu", "cpu")), "ACT"),
    (acting(em.Unless("night", em.Age(at_least=2))), acting(em.Age(at_least=2)), "ACT"),
    (acting(em.Unless("night", em.Age(at_least=2))), acting(), "ACT"),
    (acting(em.Unless("night", em.Age(at_least={R: 2}))), acting(em.Unless("night", em.Age(at_least=2))), "ACT"),
    (acting(em.Any(em.Age(at_least=2), em.Row("free", at_least=2))), acting(em.Age(at_least=2)), "ACT"),
    (acting(em.Any(em.Age(at_least=2), em.Kind("gpu"))), acting(em.Any(em.Age(at_least=3), em.Kind("gpu"))), "ACT"),
    (acting(blocked_by=(R,)), acting(), "ACT"),
    (acting(blocked_by=(R,)), acting(blocked_by=(B,)), "ACT"),
    (targets(em.Age(at_least=2)), targets(em.Age(at_least=3)), "head target"),
    (targets(em.Count((R,), of="others", at_most=1)), targets(em.Count((R,), of="all", at_most=1)), "head target"),
    (targets(em.Kind("gpu")), targets(), "head target"),
    (targets(distinct=True), targets(distinct=False), "head target"),
    (targets(moves={R: B}), targets(), "head target"),
    (nodes(), nodes(by_feature=("restarts", {0: ("n0",), 3: ("n0", "n1")})), "head node"),
    (nodes(), nodes(by_stage={Site.EMPTY: ("n0",), B: ("n0", "n1"), R: ("n0", "n1")}), "head node"),
    (free(em.Row("free", at_least=2)), free(em.Row("free", at_least=1)), "CALL"),
    (free(em.Count((R,), of="all", at_most=1)), free(em.Count((R,), of="all", at_most=2)), "CALL"),
    (acting(*FIVE, em.Count((R,), of="all", at_most=1)), acting(*FIVE), "ACT"),
]


@pytest.mark.parametrize(("rules", "mistaken", "where"), MUTANTS)
def test_a_mistake_in_a_guard_or_a_head_is_noticed_by_what_is_judged_alone(
    rules: em.MaskRules, mistaken: em.MaskRules, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Comparison, "at_random", lambda self: None)
    monkeypatch.setattr("esper_masks.inspection.trials.MANY", 1000)
    result = verify(rules, engine=engine_of(mistaken))
    assert any(line.startswith(f"{where} in slot ") for line in result.disagreements), result
    assert not any("legal in nothing" in note for note in result.notes)


def test_engines_without_a_mistake_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_masks.inspection.trials.MANY", 1000)
    for rules in (SITES, MUTANTS[-1][0]):
        result = verify(rules)
        assert result.agrees, result.disagreements


def test_a_switch_may_waive_what_needs_many_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_masks.inspection.trials.MANY", 1000)
    act = dataclasses.replace(SITES.op_rules[Do.ACT], when=(em.Unless("admin", em.Count((R,), of="all", at_least=5)),))
    ops = (SITES.op_rules[0], act, *SITES.op_rules[2:])
    result = verify(dataclasses.replace(SITES, switches={"admin": (False, True)}, op_rules=ops))
    assert result.agrees, result.disagreements
    assert result.settings == 2


def test_what_is_legal_in_nothing_that_is_tried_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_masks.inspection.trials.MANY", 1000)
    monkeypatch.setattr(_Comparison, "at_random", lambda self: None)
    node = dataclasses.replace(SITES.head("node"), by_feature=("task", {Task.UNSET: ("n0", "n1")}))
    never = dataclasses.replace(
        acting(em.Feature("task", in_=(Task.BUSY,))),
        heads=[node if head.name == "node" else head for head in SITES.heads],
    )
    result = verify(never)
    assert result.agrees
    assert "ACT is legal in nothing that verify tried" in result.notes
    night = em.Row("night", in_=(False,))
    narrow = acting(em.Unless("night", em.Row("free", at_least=3)), night, em.Row("free", at_most=3))
    assert not any("legal in nothing" in note for note in verify(narrow).notes)


class WrongEngine(em.MaskEngine):
    """CULL is legal in a TRAINING slot of any age, if it is the one."""

    slot = 0

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        masks = super().forward(states, *args, **settings)
        here = torch.arange(states.shape[-2]) == self.slot
        culled = (states[..., 0] == 3) & ((masks.slot_words & 1) != 0) & here
        return em.ActionMasks(self.layout, masks.slot_words | (culled.int() << 2), masks.op_words)


class WrongHeads(em.MaskEngine):
    """The op mask lacks GERMINATE, which slots allow."""

    def forward(self, *args: Any, **settings: Any) -> em.ActionMasks:
        masks = super().forward(*args, **settings)
        return em.ActionMasks(self.layout, masks.slot_words, masks.op_words & ~2)


class Unlimited(em.MaskEngine):
    """It knows of no seed limit, and says so."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.program = self.program._replace(limited=False)

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        return super().forward(states, **without_limit(settings))

    def explain(self, states: Any, env: Any = 0, *args: Any, **settings: Any) -> Any:
        return super().explain(states, env, **without_limit(settings))


def without_limit(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("total_seeds", "max_seeds")}


def found(engine: type[em.MaskEngine] = em.MaskEngine) -> str:
    result = verify(em.ruleset("esper-2025-12"), engine=engine)
    assert not result.agrees
    return "\n".join(result.disagreements)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_wrong_word_is_noticed(slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last slot are judged alone, the one between them at random."""
    monkeypatch.setattr(WrongEngine, "slot", slot)
    where = "slot_by_op" if slot == 1 else f"CULL in slot s{slot}"
    assert f"{where}: disagreement at " in found(WrongEngine)


def test_a_wrong_head_is_noticed() -> None:
    assert "head op: disagreement at" in found(WrongHeads)


def test_a_lost_seed_limit_is_noticed() -> None:
    assert "GERMINATE in slot " in found(Unlimited)


def test_wrong_whole_actions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(em.ActionMasks, "joint", lambda self: torch.ones(*self.shape, 29, dtype=torch.bool))
    assert "whole actions: disagreement at" in found()
    monkeypatch.undo()
    monkeypatch.setattr(em.ActionMasks, "count", lambda self: torch.ones(self.shape, dtype=torch.int64))
    assert "number of whole actions: disagreement at" in found()


class Aging(em.MaskEngine):
    """An op makes its slot older."""

    def successors(self, states: Any, *args: Any, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        after, legal = super().successors(states, *args, **given)
        changed = (after[..., 0] != states[..., 0]).int()
        return torch.stack([after[..., 0], after[..., 1] + changed], -1), legal


def test_wrong_successors_are_noticed() -> None:
    [said] = found(Aging).splitlines()
    assert "successors: disagreement at [[" in said
    assert ", action (" in said


class TwoSlotsOnly(em.MaskEngine):
    """Slots beyond the second are not looked at."""

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        states = states.clone()
        states[..., 2:, 0] = 1
        return super().forward(states, *args, **settings)


class Near(em.MaskEngine):
    """Ages above 2 are taken for 0."""

    def forward(self, states: Any, *args: Any, **settings: Any) -> em.ActionMasks:
        states = states.clone()
        states[..., 1] = torch.where(states[..., 1] > 2, 0, states[..., 1])
        return super().forward(states, *args, **settings)


@pytest.mark.parametrize("engine", [TwoSlotsOnly, Near])
def test_what_is_wrong_beyond_two_slots_and_near_values_is_noticed(engine: type[em.MaskEngine]) -> None:
    assert "slot_by_op: disagreement at" in found(engine)


@pytest.mark.parametrize("name", ["explain", "engine.explain"])
def test_wrong_explanations_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_masks.reference.explain.Explanation.legal", lambda self, op: True)
    assert f"{name}: disagreement at" in found()


def test_masks_that_are_wrong_in_batches_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = em.ActionMasks.__getitem__
    wrong = lambda self, name: whole(self, name) | (len(self.shape) > 0)  # noqa: E731
    monkeypatch.setattr(em.ActionMasks, "__getitem__", wrong)
    assert "head blueprint: disagreement" in found()


def test_a_disagreement_survives_an_interrupt() -> None:
    def stop(done: float, of: int) -> None:
        if done > 0.9:
            raise KeyboardInterrupt

    result = verify(em.ruleset("esper-2025-12"), stop, engine=WrongEngine)
    assert result.interrupted
    assert result.disagreements


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_done() -> None:
    def stop(done: float, of: int) -> None:
        if done > 1:
            raise KeyboardInterrupt

    result = verify(em.ruleset("esper-2026-06"), stop)
    assert result.interrupted
    assert not result.agrees
    assert result.settings == 1
    assert result.environments > 0
