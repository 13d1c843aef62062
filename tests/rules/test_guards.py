"""Guards: the truth of each by hand; engine, oracle and explanations over random guards; wrong guards are named."""

import dataclasses
import math
from collections.abc import Mapping
from enum import IntEnum
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import esper_masks as em
from esper_masks import Age, Count, Feature, Kind, Row, Unless, reference
from esper_masks.rules.bounds import Bounds, Runs, outside
from esper_masks.rules.names import INT32
from tests.strategies import Site, guarded_rules


class Stage(IntEnum):
    EMPTY = 0
    BUILD = 1
    ACTIVE = 2
    READY = 4


class Task(IntEnum):
    UNSET = 0
    BUSY = 1
    VERIFY = 2


class Mode(IntEnum):
    DAY = 1
    DUSK = 3


class Do(IntEnum):
    WAIT = 0
    ACT = 1
    CALL = 2


EDGES = {stage: tuple(other for other in Stage if other != stage) for stage in Stage}
SLOTS = ("a", "b", "c")
LEAST, MOST = INT32[0], INT32[-1]


def guarded(*when: Any, slotless: tuple[Any, ...] = (Row("free", at_least=1),), **more: Any) -> em.MaskRules:
    """ACT in any stage of a slot under some guards, and CALL, which acts in no slot, under others."""
    return em.MaskRules(
        name="guarded",
        stages=Stage,
        transitions=EDGES,
        empty=Stage.EMPTY,
        op_rules=[
            em.Op(Do.WAIT, always=True),
            em.Op(Do.ACT, acts_in=tuple(Stage), uses=("slot",), when=when),
            em.Op(Do.CALL, when=slotless),
        ],
        heads=[em.Head("slot"), em.Head("op")],
        features={"task": Task, "restarts": int, "locked": bool},
        row_features={"night": bool, "free": int, "mode": Mode},
        switches={"admin": [False, True]},
        kinds={"gpu": ("a",), "none": ()},
        slot_ids=SLOTS,
        **more,
    )


def engine_of(*when: Any, **settings: Any) -> em.MaskEngine:
    return em.MaskEngine(guarded(*when, **{k: settings.pop(k) for k in ("slotless",) if k in settings}), **settings)


