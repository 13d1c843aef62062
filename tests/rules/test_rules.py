"""Rules are frozen data that compare by value, and bad ones are refused with the reason."""

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks import reference
from esper_masks.rules.fingerprint import ALWAYS_IN, fingerprint_of
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


KNOCKS = dataclasses.replace(BASE["op_rules"][2], sets={"knocks": True})
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
            lambda: rules(transitions={**BASE["transitions"], Door.LOCKED: [Act.SHUT]}),
            "transition LOCKED -> SHUT: SHUT is no stage",
        ),
        (lambda: rules(transitions={**BASE["transitions"], Far.GONE: []}), "GONE is no stage"),
        (lambda: rules(empty=Act.WAIT), "empty=WAIT is no stage; the stages are OPEN, SHUT, LOCKED"),
        (lambda: rules(features={"age": Key}), "feature 'age' needs a name of its own"),
        (lambda: rules(features={"key": NoZero}), "feature 'key' has no value 0, which an empty slot holds"),
        (lambda: rules(switches={"master_key": ()}), "switch 'master_key' has no values"),
        (lambda: rules(slot_ids=("a", "a")), "slot ids repeat"),
        (lambda: rules(op_rules=()), "there are no ops"),
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
        (lambda: many(63), "63 ops; a word has bits for 62"),
        (lambda: with_op(0, always=False), "op WAIT names no stage, no head and no guard; what is always legal says"),
        (lambda: with_op(1, enters=None), "op SHUT can never be legal: it names no stage"),
        (
            lambda: with_op(0, always=False, acts_in=[Door.OPEN]),
            "no op is always legal without a slot, so a row could be left",
        ),
        (lambda: with_op(0, uses=("slot",)), "no op is always legal without a slot"),
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
        (lambda: rules(heads=[*BASE["heads"], em.Head("joint", ("A",))]), "no head can be called 'joint'"),
        (lambda: with_force(legal=("HARD",), closed=("GENTLE",)), "closed .*GENTLE.* is not among the legal choices"),
        (lambda: with_op(0, enters=Door.OPEN), "op WAIT is always legal, so it can have neither stages nor gates"),
        (lambda: with_op(0, min_age=0), "op WAIT is always legal"),
        (lambda: with_op(0, max_age=0), "op WAIT is always legal"),
        (lambda: with_op(0, disabled_by="master_key"), "op WAIT is always legal"),
        (
            lambda: with_op(1, min_age=3, max_age=2),
            "op SHUT can never be legal: age would have to be at least 3 and at most 2",
        ),
        (lambda: with_op(1, moves={Door.OPEN: Door.SHUT}), "op SHUT has both enters and moves"),
        (lambda: with_op(1, acts_in=[Act.WAIT]), "op SHUT names WAIT, which is no stage"),
        (lambda: with_op(1, enters=Act.SHUT), "op SHUT names SHUT, which is no stage; the stages are OPEN, SHUT, LOCK"),
        (lambda: with_op(1, blocked_by=[Key.NONE]), "op SHUT names NONE, which is no stage"),
        (
            lambda: with_op(2, acts_in=[Door.SHUT]),
            "op TURN_KEY acts in SHUT without moving, and moves SHUT -> LOCKED; take one of the two away",
        ),
        (
            lambda: with_op(1, acts_in=[Door.LOCKED]),
            "op SHUT acts in LOCKED without moving, and moves LOCKED -> SHUT; take one of the two away",
        ),
        (lambda: with_op(1, sets={"kye": Key.BRASS}), "op SHUT sets 'kye'; the features are: key$"),
        (lambda: with_op(1, sets={"stage": Door.SHUT}), "op SHUT sets 'stage'; the features are: key; moves changes"),
        (
            lambda: with_op(1, sets={"age": 0}),
            "op SHUT sets 'age'; the features are: key; the age is kept, and 0 in a slot that was empty",
        ),
        (lambda: with_op(1, sets={"key": 1}), "op SHUT sets 'key' to 1, which it never is; it is NONE or BRASS"),
        (lambda: with_op(1, sets={"key": Door.SHUT}), "op SHUT sets 'key' to SHUT, which it never is; it is NONE or"),
        (
            lambda: rules(features={"key": Key, "knocks": int}, op_rules=[*BASE["op_rules"][:2], KNOCKS]),
            "op TURN_KEY sets 'knocks' to True, which it never is; it is a 32-bit integer",
        ),
        (lambda: with_op(0, sets={"key": Key.BRASS}), "op WAIT sets 'key', and uses no slot; add 'slot' to uses"),
        (lambda: with_op(1, sets={"key": Key.BRASS}, uses=("force",)), "op SHUT sets 'key', and uses no slot"),
        (
            lambda: with_op(2, moves={Door.SHUT: Door.OPEN}, sets={"key": Key.BRASS}),
            "op TURN_KEY sets 'key', and leaves its slot OPEN, where all is 0; take it from sets",
        ),
        (
            lambda: with_op(2, moves={}, acts_in=[Door.OPEN], sets={"key": Key.BRASS}),
            "op TURN_KEY sets 'key', and leaves its slot OPEN, where all is 0",
        ),
        (
            lambda: with_op(2, moves={Door.OPEN: Door.LOCKED}),
            "op TURN_KEY moves OPEN -> LOCKED, which transitions do not permit",
        ),
        (lambda: with_op(2, requires={"kye": Key.BRASS}), "op TURN_KEY requires feature 'kye'; the features are: key"),
        (
            lambda: with_op(2, requires={"key": Door.SHUT}),
            "op TURN_KEY can never be legal: key is never SHUT, only NONE, BRASS",
        ),
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
        (
            lambda: with_force(by_op={Act.SHUT: ("HARD",)}, opened_by=(Act.SHUT,), closed=("GENTLE",)),
            "by_op says under which ops it is open",
        ),
        (lambda: with_force(by_op={Act.SHUT: ("HARD",)}, legal=("GENTLE",)), "left without a legal action under SHUT"),
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


