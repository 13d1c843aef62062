"""Rules of one's own: a file of them, and a set with odd names."""

from enum import IntEnum

import esper_masks as em

OWN = """
from enum import IntEnum
import esper_masks as em
Job = IntEnum("Job", "FREE RUNNING", start=0)
Do = IntEnum("Do", "WAIT START STOP", start=0)
JOBS = em.MaskRules(
    name="jobs", stages=Job, transitions={Job.FREE: [Job.RUNNING], Job.RUNNING: [Job.FREE]}, empty=Job.FREE,
    op_rules=[em.Op(Do.WAIT, always=True), em.Op(Do.START, enters=Job.RUNNING, uses=["slot"]),
              em.Op(Do.STOP, enters=Job.FREE, uses=["slot"])],
    heads=[em.Head("slot"), em.Head("op")], slot_ids=["node0", "node1"],
)
NUMBER = 3
"""


def odd_rules(moves: bool) -> em.MaskRules:
    stages = IntEnum("Stage", {"in use": 0, "note": 1, "alone": 2, "C": 3})
    ops = IntEnum("Act", [f"A_RATHER_LONG_NAME_{i}" for i in range(12)], start=0)
    where = {"moves": {stages["in use"]: stages["note"]}} if moves else {"acts_in": [stages["in use"]]}
    return em.MaskRules(
        name="odd",
        stages=stages,
        transitions={stages["in use"]: [stages["note"]], stages["note"]: [], stages["alone"]: [], stages["C"]: []},
        empty=stages["in use"],
        op_rules=[em.Op(op, always=True) if op == 0 else em.Op(op, uses=["slot"], **where) for op in ops],
        heads=[em.Head("slot"), em.Head("op")],
    )