# guards, what differs from the usual state, the reason why ACT is illegal in slot a
TRUTH: list[tuple[tuple[Any, ...], dict[str, Any], str | None]] = [
    ((Feature("task", in_=(Task.UNSET, Task.VERIFY)),), {"task": 0}, None),
    ((Feature("task", in_=(Task.UNSET, Task.VERIFY)),), {"task": 1}, "task BUSY, needs UNSET or VERIFY"),
    ((Feature("task", in_=(Task.UNSET, Task.VERIFY)),), {"task": 2}, None),
    ((Feature("task", in_=(Task.UNSET, Task.VERIFY)),), {"task": 9}, "task 9, needs UNSET or VERIFY"),
    ((Feature("task", not_in=(Task.BUSY,)),), {"task": 0}, None),
    ((Feature("task", not_in=(Task.BUSY,)),), {"task": 1}, "task BUSY, needs UNSET or VERIFY"),
    ((Feature("task", not_in=(Task.BUSY,)),), {"task": -1}, "task -1, needs UNSET or VERIFY"),
    ((Feature("task", at_least=1),), {"task": 0}, "task UNSET, needs at least 1"),
    ((Feature("task", at_least=Task.BUSY, at_most=Task.BUSY),), {"task": 1}, None),
    ((Feature("task", at_most=Task.BUSY),), {"task": 2}, "task VERIFY, needs at most BUSY"),
    ((Feature("task", at_least={Stage.ACTIVE: Task.BUSY}),), {"task": 0}, "task UNSET, needs at least BUSY"),
    ((Feature("stage", at_most=Stage.ACTIVE),), {"stage": 2}, None),
    ((Feature("stage", at_most=Stage.ACTIVE),), {"stage": 4}, "stage READY, needs EMPTY, BUILD or ACTIVE"),
    ((Row("mode", at_least=Mode.DUSK),), {"mode": 1}, "mode DAY, needs at least DUSK"),
    ((Row("mode", at_least=Mode.DUSK),), {"mode": 3}, None),
    ((Feature("locked", in_=(False,)),), {"locked": 0}, None),
    ((Feature("locked", in_=(False,)),), {"locked": 1}, "locked True, needs False"),
    ((Feature("restarts", at_most=4),), {"restarts": 4}, None),
    ((Feature("restarts", at_most=4),), {"restarts": 5}, "restarts 5, needs at most 4"),
    ((Feature("restarts", at_least=-3, at_most=4),), {"restarts": -4}, "restarts -4, needs at least -3 and at most 4"),
    ((Feature("restarts", in_=(2, 3, 7)),), {"restarts": 3}, None),
    ((Feature("restarts", in_=(2, 3, 7)),), {"restarts": 4}, "restarts 4, needs 2, 3 or 7"),
    ((Feature("restarts", not_in=(2, 3)),), {"restarts": 1}, None),
    ((Feature("restarts", not_in=(2, 3)),), {"restarts": 2}, "restarts 2, must be neither 2 nor 3"),
    ((Feature("restarts", not_in=(LEAST,)),), {"restarts": LEAST}, f"restarts {LEAST}, must be other than {LEAST}"),
    ((Feature("restarts", not_in=(MOST,)),), {"restarts": MOST}, f"restarts {MOST}, must be other than {MOST}"),
    ((Feature("restarts", at_least={Stage.BUILD: 2}),), {"restarts": 0}, None),
    ((Feature("restarts", at_least={Stage.ACTIVE: 2}),), {"restarts": 1}, "restarts 1, needs at least 2"),
    ((Feature("stage", not_in=(Stage.READY,)),), {"stage": 2}, None),
    ((Feature("stage", not_in=(Stage.READY,)),), {"stage": 4}, "stage READY, needs EMPTY, BUILD or ACTIVE"),
    ((Age(at_least=2),), {"age": 1}, "age 1 < 2"),
    ((Age(at_least=2, at_most=30),), {"age": 2}, None),
    ((Age(at_least=2, at_most=30),), {"age": 31}, "age 31 > 30"),
    ((Age(at_least={Stage.ACTIVE: 5}),), {"age": 4}, "age 4 < 5"),
    ((Age(at_least={Stage.ACTIVE: 5}),), {"age": 5}, None),
    ((Age(at_least={Stage.ACTIVE: 5}),), {"age": 0, "stage": 4}, None),
    ((Age(at_most={Stage.ACTIVE: 5, Stage.READY: 7}),), {"age": 7, "stage": 4}, None),
    ((Age(at_most={Stage.ACTIVE: 5, Stage.READY: 7}),), {"age": 8, "stage": 4}, "age 8 > 7"),
    ((Count((Stage.READY,), at_least=2, of="others"),), {"b": 4, "c": 4}, None),
    ((Count((Stage.READY,), at_least=2, of="others"),), {"b": 4}, "1 READY elsewhere, needs at least 2"),
    (
        (Count((Stage.READY,), at_least=2, of="others"),),
        {"stage": 4, "b": 4},
        "1 READY elsewhere, needs at least 2",
    ),
    ((Count((Stage.READY,), at_least=2, of="all"),), {"stage": 4, "b": 4}, None),
    (
        (Count((Stage.READY,), at_least=2, of="all"),),
        {"stage": 4, "b": 4, "enabled": (True, False, True)},
        "1 READY, needs at least 2",
    ),
    (
        (Count((Stage.READY, Stage.BUILD), at_most=1, of="all"),),
        {"b": 4, "c": 1},
        "2 READY or BUILD, needs at most 1",
    ),
    ((Count((Stage.READY,), at_most={Stage.ACTIVE: 0}, of="others"),), {"b": 4}, "1 READY elsewhere, needs at most 0"),
    ((Count((Stage.READY,), at_most={Stage.BUILD: 0}, of="others"),), {"b": 4}, None),
    ((Row("night", in_=(False,)),), {"night": 0}, None),
    ((Row("night", in_=(False,)),), {"night": 1}, "night True, needs False"),
    ((Row("night", in_=(True,)),), {"night": 2}, None),
    ((Row("night", in_=(True,)),), {"night": -1}, None),
    ((Row("night", in_=(False,)),), {"night": 2}, "night True, needs False"),
    ((Row("free", at_least=1),), {"free": 0}, "free 0, needs at least 1"),
    ((Row("free", at_least=1),), {"free": MOST}, None),
    ((Row("mode", in_=(Mode.DUSK,)),), {"mode": 1}, "mode DAY, needs DUSK"),
    ((Row("mode", in_=(Mode.DUSK,)),), {"mode": 3}, None),
    ((Row("mode", not_in=(Mode.DUSK,)),), {"mode": 2}, "mode 2, needs DAY"),
    ((Kind("gpu"),), {}, None),
    ((Kind("none"),), {}, "a is not of kind none"),
    ((Unless("night", Feature("locked", in_=(False,))),), {"locked": 1}, "locked True, needs False, unless night"),
    ((Unless("night", Feature("locked", in_=(False,))),), {"locked": 1, "night": 1}, None),
    ((Unless("night", Kind("none")),), {"night": 1}, None),
    ((Unless("night", Kind("none")),), {}, "a is not of kind none, unless night"),
    ((Unless("night", Count((Stage.READY,), at_least=1, of="all")),), {"night": 1}, None),
    ((Unless("night", Row("free", at_least=9)),), {"night": 1}, None),
    ((Unless("night", Row("free", at_least=9)),), {}, "free 5, needs at least 9, unless night"),
    ((Unless("admin", Row("free", at_least=9)),), {}, "free 5, needs at least 9"),
    ((Unless("admin", Row("free", at_least=9)),), {"admin": True}, None),
    ((Kind("none", "gpu"),), {}, None),
    ((Count((Stage.READY,), at_least=1, of="all", kind="gpu"),), {"b": 4}, "0 READY of kind gpu, needs at least 1"),
    ((Count((Stage.READY,), at_least=1, of="all", kind="gpu"),), {"stage": 4}, None),
    (
        (Count((Stage.READY,), at_least=1, of="others", kind="gpu"),),
        {"stage": 4},
        "0 READY of kind gpu elsewhere, needs at least 1",
    ),
    ((em.Any(Feature("locked", in_=(False,)), Row("free", at_least=9)),), {"locked": 0}, None),
    ((em.Any(Feature("locked", in_=(False,)), Row("free", at_least=9)),), {"locked": 1, "free": 9}, None),
    (
        (em.Any(Feature("locked", in_=(False,)), Row("free", at_least=9)),),
        {"locked": 1, "free": 8},
        "locked True, needs False; or free 8, needs at least 9",
    ),
    ((em.Any(Age(at_least={Stage.ACTIVE: 9, Stage.READY: 2}), Kind("none")),), {"age": 9}, None),
    ((em.Any(Age(at_least={Stage.ACTIVE: 9}), Kind("none")),), {"age": 8}, "age 8 < 9; or a is not of kind none"),
    ((em.Any(Age(at_least={Stage.READY: 9}), Kind("none")),), {"age": 8}, None),
    ((em.Any(Count((Stage.READY,), at_least=1, of="others"), Age(at_least=9)),), {"b": 4}, None),
    (
        (Feature("stage", in_=(Stage.ACTIVE, Stage.READY)), Age(at_least=9)),
        {"stage": 1},
        "stage BUILD, needs ACTIVE or READY",
    ),
    ((Age(at_least=2), Row("free", at_least=9)), {"age": 1}, "age 1 < 2"),  # in order
    ((Row("free", at_least=9), Age(at_least=2)), {"age": 1}, "free 5, needs at least 9"),
]
USUAL = {"stage": 2, "age": 5, "task": 0, "restarts": 0, "locked": 0, "b": 0, "c": 0}
ROWS = {"night": 0, "free": 5, "mode": 1}


