"""Servers in a cloud, after the documentation of OpenStack Compute: a rule set to copy and to change.

F1, F2, ... are the facts that ``servers.md`` lists, each with the page that says it. The clock, ``age``, is in hours.
"""

from enum import IntEnum

import esper_masks as em

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
    features={"task": Task, "lock": Lock, "flavor": Flavor, "host": Host, "host_down": bool, "from_volume": bool},
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
