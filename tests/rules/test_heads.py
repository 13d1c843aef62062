"""Heads that depend on the slot, and second slots: the truth of each by hand, and wrong ones are named."""

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import pytest

import esper_masks as em
from esper_masks import reference
from esper_masks.reference.explain import explain
from esper_masks.rules.parts import SlotTable
from tests.rules.heads import BASE, NODES, RULES, Do, Pod, Size


def rules(**changes: Any) -> em.MaskRules:
    return em.MaskRules(**{**BASE, **changes})


def with_head(name: str, **changes: Any) -> em.MaskRules:
    heads = [dataclasses.replace(head, **changes) if head.name == name else head for head in BASE["heads"]]
    return rules(heads=heads)


# what x, y and z hold as stage, age and size; what else is given; op, slot, choices; the reason
P, R, Y, A = Pod.PENDING, Pod.RUNNING, Pod.READY, Pod.ABSENT
RUNS, GONE = "stage RUNNING, needs PENDING or READY", "stage ABSENT, needs PENDING or READY"
TRUTH: list[tuple[list[tuple[int, int, int]], dict[str, Any], tuple[Any, ...], str | None]] = [
    ([(P, 0, 0)], {}, ("BIND", "x"), None),
    ([(P, 0, 0)], {}, ("BIND", "x", {"node": "n0"}), None),
    ([(P, 0, 1)], {}, ("BIND", "x"), None),
    ([(P, 0, 1)], {}, ("BIND", "x", {"node": "n0"}), "node n0: size LARGE has n1, n2"),
    ([(P, 0, 2)], {}, ("BIND", "x"), "no choice of node: size GPU has none"),
    ([(P, 0, 7)], {}, ("BIND", "x"), "no choice of node: size 7 has none"),
    ([(R, 0, 2)], {}, ("BIND", "x"), "stage RUNNING, needs PENDING"),
    ([(P, 0, 0)], {}, ("BIND", "x", {"zone": "A"}), None),
    ([(R, 0, 0)], {}, ("RAISE", "x", {"zone": "A"}), "zone A: stage RUNNING has B"),
    ([(R, 0, 0)], {}, ("RAISE", "x", {"zone": "B", "level": "HIGH"}), None),
    ([(R, 0, 0)], {}, ("RAISE", "x", {"level": "LOW", "zone": "A"}), "zone A: stage RUNNING has B"),  # in uses order
    ([(R, 0, 0)], {}, ("RAISE", "x", {"level": "LOW"}), "level LOW: the head has HIGH"),
    ([(R, 1, 0), (P, 0, 0)], {}, ("SWAP", "x"), None),
    ([(R, 0, 0), (P, 0, 0)], {}, ("SWAP", "x"), "age 0 < 1"),
    ([(R, 1, 0)], {}, ("SWAP", "x"), f"no choice of victim: x: {RUNS}; y, z: {GONE}"),
    ([(R, 1, 0), (R, 0, 0)], {}, ("SWAP", "x", {"victim": "y"}), f"no choice of victim: x, y: {RUNS}; z: {GONE}"),
    ([(R, 1, 0), (P, 0, 0), (P, 0, 0)], {}, ("SWAP", "x", {"victim": "z"}), "victim z: z is not of kind web"),
    ([(R, 1, 0), (P, 0, 0)], {}, ("SWAP", "x", {"victim": "z"}), "victim z: stage ABSENT, needs PENDING or READY"),
    ([(Y, 1, 0), (P, 0, 0)], {}, ("SWAP", "x", {"victim": "x"}), "victim x: another slot than x is needed"),
    ([(Y, 1, 0), (Y, 1, 0)], {}, ("SWAP", "x", {"victim": "y"}), None),  # one READY beside the target
    (
        [(Y, 1, 0), (Y, 1, 0), (Y, 1, 0)],
        {},
        ("SWAP", "x"),
        "no choice of victim: x, y: 2 READY elsewhere, needs at most 1; z: z is not of kind web",
    ),
    (
        [(R, 1, 0), (P, 0, 0)],
        {"enabled": [True, False, True]},
        ("SWAP", "x"),
        f"no choice of victim: x: {RUNS}; y: the slot is not enabled; z: {GONE}",
    ),
    ([(P, 0, 0)], {"enabled": [False, True, True]}, ("BIND", "x"), "the slot is not enabled"),
    ([], {}, ("CORDON", "x"), None),
    ([], {"row": {"cordonable": 0}}, ("CORDON", "y"), "cordonable 0, needs at least 1"),
    ([(P, 0, 0)], {"head_masks": {"node": [False, True, True]}}, ("BIND", "x"), None),
    (
        [(P, 0, 0)],
        {"head_masks": {"node": [False, True, True]}},
        ("BIND", "x", {"node": "n0"}),
        "node n0: masked by the caller",
    ),
    (
        [(P, 0, 1)],
        {"head_masks": {"node": [True, False, False]}},
        ("BIND", "x"),
        "no choice of node is left by head_masks",
    ),
    (
        [(P, 0, 1)],
        {"head_masks": {"node": [[True, False, False], [True] * 3, [True] * 3]}},
        ("BIND", "x"),
        "no choice of node is left by head_masks",
    ),
    ([(P, 0, 1)], {"head_masks": {"node": [[True] * 3, [False] * 3, [False] * 3]}}, ("BIND", "x"), None),
    ([], {"head_masks": {"cordon": [False] * 3}}, ("CORDON", "x"), "no choice of cordon is left by head_masks"),
    ([], {"head_masks": {"cordon": [False, False, True]}}, ("CORDON", "x"), None),
    (
        [(P, 0, 2)],
        {"head_masks": {"node": [False] * 3}},
        ("BIND", "x"),
        "no choice of node: size GPU has none",
    ),  # the rules come first
    (
        [(R, 1, 0), (P, 0, 0)],
        {"head_masks": {"victim": [True, False, True]}},
        ("SWAP", "x"),
        "no choice of victim is left by head_masks",
    ),
    ([(P, 0, 0)], {"restrict": {"slot": [False, True, True]}}, ("BIND", "x"), "restricted by the caller: slot"),
    ([(R, 1, 0), (P, 0, 0)], {"restrict": {"slot": [True, False, True]}}, ("SWAP", "x"), None),  # the first slot only
    ([(P, 0, 0)], {"restrict": {"op": [True, False, True, True, True]}}, ("BIND", "x"), "restricted by the caller: op"),
    (
        [(P, 0, 0)],
        {"restrict": {"slot_by_op": [[True] * 3, [False, True, True], *[[True] * 3] * 3]}},
        ("BIND", "x"),
        "restricted by the caller: slot_by_op",
    ),
    ([], {"restrict": {"slot_by_op": [[False] * 3] * 5}}, ("CORDON", "x"), None),  # it uses no slot
    ([(P, 0, 0)], {"restrict": {"node": [False] * 3}}, ("BIND", "x"), "restricted by the caller: node"),
    (
        [(P, 0, 1)],
        {"head_masks": {"node": [True, True, False]}, "restrict": {"node_by_slot": [[True, False, True]] * 3}},
        ("BIND", "x"),
        "restricted by the caller: node_by_slot",
    ),
    (
        [(P, 0, 0)],
        {"restrict": {"node_by_slot": [[True, False, True]] * 3}},
        ("BIND", "x", {"node": "n1"}),
        "node n1: restricted by the caller: node_by_slot",
    ),
    ([(P, 0, 0)], {"restrict": {"level": [False] * 2}}, ("BIND", "x"), None),  # it does not use the head
    (  # each leaves a choice, and only both none: the second in order is named
        [(P, 0, 0)],
        {"restrict": {"node": [False, False, True], "node_by_slot": [[True, True, False]] * 3}},
        ("BIND", "x"),
        "restricted by the caller: node_by_slot",
    ),
    (
        [(P, 0, 0)],
        {"restrict": {"node_by_slot": [[True, True, False]] * 3, "node": [False, False, True]}},
        ("BIND", "x"),
        "restricted by the caller: node",
    ),
    (
        [(P, 0, 0)],
        {"restrict": {"node_by_slot": [[False, True, True]] * 3, "node": [False, True, True]}},
        ("BIND", "x", {"node": "n0"}),
        "node n0: restricted by the caller: node_by_slot",
    ),
]