@pytest.mark.parametrize(("when", "differs", "reason"), TRUTH)
def test_the_truth_of_each_guard(when: tuple[Any, ...], differs: Mapping[str, Any], reason: str | None) -> None:
    at = USUAL | ROWS | {"admin": False, "enabled": (True, True, True)} | dict(differs)
    engine = engine_of(*when, admin=at["admin"])
    first = [at[name] for name in ("stage", "age", "task", "restarts", "locked")]
    slots = [first, [at["b"], 0, 0, 0, 0], [at["c"], 0, 0, 0, 0]]
    rows = {name: at[name] for name in ROWS}
    op = engine.rules.op_rules[Do.ACT]
    told = reference.forbids(engine.rules, op, slots, 0, enabled=at["enabled"], row=rows, slot_ids=SLOTS)
    assert told == reason
    for dtype in (torch.int32, torch.int64):
        states = torch.tensor([slots] * 2, dtype=dtype)
        given_rows = {name: torch.tensor([value] * 2, dtype=dtype) for name, value in rows.items()}
        enabled = torch.tensor(at["enabled"])
        masks = engine(states, enabled=enabled, row=given_rows)
        assert masks.slot_by_op[:, Do.ACT, 0].tolist() == [reason is None] * 2
        explained = engine.explain(states, 1, enabled=enabled, row=given_rows)
        assert explained.reason("ACT", "a") == reason
        assert masks["op"][:, Do.CALL].tolist() == [rows["free"] >= 1] * 2


def test_an_op_without_a_slot_is_legal_by_its_guards_alone() -> None:
    engine = engine_of(slotless=(Row("night", in_=(True,)), Count((Stage.READY,), at_most=0, of="all")))
    states = engine.empty_slots(3)
    states[2, 1, 0] = Stage.READY
    row = {"night": torch.tensor([False, True, True])}
    nothing = torch.zeros(3, dtype=torch.bool)
    assert engine(states, row=row)["op"].tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    masks = engine(states, row=row, enabled=nothing)
    assert masks["op"].tolist() == [[True, False, False], [True, False, True], [True, False, True]]
    assert not masks["slot"].any()
    assert engine.explain(states, 0, row=row).lines().__next__() == "WAIT: legal"
    assert engine.explain(states, 0, row=row).reason("CALL", "b") == "night False, needs True"
    assert engine.explain(states, 1, row=row, enabled=nothing).legal("CALL")
    expected = reference.masks(engine.rules, states, row=row, enabled=nothing)
    assert masks["op"].tolist() == expected["op"]


