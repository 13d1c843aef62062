"""Batch jobs with holds, dependencies, quotas and preemption, after the documentation of Slurm: to copy and to change.

F1, F2, ... are the facts that ``jobs.md`` lists, each with the page that says it. The clock, ``age``, is in minutes
from when a job came to its state. ``JOBS`` are the rules, ``DYNAMICS`` is an environment under them.
"""

import warnings
from collections.abc import Iterable, Mapping
from enum import IntEnum

import torch
from torch import Tensor

import esper_masks as em

Job = IntEnum(
    "Job",
    "NONE PENDING CONFIGURING RUNNING SUSPENDED COMPLETING COMPLETED FAILED TIMEOUT CANCELLED PREEMPTED NODE_FAIL"
    " BOOT_FAIL DEADLINE OUT_OF_MEMORY",
    start=0,
)
Hold = IntEnum("Hold", "NO USER ADMIN", start=0)
Dependency = IntEnum("Dependency", "NONE WAITING SATISFIED NEVER", start=0)
Qos = IntEnum("Qos", "LOW NORMAL HIGH", start=0)
Do = IntEnum(
    "Do",
    "WAIT SUBMIT START HOLD ADMIN_HOLD RELEASE SUSPEND RESUME REQUEUE REQUEUE_HOLD CANCEL EXTEND SHORTEN"
    " CLEAR_DEPENDENCY TOP PREEMPT PURGE POWER_UP",
    start=0,
)

# CONFIGURING is a flag of a job that runs: what is said of running jobs goes for it. COMPLETING is a flag of one whose
# processes are ending: there is nothing left to cancel, and it is queued again once it has ended.
FINISHED = tuple(stage for stage in Job if stage >= Job.COMPLETED)
ALLOCATED = (Job.CONFIGURING, Job.RUNNING, Job.SUSPENDED)  # they hold an allocation: F1
GRP_JOBS, GRP_SUBMIT_JOBS, MAX_BATCH_REQUEUE = 2, 4, 5  # limits of this site: F8, F10
MIN_JOB_AGE, PREEMPT_EXEMPT_TIME = 5, 10  # minutes: F17, F14
OPERATOR = em.Row("operator", in_=(True,))
OWN = em.Unless("operator", em.Feature("own", in_=(True,)))  # the job belongs to the user who acts
STARTABLE = (  # each is a reason why a job pends
    em.Feature("hold", in_=(Hold.NO,)),  # F2
    em.Feature("dependency", in_=(Dependency.NONE, Dependency.SATISFIED)),  # F5
    em.Feature("begin_in", at_most=0),  # F6
    em.Feature("cleaning", in_=(False,)),  # F7
    em.Feature("restarts", at_most=MAX_BATCH_REQUEUE - 1),  # F8
    em.Row("partition_up", in_=(True,)),  # F9
    em.Feature("user_at_limit", in_=(False,)),  # F11
    em.Any(em.Feature("licensed", in_=(False,)), em.Row("licences_free", at_least=1)),  # F19
)