@pytest.mark.parametrize(("slots", "given", "asked", "reason"), TRUTH)
def test_the_truth_of_heads(
    slots: list[tuple[int, int, int]], given: dict[str, Any], asked: tuple[Any, ...], reason: str | None
) -> None:
    held = [*slots, *[(A, 0, 0)] * (3 - len(slots))]
    given = {"row": {"cordonable": 1}, **given}
    op, slot, choices = (*asked, {})[:3]
    told = explain(RULES, held, RULES.slot_ids, **given)
    assert told.reason(op, slot, **choices) == reason
    at = RULES.slot_ids.index(slot)
    if not choices:
        forbidden = reference.forbids(RULES, RULES.op_rules[Do[op]], held, at, slot_ids=RULES.slot_ids, **given)
        assert forbidden == reason


def test_tables_that_have_no_choice_in_common_are_named() -> None:
    made = with_head("zone", by_feature=("size", {Size.PLAIN: ("A", "B"), Size.LARGE: ("A",)}))
    given: dict[str, Any] = {"row": {"cordonable": 1}}
    told = explain(made, [(R, 0, 1), (R, 0, 0), (A, 0, 0)], made.slot_ids, **given)
    assert told.reason("RAISE", "x") == "no choice of zone: stage RUNNING has B; size LARGE has A"
    assert told.reason("RAISE", "y") is None