@given(guarded_rules(), st.booleans(), st.integers(0, 2**31))
def test_engine_oracle_and_explanations_agree(rules: em.MaskRules, admin: bool, seed: int) -> None:
    """Guards of every kind and bound, on ops with a slot and without and on second slots, heads of every kind."""
    engine = em.MaskEngine(rules, admin=admin)
    generator = torch.Generator().manual_seed(seed)

    def drawn(values: Any, *shape: int) -> torch.Tensor:
        values = torch.tensor(values, dtype=torch.int32)
        return values[torch.randint(len(values), shape, generator=generator)]

    columns = [(0, 1, 2, 4, 9), (-1, 0, 2, 3, LEAST, MOST), (0, 1, 2, -1), (-1, 0, 1, 3, LEAST, MOST), (0, 1)]
    states = torch.stack([drawn(values, 12, len(rules.slot_ids)) for values in columns], -1)
    row = {"night": drawn((0, 1), 12), "free": drawn((-1, 0, 1, 5, LEAST, MOST), 12), "mode": drawn((0, 1, 3), 12)}
    enabled = drawn((0, 1, 1), 12, len(rules.slot_ids)).bool()
    for on in (None, enabled):
        masks = engine(states, row=row, enabled=on)
        expected = reference.masks(engine.rules, states, row=row, enabled=on)
        for name, wanted in expected.items():
            by_slot = name.endswith("_by_slot")
            ours = masks.by_slot(name.removesuffix("_by_slot")) if by_slot else getattr(masks, name, None)
            assert (masks[name] if ours is None else ours).tolist() == wanted, name
        told = [engine.explain(states, env, row=row, enabled=on) for env in range(4)]
        assert [[one.legal(op) for op in one.ops] for one in told] == masks["op"][:4].tolist()


@given(guarded_rules())
def test_the_stages_of_an_op_are_those_it_leaves_less_what_guards_of_the_stage_forbid(rules: em.MaskRules) -> None:
    """By comparisons that are written here: engine and oracle take the stages of an op from one place."""

    def passes(guard: Any, stage: Any) -> bool:
        among = (guard.in_ is None or stage in guard.in_) and (guard.not_in is None or stage not in guard.not_in)
        least, most = (end if end is not None else stage for end in (guard.at_least, guard.at_most))
        return among and least <= stage <= most

    for op in rules.op_rules:
        of_stage = [guard for guard in op.when if getattr(guard, "name", None) == "stage"]
        if op.in_slot and not op.always:
            left = {
                stage for stage in Site if op.enters in rules.transitions[stage] or stage in (*op.moves, *op.acts_in)
            }
            assert rules.legal_stages(op.id) == {stage for stage in left if all(passes(g, stage) for g in of_stage)}


WRONG: list[tuple[Any, str]] = [
    (
        Feature("colour", in_=(1,)),
        "op ACT guards the feature 'colour'; the features are: stage, task, restarts, locked",
    ),
    (Feature("age", at_least=1), "Age guards the age"),
    (Feature("task"), "op ACT guards feature 'task' by nothing; give in_, not_in, at_least or at_most"),
    (
        Feature("task", in_=(Stage.READY,)),
        "op ACT guards feature 'task' by READY, which it never is; it is UNSET, BUSY or VERIFY",
    ),
    (Feature("task", in_=()), "can never be legal: feature 'task' would have to be none"),
    (Feature("task", not_in=tuple(Task)), "can never be legal: feature 'task' would have to be none"),
    (
        Feature("restarts", at_least=3, at_most=2),
        "can never be legal: feature 'restarts' would have to be at least 3 and at most 2",
    ),
    (
        Feature("restarts", in_=(Task.BUSY,)),
        "guards feature 'restarts' by BUSY, which it never is; it is a 32-bit integer",
    ),
    (Age(at_least=3, at_most=2), "can never be legal: age would have to be at least 3 and at most 2"),
    (Age(), "op ACT guards age by nothing"),
    (Age(at_least={Task.BUSY: 2}), "names BUSY, which is no stage"),
    (Feature("task", at_least=Stage.BUILD), "guards feature 'task' by BUILD, which it never is; it is UNSET, BUSY or"),
    (Feature("restarts", at_most=Task.BUSY), "guards feature 'restarts' by BUSY, which it never is"),
    (Row("mode", at_most=Task.BUSY), "guards row 'mode' by BUSY, which it never is; it is DAY or DUSK"),
    (
        Count(tuple(Stage), at_most=0, of="all"),
        "can never be legal: the slot itself is one of the number of EMPTY, BUILD, ACTIVE or READY; count of=",
    ),
    (Unless("dark", Age(at_least=2)), "names the switch 'dark'; the switches are: admin; bool rows: night"),
    (Count((), of="all", at_least=1), "counts slots in no stage"),
    (Count((Task.BUSY,), of="all", at_least=1), "names BUSY, which is no stage"),
    (Count((Stage.READY,), of="all", at_most=-1), "can never be legal: the number of READY is never below 0"),
    (
        Count((Stage.READY,), of="all", at_least=0),
        "op ACT asks the number of READY to be at least 0, which it always is",
    ),
    (Row("day", in_=(True,)), "guards the row 'day'; row_features has: night, free, mode"),
    (Row("mode", in_=(Task.BUSY,)), "guards row 'mode' by BUSY, which it never is; it is DAY or DUSK"),
    (Kind("tpu"), "wants the kind 'tpu'; the kinds are: gpu, none"),
    (Unless("free", Age(at_least=1)), "is waived by the row 'free', which must be a bool"),
    (Unless("root", Age(at_least=1)), "names the switch 'root'; the switches are: admin"),
    (Unless("night", Unless("admin", Age(at_least=1))), "has an Unless within an Unless; only plain guards"),
    (Unless("night", em.Any(Age(at_least=1), Kind("gpu"))), "has an Any within an Unless"),
    (em.Any(Age(at_least=1), em.Any(Age(at_least=1), Kind("gpu"))), "has an Any within an Any"),
    (em.Any(Age(at_least=1), Unless("night", Kind("gpu"))), "has an Unless within an Any"),
    (em.Any(Age(at_least=1)), "has an Any of fewer than two guards"),
    (em.Any(Age(at_least=1), Kind("tpu")), "wants the kind 'tpu'"),
    (Kind("gpu", "tpu"), "wants the kind 'tpu'; the kinds are: gpu, none"),
    (Kind(), "wants a slot of no kind"),
    (
        Feature("restarts", in_=(1, 2**40)),
        "guards feature 'restarts' by 1099511627776, which it never is; it is a 32-bit",
    ),
    (Feature("restarts", not_in=(LEAST - 1,)), "by -2147483649, which it never is"),
    (Row("free", in_=(MOST + 1,)), "op ACT guards row 'free' by 2147483648, which it never is"),
    (Count((Stage.READY,), of="all", at_least=1, kind="tpu"), "wants the kind 'tpu'"),
    (Unless("night", Kind("tpu")), "wants the kind 'tpu'"),
]