JOBS = em.MaskRules(
    name="jobs",
    stages=Job,
    empty=Job.NONE,
    transitions={
        Job.NONE: (Job.PENDING,),
        Job.PENDING: (Job.CONFIGURING, Job.RUNNING, Job.CANCELLED, Job.DEADLINE),
        Job.CONFIGURING: (Job.RUNNING, Job.PENDING, Job.CANCELLED, Job.BOOT_FAIL),
        Job.RUNNING: (
            Job.SUSPENDED,
            Job.PENDING,
            Job.COMPLETING,
            Job.COMPLETED,
            Job.FAILED,
            Job.TIMEOUT,
            Job.CANCELLED,
            Job.PREEMPTED,
            Job.NODE_FAIL,
            Job.OUT_OF_MEMORY,
        ),
        Job.SUSPENDED: (Job.RUNNING, Job.PENDING, Job.CANCELLED, Job.NODE_FAIL),
        Job.COMPLETING: FINISHED,
        **dict.fromkeys(FINISHED, (Job.PENDING, Job.NONE)),
    },
    features={
        "hold": Hold,
        "dependency": Dependency,
        "qos": Qos,
        "own": bool,
        "requeue": bool,  # false for a job submitted with --no-requeue
        "cleaning": bool,
        "user_at_limit": bool,
        "licensed": bool,
        "begin_in": int,  # minutes
        "restarts": int,
    },
    row_features={"operator": bool, "partition_up": bool, "licences_free": int, "nodes_down": int},
    switches={"enable_user_top": (False, True)},
    op_rules=(
        em.Op(Do.WAIT, always=True),
        em.Op(
            Do.SUBMIT,
            moves={Job.NONE: Job.PENDING},  # not enters=: finished jobs lead to PENDING too, by REQUEUE
            when=(em.Count((Job.PENDING, *ALLOCATED), at_most=GRP_SUBMIT_JOBS - 1, of="all"),),
            uses=("slot", "partition"),
        ),
        em.Op(
            Do.START,
            moves={Job.PENDING: Job.RUNNING},
            when=(*STARTABLE, em.Count(ALLOCATED, at_most=GRP_JOBS - 1, of="all")),
            uses=("slot", "node"),
        ),
        em.Op(
            Do.HOLD,
            acts_in=(Job.PENDING, *ALLOCATED),
            when=(OWN, em.Feature("hold", in_=(Hold.NO,))),
            uses=("slot",),
            sets={"hold": Hold.USER},
        ),
        em.Op(
            Do.ADMIN_HOLD,
            acts_in=(Job.PENDING, *ALLOCATED),
            when=(OPERATOR, em.Feature("hold", in_=(Hold.NO, Hold.USER))),
            uses=("slot",),
            sets={"hold": Hold.ADMIN},
        ),
        em.Op(
            Do.RELEASE,
            acts_in=(Job.PENDING, *ALLOCATED),
            when=(
                OWN,
                em.Feature("hold", in_=(Hold.USER, Hold.ADMIN)),
                em.Unless("operator", em.Feature("hold", in_=(Hold.USER,))),
            ),
            uses=("slot",),
            sets={"hold": Hold.NO},
        ),
        em.Op(Do.SUSPEND, moves={Job.RUNNING: Job.SUSPENDED}, when=(OPERATOR,), uses=("slot",)),
        em.Op(Do.RESUME, moves={Job.SUSPENDED: Job.RUNNING}, when=(OPERATOR,), uses=("slot",)),
        em.Op(
            Do.REQUEUE,
            moves=dict.fromkeys((*ALLOCATED, *FINISHED), Job.PENDING),
            when=(OWN, em.Feature("requeue", in_=(True,))),
            uses=("slot",),
            sets={"cleaning": True},
        ),
        em.Op(
            Do.REQUEUE_HOLD,
            moves=dict.fromkeys((*ALLOCATED, *FINISHED), Job.PENDING),
            when=(OWN, em.Feature("requeue", in_=(True,))),
            uses=("slot",),
            sets={"cleaning": True, "hold": Hold.USER},
        ),
        em.Op(
            Do.CANCEL,
            moves=dict.fromkeys((Job.PENDING, *ALLOCATED), Job.CANCELLED),
            when=(OWN,),
            uses=("slot",),
        ),
        em.Op(Do.EXTEND, acts_in=(Job.PENDING, Job.RUNNING, Job.SUSPENDED), when=(OPERATOR,), uses=("slot",)),
        em.Op(Do.SHORTEN, acts_in=(Job.PENDING, Job.RUNNING, Job.SUSPENDED), when=(OWN,), uses=("slot",)),
        em.Op(
            Do.CLEAR_DEPENDENCY,
            acts_in=(Job.PENDING,),
            when=(OWN, em.Feature("dependency", in_=(Dependency.WAITING, Dependency.SATISFIED, Dependency.NEVER))),
            uses=("slot",),
            sets={"dependency": Dependency.NONE},
        ),
        em.Op(Do.TOP, acts_in=(Job.PENDING,), when=(em.Unless("enable_user_top", OPERATOR), OWN), uses=("slot",)),
        em.Op(  # slot: the job that waits; victim: the one that gives way, and is queued again
            Do.PREEMPT,
            moves={Job.PENDING: Job.RUNNING},
            when=(
                em.Feature("qos", in_=(Qos.HIGH,)),
                *STARTABLE,
                em.Count(ALLOCATED, at_most=GRP_JOBS, of="all"),  # one goes, one comes
            ),
            uses=("slot", "victim"),
        ),
        em.Op(
            Do.PURGE,
            moves=dict.fromkeys(FINISHED, Job.NONE),
            when=(em.Age(at_least=MIN_JOB_AGE),),
            uses=("slot",),
        ),
        em.Op(  # neither a slot nor a stage: legal by its guards alone
            Do.POWER_UP,
            when=(OPERATOR, em.Row("nodes_down", at_least=1)),
        ),
    ),
    heads=(
        em.Head("slot"),
        em.Head("partition", ("debug", "batch")),
        em.Head("node", ("n0", "n1", "n2", "n3")),  # head_masks: the nodes with room for the job
        em.SlotHead(
            "victim",
            when=(
                em.Feature("qos", in_=(Qos.LOW, Qos.NORMAL)),
                em.Age(at_least=PREEMPT_EXEMPT_TIME),
                em.Feature("requeue", in_=(True,)),
            ),
            moves={Job.RUNNING: Job.PENDING},
            sets={"cleaning": True},
        ),
        em.Head("op"),
    ),
    slot_ids=("job0", "job1", "job2", "job3", "job4", "job5"),
)

