"""Servers in a cloud, after the documentation of OpenStack Compute: a rule set to copy and to change.

F1, F2, ... are the facts that ``servers.md`` lists, each with the page that says it. The clock, ``age``, is in hours.
"""

from collections.abc import Mapping
from enum import IntEnum

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.rollout import RuleDynamics

Vm = IntEnum(
    "Vm",
    "NONE BUILDING ACTIVE PAUSED SUSPENDED STOPPED RESCUED RESIZED SOFT_DELETED SHELVED SHELVED_OFFLOADED ERROR",
    start=0,
)
Task = IntEnum(
    "Task",
    "UNSET VERIFY SPAWNING REBOOTING REBOOTING_HARD POWERING_OFF RESIZE_PREP MIGRATING IMAGE_UPLOADING DELETING",
    start=0,
)
Lock = IntEnum("Lock", "NO OWNER ADMIN", start=0)
Flavor = IntEnum("Flavor", "NONE SMALL MEDIUM LARGE", start=0)
Host = IntEnum("Host", "NONE H0 H1 H2", start=0)
Fault = IntEnum("Fault", "NONE HUNG BROKEN", start=0)
Do = IntEnum(
    "Do",
    "WAIT CREATE DELETE SOFT_DELETE RESTORE FORCE_DELETE START STOP SOFT_REBOOT HARD_REBOOT PAUSE UNPAUSE SUSPEND"
    " RESUME RESCUE UNRESCUE RESIZE CONFIRM_RESIZE REVERT_RESIZE MIGRATE LIVE_MIGRATE EVACUATE REBUILD SNAPSHOT BACKUP"
    " SET_PASSWORD SHELVE SHELVE_OFFLOAD UNSHELVE LOCK ADMIN_LOCK UNLOCK RESET_TO_ACTIVE RESET_TO_ERROR",
    start=0,
)

OCCUPIED = tuple(stage for stage in Vm if stage is not Vm.NONE)
DEFERRABLE = (Vm.ACTIVE, Vm.STOPPED, Vm.ERROR)  # from these F1 has an edge to SOFT_DELETED
ALWAYS_DELETED = tuple(stage for stage in OCCUPIED if stage not in (*DEFERRABLE, Vm.SOFT_DELETED))
HOSTS = ("h0", "h1", "h2")
RESIZE_WINDOW = 24  # hours, F25
RECLAIM_INTERVAL = 24  # hours, F18: a setting of the cloud
UNLOCKED = em.Unless("admin", em.Feature("lock", in_=(Lock.NO,)))  # F16
SETTLED = em.Feature("task", in_=(Task.UNSET, Task.VERIFY))  # F2
ADMIN = em.Row("admin", in_=(True,))
FROM_IMAGE = em.Feature("from_volume", in_=(False,))  # F23