NEVER: list[tuple[tuple[Any, ...], str]] = [  # guards that are right alone and contradict one another
    ((Age(at_least=5), Age(at_most=3)), "can never be legal: age would have to be at least 5 and at most 3"),
    (
        (Feature("task", in_=(Task.BUSY,)), Feature("task", not_in=(Task.BUSY,))),
        "can never be legal: feature 'task' would have to be BUSY and UNSET or VERIFY",
    ),
    (
        (Count((Stage.READY,), of="all", at_least=3), Count((Stage.READY,), of="all", at_most=2)),
        "the number of READY would have to be at least 3 and at most 2",
    ),
    ((Row("free", at_least=3), Row("free", in_=(1, 2))), "row 'free' would have to be at least 3 and 1 or 2"),
    (
        (Age(at_least={Stage.ACTIVE: 5}), Age(at_most=3)),
        "can never be legal in ACTIVE: age would have to be at least 5 and at most 3; take the stage from the op",
    ),
    (
        (Age(at_least={Stage.ACTIVE: 5}, at_most={Stage.ACTIVE: 4, Stage.READY: 1}),),
        "can never be legal in ACTIVE: age would have to be at least 5 and at most 4",
    ),
    (
        (Feature("stage", in_=(Stage.READY,)), Feature("stage", not_in=(Stage.READY,))),
        "feature 'stage' would have to be READY and EMPTY, BUILD",
    ),
    (
        (Feature("stage", in_=(Stage.READY,)), Feature("stage", at_most=2)),
        "feature 'stage' would have to be READY and at most 2",
    ),
    ((Feature("restarts", at_least=3, in_=(1, 2)),), "feature 'restarts' would have to be 1 or 2 and at least 3"),
    ((Feature("task", at_least=3),), "feature 'task' would have to be at least 3"),
    ((Feature("restarts", in_=(3,), not_in=(3,)),), "feature 'restarts' would have to be none"),
]


@pytest.mark.parametrize(("when", "says"), NEVER)
def test_guards_that_contradict_one_another_are_named(when: tuple[Any, ...], says: str) -> None:
    with pytest.raises(em.RulesError, match="op ACT") as raised:
        guarded(*when)
    assert says in str(raised.value)


def test_guards_contradict_short_forms_too() -> None:
    rules = guarded()
    for guard, fields in (
        (Age(at_most=1), {"min_age": 2}),
        (Feature("task", in_=(Task.BUSY,)), {"requires": {"task": Task.VERIFY}}),
    ):
        act = dataclasses.replace(rules.op_rules[Do.ACT], when=(guard,), **fields)
        with pytest.raises(em.RulesError, match="op ACT can never be legal"):
            dataclasses.replace(rules, op_rules=(rules.op_rules[0], act, rules.op_rules[2]))


def test_what_never_meets_does_not_contradict() -> None:
    guarded(Age(at_least=5), em.Any(Age(at_most=3), Kind("gpu")), Unless("night", Age(at_most=2)))
    guarded(Count((Stage.READY,), of="all", at_least=3), Count((Stage.READY,), of="others", at_most=2))
    guarded(Feature("stage", in_=(Stage.READY,)), Age(at_least={Stage.ACTIVE: 5}), Age(at_most={Stage.ACTIVE: 3}))


