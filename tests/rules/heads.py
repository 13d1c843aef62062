"""Pods: rules with a head by feature, one by stage, one by op, a second slot and an op without a slot."""

from enum import IntEnum
from typing import Any

import esper_masks as em

Pod = IntEnum("Pod", "ABSENT PENDING RUNNING READY", start=0)
Size = IntEnum("Size", "PLAIN LARGE GPU", start=0)
Do = IntEnum("Do", "WAIT BIND SWAP RAISE CORDON", start=0)

EDGES = {
    Pod.ABSENT: (Pod.PENDING,),
    Pod.PENDING: (Pod.RUNNING, Pod.ABSENT),
    Pod.RUNNING: (Pod.READY, Pod.PENDING, Pod.ABSENT),
    Pod.READY: (Pod.ABSENT, Pod.RUNNING),
}
NODES = ("n0", "n1", "n2")
BASE: dict[str, Any] = {
    "name": "pods",
    "stages": Pod,
    "transitions": EDGES,
    "empty": Pod.ABSENT,
    "op_rules": (
        em.Op(Do.WAIT, always=True),
        em.Op(Do.BIND, moves={Pod.PENDING: Pod.RUNNING}, uses=("slot", "node", "zone")),
        em.Op(Do.SWAP, acts_in=(Pod.RUNNING, Pod.READY), uses=("slot", "victim"), when=(em.Age(at_least=1),)),
        em.Op(Do.RAISE, acts_in=(Pod.PENDING, Pod.RUNNING), uses=("slot", "zone", "level")),
        em.Op(Do.CORDON, when=(em.Row("cordonable", at_least=1),), uses=("cordon",)),
    ),
    "heads": (
        em.Head("slot"),
        em.Head(
            "node",
            NODES,
            by_feature=("size", {Size.PLAIN: NODES, Size.LARGE: ("n1", "n2"), Size.GPU: ()}),
            canonical="n2",
        ),
        em.Head(
            "zone",
            ("A", "B"),
            by_stage={Pod.PENDING: ("A", "B"), Pod.RUNNING: ("B",)},
            by_op={Do.BIND: ("A", "B"), Do.RAISE: ("A", "B")},
        ),
        em.Head("level", ("LOW", "HIGH"), by_op={Do.RAISE: ("LOW", "HIGH")}, legal=("HIGH",)),
        em.SlotHead(
            "victim",
            when=(
                em.Kind("web"),
                em.Feature("stage", not_in=(Pod.ABSENT,)),
                em.Count((Pod.READY,), of="others", at_most=1),
            ),
            distinct=True,
            moves={Pod.PENDING: Pod.ABSENT, Pod.READY: Pod.RUNNING},
        ),
        em.Head("cordon", NODES),
        em.Head("op"),
    ),
    "features": {"size": Size},
    "row_features": {"cordonable": int},
    "kinds": {"web": ("x", "y")},
    "slot_ids": ("x", "y", "z"),
}
RULES = em.MaskRules(**BASE)
