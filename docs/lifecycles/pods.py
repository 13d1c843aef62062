"""Pods with a disruption budget and a choice of node, after the documentation of Kubernetes: to copy and to change.

F1, F2, ... are the facts that ``pods.md`` lists, each with the page that says it.
"""

from enum import IntEnum

import esper_masks as em

Pod = IntEnum("Pod", "ABSENT GATED PENDING CREATING RUNNING READY TERMINATING SUCCEEDED FAILED", start=0)
Size = IntEnum("Size", "SMALL LARGE GPU", start=0)  # what the pod asks for
Do = IntEnum(
    "Do",
    "WAIT CREATE CREATE_GATED UNGATE BIND EVICT TAINT_EVICT DELETE FORCE_DELETE COLLECT CORDON UNCORDON",
    start=0,
)

REPLICAS, MIN_AVAILABLE = 4, 3  # of the application "web"
UNREACHABLE_SECONDS, TERMINATED_PODS = 300, 2  # F15, F16: the threshold of finished pods
NODES = tuple(f"n{i}" for i in range(16))
PLAIN, LARGE, GPU = NODES[:12], NODES[12:14], NODES[14:]  # the nodes with GPUs have a taint: F13
IN_SERVICE = (Pod.GATED, Pod.PENDING, Pod.CREATING, Pod.RUNNING, Pod.READY)  # what counts as a replica: F9
ALONE = em.Kind("alone")  # a pod beside the application, with no budget and no replicas: F3
WANTED = em.Any(em.Count(IN_SERVICE, at_most=REPLICAS - 1, of="all", kind="web"), ALONE)

PODS = em.MaskRules(
    name="pods",
    stages=Pod,
    empty=Pod.ABSENT,
    transitions={
        Pod.ABSENT: (Pod.GATED, Pod.PENDING),
        Pod.GATED: (Pod.PENDING, Pod.TERMINATING, Pod.ABSENT),
        Pod.PENDING: (Pod.CREATING, Pod.TERMINATING, Pod.ABSENT),
        Pod.CREATING: (Pod.RUNNING, Pod.FAILED, Pod.TERMINATING, Pod.ABSENT),
        Pod.RUNNING: (Pod.READY, Pod.SUCCEEDED, Pod.FAILED, Pod.TERMINATING, Pod.ABSENT),
        Pod.READY: (Pod.RUNNING, Pod.SUCCEEDED, Pod.FAILED, Pod.TERMINATING, Pod.ABSENT),
        Pod.TERMINATING: (Pod.SUCCEEDED, Pod.FAILED, Pod.ABSENT),
        Pod.SUCCEEDED: (Pod.ABSENT,),
        Pod.FAILED: (Pod.ABSENT,),
    },
    features={"size": Size, "tolerates": bool, "unreachable": int},  # seconds since its node became unreachable
    row_features={"throttled": bool, "always_allow": bool},  # always_allow: the policy for unhealthy pods, F4
    kinds={"web": ("pod0", "pod1", "pod2", "pod3", "pod4", "pod5"), "alone": ("pod6", "pod7")},
    op_rules=(
        em.Op(Do.WAIT, always=True),
        em.Op(Do.CREATE, moves={Pod.ABSENT: Pod.PENDING}, when=(WANTED,), uses=("slot",)),
        em.Op(Do.CREATE_GATED, moves={Pod.ABSENT: Pod.GATED}, when=(WANTED,), uses=("slot",)),
        em.Op(Do.UNGATE, moves={Pod.GATED: Pod.PENDING}, uses=("slot",)),
        em.Op(Do.BIND, moves={Pod.PENDING: Pod.CREATING}, uses=("slot", "node")),
        em.Op(  # the budget asks for healthy pods beside this one, if this one is ready or running; else for nothing
            Do.EVICT,
            acts_in=(Pod.TERMINATING,),  # F5: which changes nothing
            moves={
                **dict.fromkeys(IN_SERVICE, Pod.TERMINATING),
                Pod.SUCCEEDED: Pod.ABSENT,
                Pod.FAILED: Pod.ABSENT,
            },
            when=(
                em.Row("throttled", in_=(False,)),
                em.Any(em.Count((Pod.READY,), at_least={Pod.READY: MIN_AVAILABLE}, of="others", kind="web"), ALONE),
                em.Any(
                    em.Count((Pod.READY,), at_least={Pod.RUNNING: MIN_AVAILABLE}, of="others", kind="web"),
                    em.Row("always_allow", in_=(True,)),
                    ALONE,
                ),
            ),
            uses=("slot",),
        ),
        em.Op(  # by the controller of the nodes
            Do.TAINT_EVICT,
            moves=dict.fromkeys((Pod.CREATING, Pod.RUNNING, Pod.READY), Pod.TERMINATING),
            when=(em.Feature("unreachable", at_least=UNREACHABLE_SECONDS),),
            uses=("slot",),
        ),
        em.Op(
            Do.DELETE,
            moves={
                **dict.fromkeys(IN_SERVICE, Pod.TERMINATING),
                Pod.SUCCEEDED: Pod.ABSENT,
                Pod.FAILED: Pod.ABSENT,
            },
            uses=("slot",),
        ),
        em.Op(Do.FORCE_DELETE, enters=Pod.ABSENT, uses=("slot",)),
        em.Op(  # by the garbage collector
            Do.COLLECT,
            moves={Pod.SUCCEEDED: Pod.ABSENT, Pod.FAILED: Pod.ABSENT},
            when=(em.Count((Pod.SUCCEEDED, Pod.FAILED), at_least=TERMINATED_PODS + 1, of="all"),),
            uses=("slot",),
        ),
        em.Op(Do.CORDON, uses=("cordon",)),  # neither a slot nor a stage: legal while head_masks leave it a node
        em.Op(Do.UNCORDON, uses=("uncordon",)),
    ),
    heads=(
        em.Head("slot"),
        em.Head(  # head_masks: room for this pod, and no cordon
            "node",
            NODES,
            by_feature=(
                ("size", {Size.SMALL: NODES, Size.LARGE: LARGE, Size.GPU: GPU}),
                ("tolerates", {False: PLAIN + LARGE, True: NODES}),
            ),
        ),
        em.Head("cordon", NODES),  # head_masks: the nodes that are schedulable
        em.Head("uncordon", NODES),  # head_masks: the nodes that are cordoned
        em.Head("op"),
    ),
    slot_ids=tuple(f"pod{i}" for i in range(8)),
)
