"""Rule sets of rows beyond those that ship: one for each kind of guard, those that grow, and pods.

The sets of guards differ in ``when`` of one op alone, so that the difference of two rows is what a guard costs. Those
that grow have as many heads, ops and guards as their names say. The pods are those of the documentation less some ops
that add nothing to the cost: rows are measured of what is installed, and the documentation is not.
"""

from enum import IntEnum
from itertools import islice

from esper_masks.rules import MaskRules, Op
from esper_masks.rules.combined import Any, Unless
from esper_masks.rules.guards import Age, Count, Feature, Kind, Row
from esper_masks.rules.judged import Guard
from esper_masks.rules.parts import Head
from esper_masks.rulesets import ruleset
from esper_masks.viz.measuring import sizes_of


class Stage(IntEnum):
    """Of the sets of guards."""

    EMPTY = 0
    WAITING = 1
    RUNNING = 2
    READY = 3


class Task(IntEnum):
    """A feature whose values are asked for one by one."""

    UNSET = 0
    BUSY = 1
    VERIFY = 2


class Do(IntEnum):
    """WAIT, the op that has the guard, and one without."""

    WAIT = 0
    ACT = 1
    LEAVE = 2


GUARDS: dict[str, tuple[Guard, ...]] = {
    "none": (),
    "feature": (Feature("load", at_most=1),),
    "feature in": (Feature("task", in_=(Task.UNSET, Task.VERIFY)),),
    "age": (Age(at_least=2, at_most=6),),
    "age by stage": (Age(at_least={Stage.WAITING: 2, Stage.RUNNING: 4, Stage.READY: 3}),),
    "count of all": (Count((Stage.READY,), at_least=2, of="all"),),
    "count of others": (Count((Stage.READY,), at_least=2, of="others"),),
    "row": (Row("free", at_least=1),),
    "kind": (Kind("gpu"),),
    "unless": (Unless("night", Feature("load", at_most=1)),),
    "any": (Any(Feature("load", at_most=1), Row("free", at_least=1)),),
}
PREFIX = "guard: "


def guarded(name: str) -> MaskRules:
    """A set of three ops, one of them with a guard of ``GUARDS``."""
    return MaskRules(
        name=PREFIX + name,
        stages=Stage,
        transitions={stage: tuple(other for other in Stage if other != stage) for stage in Stage},
        empty=Stage.EMPTY,
        op_rules=(
            Op(Do.WAIT, always=True),
            Op(Do.ACT, acts_in=tuple(Stage), when=GUARDS[name], uses=("slot",)),
            Op(Do.LEAVE, enters=Stage.EMPTY, uses=("slot",)),
        ),
        heads=(Head("slot"), Head("op")),
        features={"task": Task, "load": int},
        row_features={"night": bool, "free": int},
        kinds={"gpu": ("slot0", "slot2")},
        slot_ids=tuple(f"slot{i}" for i in range(8)),
    )


# as ``viz.growth`` reads it
GROWN = "{heads} heads, {ops} ops, {guards} guards"


def grown(heads: int, ops: int, guards: int) -> MaskRules:
    """A set of any size: every op but WAIT uses the slot, and the further heads, of 8 choices each, go round among
    them. So do the guards, of one kind after another.
    """
    acting, kinds = ops - 1, [each for each in GUARDS.values() if each]
    number = IntEnum("GrownOp", {f"OP{i}": i for i in range(ops)})  # type: ignore[misc]
    names = [f"head{i}" for i in range(heads - 2)]
    return MaskRules(
        name=GROWN.format(heads=heads, ops=ops, guards=guards),
        stages=Stage,
        transitions={stage: tuple(other for other in Stage if other != stage) for stage in Stage},
        empty=Stage.EMPTY,
        op_rules=(
            Op(number(0), always=True),
            *(
                Op(
                    number(1 + i),
                    enters=Stage((1 + i) % len(Stage)),
                    when=tuple(guard for n in range(i, guards, acting) for guard in kinds[n % len(kinds)]),
                    uses=("slot", *islice(names, i, None, acting)),
                )
                for i in range(acting)
            ),
        ),
        heads=(Head("slot"), *(Head(name, tuple(f"c{i}" for i in range(8))) for name in names), Head("op")),
        features={"task": Task, "load": int},
        row_features={"night": bool, "free": int},
        kinds={"gpu": ("slot0",)},
        slot_ids=("slot0", "slot1", "slot2"),
    )