def test_the_rules_of_every_head_come_before_the_masks_of_any() -> None:
    bind = dataclasses.replace(RULES.op_rules[Do.BIND], uses=("slot", "zone", "node"))
    made = rules(op_rules=(RULES.op_rules[0], bind, *RULES.op_rules[2:]))
    for size, says in ((2, "no choice of node: size GPU has none"), (0, "no choice of zone is left by head_masks")):
        given = {"row": {"cordonable": 1}, "head_masks": {"zone": [False, False]}}
        told = explain(made, [(P, 0, size), (A, 0, 0), (A, 0, 0)], made.slot_ids, **given)
        assert told.reason("BIND", "x") == says


def situation(*slots: tuple[int, int, int], **given: Any) -> dict[str, Any]:
    held = [*slots, *[(A, 0, 0)] * (3 - len(slots))]
    return reference.Situation(RULES, held, row={"cordonable": 1}, **given).masks()


def test_masks_of_heads() -> None:
    masks = situation((P, 0, 1), (P, 0, 0))
    assert masks["node_by_slot"] == [[False, True, True], [True] * 3, [True] * 3]
    assert masks["node"] == [True, True, True]  # of the pods that may be bound
    assert masks["zone"] == [True, True]
    assert masks["zone_by_slot"] == [[True, True], [True, True], [False, False]]
    assert masks["level"] == [False, True]
    assert masks["victim"] == [True, False, False]  # no op has one: the canonical choice, the first slot
    assert masks["victim_by_slot"] == [[False, True, False], [True, False, False], [True, True, False]]
    assert masks["op"] == [True, True, False, True, True]
    nothing = situation()
    assert nothing["node"] == [False, False, True]  # its canonical choice
    assert nothing["node_by_slot"] == [[True] * 3] * 3  # of an empty pod, whose size is PLAIN
    assert nothing["zone_by_slot"] == [[False, False]] * 3
    masks = situation((P, 0, 0), head_masks={"level": [[True, False]] * 3})
    assert masks["level"] == [True, False]  # LOW is masked by the rules, HIGH by the caller: the canonical choice
    assert masks["level_by_slot"] == [[False, False]] * 3
    assert masks["op"] == [True, True, False, False, True]
    masks = situation((P, 0, 0), restrict={"slot": [False, True, True], "cordon": [False, True, False]})
    assert masks["slot"] == [False, True, True]
    assert masks["cordon"] == [False, True, False]
    assert "cordon_by_slot" not in masks