# -- an environment: the scheduler of a site; a step is five minutes ---------------------------------------------------

SLOTS, NODES, LICENCES, STEP = len(JOBS.slot_ids), 4, 1, 5  # minutes
LONG = 35  # minutes that the longest jobs run
WORTH, WAITING = 3, 0.1  # a job is worth 1, 3 or 9 by its QOS; what a step of waiting costs, in parts of that
STAGE, AGE, DEPENDENCY, QOS, REQUEUE, LICENSED, BEGIN_IN, RESTARTS = map(
    JOBS.feature_names.index, ["stage", "age", "dependency", "qos", "requeue", "licensed", "begin_in", "restarts"]
)


def one_of(values: Tensor, members: Iterable[int]) -> Tensor:
    """Where values are one of some members, bool."""
    return torch.stack([values == int(member) for member in members]).any(0)


def done(states: Tensor) -> Tensor:
    """What has been done of each job, in what it is worth: float32 ``[batch, slots]``; a run that fails was nothing."""
    stage, age, qos = states[..., STAGE], states[..., AGE], states[..., QOS]
    part = torch.where(stage == int(Job.RUNNING), (age / LONG).clamp_max(1), 0)
    return torch.where(one_of(stage, (Job.COMPLETING, Job.COMPLETED)), 1, part) * WORTH**qos


