"""Rules are frozen data that compare by value, and bad ones are refused with the reason."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks import reference
from tests.helpers import assert_same_masks, random_states


class Door(IntEnum):
    OPEN = 0
    SHUT = 1
    LOCKED = 2


class Act(IntEnum):
    WAIT = 0
    SHUT = 1
    TURN_KEY = 2


class Key(IntEnum):
    NONE = 0
    BRASS = 1


BASE: dict[str, Any] = {
    "name": "doors",
    "stages": Door,
    "transitions": {Door.OPEN: [Door.SHUT], Door.SHUT: [Door.OPEN, Door.LOCKED], Door.LOCKED: [Door.SHUT]},
    "empty": Door.OPEN,
    "op_rules": [
        em.Op(Act.WAIT, always=True),
        em.Op(Act.SHUT, enters=Door.SHUT, uses=["slot", "force"]),
        em.Op(
            Act.TURN_KEY,
            moves={Door.SHUT: Door.LOCKED, Door.LOCKED: Door.SHUT},
            requires={"key": Key.BRASS},
            uses=["slot"],
        ),
    ],
    "heads": [em.Head("op"), em.Head("slot"), em.Head("force", ("GENTLE", "HARD"))],
    "features": {"key": Key},
    "switches": {"master_key": (False, True)},
    "slot_ids": ["front", "back"],
}


def rules(**changes: Any) -> em.MaskRules:
    return em.MaskRules(**{**BASE, **changes})


def with_op(index: int, **changes: Any) -> em.MaskRules:
    ops = list(BASE["op_rules"])
    ops[index] = dataclasses.replace(ops[index], **changes)
    return rules(op_rules=ops)


def with_force(**changes: Any) -> em.MaskRules:
    head = dataclasses.replace(em.Head("force", ("GENTLE", "HARD")), **changes)
    return rules(heads=[em.Head("op"), em.Head("slot"), head])


class Twice(IntEnum):
    OPEN = 0
    AJAR = 0
    SHUT = 1


class Doubled(IntEnum):
    WAIT = 0
    SHUT = 1
    SLAM = 1


class Gap(IntEnum):
    WAIT = 0
    SHUT = 2


class Far(IntEnum):
    OPEN = 0
    GONE = 255


class Huge(IntEnum):
    NONE = 0
    MANY = 2**40


class NoZero(IntEnum):
    BRASS = 1


MANY = IntEnum("MANY", {f"OP{i}": i for i in range(32)})


def many(count: int) -> em.MaskRules:
    members = list(IntEnum("Ops", {f"OP{i}": i for i in range(count)}))
    ops = [
        em.Op(op, always=True) if i == 0 else em.Op(op, enters=Door.SHUT, uses=("slot",))
        for i, op in enumerate(members)
    ]
    return rules(op_rules=ops, heads=[em.Head("slot"), em.Head("op")])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: rules(stages=("OPEN", "SHUT")), "stages must be an IntEnum class"),
        (lambda: rules(stages=Twice, empty=Twice.OPEN), "OPEN and AJAR share the index 0"),
        (
            lambda: rules(stages=Far, empty=Far.OPEN, transitions={Far.OPEN: (), Far.GONE: ()}),
            r"stage GONE = 255 is outside 0\.\.254",
        ),
        (
            lambda: rules(transitions={Door.OPEN: [Door.SHUT], Door.SHUT: [Door.OPEN, Door.LOCKED]}),
            "stage LOCKED has no entry in transitions",
        ),
        (
            lambda: rules(transitions={**BASE["transitions"], Door.LOCKED: [7]}),
            "transition LOCKED -> 7: 7 is no stage",
        ),
        (
            lambda: rules(transitions={**BASE["transitions"], Door.LOCKED: [Act.SHUT]}),
            "transition LOCKED -> SHUT: SHUT is no stage",
        ),
        (lambda: rules(transitions={**BASE["transitions"], "AJAR": []}), "'AJAR' is no stage"),
        (lambda: rules(empty=3), "empty=3 is no stage; the stages are OPEN, SHUT, LOCKED"),
        (lambda: rules(features={"age": Key}), "feature 'age' needs a name of its own"),
        (lambda: rules(features={"key": NoZero}), "feature 'key' has no value 0, which an empty slot holds"),
        (lambda: rules(switches={"master_key": ()}), "switch 'master_key' has no values"),
        (lambda: rules(slot_ids=("a", "a")), "slot ids repeat"),
        (lambda: rules(op_rules=()), "there are no ops"),
        (
            lambda: rules(op_rules=[em.Op("WAIT", always=True)]),
            "'WAIT': every op must be an Op whose id is a member of an IntEnum",
        ),
        (lambda: rules(op_rules=BASE["op_rules"][:2]), "op TURN_KEY has no rule"),
        (lambda: rules(op_rules=[*BASE["op_rules"], BASE["op_rules"][1]]), "two ops with the index 1: SHUT and SHUT"),
        (
            lambda: rules(op_rules=[em.Op(Doubled.WAIT, always=True), em.Op(Doubled.SHUT, enters=Door.SHUT)]),
            "ops: SHUT and SLAM share the index 1",
        ),
        (
            lambda: rules(op_rules=[em.Op(Gap.WAIT, always=True), em.Op(Gap.SHUT, enters=Door.SHUT)]),
            r"op indices must be 0\.\.1 without gaps, got \[0, 2\]",
        ),
        (
            lambda: rules(op_rules=[*BASE["op_rules"][:2], em.Op(Gap.WAIT, always=True)]),
            "op WAIT is of Gap, the others of Act",
        ),
        (lambda: many(32), "32 ops and 0 sets of blocking stages need 32 bits; a word has 31"),
        (lambda: with_op(0, always=False), "op WAIT can never be legal: it names no stage"),
        (
            lambda: with_op(0, always=False, acts_in=[Door.OPEN]),
            "no op is always legal without a slot, so a row could be left",
        ),
        (lambda: with_op(0, uses=("slot",)), "no op is always legal without a slot"),
        (lambda: with_op(1, min_age="3"), "op SHUT has min_age='3'; wanted a 32-bit integer"),
        (lambda: with_op(1, min_age=1.5), "op SHUT has min_age=1.5"),
        (lambda: with_op(1, min_age=2**31), "op SHUT has min_age=2147483648"),
        (lambda: with_op(1, waived_by="master_key"), "op SHUT has waived_by='master_key' and requires nothing"),
        (
            lambda: rules(
                switches={"master_key": ("off", "on")},
                op_rules=[*BASE["op_rules"][:2], dataclasses.replace(BASE["op_rules"][2], waived_by="master_key")],
            ),
            "op TURN_KEY needs 'master_key' to be a switch of False and True",
        ),
        (
            lambda: rules(switches={"device": (False, True)}),
            "switch 'device' has the name of an argument of the engine",
        ),
        (lambda: rules(features={"key": Huge}), "feature 'key' has a value that is no 32-bit integer"),
        (lambda: rules(op_rules=[Act.WAIT]), "every op must be an Op"),
        (lambda: rules(heads=["slot", *BASE["heads"]]), "'slot' is no Head"),
        (lambda: rules(heads=[*BASE["heads"], em.Head("joint", ("A",))]), "no head can be called 'joint'"),
        (lambda: with_force(legal=("HARD",), closed=("GENTLE",)), "closed .*GENTLE.* is not among the legal choices"),
        (lambda: with_op(0, enters=Door.OPEN), "op WAIT is always legal, so it can have neither stages nor gates"),
        (lambda: with_op(0, min_age=0), "op WAIT is always legal"),
        (lambda: with_op(0, disabled_by="master_key"), "op WAIT is always legal"),
        (lambda: with_op(1, moves={Door.OPEN: Door.SHUT}), "op SHUT has both enters and moves"),
        (lambda: with_op(1, enters=9), "op SHUT names 9, which is no stage"),
        (lambda: with_op(1, acts_in=[Act.WAIT]), "op SHUT names WAIT, which is no stage"),
        (lambda: with_op(1, blocked_by=["OPEN"]), "op SHUT names 'OPEN', which is no stage"),
        (
            lambda: with_op(2, moves={Door.OPEN: Door.LOCKED}),
            "op TURN_KEY moves OPEN -> LOCKED, which transitions do not permit",
        ),
        (lambda: with_op(2, requires={"kye": Key.BRASS}), "op TURN_KEY requires feature 'kye'; the features are: key"),
        (lambda: with_op(2, requires={"key": 7}), "op TURN_KEY can never be legal: key is never 7, only NONE, BRASS"),
        (
            lambda: rules(transitions={Door.OPEN: (), Door.SHUT: [Door.LOCKED], Door.LOCKED: []}),
            "op SHUT can never be legal: no stage moves to SHUT",
        ),
        (
            lambda: with_op(1, blocked_by=[Door.OPEN, Door.LOCKED]),
            "op SHUT can never be legal: every stage it acts in also blocks it",
        ),
        (
            lambda: with_op(2, waived_by="skeleton"),
            "op TURN_KEY names the switch 'skeleton'; the switches are: master_key",
        ),
        (lambda: with_op(2, disabled_by="skeleton"), "names the switch 'skeleton'"),
        (lambda: with_op(1, uses=("slot", "speed")), "op SHUT uses 'speed'; it may use slot, force"),
        (lambda: with_op(1, uses=("op",)), "op SHUT uses 'op'; it may use slot, force"),
        (lambda: rules(heads=[em.Head("slot")]), "there must be one head 'op', found 0"),
        (lambda: rules(heads=[*BASE["heads"], em.Head("slot")]), "there must be one head 'slot', found 2"),
        (lambda: rules(heads=[*BASE["heads"], em.Head("force", ("A",))]), "head names repeat"),
        (lambda: rules(heads=[em.Head("op", ("WAIT",)), *BASE["heads"][1:]]), "head 'op' takes its choices"),
        (lambda: with_force(choices=()), "head 'force' needs choices with distinct names"),
        (lambda: with_force(choices=("A", "A")), "head 'force' needs choices with distinct names"),
        (lambda: with_force(legal=()), "head 'force' is left without a legal action"),
        (lambda: with_force(legal=("SOFT",)), "head 'force' has no choice 'SOFT'; it has GENTLE, HARD"),
        (lambda: with_force(closed=()), "head 'force' is left without a legal action"),
        (lambda: with_force(canonical="SOFT"), "canonical 'SOFT' is no choice of it"),
        (lambda: with_force(by_op={Act.SHUT: ()}), "head 'force' is left without a legal action"),
        (
            lambda: with_force(by_op={Act.TURN_KEY: ("HARD",)}),
            "by_op must name exactly the ops that use the head: SHUT",
        ),
        (lambda: with_force(by_op={Act.SHUT: ("HARD",)}, legal=("HARD",)), "by_op says all"),
        (lambda: with_force(opened_by=(Act.SHUT,)), "opened_by needs closed"),
        (
            lambda: with_force(closed=("GENTLE",), opened_by=(Act.TURN_KEY,)),
            "SHUT uses the head and does not open it; add it to opened_by or use by_op",
        ),
        (lambda: with_force(opened_by=(Door.SHUT,), closed=("GENTLE",)), "head 'force' names the op SHUT; the ops are"),
        (lambda: with_force(switch="master_key"), "a switch and a mapping of its values to choices go together"),
        (lambda: with_force(legal={False: ("HARD",)}), "a switch and a mapping"),
        (lambda: with_force(switch="skeleton", legal={False: ("HARD",)}), "names the switch 'skeleton'"),
        (lambda: with_force(switch="master_key", legal={False: ("HARD",)}), "legal needs one entry for each value"),
        (
            lambda: rules(
                heads=[*BASE["heads"], em.Head("tone", ("LOW", "HIGH"), closed=("LOW",))],
            ),
            "head 'tone': nothing opens it; no op uses it",
        ),
    ],
)
def test_bad_rules(make: Callable[[], em.MaskRules], reason: str) -> None:
    with pytest.raises(em.RulesError, match=reason) as error:
        make()
    assert "rules 'doors'" in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: em.Op(Act.SHUT, enters=Door.SHUT, uses={"slot"}),
        lambda: em.Op(Act.SHUT, enters=Door.SHUT, uses="slot"),
        lambda: em.Op(Act.SHUT, acts_in=Door.SHUT),
        lambda: em.Op(Act.SHUT, moves=[Door.SHUT]),
        lambda: em.Head("force", {"LOW", "HIGH"}),
        lambda: em.Head("force", "AB"),
        lambda: em.Head("force", ("A", "B"), legal={"A"}),
        lambda: em.Head("force", ("A", "B"), by_op={Act.SHUT: {"A"}}),
        lambda: rules(transitions=None),
        lambda: rules(transitions={Door.OPEN: Door.SHUT}),
        lambda: rules(transitions={Door.OPEN: {Door.SHUT}}),
        lambda: rules(slot_ids={"a", "b"}),
        lambda: rules(heads=None),
    ],
)
def test_what_has_no_order_or_no_items_is_refused(make: Callable[[], object]) -> None:
    """Sets once gave another numbering, and another fingerprint, in every process."""
    with pytest.raises(em.RulesError, match=r"must be a sequence such as a tuple, got|must be a mapping, got"):
        make()


def test_good_rules_are_good() -> None:
    doors = rules()
    assert doors.slot_ids == ("front", "back")
    assert doors.relevance == {0: {"op"}, 1: {"op", "slot", "force"}, 2: {"op", "slot"}}
    assert doors.legal_stages(Act.SHUT) == {Door.OPEN, Door.LOCKED}
    assert doors.legal_stages(Act.TURN_KEY) == {Door.SHUT, Door.LOCKED}
    assert len(many(31).ops) == 31


def test_the_widest_word_works() -> None:
    engine = em.MaskEngine(many(31), ["a", "b", "c"])
    states = random_states(engine, 30, stages=range(-1, 4))
    masks = engine(states)
    assert masks.op_words.max() == 2**31 - 1
    assert_same_masks(masks, reference.masks(engine.rules, states, joint=True), states)


def test_rules_compare_by_value_and_do_not_change() -> None:
    for name in em.rulesets():
        original = em.ruleset(name)
        for other in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original), dataclasses.replace(original)):
            assert other == original
            assert hash(other) == hash(original)
            assert other.fingerprint == original.fingerprint
    with pytest.raises(dataclasses.FrozenInstanceError):
        original.name = "other"
    with pytest.raises(TypeError):
        original.transitions[original.empty] = ()
    assert len({em.ruleset(name).fingerprint for name in em.rulesets()}) == 3


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    assert em.ruleset("esper-2025-12").fingerprint.startswith("fa4b04f7a8718193")


@pytest.mark.parametrize(
    "changed",
    [
        lambda: with_op(1, min_age=2),
        lambda: with_op(1, seed_limit=True),
        lambda: with_op(1, uses=("slot",)),
        lambda: with_force(legal=("HARD",)),
        lambda: with_force(canonical="HARD"),
        lambda: rules(transitions={**BASE["transitions"], Door.OPEN: [Door.SHUT, Door.LOCKED]}),
        lambda: rules(empty=Door.SHUT),
    ],
)
def test_whatever_decides_a_mask_is_in_the_fingerprint(changed: Callable[[], em.MaskRules]) -> None:
    assert changed().fingerprint != rules().fingerprint


def test_resolving_switches() -> None:
    keyed = with_op(2, waived_by="master_key")
    assert keyed.resolve().op_rules[2].requires == {"key": Key.BRASS}
    assert keyed.resolve(master_key=True).op_rules[2].requires == {}
    assert keyed.resolve().switches == {}
    assert with_op(2, disabled_by="master_key").resolve(master_key=True).legal_stages(Act.TURN_KEY) == frozenset()


def test_unknown_head() -> None:
    with pytest.raises(em.RulesError, match="doors has no head 'blend'; its heads are op, slot, force"):
        rules().head("blend")


def test_a_head_whose_mask_depends_on_the_op() -> None:
    """A static table per op, a trigger that does not use the head, ops that block one another, heads in any order."""
    table = em.MaskRules(
        **{
            **BASE,
            "op_rules": [
                em.Op(Act.WAIT, always=True),
                em.Op(Act.SHUT, enters=Door.SHUT, min_age=3, blocked_by=[Door.LOCKED], uses=["slot", "force"]),
                em.Op(Act.TURN_KEY, enters=Door.LOCKED, blocked_by=[Door.OPEN], min_age=1, uses=["slot", "force"]),
            ],
            "heads": [
                em.Head("tone", ("LOW", "MID", "HIGH"), closed=("MID",), opened_by=(Act.TURN_KEY,), canonical="HIGH"),
                em.Head("op"),
                em.Head(
                    "force",
                    ("GENTLE", "FIRM", "HARD"),
                    by_op={Act.SHUT: ("GENTLE", "HARD"), Act.TURN_KEY: ("FIRM",)},
                    canonical="FIRM",
                ),
                em.Head("slot"),
            ],
        }
    )
    engine = em.MaskEngine(table, ["a", "b", "c"])
    assert engine.joint_actions.size == 1 + 3 * 2 + 3 * 1
    states = random_states(engine, 400, stages=range(-1, 4))
    masks = engine(states)
    assert_same_masks(masks, reference.masks(table, states, joint=True), states)
    assert torch.equal(masks.count(), masks.joint().sum(-1))
    seen = {tuple(row) for row in masks["force"].tolist()}
    assert seen == {(True, False, True), (False, True, False), (True, True, True)} or seen == {
        (True, False, True),
        (False, True, False),
    }
    assert {tuple(row) for row in masks["tone"].tolist()} == {(True, True, True), (False, True, False)}
    codec = engine.joint_actions
    index = torch.arange(codec.size)
    assert [tuple(a) for a in codec.decode(index).tolist()] == list(reference.joint_actions(table, 3))
    assert torch.equal(codec.encode(codec.decode(index)), index)