def test_a_second_slot_that_may_be_the_first_is_the_same_from_everywhere() -> None:
    same = with_head("victim", distinct=False)
    masks = reference.Situation(same, [(Y, 1, 0), (P, 0, 0), (A, 0, 0)], row={"cordonable": 1}).masks()
    assert "victim_by_slot" not in masks
    assert masks["victim"] == [True, True, False]
    none = reference.Situation(same, [(R, 1, 0), (R, 0, 0), (A, 0, 0)], row={"cordonable": 1}).masks()
    assert none["victim"] == [True, False, False]  # none: the canonical one
    assert none["op"] == [True, False, False, True, True]


def test_whole_actions_have_numbers_whatever_the_state() -> None:
    actions = list(reference.joint_actions(RULES, 3))
    # WAIT, 3 slots of BIND with 3 nodes and 2 zones, SWAP with 3 victims, RAISE with 2 zones and 1 level, CORDON
    assert len(actions) == 1 + 3 * 3 * 2 + 3 * 3 + 3 * 2 * 1 + 3
    masks = situation((P, 0, 1), (Y, 1, 0))
    legal = [action for action, on in zip(actions, reference.joint_mask(RULES, masks, 3)) if on]
    names = RULES.head_names
    said = [dict(zip(names, action)) for action in legal]
    assert {(a["slot"], a["node"], a["zone"]) for a in said if a["op"] == Do.BIND} == {
        (0, node, zone) for node in (1, 2) for zone in (0, 1)
    }
    assert [(a["slot"], a["victim"]) for a in said if a["op"] == Do.SWAP] == [(1, 0)]


def test_what_an_explanation_does_not_know_is_an_error() -> None:
    told = explain(RULES, [(P, 0, 0)] * 3, RULES.slot_ids, row={"cordonable": 1})
    for names, says in (
        ({"op": "BIN", "slot": "x"}, "'BIN' is none of WAIT, BIND"),
        ({"op": "BIND", "slot": "w"}, "'w' is none of x, y, z"),
        ({"op": "BIND", "slot": "x", "cordon": "n0"}, "BIND uses no head 'cordon'; it uses node, zone"),
        ({"op": "BIND", "slot": "x", "node": "n9"}, "'n9' is none of n0, n1, n2"),
    ):
        with pytest.raises(KeyError, match=says):
            told.reason(**names)
    again = pickle.loads(pickle.dumps(told))
    assert again == told
    assert again.reason("BIND", "x", node="n0") is None


def test_tables_of_heads() -> None:
    node, zone = RULES.head("node"), RULES.head("zone")
    assert node.slot_tables == (SlotTable("size", {0: (0, 1, 2), 1: (1, 2), 2: ()}),)
    assert zone.slot_tables == (SlotTable("stage", {1: (0, 1), 2: (1,)}),)
    pairs = dataclasses.replace(node, by_feature=[("size", {Size.GPU: ["n1"]}), ("size", {Size.GPU: ["n0", "n1"]})])
    assert [table.choices for table in pairs.slot_tables] == [{2: (1,)}, {2: (0, 1)}]
    assert [head.name for head in RULES.heads if head.by_slot] == ["node", "zone", "victim"]
    assert [head.name for head in with_head("victim", distinct=False).heads if head.dynamic] == [
        "node",
        "zone",
        "victim",
    ]
    assert not with_head("victim", distinct=False).head("victim").by_slot
    assert RULES.target_scopes["victim"].legal == {Pod.PENDING, Pod.READY}


