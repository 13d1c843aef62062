"""A small job scheduler: its rules, and what a step does. ``docs/your-own-lifecycle.md`` goes through it."""

from enum import IntEnum

import torch

import esper_masks as em

Job = IntEnum("Job", "NONE QUEUED RUNNING DONE", start=0)
Priority = IntEnum("Priority", "LOW NORMAL HIGH", start=0)
Act = IntEnum("Act", "WAIT START PREEMPT COLLECT", start=0)

open_ = em.Row("open", in_=(True,))
SCHEDULER = em.MaskRules(
    name="scheduler",
    stages=Job,
    empty=Job.NONE,
    transitions={
        Job.NONE: [Job.QUEUED],  # a job arrives
        Job.QUEUED: [Job.RUNNING],
        Job.RUNNING: [Job.DONE, Job.QUEUED],
        Job.DONE: [Job.NONE],
    },
    features={"priority": Priority},  # of a slot
    row_features={"open": bool},  # of the environment: False while the runners are serviced, and take no job
    op_rules=[
        em.Op(Act.WAIT, always=True),
        em.Op(
            Act.START,
            moves={Job.QUEUED: Job.RUNNING},
            when=[open_, em.Count((Job.RUNNING,), at_most=1, of="all")],  # there are two runners
            uses=["slot"],
        ),
        em.Op(
            Act.PREEMPT,  # takes the runner of a victim, which is queued again and has to begin from the start
            moves={Job.QUEUED: Job.RUNNING},
            when=[
                open_,
                em.Count((Job.RUNNING,), at_least=2, of="all"),
                em.Feature("priority", in_=(Priority.NORMAL, Priority.HIGH)),
            ],
            uses=["slot", "victim"],
        ),
        em.Op(Act.COLLECT, moves={Job.DONE: Job.NONE}, uses=["slot"]),
    ],
    heads=[
        em.Head("slot"),
        em.SlotHead("victim", moves={Job.RUNNING: Job.QUEUED}, distinct=True),
        em.Head("op"),
    ],
    slot_ids=["a", "b", "c", "d", "e", "f"],
)

STAGE, AGE, PRIORITY = range(3)  # columns of a slot state, int32 [batch, slots, features]
SLOTS = len(SCHEDULER.slot_ids)


def reward(before, actions, after):  # slot states before the step and after it
    """A collected job is worth 1, 2 or 3, by its priority; a step that it waits, done or not, costs a tenth of that."""
    was, stage = before[..., STAGE], after[..., STAGE]
    collected = (was == int(Job.DONE)) & (stage == int(Job.NONE))
    waits = (stage == int(Job.QUEUED)) | (stage == int(Job.DONE))
    return ((1 + before[..., PRIORITY]) * collected - 0.1 * (1 + after[..., PRIORITY]) * waits).sum(-1)


def clocks(before, actions, after, rows, noise):  # new values of features
    """Priorities of jobs that arrive: half are LOW, a fifth HIGH."""
    arrived = (before[..., STAGE] == int(Job.NONE)) & (after[..., STAGE] == int(Job.QUEUED))
    drawn = (noise[:, :SLOTS] > 0.5).int() + (noise[:, :SLOTS] > 0.8).int()
    return {"priority": torch.where(arrived, drawn, after[..., PRIORITY])}


def service(before, actions, after, rows, noise):  # new values of rows
    """Service begins in one step of twenty, and lasts two or three steps on average."""
    return {"open": torch.where(rows["open"], noise[:, SLOTS] < 0.95, noise[:, SLOTS] < 0.4)}


def lower(states, rows):  # masks of heads, bool [batch, slots, victims]
    """What relates two slots: a victim has a lower priority than the job that takes its place."""
    priority = states[..., PRIORITY]
    return {"victim": priority.unsqueeze(-1) > priority.unsqueeze(-2)}


def heuristic(states, rows, masks):  # actions, int64 [batch, heads]
    """START, else COLLECT, else PREEMPT, as a person would: the job of the highest priority, of these the oldest."""
    urgency = 100 * states[..., PRIORITY] + states[..., AGE]
    legal, row = masks.slot_by_op, torch.arange(len(states), device=states.device)
    op = torch.full_like(row, int(Act.WAIT))
    for better in (Act.PREEMPT, Act.COLLECT, Act.START):
        op = torch.where(legal[:, int(better)].any(-1), int(better), op)
    slot = torch.where(legal[row, op], urgency, -1).argmax(-1)
    victim = torch.where(masks.by_slot("victim")[row, slot], urgency, 1000).argmin(-1)
    return torch.stack([slot, victim, op], -1)


DYNAMICS = em.rollout.RuleDynamics(
    SCHEDULER,
    reward=reward,
    leaves={
        Job.NONE: {Job.QUEUED: 0.25},  # by chance, in each step
        Job.RUNNING: (Job.DONE, {2: 0.5, 4: 0.3, 8: 0.2}),  # after 2, 4 or 8 steps
    },
    clocks=clocks,
    rows_start={"open": True},
    rows=service,
    uniforms=SLOTS + 1,  # numbers of noise for clocks and rows
    head_masks=lower,
    heuristic=heuristic,
)