def test_a_switch_that_leaves_guards_that_contradict_disables_the_op() -> None:
    rules = guarded(Age(at_least=5), Unless("admin", Age(at_most=3)))
    assert rules.resolve(admin=False).op_rules[Do.ACT].disabled
    assert not rules.resolve(admin=True).op_rules[Do.ACT].disabled
    engine = em.MaskEngine(rules, admin=False)
    states = engine.empty_slots(1)
    row = {"free": torch.ones(1).int()}
    assert engine.explain(states, row=row).reason("ACT", "a") == "a rule switch disables it"
    assert not engine(states, row=row)["op"][0, Do.ACT]


def with_target(*when: Any, **more: Any) -> em.MaskRules:
    """ACT with a second slot under some guards."""
    act = em.Op(Do.ACT, acts_in=tuple(Stage), uses=("slot", "target"), **more)
    heads = [em.Head("slot"), em.SlotHead("target", when=when), em.Head("op")]
    rules = guarded()
    return dataclasses.replace(rules, op_rules=(rules.op_rules[0], act, rules.op_rules[2]), heads=heads)


@pytest.mark.parametrize(
    "when",
    [
        (Age(at_least=5), Unless("admin", Age(at_most=3))),
        (Feature("stage", in_=(Stage.READY,)), Unless("admin", Feature("stage", in_=(Stage.BUILD,)))),
    ],
)
def test_a_switch_that_leaves_a_second_slot_guards_that_contradict_disables_its_ops(when: Any) -> None:
    rules = with_target(*when)
    assert rules.resolve(admin=False).op_rules[Do.ACT].disabled
    assert not rules.resolve(admin=True).op_rules[Do.ACT].disabled
    engine, row = em.MaskEngine(rules), {"free": torch.ones(1).int()}
    told = engine.explain(engine.empty_slots(1), row=row)
    assert told.reason("ACT", "a") == "a rule switch disables it"
    assert not engine(engine.empty_slots(1), row=row)["op"][0, Do.ACT]


def test_a_switch_may_leave_an_op_that_is_otherwise_always_legal_without_a_second_slot() -> None:
    rules = with_target(Age(at_least=5), Unless("admin", Age(at_most=3)))
    act = em.Op(Do.ACT, always=True, uses=("slot", "target"))
    rules = dataclasses.replace(rules, op_rules=(rules.op_rules[0], act, rules.op_rules[2]))
    for admin in (False, True):
        engine, row = em.MaskEngine(rules, admin=admin), {"free": torch.ones(1).int()}
        states = torch.tensor([[[2, 5, 0, 0, 0]] * 3])
        assert bool(engine(states, row=row)["op"][0, Do.ACT]) == admin
        expected = reference.masks(rules, states, row=row, admin=admin)
        assert engine(states, row=row)["op"].tolist() == expected["op"]


@pytest.mark.parametrize(
    "guard",
    [
        Feature("restarts", in_=(1, 2), at_least={Stage.ACTIVE: 9}),
        Age(at_least={Stage.ACTIVE: 5}, at_most={Stage.ACTIVE: 3}),
        Age(at_least={Stage.ACTIVE: 5}, at_most=3),
        em.Any(Age(at_least={Stage.ACTIVE: 5}, at_most=3), Kind("none")),
        Count((Stage.READY,), of="all", at_least={Stage.ACTIVE: 2}, at_most=1),
    ],
)
def test_bounds_that_leave_nothing_where_the_op_does_not_act_close_nothing(guard: Any) -> None:
    rules = guarded()
    for more in ({"acts_in": (Stage.BUILD,)}, {"acts_in": (Stage.BUILD,), "disabled": True}):
        act = em.Op(Do.ACT, uses=("slot",), when=(guard,), **more)
        made = dataclasses.replace(rules, op_rules=(rules.op_rules[0], act, rules.op_rules[2]))
        states = torch.tensor([[[stage, age, 0, 1, 0], *[[0, 0, 0, 0, 0]] * 2] for stage in Stage for age in (3, 4)])
        row = {"free": torch.ones(len(states)).int()}
        expected = reference.masks(made, states, row=row)
        masks = em.MaskEngine(made)(states, row=row)
        assert masks.slot_by_op.tolist() == expected["slot_by_op"]
        assert any(row[Do.ACT] for row in expected["op"]) == ("disabled" not in more)