WRONG: list[tuple[Callable[[], object], str]] = [
    (
        lambda: with_head("node", by_feature=("colour", {1: NODES})),
        "head 'node': by_feature names 'colour'; the features are: size",
    ),
    (
        lambda: with_head("node", by_feature=("stage", {Pod.READY: NODES})),
        "the features are: size; by_stage is for stages",
    ),
    (
        lambda: with_head("node", by_feature=("size", {Pod.READY: NODES})),
        "by_feature has choices where size is READY; it is PLAIN, LARGE or GPU",
    ),
    (
        lambda: with_head("node", by_feature=("size", {Size.GPU: ("n9",)})),
        "head 'node' has no choice 'n9'; it has n0, n1, n2",
    ),
    (
        lambda: with_head("node", by_feature=("size", {Size.GPU: ()})),
        "op BIND can never be legal: no slot leaves it a choice of 'node'",
    ),
    (lambda: with_head("node", closed=("n0",)), "head 'node': closed and opened_by are of the whole environment"),
    (lambda: with_head("node", by_feature=3), "head 'node': by_feature must be a sequence such as a tuple, got 3"),
    (lambda: with_head("node", by_feature=("size",)), "by_feature[0] must be a tuple of 2, got ('size',)"),
    (
        lambda: with_head("zone", by_stage={Pod.PENDING: ("A",)}),
        "op RAISE may be legal in RUNNING, where by_stage of the head 'zone' has no choices; add them, give RUNNING an "
        "empty tuple to close the op there, or take the stage from the op",
    ),
    (lambda: with_head("zone", by_stage={Pod.PENDING: ("C",), Pod.RUNNING: ()}), "head 'zone' has no choice 'C'"),
    (lambda: with_head("zone", by_stage={Size.GPU: ("A",)}), "head 'zone': by_stage names GPU, which is no stage"),
    (
        lambda: with_head("zone", by_stage={Pod.PENDING: (), Pod.RUNNING: ("B",)}),
        "op BIND can never be legal: no slot leaves it a choice of 'zone'",
    ),
    (
        lambda: with_head("zone", by_op={Do.BIND: ("A",), Do.RAISE: ("A",)}, legal=("B",)),
        "head 'zone' is left without a legal action under BIND",
    ),
    (lambda: with_head("level", opened_by=(Do.RAISE,), closed=("HIGH",)), "by_op says under which ops it is open"),
    (lambda: with_head("victim", when=(em.Kind("db"),)), "head 'victim' wants the kind 'db'; the kinds are: web"),
    (
        lambda: with_head("victim", when=(em.Feature("stage", in_=(Pod.RUNNING,)),)),
        "head 'victim': no slot can ever be its choice",
    ),
    (
        lambda: with_head("victim", when=(em.Age(at_least=3), em.Age(at_most=2))),
        "head 'victim' can never be legal: age would have to be at least 3",
    ),
    (
        lambda: with_head("victim", moves={Pod.ABSENT: Pod.READY}),
        "head 'victim' moves ABSENT -> READY, which transitions do not permit",
    ),
    (lambda: with_head("victim", moves={Size.GPU: Pod.READY}), "head 'victim' names GPU, which is no stage"),
    (lambda: with_head("victim", sets={"colour": 1}), "head 'victim' sets 'colour'; the features are: size"),
    (
        lambda: with_head("victim", sets={"size": 1}),
        "head 'victim' sets 'size' to 1, which it never is; it is PLAIN, LARGE or GPU",
    ),
    (lambda: with_head("victim", sets={"age": 1}), "head 'victim' sets 'age'; the features are: size; the age is kept"),
    (
        lambda: with_head("victim", moves={Pod.READY: Pod.ABSENT}, sets={"size": Size.GPU}),
        "head 'victim' sets 'size', and leaves its slot ABSENT, where all is 0; take it from sets",
    ),
    (lambda: rules(heads=(*BASE["heads"][1:], em.SlotHead("slot"))), "head 'slot': that is the name of the first slot"),
    (lambda: rules(heads=(*BASE["heads"], em.Head("node_by_slot", ("A",)))), "no head can be called 'node_by_slot'"),
    (
        lambda: rules(op_rules=(*BASE["op_rules"][:4], em.Op(Do.CORDON, acts_in=(Pod.READY,), uses=("victim",)))),
        "op CORDON uses 'victim', whose choices depend on the slots, so it must use 'slot' as well",
    ),
    (lambda: em.SlotHead("victim", distinct=1), "head 'victim': distinct must be True or False, got 1"),
    (lambda: em.SlotHead("victim", when=(3,)), "head 'victim': when[0] must be a Guard, got 3"),
]