VALUES: dict[str, Any] = {
    "nothing": None,
    "flag": True,
    "int": 3,
    "int beyond 32 bits": 2**31,
    "float": 2.5,
    "text": "gpus",
    "no": "no",
    "bytes": b"no",
    "object": object(),
    "member": Door.OPEN,
    "enum": Door,
    "enum without members": IntEnum,
    "set of names": {"gpus"},
    "names": ["GENTLE", "HARD"],
    "names and a number": ("GENTLE", 3),
    "numbers": (1, 2),
    "members": [Door.OPEN],
    "no items": (),
    "ops": (em.Op(Act.WAIT, always=True),),
    "heads": (em.Head("op"),),
    "no keys": {},
    "number of a member": {Door.OPEN: 2},
    "member of a member": {Door.OPEN: Door.SHUT},
    "members of a member": {Door.OPEN: [Door.SHUT]},
    "names of a member": {Door.OPEN: ["HARD"]},
    "set of names of a member": {Door.OPEN: {"HARD"}},
    "text of a member": {Door.OPEN: "HARD"},
    "member of a name": {"key": Key.BRASS},
    "enum of a name": {"key": Key},
    "enum of a number": {3: Key},
    "flags of a name": {"key": (False, True)},
    "lists of a name": {"key": ([],)},
}
FLAG, NAME, MEMBER = {"flag"}, {"text", "no"}, {"member"}
EMPTY = {"no items", "enum without members"}
NAMES, MEMBERS = {"names"} | EMPTY, {"members", "enum"} | EMPTY
TAKES: dict[type, dict[str, set[str]]] = {  # which of those each field takes
    em.Op: {
        "id": MEMBER,
        "always": FLAG,
        "enters": MEMBER | {"nothing"},
        "moves": {"member of a member", "no keys"},
        "acts_in": MEMBERS,
        "min_age": {"int", "nothing"},
        "max_age": {"int", "nothing"},
        "requires": {"member of a name", "no keys"},
        "waived_by": NAME | {"nothing"},
        "disabled_by": NAME | {"nothing"},
        "disabled": FLAG,
        "seed_limit": FLAG,
        "blocked_by": MEMBERS,
        "uses": NAMES,
        "when": EMPTY,
        "sets": {"member of a name", "enum of a name", "flags of a name", "no keys"},
    },
    em.Head: {
        "name": NAME,
        "choices": NAMES,
        "legal": NAMES | {"nothing", "names of a member", "no keys"},
        "switch": NAME | {"nothing"},
        "closed": NAMES | {"nothing"},
        "opened_by": MEMBERS,
        "by_op": {"names of a member", "no keys"},
        "canonical": NAME | {"nothing"},
        "by_stage": {"names of a member", "no keys"},
        "by_feature": EMPTY,
    },
    em.MaskRules: {
        "name": NAME,
        "stages": {"enum"},
        "transitions": {"members of a member", "no keys"},
        "empty": MEMBER,
        "op_rules": {"ops"} | EMPTY,
        "heads": {"heads"} | EMPTY,
        "features": {"enum of a name", "no keys"},
        "switches": {"flags of a name", "enum of a name", "no keys"},
        "slot_ids": NAMES,
        "row_features": {"enum of a name", "no keys"},
        "kinds": {"no keys"},
    },
}
PARTS: dict[type, tuple[str, dict[str, Any]]] = {
    em.Op: ("op SHUT", {"id": Act.SHUT}),
    em.Head: ("head 'force'", {"name": "force"}),
    em.MaskRules: ("rules 'doors'", BASE),
}