SERVERS = em.MaskRules(
    name="servers",
    stages=Vm,
    empty=Vm.NONE,
    transitions={  # F1: NONE, which is deleted, and ERROR from anywhere; the graph; and what F7, F8 and F9 add to ERROR
        Vm.NONE: (Vm.BUILDING,),
        Vm.BUILDING: (Vm.ACTIVE, Vm.NONE, Vm.ERROR),
        Vm.ACTIVE: (
            Vm.PAUSED,
            Vm.SUSPENDED,
            Vm.STOPPED,
            Vm.RESCUED,
            Vm.RESIZED,
            Vm.SOFT_DELETED,
            Vm.SHELVED,
            Vm.SHELVED_OFFLOADED,
            Vm.NONE,
            Vm.ERROR,
        ),
        Vm.PAUSED: (Vm.ACTIVE, Vm.SHELVED, Vm.SHELVED_OFFLOADED, Vm.NONE, Vm.ERROR),
        Vm.SUSPENDED: (Vm.ACTIVE, Vm.SHELVED, Vm.SHELVED_OFFLOADED, Vm.NONE, Vm.ERROR),
        Vm.STOPPED: (
            Vm.ACTIVE,
            Vm.RESIZED,
            Vm.RESCUED,
            Vm.SHELVED,
            Vm.SHELVED_OFFLOADED,
            Vm.SOFT_DELETED,
            Vm.NONE,
            Vm.ERROR,
        ),
        Vm.RESCUED: (Vm.ACTIVE, Vm.NONE, Vm.ERROR),
        Vm.RESIZED: (Vm.ACTIVE, Vm.NONE, Vm.ERROR),
        Vm.SOFT_DELETED: (Vm.ACTIVE, Vm.NONE, Vm.ERROR),
        Vm.SHELVED: (Vm.SHELVED_OFFLOADED, Vm.ACTIVE, Vm.NONE, Vm.ERROR),
        Vm.SHELVED_OFFLOADED: (Vm.ACTIVE, Vm.NONE, Vm.ERROR),
        Vm.ERROR: (Vm.ACTIVE, Vm.STOPPED, Vm.SOFT_DELETED, Vm.NONE),
    },
    features={
        "task": Task,
        "lock": Lock,
        "flavor": Flavor,
        "host": Host,
        "host_down": bool,
        "from_volume": bool,
        "need": Flavor,  # these three are of the environment below; no rule reads them
        "old": Flavor,
        "fault": Fault,
    },
    row_features={"admin": bool, "deferred": bool, "instances_left": int},
    op_rules=(
        em.Op(Do.WAIT, always=True),
        em.Op(Do.CREATE, enters=Vm.BUILDING, when=(em.Row("instances_left", at_least=1),), uses=("slot", "flavor")),
        em.Op(
            Do.DELETE,
            moves={stage: Vm.NONE for stage in OCCUPIED if stage is not Vm.SOFT_DELETED},
            when=(  # F17, F18: deferred where it can be, at once where it cannot
                UNLOCKED,
                em.Any(em.Row("deferred", in_=(False,)), em.Feature("stage", in_=ALWAYS_DELETED)),
            ),
            uses=("slot",),
        ),
        em.Op(
            Do.SOFT_DELETE,
            moves=dict.fromkeys(DEFERRABLE, Vm.SOFT_DELETED),
            when=(UNLOCKED, em.Row("deferred", in_=(True,))),
            uses=("slot",),
        ),
        em.Op(
            Do.RESTORE,
            moves={Vm.SOFT_DELETED: Vm.ACTIVE},
            when=(UNLOCKED, em.Age(at_most=RECLAIM_INTERVAL)),
            uses=("slot",),
        ),
        em.Op(Do.FORCE_DELETE, moves={Vm.SOFT_DELETED: Vm.NONE}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(Do.START, moves={Vm.STOPPED: Vm.ACTIVE}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(Do.STOP, moves={Vm.ACTIVE: Vm.STOPPED, Vm.ERROR: Vm.STOPPED}, when=(UNLOCKED, SETTLED), uses=("slot",)),
        em.Op(
            Do.SOFT_REBOOT,
            acts_in=(Vm.ACTIVE,),
            when=(UNLOCKED, SETTLED),
            uses=("slot",),
            sets={"task": Task.REBOOTING},
        ),
        em.Op(
            Do.HARD_REBOOT,
            acts_in=(Vm.ACTIVE,),
            moves=dict.fromkeys((Vm.ERROR, Vm.PAUSED, Vm.STOPPED, Vm.SUSPENDED), Vm.ACTIVE),
            when=(UNLOCKED, em.Feature("task", in_=(Task.UNSET, Task.VERIFY, Task.REBOOTING, Task.REBOOTING_HARD))),
            uses=("slot",),
            sets={"task": Task.REBOOTING_HARD},
        ),
        em.Op(Do.PAUSE, moves={Vm.ACTIVE: Vm.PAUSED}, when=(UNLOCKED, SETTLED), uses=("slot",)),
        em.Op(Do.UNPAUSE, moves={Vm.PAUSED: Vm.ACTIVE}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(Do.SUSPEND, moves={Vm.ACTIVE: Vm.SUSPENDED}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(Do.RESUME, moves={Vm.SUSPENDED: Vm.ACTIVE}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(
            Do.RESCUE,
            moves={Vm.ACTIVE: Vm.RESCUED, Vm.STOPPED: Vm.RESCUED},
            when=(UNLOCKED, SETTLED, FROM_IMAGE),
            uses=("slot",),
        ),
        em.Op(Do.UNRESCUE, moves={Vm.RESCUED: Vm.ACTIVE}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(
            Do.RESIZE,
            moves={Vm.ACTIVE: Vm.RESIZED, Vm.STOPPED: Vm.RESIZED},
            when=(UNLOCKED, SETTLED),
            uses=("slot", "flavor"),
        ),
        em.Op(
            Do.CONFIRM_RESIZE,
            moves={Vm.RESIZED: Vm.ACTIVE},
            when=(UNLOCKED, SETTLED, em.Age(at_most=RESIZE_WINDOW)),
            uses=("slot",),
        ),
        em.Op(
            Do.REVERT_RESIZE,
            moves={Vm.RESIZED: Vm.ACTIVE},
            when=(UNLOCKED, SETTLED, em.Age(at_most=RESIZE_WINDOW)),
            uses=("slot",),
        ),
        em.Op(
            Do.MIGRATE,
            moves={Vm.ACTIVE: Vm.RESIZED, Vm.STOPPED: Vm.RESIZED},
            when=(ADMIN,),
            uses=("slot", "host"),
        ),
        em.Op(Do.LIVE_MIGRATE, acts_in=(Vm.ACTIVE,), when=(ADMIN,), uses=("slot", "host")),
        em.Op(
            Do.EVACUATE,
            acts_in=(Vm.ACTIVE, Vm.STOPPED),
            moves={Vm.ERROR: Vm.ACTIVE},
            when=(ADMIN, em.Feature("host_down", in_=(True,))),
            uses=("slot", "host"),
        ),
        em.Op(
            Do.REBUILD,
            acts_in=(Vm.ACTIVE, Vm.STOPPED),
            moves={Vm.ERROR: Vm.ACTIVE},
            when=(UNLOCKED, SETTLED),
            uses=("slot",),
        ),
        em.Op(
            Do.SNAPSHOT,
            acts_in=(Vm.ACTIVE, Vm.STOPPED, Vm.PAUSED, Vm.SUSPENDED),
            when=(UNLOCKED,),
            uses=("slot",),
        ),
        em.Op(Do.BACKUP, acts_in=(Vm.ACTIVE, Vm.STOPPED), when=(UNLOCKED, FROM_IMAGE), uses=("slot",)),
        em.Op(Do.SET_PASSWORD, acts_in=(Vm.ACTIVE,), when=(UNLOCKED,), uses=("slot",)),
        em.Op(
            Do.SHELVE,
            moves=dict.fromkeys((Vm.ACTIVE, Vm.STOPPED, Vm.PAUSED, Vm.SUSPENDED), Vm.SHELVED),
            when=(UNLOCKED,),
            uses=("slot",),
        ),
        em.Op(Do.SHELVE_OFFLOAD, moves={Vm.SHELVED: Vm.SHELVED_OFFLOADED}, when=(UNLOCKED,), uses=("slot",)),
        em.Op(
            Do.UNSHELVE,
            moves={Vm.SHELVED: Vm.ACTIVE, Vm.SHELVED_OFFLOADED: Vm.ACTIVE},
            when=(UNLOCKED,),
            uses=("slot", "zone"),
        ),
        em.Op(  # by an owner; an administrator's lock is an op of its own, because it leaves another lock behind
            Do.LOCK,
            acts_in=OCCUPIED,
            when=(em.Row("admin", in_=(False,)), em.Feature("lock", in_=(Lock.NO,))),
            uses=("slot",),
            sets={"lock": Lock.OWNER},
        ),
        em.Op(
            Do.ADMIN_LOCK,
            acts_in=OCCUPIED,
            when=(ADMIN, em.Feature("lock", in_=(Lock.NO, Lock.OWNER))),
            uses=("slot",),
            sets={"lock": Lock.ADMIN},
        ),
        em.Op(
            Do.UNLOCK,
            acts_in=OCCUPIED,
            when=(
                em.Feature("lock", in_=(Lock.OWNER, Lock.ADMIN)),
                em.Unless("admin", em.Feature("lock", in_=(Lock.OWNER,))),
            ),
            uses=("slot",),
            sets={"lock": Lock.NO},
        ),
        em.Op(Do.RESET_TO_ACTIVE, moves={Vm.ERROR: Vm.ACTIVE}, when=(ADMIN,), uses=("slot",)),
        em.Op(Do.RESET_TO_ERROR, enters=Vm.ERROR, when=(ADMIN,), uses=("slot",)),
    ),
    heads=(
        em.Head("slot"),
        em.Head(
            "flavor",
            ("SMALL", "MEDIUM", "LARGE"),
            by_feature=(  # F26: another flavor than the present one
                "flavor",
                {
                    Flavor.NONE: ("SMALL", "MEDIUM", "LARGE"),  # of a slot that is empty, for CREATE
                    Flavor.SMALL: ("MEDIUM", "LARGE"),
                    Flavor.MEDIUM: ("SMALL", "LARGE"),
                    Flavor.LARGE: ("SMALL", "MEDIUM"),
                },
            ),
        ),
        em.Head(
            "host",
            HOSTS,
            by_feature=(  # F20, F21: another host
                "host",
                {
                    Host.NONE: HOSTS,
                    Host.H0: ("h1", "h2"),
                    Host.H1: ("h0", "h2"),
                    Host.H2: ("h0", "h1"),
                },
            ),
        ),
        em.Head(
            "zone",
            ("ANY", "az1", "az2"),
            by_stage={Vm.SHELVED: ("ANY",), Vm.SHELVED_OFFLOADED: ("ANY", "az1", "az2")},  # F14
        ),
        em.Head("op"),
    ),
    slot_ids=("vm0", "vm1", "vm2"),
)


# -- the environment: servers of one account for a day, see ``servers.md`` --------------------------------------------

STAGE, AGE, TASK, LOCK, FLAVOR, HOST, DOWN, VOLUME, NEED, OLD, FAULT = range(11)  # columns of the states
PRICE, CORE, IMAGE = 1.0, 0.25, 0.05  # an hour of one core: what users pay, what it costs, and where it is shelved
CORES = {Flavor.NONE: 0, Flavor.SMALL: 1, Flavor.MEDIUM: 2, Flavor.LARGE: 4}
QUOTA = 8  # cores of all servers
BEGINS, CHANGES = 0.25, 0.05  # chances of an hour: need begins where there is none, another takes its place
ENDS, LEAVES = 0.03, 0.1  # need ends, and where it is not served
MEDDLED, ALONE = 0.06, 0.02  # chance of a fault in an hour, without a lock and with one; a third of faults is BROKEN
HOST_FAILS, HOST_RETURNS = 0.02, 0.2
LOCKS, UNLOCKS = 0.02, 0.25  # an administrator locks a server, takes such a lock away
ON_DUTY, ROOM = 0.25, 0.8  # an administrator is there to ask, the cloud has room for another server
BUSY = {  # the task in the hour of an op
    Do.SOFT_REBOOT: Task.REBOOTING,
    Do.HARD_REBOOT: Task.REBOOTING_HARD,
    Do.RESIZE: Task.RESIZE_PREP,
    Do.MIGRATE: Task.MIGRATING,
    Do.EVACUATE: Task.SPAWNING,
    Do.REBUILD: Task.SPAWNING,
}


def is_in(values: Tensor, *members: IntEnum) -> Tensor:
    """Which values are one of some members, bool of the same shape; by ``int``, so that it is the same compiled."""
    found = values == int(members[0])
    for member in members[1:]:
        found = found | (values == int(member))
    return found


def cores(flavor: Tensor) -> Tensor:
    """Cores of flavors, float32 of the same shape."""
    return sum((flavor == int(member)).float() * count for member, count in CORES.items())


def serves(states: Tensor) -> Tensor:
    """Which servers users can use, bool ``[batch, slots]``."""
    runs = is_in(states[..., STAGE], Vm.ACTIVE, Vm.RESIZED) & is_in(states[..., TASK], Task.UNSET, Task.VERIFY)
    return runs & (states[..., DOWN] == 0) & is_in(states[..., FAULT], Fault.NONE)


def reward(before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    """What users pay for the need that is served, less what the servers cost."""
    stage, flavor = after[..., STAGE], after[..., FLAVOR]
    paid = PRICE * torch.where(serves(after), cores(torch.minimum(flavor, after[..., NEED])), 0)
    stored = is_in(stage, Vm.SHELVED, Vm.SHELVED_OFFLOADED, Vm.SOFT_DELETED)
    cost = torch.where(stored, IMAGE, CORE) * cores(flavor) + CORE * cores(after[..., OLD])
    return (paid - cost).sum(-1)


def clocks(
    before: Tensor, actions: Tensor, after: Tensor, rows: Mapping[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """What an hour does to servers beside their stages."""
    was, (stage, _, _, lock, flavor, host, _, _, need, old, fault) = before[..., STAGE], after.unbind(-1)
    slots = stage.shape[1]
    slot, to_flavor, to_host, _, op = actions.unsqueeze(1).unbind(-1)  # [batch, 1]
    here = (torch.arange(slots, device=op.device) == slot) & ~is_in(op, Do.WAIT)  # none where it is illegal, too
    users, trouble, locks, place = noise[:, : 4 * slots].unflatten(1, (4, slots)).unbind(1)  # [batch, slots]

    task = torch.where(is_in(stage, Vm.RESIZED), int(Task.VERIFY), int(Task.UNSET))
    task = torch.where(is_in(stage, Vm.BUILDING), int(Task.SPAWNING), task)
    for begun, busy in BUSY.items():
        task = torch.where(here & is_in(op, begun), int(busy), task)

    thawed = here & is_in(op, Do.UNSHELVE) & is_in(was, Vm.SHELVED_OFFLOADED)
    task = torch.where(thawed, int(Task.SPAWNING), task)

    takes = (lock == int(Lock.ADMIN)) & (locks < UNLOCKS)
    sets = is_in(stage, Vm.ACTIVE) & (lock == int(Lock.NO)) & (locks < LOCKS)
    locked = here & is_in(op, Do.LOCK, Do.ADMIN_LOCK, Do.UNLOCK)
    lock = torch.where(locked, lock, torch.where(takes, int(Lock.NO), torch.where(sets, int(Lock.ADMIN), lock)))

    old = torch.where(here & is_in(op, Do.RESIZE, Do.MIGRATE), flavor, old)
    flavor = torch.where(here & is_in(op, Do.CREATE, Do.RESIZE), to_flavor + 1, flavor)
    flavor = torch.where(here & is_in(op, Do.REVERT_RESIZE), old, flavor)
    old = torch.where(is_in(stage, Vm.RESIZED), old, int(Flavor.NONE))

    named = torch.arange(1, len(Host), device=op.device)
    was_down = ((before[..., HOST, None] == named) & (before[..., DOWN, None] != 0)).any(1)  # [batch, hosts]
    luck = noise[:, 4 * slots : 4 * slots + len(HOSTS)]
    is_down = torch.where(was_down, luck >= HOST_RETURNS, luck < HOST_FAILS)
    host = torch.where(here & is_in(op, Do.MIGRATE, Do.LIVE_MIGRATE, Do.EVACUATE), to_host + 1, host)
    placed = thawed | here & is_in(op, Do.CREATE)
    host = torch.where(placed, 1 + (place * len(HOSTS)).int().clamp_max(len(HOSTS) - 1), host)
    host = torch.where(is_in(stage, Vm.SHELVED_OFFLOADED), int(Host.NONE), host)
    down = ((host.unsqueeze(-1) == named) & is_down.unsqueeze(1)).any(-1)

    chance = torch.where(lock == int(Lock.NO), MEDDLED, ALONE)
    new = torch.where(trouble < chance / 3, int(Fault.BROKEN), int(Fault.HUNG))
    rebooted = here & is_in(op, Do.SOFT_REBOOT, Do.HARD_REBOOT)
    renewed = here & is_in(op, Do.UNRESCUE, Do.REBUILD)
    restarted = ~is_in(stage, Vm.ACTIVE, Vm.PAUSED, Vm.SUSPENDED) | rebooted  # these two keep what is in memory
    mended = restarted & is_in(fault, Fault.HUNG) | renewed
    fails = is_in(stage, Vm.ACTIVE) & is_in(fault, Fault.NONE) & ~rebooted & ~renewed & (trouble < chance)
    fault = torch.where(mended, int(Fault.NONE), torch.where(fails, new, fault))

    chance = torch.where(is_in(need, Flavor.NONE), BEGINS, CHANGES)
    drawn = (users / chance * 3).int() + 1  # where there is another: each flavor alike
    need = torch.where(users < chance, drawn, need)
    ends = users > 1 - torch.where(serves(before), ENDS, LEAVES)
    need = torch.where(ends, int(Flavor.NONE), need)
    gone = is_in(stage, Vm.BUILDING, Vm.SOFT_DELETED) | here & is_in(op, Do.REBUILD)  # with what users had stored
    need = torch.where(gone, int(Flavor.NONE), need)
    names = {"task": task, "lock": lock, "flavor": flavor, "host": host, "host_down": down}
    return {**names, "need": need, "old": old, "fault": fault}


def instances_left(states: Tensor) -> Tensor:
    return is_in(states[..., STAGE], Vm.NONE).sum(-1)


def account(
    before: Tensor, actions: Tensor, after: Tensor, rows: Mapping[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """Whether an administrator is on duty, and how many servers may be created."""
    return {"admin": noise[:, -2] < ON_DUTY, "instances_left": instances_left(after) * (noise[:, -1] < ROOM)}


def head_masks(states: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flavors for which the quota has cores, and hosts that no server knows to be down."""
    flavor, old = states[..., FLAVOR], states[..., OLD]
    held = torch.maximum(cores(flavor), cores(old))  # [batch, slots]; a resize may be reverted
    others = (held.sum(-1, keepdim=True) - held).unsqueeze(-1)
    flavor = torch.stack([others + count <= QUOTA for count in list(CORES.values())[1:]], -1).squeeze(2)
    named = torch.arange(1, len(Host), device=states.device)
    down = ((states[..., HOST, None] == named) & (states[..., DOWN, None] != 0)).any(1, keepdim=True)
    return {"flavor": flavor, "host": (~down).expand(-1, states.shape[1], -1)}


def start(states: Tensor) -> Tensor:
    """One server, which is in use."""
    stage, flavor, host = int(Vm.ACTIVE), int(Flavor.MEDIUM), int(Host.H0)
    for column, value in ((STAGE, stage), (FLAVOR, flavor), (HOST, host), (NEED, flavor)):
        states[:, 0, column] = value
    return states


def heuristic(states: Tensor, rows: Mapping[str, Tensor], masks: em.ActionMasks) -> Tensor:
    """What an operator would note down: the first of these that is legal, in the first server of which it is true."""
    stage, _, _, lock, flavor, _, down, _, need, _, fault = states.unbind(-1)  # [batch, slots]
    may = masks.slot_by_op  # [batch, ops, slots]
    flavors = masks.by_slot("flavor")  # [batch, slots, 3]
    fits = flavors.gather(-1, (need.long() - 1).clamp_min(0).unsqueeze(-1)).squeeze(-1)
    always = torch.ones_like(down, dtype=torch.bool)
    notes = [
        (Do.EVACUATE, down != 0),
        (Do.HARD_REBOOT, stage == int(Vm.ERROR)),
        (Do.UNRESCUE, always),
        (Do.RESCUE, fault == int(Fault.BROKEN)),
        (Do.SOFT_REBOOT, fault == int(Fault.HUNG)),
        (Do.UNLOCK, lock == int(Lock.ADMIN)),
        (Do.CONFIRM_RESIZE, always),
        (Do.UNSHELVE, need > 0),
        (Do.RESIZE, (need > flavor) & fits),
        (Do.CREATE, always),
        (Do.SHELVE, (need == 0) & (flavor == int(Flavor.LARGE))),
    ]
    here = torch.stack([may[:, int(op)] & true for op, true in notes], 1)  # [batch, notes, slots]
    note, each = here.any(-1).int().argmax(-1), torch.arange(len(here), device=states.device)
    slot = here[each, note].int().argmax(-1)
    ops = torch.tensor([int(op) for op, _ in notes], device=states.device)
    op = torch.where(here.any(-1).any(-1), ops[note], int(Do.WAIT))
    at = each, slot
    medium = torch.where(flavors[at][:, 1], 1, 0)
    to = torch.where(op == int(Do.CREATE), medium, (need[at].long() - 1).clamp_min(0))
    values = {
        "slot": slot,
        "flavor": to,
        "host": masks.by_slot("host")[at].int().argmax(-1),
        "zone": slot * 0,
        "op": op,
    }
    return torch.stack([values[head.name] for head in SERVERS.heads], -1)


DYNAMICS = RuleDynamics(
    SERVERS,
    reward=reward,
    leaves={
        Vm.BUILDING: {Vm.ACTIVE: 0.6, Vm.ERROR: 0.1},
        Vm.ACTIVE: {Vm.ERROR: 0.01, Vm.SHELVED_OFFLOADED: 0},  # 0: this cloud keeps what is shelved on its host
        Vm.RESIZED: {Vm.ERROR: 0.02},
        **{stage: {Vm.SHELVED_OFFLOADED: 0} for stage in (Vm.PAUSED, Vm.SUSPENDED, Vm.STOPPED)},
    },
    rows_start={"deferred": True, "instances_left": instances_left},
    rows=account,
    clocks=clocks,
    head_masks=head_masks,
    horizon=24,
    uniforms=4 * len(SERVERS.slot_ids) + len(HOSTS) + 2,
    start=start,
    heuristic=heuristic,
)
