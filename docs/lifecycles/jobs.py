"""Batch jobs with holds, dependencies, quotas and preemption, after the documentation of Slurm: to copy and to change.

F1, F2, ... are the facts that ``jobs.md`` lists, each with the page that says it. The clock, ``age``, is in minutes.
"""

from enum import IntEnum

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