@pytest.mark.parametrize(("guard", "says"), WRONG)
def test_a_wrong_guard_is_named(guard: Any, says: str) -> None:
    with pytest.raises(em.RulesError) as raised:
        guarded(guard)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("guard", "says"),
    [
        (Feature("task", in_=(Task.UNSET,)), "acts in no slot, so it can have no guard on the feature 'task'"),
        (Age(at_least=1), "acts in no slot, so it can have no guard on the age"),
        (Kind("gpu"), "acts in no slot, so no slot can be of the kind 'gpu'"),
        (Count((Stage.READY,), of="others", at_least=1), 'acts in no slot, so it can only count of="all"'),
        (Unless("night", Age(at_least=1)), "acts in no slot, so it can have no guard on the age"),
    ],
)
def test_an_op_without_a_slot_has_no_guard_of_slots(guard: Any, says: str) -> None:
    with pytest.raises(em.RulesError, match="op CALL") as raised:
        guarded(slotless=(guard,))
    assert says in str(raised.value)


def test_the_op_that_is_always_legal_has_no_guard() -> None:
    rules = guarded()
    wait = em.Op(Do.WAIT, always=True, when=(Row("night", in_=(True,)),))
    with pytest.raises(em.RulesError, match="op WAIT is always legal, so it can have neither stages nor gates"):
        dataclasses.replace(rules, op_rules=(wait, *rules.op_rules[1:]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Feature("task", in_={Task.BUSY}), "in_ must be a sequence such as a tuple"),
        (lambda: Age(at_least=1.5), "Age: at_least must be a 32-bit integer, got 1.5"),
        (lambda: Count((Stage.READY,), of="some", at_least=1), "Count: of must be 'all' or 'others', got 'some'"),
        (lambda: Unless("night", 3), "Unless('night'): guard must be a Guard, got 3"),
        (lambda: em.Op(Do.ACT, when=(3,)), "op ACT: when[0] must be a Guard, got 3"),
        (lambda: em.Op(Do.ACT, when=Age(at_least=1)), "op ACT: when must be a sequence such as a tuple"),
    ],
)
def test_a_field_of_another_type_is_named(make: Any, says: str) -> None:
    with pytest.raises(em.RulesError) as raised:
        make()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (None, "row 'free' is missing, which guards read"),
        ({"free": torch.zeros(2), "night": torch.zeros(2).bool()}, "must be a tensor of bools or integers"),
        ({"free": torch.zeros(2).bool()}, "row 'free' must be of integers"),
        ({"free": torch.zeros(3).int()}, "row 'free' has shape (3,); states of this batch need (2,)"),
        ({"free": torch.zeros(2).int(), "day": torch.zeros(2).int()}, "there is no row 'day'; row_features has: night"),
        ([1, 2], "row must be a mapping from name to tensor, got list"),
    ],
)
def test_a_wrong_row_is_named(row: Any, says: str) -> None:
    engine = engine_of()
    with pytest.raises(em.SlotStateError) as raised:
        engine(engine.empty_slots(2), row=row)
    assert says in str(raised.value)


def test_kinds_are_those_of_the_engine() -> None:
    engine = engine_of(Kind("gpu"), slot_ids=("x", "y"), kinds={"gpu": ("y",), "none": ()})
    masks = engine(engine.empty_slots(1), row={"free": torch.ones(1).int()})
    assert masks.slot_by_op[0, Do.ACT].tolist() == [False, True]
    told = engine.explain(engine.empty_slots(1), row={"free": torch.ones(1).int()})
    assert told.reason("ACT", "x") == "x is not of kind gpu"
    for kinds, says in (
        (None, "kind 'gpu' names no slot of the engine: ['a']; give the engine kinds of its own: kinds="),
        ({"none": ()}, "kind 'gpu' is missing, which guards need"),
        ({"gpu": ("z",)}, "kind 'gpu' names no slot of the engine: ['z']; the slots are x, y"),
        ({"gpu": (), "tpu": ()}, "there is no kind 'tpu'; guarded has gpu, none"),
        ({"gpu": ("x", "x")}, "kind 'gpu' names a slot twice: x, x"),
    ):
        with pytest.raises(em.SlotStateError) as raised:
            engine_of(Kind("gpu"), slot_ids=("x", "y"), kinds=kinds)
        assert says in str(raised.value)


@pytest.mark.parametrize(
    ("guard", "says"),
    [
        (
            Count((Stage.READY,), of="others", at_least=3),
            "the number of READY elsewhere is at most 2, and 3 are needed",
        ),
        (Count((Stage.READY,), of="all", at_least=4), "the number of READY is at most 3, and 4 are needed"),
        (
            Count((Stage.READY,), of="all", at_least=2, kind="gpu"),
            "the number of READY of kind gpu is at most 1, and 2",
        ),
        (Count((Stage.READY,), of="all", at_least=dict.fromkeys(Stage, 4)), "at most 3, and 4 are needed"),
    ],
)
def test_an_engine_of_too_few_slots_is_refused(guard: Any, says: str) -> None:
    with pytest.raises(em.RulesError, match="rules 'guarded' with 3 slots: op ACT could never be legal") as raised:
        engine_of(guard)
    assert says in str(raised.value)
    wide = em.MaskEngine(guarded(guard), [*"abcd"], kinds={"gpu": ("a", "d"), "none": ()})
    assert len(wide.slot_ids) == 4


