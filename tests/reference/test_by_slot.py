"""The policy's oracle where logits or masks depend on the slot: its numbers against products written out."""

import math
import random
from typing import Any

import pytest

import esper_masks as em
from esper_masks import reference
from esper_masks.reference import Joint
from tests.rules.heads import RULES, Do, Pod

P, R, Y, A = Pod.PENDING, Pod.RUNNING, Pod.READY, Pod.ABSENT
SLOTS = [(P, 0, 1), (Y, 1, 0), (P, 0, 0)]
SIZES = {"slot": 3, "node": 3, "zone": 2, "level": 2, "victim": 3, "cordon": 3, "op": 5}


def masks_of(*slots: tuple[int, int, int], **given: Any) -> dict[str, Any]:
    return reference.Situation(RULES, slots or SLOTS, row={"cordonable": 1}, **given).masks()


def logits_of(seed: int, by_slot: tuple[str, ...], by_op: tuple[str, ...] = ()) -> dict[str, Any]:
    draw = random.Random(seed)

    def row(size: int) -> list[float]:
        return [draw.uniform(-2, 2) for _ in range(size)]

    wide = {**dict.fromkeys(by_slot, 3), **dict.fromkeys(by_op, 5)}
    return {name: [row(size) for _ in range(wide[name])] if name in wide else row(size) for name, size in SIZES.items()}


def softmax(logits: list[float], mask: list[bool]) -> list[float]:
    weights = [math.exp(logit) if on else 0.0 for logit, on in zip(logits, mask)]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("by_op", [(), ("slot",), ("slot", "level")])
def test_whole_actions_are_products_along_op_slot_and_heads(by_op: tuple[str, ...]) -> None:
    masks, logits = masks_of(), logits_of(0, ("node", "victim"), by_op)
    joint = Joint(RULES, masks, logits, by_slot=("node", "victim"))
    assert joint.faults == set()
    p = joint.actions()
    assert sum(p.values()) == pytest.approx(1)
    actions = list(reference.joint_actions(RULES, 3))
    legal = [action for action, on in zip(actions, reference.joint_mask(RULES, masks, 3)) if on]
    assert list(p) == legal
    at = {name: RULES.head_names.index(name) for name in RULES.head_names}
    for action in legal:
        op, slot = action[at["op"]], action[at["slot"]]
        own = lambda name: logits[name][op] if name in by_op else logits[name]  # noqa: B023, E731
        wanted = softmax(logits["op"], masks["op"])[op]
        if "slot" in RULES.op_rules[op].uses:
            wanted *= softmax(own("slot"), masks["slot_by_op"][op])[slot]
        for name in RULES.op_rules[op].uses:
            value = action[at[name]]
            if name in ("node", "victim"):
                wanted *= softmax(logits[name][slot], masks[f"{name}_by_slot"][slot])[value]
            elif name == "zone":
                wanted *= softmax(logits[name], masks["zone_by_slot"][slot])[value]
            elif name != "slot":
                wanted *= softmax(own(name), masks[name])[value]
        assert p[action] == pytest.approx(wanted)
        assert joint.log_prob(action) == pytest.approx(math.log(wanted))
    assert joint.raw_entropy() == pytest.approx(-sum(q * math.log(q) for q in p.values()))


def test_an_illegal_slot_has_the_share_of_the_slot_alone() -> None:
    joint = Joint(RULES, masks_of(), logits_of(1, ("node",)), by_slot=("node",))
    names = RULES.head_names
    action = [{"op": Do.BIND, "slot": 1, "node": 2}.get(name, 0) for name in names]  # y is READY
    shares = dict(zip(names, joint.head_log_probs(action)))
    assert not joint.legal(action)
    assert shares["slot"] == -math.inf
    assert shares["node"] == 0
    action[names.index("slot")], action[names.index("node")] = 0, 0  # LARGE has n1 and n2
    assert dict(zip(names, joint.head_log_probs(action)))["node"] == -math.inf


def test_entropies_of_heads_by_slot_are_the_mean_over_legal_pairs() -> None:
    masks, logits = masks_of((P, 0, 1), (P, 0, 0), (A, 0, 0)), logits_of(2, ("node",))
    entropies = dict(zip(RULES.head_names, Joint(RULES, masks, logits, by_slot=("node",)).head_entropies()))

    def entropy(slot: int, mask: list[bool]) -> float:
        p = [q for q in softmax(logits["node"][slot], mask) if q]
        return -sum(q * math.log(q) for q in p) / math.log(len(p))

    assert entropies["node"] == pytest.approx((entropy(0, [False, True, True]) + entropy(1, [True] * 3)) / 2)
    narrow = masks_of((P, 0, 1), (P, 0, 0), (A, 0, 0), head_masks={"node": [True, True, False]})
    entropies = dict(zip(RULES.head_names, Joint(RULES, narrow, logits, by_slot=("node",)).head_entropies()))
    assert entropies["node"] == pytest.approx((0 + entropy(1, [True, True, False])) / 2)  # slot 0 has one choice
    assert entropies["victim"] == 0  # no op has one


def test_samples_follow_the_slot() -> None:
    joint, names = Joint(RULES, masks_of(), logits_of(3, ("node",)), by_slot=("node",)), RULES.head_names
    draw = random.Random(0)
    seen = set()
    for _ in range(300):
        noise = [draw.random() for _ in names]
        action = joint.sample(noise)
        assert joint.legal(action)
        seen.add((action[names.index("op")], action[names.index("slot")], action[names.index("node")]))
        distances = dict(zip(names, joint.edge_distances(noise)))
        assert (distances["node"] == math.inf) == (action[names.index("op")] != Do.BIND)
    assert {(Do.BIND, 0, 1), (Do.BIND, 0, 2), (Do.BIND, 2, 0)} <= seen
    assert (Do.BIND, 0, 0) not in seen
    assert joint.legal(joint.mode())
    assert reference.joint_kl(joint, joint) == pytest.approx(0)


def test_a_row_that_no_legal_slot_reads_may_hold_anything() -> None:
    logits = logits_of(4, ("node",))
    logits["node"][1] = [math.nan] * 3  # of a slot in which no pod waits
    assert Joint(RULES, masks_of(), logits, by_slot=("node",)).faults == set()
    logits["node"][2] = [math.nan] * 3
    assert Joint(RULES, masks_of(), logits, by_slot=("node",)).faults == {"node"}


@pytest.mark.parametrize(
    ("by_slot", "changes", "says"),
    [
        (("slot",), {}, "any head but slot and op"),
        (("node",), {"node": [0.0] * 3}, "wanted 3 rows"),
        (("node",), {"node": [[0.0] * 3] * 2}, "wanted 3 rows"),
    ],
)
def test_wrong_logits_by_slot_are_named(by_slot: tuple[str, ...], changes: dict[str, Any], says: str) -> None:
    logits = {**logits_of(5, tuple(name for name in by_slot if name == "node")), **changes}
    with pytest.raises(ValueError, match=says):
        Joint(RULES, masks_of(), logits, by_slot=by_slot)


def test_masks_of_rules_with_heads_by_slot_do_not_follow_from_pairs() -> None:
    with pytest.raises(ValueError, match="the masks of pods do not follow from slot_by_op"):
        reference.head_masks(RULES, [[True] * 3] * 5, [True] * 3)
    assert em.reference.is_legal(RULES, masks_of(), (0, 2, 0, 0, 0, 0, 0))
