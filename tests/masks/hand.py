"""Rules that several tests share: pods with a node, a second slot and an op without one; and rules of many ops."""

from enum import IntEnum

import esper_masks as em


class Pod(IntEnum):
    NONE = 0
    PENDING = 1
    BOUND = 2


class Act(IntEnum):
    WAIT = 0
    BIND = 1
    SWAP = 2
    DRAIN = 3


BERTHS = em.MaskRules(
    name="berths",
    stages=Pod,
    transitions={Pod.NONE: (Pod.PENDING,), Pod.PENDING: (Pod.BOUND,), Pod.BOUND: (Pod.NONE,)},
    empty=Pod.NONE,
    op_rules=(
        em.Op(Act.WAIT, always=True),
        em.Op(Act.BIND, enters=Pod.BOUND, uses=("slot", "node")),
        em.Op(Act.SWAP, acts_in=(Pod.BOUND,), uses=("slot", "other", "pace")),
        em.Op(Act.DRAIN, when=(em.Row("night", in_=(True,)),), uses=("pace",)),
    ),
    heads=(
        em.Head("slot"),
        em.Head("node", ("n0", "n1", "n2"), by_feature=("size", {0: ("n0", "n1"), 3: ("n2",), 90_000: ("n0", "n2")})),
        em.SlotHead("other", when=(em.Feature("stage", in_=(Pod.BOUND,)), em.Age(at_least=2)), distinct=True),
        em.Head("pace", ("SLOW", "FAST")),
        em.Head("op"),
    ),
    features={"size": int},
    row_features={"night": bool},
    slot_ids=("a", "b", "c"),
)


class Stage(IntEnum):
    IDLE = 0
    BUSY = 1
    DONE = 2


def many(ops: int, blocking: int) -> em.MaskRules:
    """WAIT and GO ops, the last ones each blocked by another set of stages; of three stages there are seven sets."""
    do = IntEnum("Do", {f"OP{i}": i for i in range(ops)})
    sets = [(Stage.IDLE,), (Stage.BUSY,), (Stage.DONE,), (Stage.IDLE, Stage.BUSY), (Stage.BUSY, Stage.DONE)][:blocking]
    made = [em.Op(do.OP0, always=True)]
    made += [em.Op(op, acts_in=tuple(Stage), uses=("slot",)) for op in list(do)[1 : ops - blocking]]
    made += [
        em.Op(op, acts_in=tuple(Stage), uses=("slot",), blocked_by=stages)
        for op, stages in zip(list(do)[ops - blocking :], sets)
    ]
    return em.MaskRules(
        name="many",
        stages=Stage,
        transitions={stage: tuple(other for other in Stage if other != stage) for stage in Stage},
        empty=Stage.IDLE,
        op_rules=made,
        heads=[em.Head("slot"), em.Head("op")],
        slot_ids=("a", "b"),
    )