def test_an_engine_of_too_few_slots_for_a_second_slot_is_refused() -> None:
    rules = with_target(Count((Stage.READY,), of="others", at_least=3))
    with pytest.raises(em.RulesError, match="head 'target' could never have a choice") as raised:
        em.MaskEngine(rules)
    assert "the number of READY elsewhere is at most 2, and 3 are needed" in str(raised.value)
    assert len(em.MaskEngine(rules, [*"abcd"], kinds={"gpu": (), "none": ()}).slot_ids) == 4
    em.MaskEngine(dataclasses.replace(rules, op_rules=[dataclasses.replace(op, uses=()) for op in rules.op_rules]))


def test_slots_suffice_where_an_op_may_do_without_the_count() -> None:
    four = Count((Stage.READY,), of="all", at_least=4)
    for guard in (
        em.Any(four, Age(at_least=1)),
        Unless("night", four),
        Count((Stage.READY,), of="all", at_least={Stage.READY: 4}),
        Count((Stage.READY,), of="others", at_least=2),
    ):
        assert engine_of(guard).slot_ids == SLOTS


def test_a_choice_of_a_number_beyond_int32_is_refused() -> None:
    rules = guarded()
    node = em.Head("node", ("n0",), by_feature=("restarts", {2**40: ("n0",)}))
    with pytest.raises(em.RulesError, match="choices where restarts is 1099511627776; it is a 32-bit integer"):
        dataclasses.replace(rules, heads=(rules.heads[0], node, rules.heads[1]))


@pytest.mark.parametrize(
    ("never", "runs"),
    [
        ((-1, 0), ((None, -2), (1, None))),
        ((0, 1), ((None, -1), (2, None))),
        ((LEAST, LEAST + 1), ((LEAST + 2, None),)),
        ((MOST,), ((None, MOST - 1),)),
    ],
)
def test_there_is_no_run_between_neighbours(never: tuple[int, ...], runs: Runs) -> None:
    assert Bounds(never=never).runs(int) == runs


@given(st.lists(st.tuples(st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none()), min_size=1, max_size=3))
def test_outside_is_in_none_of_the_runs(runs: list[Any]) -> None:
    kept: Runs = tuple(run for run in runs if run != (None, None)) or ((0, 0),)
    numbers = torch.arange(-12, 13)
    expected = [
        not any((-math.inf if a is None else a) <= n <= (math.inf if b is None else b) for a, b in kept)
        for n in numbers.tolist()
    ]
    assert outside(numbers, kept).tolist() == expected
    assert [bool(outside(n, kept)) for n in numbers.tolist()] == expected


def test_equal_parts_share_a_step() -> None:
    engine = em.MaskEngine(guarded(Row("free", at_least=1), Age(at_least=2)))
    assert [step.clears for step in engine.program.envs] == [(0b110,)]
    assert len(engine.program.slots) == 1


def test_fingerprints_of_guards_stay() -> None:
    """As pinned as those of the rule sets of the package in ``tests/test_held.py``: files hold them."""
    made = guarded(Age(at_least=2), Unless("night", Kind("gpu")))
    assert made.fingerprint == "df41eac05cf031a399da77c917da8873e9bef840866f144a361466d4bb53a2bd"


def test_rows_and_kinds_are_in_the_fingerprint_where_gates_read_them() -> None:
    plain = guarded(slotless=(Count((Stage.READY,), of="all", at_least=1),))
    declared = {"row_features": {}, "kinds": {}}
    assert plain.fingerprint == dataclasses.replace(plain, **declared).fingerprint
    reading: tuple[tuple[Any, dict[str, Any]], ...] = (
        (Row("mode", at_least=1), {"row_features": {"free": int, "mode": int}}),
        (Unless("night", Kind("gpu")), {"kinds": {"gpu": ("b",), "none": ()}}),
        (em.Any(Age(at_least=2), Count((Stage.READY,), of="all", at_least=1, kind="gpu")), {"kinds": {"gpu": ("b",)}}),
    )
    for guard, others in reading:
        rules = guarded(guard)
        assert dataclasses.replace(rules, **others).fingerprint != rules.fingerprint
        spare = dataclasses.replace(
            rules, row_features={**rules.row_features, "spare": int}, kinds={**rules.kinds, "spare": ("a",)}
        )
        assert spare.fingerprint == rules.fingerprint
    on_target = with_target(Kind("gpu"))
    assert dataclasses.replace(on_target, kinds={"gpu": ("b",)}).fingerprint != on_target.fingerprint


def test_guards_are_in_the_fingerprint() -> None:
    with_guards = {
        guarded(guard).fingerprint for guard in (Age(at_least=1), Age(at_least=2), Age(at_most=1), Kind("gpu"))
    }
    assert len(with_guards) == 4
    for name, mode in product(("in_", "not_in"), (Task.BUSY, Task.VERIFY)):
        with_guards.add(guarded(Feature("task", **{name: (mode,)})).fingerprint)
    assert len(with_guards) == 8