@pytest.mark.parametrize(("make", "says"), WRONG)
def test_a_wrong_head_is_named(make: Callable[[], object], says: str) -> None:
    with pytest.raises(em.RulesError) as raised:
        make()
    assert says in str(raised.value)


def test_two_slots_that_change_must_be_two() -> None:
    move = em.Op(Do.SWAP, moves={Pod.READY: Pod.RUNNING}, uses=("slot", "victim"))
    ops = (*BASE["op_rules"][:2], move, *BASE["op_rules"][3:])
    rules(op_rules=ops)  # distinct
    heads = [dataclasses.replace(head, distinct=False) if head.name == "victim" else head for head in BASE["heads"]]
    with pytest.raises(
        em.RulesError, match="op SWAP moves its slot, and the head 'victim' moves or sets a slot that may"
    ):
        rules(op_rules=ops, heads=heads)
    elsewhere = dataclasses.replace(move, moves={Pod.RUNNING: Pod.READY})  # victims are never RUNNING
    rules(op_rules=(*ops[:2], elsewhere, *ops[3:]), heads=heads)
    second = em.SlotHead("second", distinct=True, sets={"size": Size.GPU})
    both = dataclasses.replace(move, uses=("slot", "victim", "second"))
    with pytest.raises(em.RulesError, match="op SWAP uses the heads 'victim' and 'second', all of which move or set"):
        rules(op_rules=(*ops[:2], both, *ops[3:]), heads=[*BASE["heads"], second])


def test_two_slots_of_which_one_feature_is_set_must_be_two() -> None:
    swap = dataclasses.replace(BASE["op_rules"][2], sets={"size": Size.GPU})
    ops = (*BASE["op_rules"][:2], swap, *BASE["op_rules"][3:])
    features = {"size": Size, "other": Size}

    def with_victim(**changes: Any) -> em.MaskRules:
        heads = [dataclasses.replace(h, **changes) if h.name == "victim" else h for h in BASE["heads"]]
        return rules(op_rules=ops, heads=heads, features=features)

    with_victim(sets={"size": Size.LARGE})  # distinct
    with_victim(sets={"other": Size.LARGE}, distinct=False)
    with_victim(distinct=False)  # which may empty it, whatever is set
    with pytest.raises(
        em.RulesError, match="op SWAP sets 'size' of its slot, and the head 'victim' of a slot that may"
    ):
        with_victim(sets={"other": Size.LARGE, "size": Size.GPU}, distinct=False)


def test_the_limits_of_ops_and_heads() -> None:
    many = IntEnum("many", [f"OP{at}" for at in range(63)], start=0)
    with pytest.raises(em.RulesError, match=r"63 ops; a word has bits for 62\. Make one op of those"):
        rules(op_rules=[em.Op(op, always=True) for op in many], heads=(em.Head("slot"), em.Head("op")))
    extra = [em.Head(f"h{at}", ("A",)) for at in range(61)]
    with pytest.raises(em.RulesError, match="63 heads; there may be 62"):
        rules(op_rules=[em.Op(Do2.WAIT, always=True)], heads=(em.Head("slot"), em.Head("op"), *extra))


Do2 = IntEnum("Do2", "WAIT", start=0)


def test_heads_are_in_the_fingerprint_where_they_say_something() -> None:
    changed: list[Mapping[str, Any]] = [
        {"distinct": False},
        {"moves": {}},
        {"when": ()},
        {"sets": {"size": Size.GPU}},
    ]
    fingerprints = {RULES.fingerprint, *(with_head("victim", **change).fingerprint for change in changed)}
    fingerprints |= {with_head("node", by_feature=("size", {Size.PLAIN: NODES})).fingerprint}
    fingerprints |= {with_head("zone", by_stage={Pod.PENDING: ("A",), Pod.RUNNING: ()}).fingerprint}
    assert len(fingerprints) == 7
    assert pickle.loads(pickle.dumps(RULES)) == RULES
    assert with_head("node", by_feature=[BASE["heads"][1].by_feature[0]]) == RULES