def reward(before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    """What is done, less what is lost with a job that fails or gives way, and less what waits that could run."""
    stage, dependency = after[..., STAGE], after[..., DEPENDENCY]
    could = one_of(dependency, (Dependency.NONE, Dependency.SATISFIED)) & (after[..., BEGIN_IN] == 0)
    waits = could & (stage == int(Job.PENDING))
    gained = torch.where(stage == int(Job.NONE), 0, done(after) - done(before))
    return (gained - WAITING * waits * WORTH ** after[..., QOS]).sum(-1)


def clocks(
    before: Tensor, actions: Tensor, after: Tensor, rows: Mapping[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """What jobs are that arrive; the age, dependencies, begin times and the cleaning of those that are there."""
    was, stage, dependency = before[..., STAGE], after[..., STAGE], after[..., DEPENDENCY]
    qos, licensed, requeue, depends, begins = noise[:, : 5 * SLOTS].reshape(-1, 5, SLOTS).unbind(1)
    comes, queued = was == int(Job.NONE), (was == int(Job.RUNNING)) & (stage == int(Job.PENDING))
    first = torch.where(depends < 0.3, int(Dependency.WAITING), int(Dependency.NONE))
    known = (dependency == int(Dependency.WAITING)) & (depends < 0.4)
    later = torch.where(depends < 0.04, int(Dependency.NEVER), int(Dependency.SATISFIED))
    return {
        "age": torch.where(stage == was, before[..., AGE], 0) + STEP,  # minutes in this stage
        "qos": torch.where(comes, (qos > 0.5).int() + (qos > 0.8).int(), after[..., QOS]),
        "licensed": torch.where(comes, licensed < torch.where(qos > 0.8, 0.8, 0.4), after[..., LICENSED] != 0),
        "requeue": torch.where(comes, requeue < 0.8, after[..., REQUEUE] != 0),
        "dependency": torch.where(comes, first, torch.where(known, later, dependency)),
        "begin_in": torch.where(comes, 50 * (begins - 0.8), after[..., BEGIN_IN] - STEP).clamp_min(0).int(),
        "cleaning": queued,
        "restarts": after[..., RESTARTS] + queued.int(),
    }


def allocated(states: Tensor) -> Tensor:
    """Jobs that have a node, bool ``[batch, slots]``."""
    return one_of(states[..., STAGE], ALLOCATED)


def site(
    before: Tensor, actions: Tensor, after: Tensor, rows: Mapping[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """Licences that are free, and nodes that are down: idle ones by chance, and they come back by chance."""
    held, down, chance = allocated(after), rows["nodes_down"], noise[:, -1]
    fails, back = (chance < 0.2) & (down + held.sum(-1) < NODES), (chance > 0.6) & (down > 0)
    free = LICENCES - (held & (after[..., LICENSED] != 0)).sum(-1)
    return {"licences_free": free, "nodes_down": down + fails.int() - back.int()}


def head_masks(states: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A job takes a node, and nodes are alike: those that are idle are the first. The scheduler submits nothing."""
    idle = NODES - rows["nodes_down"] - allocated(states).sum(-1)
    node = torch.arange(NODES, device=states.device) < idle.unsqueeze(-1)
    return {"node": node, "partition": torch.zeros_like(node[:, :2])}


def heuristic(states: Tensor, rows: Mapping[str, Tensor], masks: em.ActionMasks) -> Tensor:
    """By QOS, first come, first served; what cannot start is passed over; where no more may run, HIGH preempts."""
    age, qos, legal = states[..., AGE], states[..., QOS], masks.slot_by_op
    starts, start = torch.where(legal[:, Do.START], 1000 * qos + age, -1).max(-1)
    preempts, preempt = torch.where(legal[:, Do.PREEMPT], age, -1).max(-1)
    op = torch.where(starts >= 0, int(Do.START), torch.where(preempts >= 0, int(Do.PREEMPT), int(Do.WAIT)))
    slot, each = torch.where(starts >= 0, start, preempt), torch.arange(len(age), device=age.device)
    node = masks.by_slot("node")[each, slot].int().argmax(-1)
    loss = 1000 * qos + age  # the victim of the lowest QOS that has run for the shortest
    victim = torch.where(masks.by_slot("victim")[each, slot], loss, 1 << 30).argmin(-1)
    return torch.stack([slot, torch.zeros_like(slot), node, victim, op], -1)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # transitions of which this site makes no use
    DYNAMICS = em.rollout.RuleDynamics(
        JOBS,
        reward=reward,
        leaves={
            Job.NONE: {Job.PENDING: 0.3},
            Job.PENDING: {Job.DEADLINE: 0.05},
            Job.RUNNING: (Job.COMPLETING, {3: 0.5, 7: 0.5}),
            Job.COMPLETING: {Job.COMPLETED: 0.9, Job.FAILED: 0.1},
            **{stage: {Job.NONE: 0.8} for stage in FINISHED},
        },
        rows_start={"partition_up": True, "licences_free": LICENCES},
        rows=site,
        clocks=clocks,
        head_masks=head_masks,
        heuristic=heuristic,
        horizon=25,
        uniforms=5 * SLOTS + 1,
    )
