"""The masks of the pods of ``lifecycles`` as a loop, as such programs are written."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper_masks.bench.lifecycles import (
    GPU_NODES,
    IN_SERVICE,
    LARGE_NODES,
    MIN_AVAILABLE,
    NODES,
    REPLICAS,
    UNREACHABLE,
    Pod,
    PodOp,
    Size,
)

Slots = Mapping[str, tuple[int, ...] | None]  # stage, age, size, unreachable; None where there is no pod
SERVING, PLACED = frozenset(map(int, IN_SERVICE)), frozenset(map(int, IN_SERVICE[1:]))
NODES_OF = {
    int(Size.SMALL): [node not in GPU_NODES for node in NODES],
    int(Size.LARGE): [node in LARGE_NODES for node in NODES],
    int(Size.GPU): [node in GPU_NODES for node in NODES],
}


def env_masks(
    slots: Slots, slot_ids: Sequence[str], throttled: bool, room: Sequence[Sequence[bool]]
) -> dict[str, Tensor]:
    """One environment: lists of bools, and a tensor of each at the end.

    Args:
        slots: slot id -> what is there.
        slot_ids: of all slots.
        throttled: whether evictions are refused.
        room: slots × nodes, where a pod has room.

    Returns: the masks of slot, node and op, and ``slot_by_op``.
    """
    held = [slots[slot_id] for slot_id in slot_ids]
    serving = sum(pod is not None and pod[0] in SERVING for pod in held)
    ready = sum(pod is not None and pod[0] == Pod.READY for pod in held)
    by_op = [[op == PodOp.WAIT] * len(held) for op in PodOp]
    node = [False] * len(NODES)
    for at, pod in enumerate(held):
        if pod is None:
            by_op[PodOp.CREATE][at] = serving < REPLICAS
            continue
        stage, _, size, unreachable = pod
        if stage == Pod.PENDING:
            nodes = [fits and free for fits, free in zip(NODES_OF[size], room[at])]
            if any(nodes):
                by_op[PodOp.BIND][at] = True
                node = [one or other for one, other in zip(node, nodes)]
        if stage in (Pod.RUNNING, Pod.READY) and not throttled:
            by_op[PodOp.EVICT][at] = ready - (stage == Pod.READY) >= MIN_AVAILABLE
        if stage in PLACED and unreachable >= UNREACHABLE:
            by_op[PodOp.TAINT_EVICT][at] = True
        if stage in SERVING:
            by_op[PodOp.DELETE][at] = True
    if not any(node):
        node[0] = True  # what an op that ignores the head holds
    slot_by_op = torch.tensor(by_op)
    return {
        "slot": torch.ones(len(held), dtype=torch.bool),
        "node": torch.tensor(node),
        "op": slot_by_op.any(1),
        "slot_by_op": slot_by_op,
    }