class Pod(IntEnum):
    """What becomes of a pod."""

    ABSENT = 0
    PENDING = 1
    CREATING = 2
    RUNNING = 3
    READY = 4
    TERMINATING = 5


class Size(IntEnum):
    """What a pod asks for."""

    SMALL = 0
    LARGE = 1
    GPU = 2


class PodOp(IntEnum):
    """What is done to a pod."""

    WAIT = 0
    CREATE = 1
    BIND = 2
    EVICT = 3
    TAINT_EVICT = 4
    DELETE = 5


NODES = tuple(f"n{i}" for i in range(16))
LARGE_NODES, GPU_NODES = NODES[12:14], NODES[14:]
REPLICAS, MIN_AVAILABLE, UNREACHABLE = 6, 3, 2
IN_SERVICE = (Pod.PENDING, Pod.CREATING, Pod.RUNNING, Pod.READY)
PODS = MaskRules(
    name="pods",
    stages=Pod,
    transitions={
        Pod.ABSENT: (Pod.PENDING,),
        Pod.PENDING: (Pod.CREATING, Pod.TERMINATING),
        Pod.CREATING: (Pod.RUNNING, Pod.TERMINATING),
        Pod.RUNNING: (Pod.READY, Pod.TERMINATING),
        Pod.READY: (Pod.RUNNING, Pod.TERMINATING),
        Pod.TERMINATING: (Pod.ABSENT,),
    },
    empty=Pod.ABSENT,
    op_rules=(
        Op(PodOp.WAIT, always=True),
        Op(PodOp.CREATE, enters=Pod.PENDING, when=(Count(IN_SERVICE, at_most=REPLICAS - 1, of="all"),), uses=("slot",)),
        Op(PodOp.BIND, enters=Pod.CREATING, uses=("slot", "node")),
        Op(
            PodOp.EVICT,
            moves={Pod.RUNNING: Pod.TERMINATING, Pod.READY: Pod.TERMINATING},
            when=(Row("throttled", in_=(False,)), Count((Pod.READY,), at_least=MIN_AVAILABLE, of="others")),
            uses=("slot",),
        ),
        Op(
            PodOp.TAINT_EVICT,
            moves=dict.fromkeys((Pod.CREATING, Pod.RUNNING, Pod.READY), Pod.TERMINATING),
            when=(Feature("unreachable", at_least=UNREACHABLE),),
            uses=("slot",),
        ),
        Op(PodOp.DELETE, enters=Pod.TERMINATING, uses=("slot",)),
    ),
    heads=(
        Head("slot"),
        Head(
            "node",
            NODES,
            by_feature=("size", {Size.SMALL: NODES[:14], Size.LARGE: LARGE_NODES, Size.GPU: GPU_NODES}),
        ),
        Head("op"),
    ),
    features={"size": Size, "unreachable": int},
    row_features={"throttled": bool},
    slot_ids=tuple(f"slot{i}" for i in range(8)),
)
MASKED = {PODS.name: ("node",)}  # the heads that a caller masks, for each slot


def rules_of(name: str) -> MaskRules:
    """A rule set of a row, by its name."""
    if name.startswith(PREFIX):
        return guarded(name.removeprefix(PREFIX))
    if sizes := sizes_of(name):
        return grown(**sizes)
    return PODS if name == PODS.name else ruleset(name)
