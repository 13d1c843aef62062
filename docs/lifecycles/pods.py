"""Pods with a disruption budget and a choice of node, after the documentation of Kubernetes: to copy and to change.

F1, F2, ... are the facts that ``pods.md`` lists, each with the page that says it. ``PODS`` are the rules, ``DYNAMICS``
is an environment under them: a rolling update.
"""

from collections.abc import Mapping
from enum import IntEnum

import torch
from torch import Tensor

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
Node = IntEnum("Node", ("NONE", *NODES), start=0)  # to which a pod is bound
Revision = IntEnum("Revision", "OLD NEW", start=0)  # of what runs in the pod
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
    features={
        "size": Size,
        "tolerates": bool,
        "unreachable": int,  # seconds since its node became unreachable
        "node": Node,
        "revision": Revision,
    },
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

# -- an environment: a rolling update; a step is a minute --------------------------------------------------------------

SLOTS, WEB, SECONDS = len(PODS.slot_ids), 6, 60  # the first WEB slots are the application
STAGE, _, SIZE, _, UNREACHABLE, NODE, REVISION = range(len(PODS.feature_names))
ROOM = {Node.n0: 2, Node.n1: 2, Node.n2: 1, Node.n12: 2}  # what others leave of nodes, in small pods; of the rest 0
MISSING, LATE = 0.1, 0.05  # points that a step costs: for each pod below MIN_AVAILABLE, for each not yet updated


def serving(states: Tensor) -> Tensor:
    """Pods of the application that serve: ready, on a node that is reached; bool ``[batch, slots]``."""
    web = torch.arange(SLOTS, device=states.device) < WEB
    return web & (states[..., STAGE] == int(Pod.READY)) & (states[..., UNREACHABLE] == 0)


def updated(states: Tensor) -> Tensor:
    """How many of them are of the new revision, int64 ``[batch]``."""
    return (serving(states) & (states[..., REVISION] == int(Revision.NEW))).sum(-1)


def start(states: Tensor) -> Tensor:
    """Four pods of the old revision, on two nodes."""
    slot = torch.arange(SLOTS, device=states.device)
    there, node = slot < REPLICAS, torch.where(slot < REPLICAS // 2, int(Node.n0), int(Node.n1))
    states[..., STAGE] = torch.where(there, int(Pod.READY), int(Pod.ABSENT))
    states[..., NODE] = torch.where(there, node, int(Node.NONE))
    return states


def reward(before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    """New pods that begin to serve, less those that cease to, what is missing, and the time."""
    was, now = updated(before), updated(after)
    missing = (MIN_AVAILABLE - serving(after).sum(-1)).clamp_min(0)
    return (now - was) - MISSING * missing - LATE * (REPLICAS - now)


def clocks(
    before: Tensor, actions: Tensor, after: Tensor, rows: Mapping[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """What is created is new, and large if it stands alone; where a pod is; nodes that are lost, and come back."""
    was, stage, node = before[..., STAGE], after[..., STAGE], after[..., NODE]
    created = was == int(Pod.ABSENT)
    large = created & (torch.arange(SLOTS, device=was.device) >= WEB)
    bound = (was == int(Pod.PENDING)) & (stage == int(Pod.CREATING))
    node = torch.where(bound, actions[:, 1:2] + 1, node)
    node = torch.where(stage >= int(Pod.SUCCEEDED), int(Node.NONE), node)
    fate = noise.gather(1, (node.long() - 1).clamp_min(0))  # pods on one node share it
    lost = (node != int(Node.NONE)) & torch.where(after[..., UNREACHABLE] > 0, fate > 0.2, fate < 0.02)
    return {
        "size": torch.where(large, int(Size.LARGE), after[..., SIZE]),
        "revision": torch.where(created, int(Revision.NEW), after[..., REVISION]),
        "node": node,
        "unreachable": torch.where(lost, after[..., UNREACHABLE] + SECONDS, 0),
    }


def api(before: Tensor, actions: Tensor, after: Tensor, rows: Mapping[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
    """Whether the server refuses evictions for now."""
    return {"throttled": noise[:, -1] < 0.05}


def head_masks(states: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Nodes with room for each pod that are reached; nobody cordons one."""
    asks = states[..., SIZE] + 1  # a large pod is as much as two small ones
    nodes = torch.arange(1, len(Node), device=states.device)
    on = states[..., NODE].unsqueeze(-1) == nodes  # [batch, slots, 16]
    room = sum((nodes == int(node)) * count for node, count in ROOM.items())
    free = room - (on * asks.unsqueeze(-1)).sum(1)
    lost = (on & (states[..., UNREACHABLE] > 0).unsqueeze(-1)).any(1)
    none = torch.zeros_like(lost)
    return {"node": (free.unsqueeze(1) >= asks.unsqueeze(-1)) & ~lost.unsqueeze(1), "cordon": none, "uncordon": none}


def heuristic(states: Tensor, rows: Mapping[str, Tensor], masks: em.ActionMasks) -> Tensor:
    """One old pod after another: evict it while all serve, create a new one, bind it where few are."""
    stage, old, serve = states[..., STAGE], states[..., REVISION] == int(Revision.OLD), serving(states)
    web, enough = torch.arange(SLOTS, device=stage.device) < WEB, (serve.sum(-1) > MIN_AVAILABLE).unsqueeze(-1)
    lost, finished = states[..., UNREACHABLE] > 0, stage >= int(Pod.SUCCEEDED)
    wants = {  # op -> in which slots, from the least important to the first
        Do.EVICT: old & (enough | ~serve) & (stage != int(Pod.TERMINATING)),
        Do.DELETE: finished | (old & lost),
        Do.TAINT_EVICT: lost,
        Do.CREATE: web.expand_as(stage),
        Do.BIND: web.expand_as(stage),
    }
    op = slot = torch.zeros(len(stage), dtype=torch.int64, device=stage.device)  # WAIT
    for do, where in wants.items():
        some, at = (masks.slot_by_op[:, do] & where).max(-1)
        op, slot = torch.where(some, int(do), op), torch.where(some, at, slot)
    each, nodes = torch.arange(len(slot), device=slot.device), torch.arange(1, len(NODES) + 1, device=slot.device)
    held = (states[..., NODE].unsqueeze(-1) == nodes).sum(1)
    node = torch.where(masks.by_slot("node")[each, slot], SLOTS + 1 - held, 0).argmax(-1)
    none = torch.zeros_like(slot)
    return torch.stack([slot, node, none, none, op], -1)


DYNAMICS = em.rollout.RuleDynamics(
    PODS,
    reward=reward,
    start=start,
    leaves={
        Pod.CREATING: {Pod.RUNNING: 0.85, Pod.FAILED: 0.05},
        Pod.RUNNING: {Pod.READY: 0.8, Pod.FAILED: 0.05, Pod.SUCCEEDED: 0},
        Pod.READY: {Pod.RUNNING: 0.01, Pod.FAILED: 0.01, Pod.SUCCEEDED: 0},
        Pod.TERMINATING: {Pod.ABSENT: 0.7, Pod.SUCCEEDED: 0, Pod.FAILED: 0},
    },
    clocks=clocks,
    rows=api,
    head_masks=head_masks,
    heuristic=heuristic,
    horizon=25,
    uniforms=len(NODES) + 1,
)