@pytest.mark.parametrize("part", TAKES, ids=lambda part: part.__name__)
def test_every_field_of_every_part_takes_its_own_type_alone(part: type) -> None:
    """A wrongly typed field once made other rules in silence: `disabled="no"` disabled the op."""
    assert list(TAKES[part]) == [field.name for field in dataclasses.fields(part)]
    where, others = PARTS[part]
    for field, taken in TAKES[part].items():
        assert taken <= VALUES.keys()
        for kind, value in VALUES.items():
            message = None
            try:
                part(**{**others, field: value})
            except em.RulesError as error:
                message = str(error)
            place = where if field not in ("id", "name") else where.split()[0]
            refused = message is not None and re.match(rf"{place}.*: {field}.* must be .+, got .+", message)
            assert bool(refused) == (kind not in taken), f"{field}={value!r}: {message}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: em.Op(Act.SHUT, disabled="no"), "op SHUT: disabled must be True or False, got 'no'"),
        (lambda: em.Op(Act.SHUT, seed_limit="gpus"), "op SHUT: seed_limit must be True or False, got 'gpus'"),
        (
            lambda: em.Op(Act.SHUT, blocked_by={Door.OPEN: 2}),
            "op SHUT: blocked_by must be a sequence such as a tuple, got {<Door.OPEN: 0>: 2}",
        ),
        (lambda: em.Op("WAIT"), "op 'WAIT': id must be a member of an IntEnum, got 'WAIT'"),
        (lambda: em.Op(Act.SHUT, min_age=2**31), "op SHUT: min_age must be a 32-bit integer, got 2147483648"),
        (lambda: em.Op(Act.SHUT, uses="slot"), "op SHUT: uses must be a sequence such as a tuple, got 'slot'"),
        (lambda: em.Op(Act.SHUT, uses=["slot", 3]), "op SHUT: uses[1] must be a string, got 3"),
        (
            lambda: em.Op(Act.SHUT, requires={"key": 1}),
            "op SHUT: requires['key'] must be a member of an IntEnum, got 1",
        ),
        (lambda: em.Op(Act.SHUT, waived_by=Door.OPEN), "op SHUT: waived_by must be a string, got Door.OPEN"),
        (
            lambda: em.Head("force", ("A", "B"), by_op={Act.SHUT: {"A"}}),
            "head 'force': by_op[SHUT] must be a sequence such as a tuple, got {'A'}",
        ),
        (
            lambda: em.Head("force", ("A", "B"), by_op={"SHUT": ["A"]}),
            "head 'force': by_op, a key, must be a member of an IntEnum, got 'SHUT'",
        ),
        (lambda: rules(stages=("OPEN",)), "rules 'doors': stages must be an IntEnum class with members, got ('OPEN',)"),
        (lambda: rules(heads=["slot"]), "rules 'doors': heads[0] must be a Head, got 'slot'"),
        (lambda: rules(op_rules=[Act.WAIT]), "rules 'doors': op_rules[0] must be an Op, got Act.WAIT"),
        (
            lambda: rules(transitions={Door.OPEN: [7]}),
            "rules 'doors': transitions[OPEN][0] must be a member of an IntEnum, got 7",
        ),
        (lambda: rules(switches={"a": ([],)}), "rules 'doors': switches['a'][0] must be hashable, got []"),
    ],
)
def test_a_field_of_another_type_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(em.RulesError, match=f"^{re.escape(message)}$"):
        make()


def test_rules_are_frozen_whatever_the_caller_does_with_its_lists() -> None:
    """Sets are refused: they once gave another numbering, and another fingerprint, in every process."""
    targets, uses = [Door.SHUT], ["slot", "force"]
    doors = rules(
        transitions={**BASE["transitions"], Door.OPEN: targets},
        op_rules=[BASE["op_rules"][0], em.Op(Act.SHUT, enters=Door.SHUT, uses=uses), BASE["op_rules"][2]],
    )
    targets.append(Door.LOCKED)
    uses.pop()
    assert doors == rules()


def test_what_an_op_sets() -> None:
    """In the fingerprint where it says something; an op may empty the slot from some of its stages."""
    assert with_op(1, sets={}).fingerprint == rules().fingerprint
    made = [with_op(1, sets={"key": key}) for key in Key]
    assert len({rules().fingerprint, *(one.fingerprint for one in made)}) == 3
    assert made[1].op_rules[1].sets == {"key": Key.BRASS}
    assert pickle.loads(pickle.dumps(made[1])) == made[1]
    moves = {Door.SHUT: Door.OPEN, Door.LOCKED: Door.SHUT}
    with_op(2, moves=moves, sets={"key": Key.BRASS})
    always = dataclasses.replace(BASE["op_rules"][2], always=True, moves={}, requires={}, sets={"key": Key.NONE})
    rules(op_rules=[*BASE["op_rules"][:2], always])
    closed = with_op(1, disabled_by="master_key", sets={"key": Key.BRASS}).resolve(master_key=True)
    assert closed.op_rules[1].sets == {"key": Key.BRASS}  # it may be legal under another setting
    assert closed.edges(Act.SHUT) == {}


def test_edges_are_those_of_enters_and_moves() -> None:
    assert rules().edges(Act.WAIT) == {}
    assert rules().edges(Act.SHUT) == {Door.OPEN: Door.SHUT, Door.LOCKED: Door.SHUT}
    assert rules().edges(Act.TURN_KEY) == {Door.SHUT: Door.LOCKED, Door.LOCKED: Door.SHUT}
    narrow = with_op(1, when=(em.Feature("stage", in_=(Door.OPEN,)),))
    assert narrow.edges(Act.SHUT) == {Door.OPEN: Door.SHUT}
    stays = with_op(1, acts_in=[Door.SHUT])
    assert stays.edges(Act.SHUT) == rules().edges(Act.SHUT)
    assert stays.legal_stages(Act.SHUT) == set(Door)
    assert with_op(2, moves={Door.SHUT: Door.LOCKED}, acts_in=[Door.OPEN]).edges(2) == {Door.SHUT: Door.LOCKED}


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


class TaggedRules(em.MaskRules):
    """Rules with an attribute that is no field."""

    tag: str


def test_copies_have_what_a_user_adds_and_not_what_is_derived() -> None:
    tagged = TaggedRules(**BASE)
    object.__setattr__(tagged, "tag", "mine")  # the class is frozen
    assert len(tagged.gates) == len(tagged.ops)
    for other in (pickle.loads(pickle.dumps(tagged)), copy.deepcopy(tagged)):
        assert vars(other).keys() == {"tag", *(field.name for field in dataclasses.fields(em.MaskRules))}
        assert (other, other.tag) == (tagged, "mine")


@pytest.mark.parametrize(
    "changed",
    [
        lambda: with_op(1, min_age=2),
        lambda: with_op(1, max_age=2),
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


def test_a_field_that_came_later_is_left_out_at_its_default() -> None:
    plain = em.Op(Act.SHUT, enters=Door.SHUT)
    assert "max_age" not in ALWAYS_IN["Op"]
    assert fingerprint_of(plain) == "295ab6d71e0ce64d97eeaade603ba781f40ae37d12ac25509f55cdef9e200e61"
    assert fingerprint_of(dataclasses.replace(plain, max_age=3)) != fingerprint_of(plain)
    later = {field.name for part in (em.MaskRules, em.Op, em.Head) for field in dataclasses.fields(part)}
    later -= {name for names in ALWAYS_IN.values() for name in names.split()}
    for part in (em.MaskRules, em.Op, em.Head):  # parts that were pickled before the field read it from the class
        assert all(hasattr(part, field.name) for field in dataclasses.fields(part) if field.name in later)


@dataclasses.dataclass(frozen=True)
class Note:
    text: str = ""


@dataclasses.dataclass(frozen=True)
class NotedOp(em.Op):
    note: str = ""


def test_what_users_add_is_in_the_fingerprint_as_in_0_1_0() -> None:
    """Values of switches as they print, and all fields of a class that is derived from a part."""
    with_note = rules(switches={"note": [Note()]})
    assert with_note.fingerprint == "c2032839bfa263cbac8d6e51d1ef63dc264bac60d5b5a9fb3017f1498aa0ac35"
    assert rules(switches={"note": [Note("other")]}).fingerprint != with_note.fingerprint
    derived = rules(op_rules=[BASE["op_rules"][0], NotedOp(Act.SHUT, enters=Door.SHUT), BASE["op_rules"][2]])
    assert derived.fingerprint == "5e6b4f27aa82117463bf5ba001d74fbb57654434468e23e9dd050b9d36d35f8d"


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
