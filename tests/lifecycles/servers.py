"""What the servers of ``docs/lifecycles/servers.md`` must say, by hand from the pages that it names."""

from tests.lifecycles.tables import Case, S, Table

ADMIN = {"admin": 1}
LATER = {"deferred": 1}
AT_ONCE = "needs BUILDING, PAUSED, SUSPENDED, RESCUED, RESIZED, SHELVED or SHELVED_OFFLOADED"
CASES = [
    Case("START vm0", {"vm0": S("STOPPED")}, True, "F6"),
    Case("START vm0", {"vm0": S("ACTIVE")}, "stage ACTIVE, needs STOPPED", "F6"),
    Case("STOP vm0", {"vm0": S("ACTIVE", task="SPAWNING")}, "task SPAWNING, needs UNSET or VERIFY", "F2"),
    Case("STOP vm0", {"vm0": S("ACTIVE", task="VERIFY")}, True, "F2"),
    Case("STOP vm0", {"vm0": S("ERROR")}, True, "F7"),  # which the graph of the states does not show
    Case("STOP vm0", {"vm0": S("PAUSED")}, "stage PAUSED, needs ACTIVE or ERROR", "F7"),
    Case("SUSPEND vm0", {"vm0": S("STOPPED")}, "stage STOPPED, needs ACTIVE", "F1"),
    Case("START vm0", {"vm0": S("STOPPED", lock="OWNER")}, "lock OWNER, needs NO, unless admin", "F16"),
    Case("START vm0", {"vm0": S("STOPPED", lock="ADMIN")}, True, "F16", row=ADMIN),
    Case(  # only the lock is waived
        "STOP vm0",
        {"vm0": S("ACTIVE", task="RESIZE_PREP", lock="OWNER")},
        "task RESIZE_PREP, needs UNSET or VERIFY",
        "F2",
        row=ADMIN,
    ),
    Case(  # of two reasons the first is told
        "STOP vm0",
        {"vm0": S("ACTIVE", task="RESIZE_PREP", lock="OWNER")},
        "lock OWNER, needs NO, unless admin",
        "F16",
    ),
    Case("SOFT_REBOOT vm0", {"vm0": S("PAUSED")}, "stage PAUSED, needs ACTIVE", "F8"),
    Case("HARD_REBOOT vm0", {"vm0": S("PAUSED")}, True, "F8"),
    Case(
        "SOFT_REBOOT vm0",
        {"vm0": S("ACTIVE", task="REBOOTING")},
        "task REBOOTING, needs UNSET or VERIFY",
        "F24",
    ),
    Case("HARD_REBOOT vm0", {"vm0": S("ACTIVE", task="REBOOTING")}, True, "F24"),
    Case(
        "HARD_REBOOT vm0",
        {"vm0": S("RESCUED")},
        "stage RESCUED, needs ACTIVE, PAUSED, SUSPENDED, STOPPED or ERROR",
        "F8",
    ),
    Case("REBUILD vm0", {"vm0": S("ERROR")}, True, "F9"),
    Case("REBUILD vm0", {"vm0": S("PAUSED")}, "stage PAUSED, needs ACTIVE, STOPPED or ERROR", "F9"),
    Case("CONFIRM_RESIZE vm0", {"vm0": S("RESIZED", 24)}, True, "F25"),
    Case("REVERT_RESIZE vm0", {"vm0": S("RESIZED", 25)}, "age 25 > 24", "F25"),
    Case("CONFIRM_RESIZE vm0", {"vm0": S("ACTIVE", task="VERIFY")}, "stage ACTIVE, needs RESIZED", "F4"),
    Case("REVERT_RESIZE vm0", {"vm0": S("STOPPED", task="VERIFY")}, "stage STOPPED, needs RESIZED", "F5"),
    Case("RESIZE vm0", {"vm0": S("RESIZED")}, "stage RESIZED, needs ACTIVE or STOPPED", "F3"),
    Case("RESIZE vm0 flavor=?", {"vm0": S("STOPPED", flavor="SMALL")}, ("MEDIUM", "LARGE"), "F26"),
    Case("RESIZE vm0 flavor=?", {"vm0": S("ACTIVE", flavor="MEDIUM")}, ("SMALL", "LARGE"), "F26"),
    Case("RESIZE vm0 flavor=?", {"vm0": S("ACTIVE", flavor="LARGE")}, ("SMALL", "MEDIUM"), "F26"),
    Case(
        "RESIZE vm0 flavor=SMALL",
        {"vm0": S("ACTIVE", flavor="SMALL")},
        "flavor SMALL: flavor SMALL has MEDIUM, LARGE",
        "F26",
    ),
    Case("CREATE vm0 flavor=?", {}, ("SMALL", "MEDIUM", "LARGE"), "F27"),  # an empty slot has value 0
    Case(  # the cores that are left pay for LARGE alone, which vm0 has
        "RESIZE vm0",
        {"vm0": S("ACTIVE", flavor="LARGE"), "vm1": S("ACTIVE", flavor="SMALL")},
        "no choice of flavor is left by head_masks",
        "F27",
        head_masks={"flavor": {"vm0": ["LARGE"], "vm1": ["LARGE"]}},
    ),
    Case(
        "RESIZE vm1 flavor=?",
        {"vm0": S("ACTIVE", flavor="LARGE"), "vm1": S("ACTIVE", flavor="SMALL")},
        ("LARGE",),
        "F27",
        head_masks={"flavor": {"vm0": ["LARGE"], "vm1": ["LARGE"]}},
    ),
    Case("CREATE vm0", {}, "instances_left 0, needs at least 1", "F27", row={"instances_left": 0}),
    Case("UNSHELVE vm0 zone=?", {"vm0": S("SHELVED")}, ("ANY",), "F14"),
    Case("UNSHELVE vm0 zone=az1", {"vm0": S("SHELVED")}, "zone az1: stage SHELVED has ANY", "F14"),
    Case("UNSHELVE vm0 zone=?", {"vm0": S("SHELVED_OFFLOADED")}, ("ANY", "az1", "az2"), "F14"),
    Case("UNSHELVE vm0 zone=az1", {"vm0": S("SHELVED_OFFLOADED")}, True, "F13"),
    Case("SHELVE vm0", {"vm0": S("RESCUED")}, "stage RESCUED, needs ACTIVE, PAUSED, SUSPENDED or STOPPED", "F11"),
    Case("SHELVE_OFFLOAD vm0", {"vm0": S("SHELVED_OFFLOADED")}, "stage SHELVED_OFFLOADED, needs SHELVED", "F12"),
    Case("UNRESCUE vm0", {"vm0": S("PAUSED")}, "stage PAUSED, needs RESCUED", "F15"),
    Case("MIGRATE vm0", {"vm0": S("ACTIVE", host="H1")}, "admin False, needs True", "F19"),
    Case("MIGRATE vm0 host=?", {"vm0": S("STOPPED", host="H0")}, ("h1", "h2"), "F19", row=ADMIN),
    Case("LIVE_MIGRATE vm0 host=?", {"vm0": S("ACTIVE", host="H1")}, ("h0", "h2"), "F20", row=ADMIN),
    Case("LIVE_MIGRATE vm0", {"vm0": S("STOPPED", host="H1")}, "stage STOPPED, needs ACTIVE", "F20", row=ADMIN),
    Case("EVACUATE vm0", {"vm0": S("ACTIVE", host="H0")}, "host_down False, needs True", "F21", row=ADMIN),
    Case("EVACUATE vm0 host=?", {"vm0": S("ACTIVE", host="H2", host_down=1)}, ("h0", "h1"), "F21", row=ADMIN),
    Case(
        "EVACUATE vm0 host=h0",
        {"vm0": S("ACTIVE", host="H0", host_down=1)},
        "host h0: host H0 has h1, h2",
        "F21",
        row=ADMIN,
    ),
    Case(  # the only host with room is the one that is down
        "EVACUATE vm0",
        {"vm0": S("ACTIVE", host="H0", host_down=1)},
        "no choice of host is left by head_masks",
        "F21",
        row=ADMIN,
        head_masks={"host": {"vm0": ["h0"]}},
    ),
    Case("MIGRATE vm0 host=?", {"vm0": S("ACTIVE")}, ("h0", "h1", "h2"), "F19", row=ADMIN),  # on none of these hosts
    Case("SNAPSHOT vm0", {"vm0": S("SUSPENDED")}, True, "F10"),
    Case("BACKUP vm0", {"vm0": S("SUSPENDED")}, "stage SUSPENDED, needs ACTIVE or STOPPED", "F23"),
    Case("BACKUP vm0", {"vm0": S("ACTIVE", from_volume=1)}, "from_volume True, needs False", "F23"),
    Case("SOFT_DELETE vm0", {"vm0": S("ACTIVE")}, "deferred False, needs True", "F18"),
    Case(
        "DELETE vm0", {"vm0": S("ACTIVE")}, f"deferred True, needs False; or stage ACTIVE, {AT_ONCE}", "F18", row=LATER
    ),
    Case("DELETE vm0", {"vm0": S("PAUSED")}, True, "F18", row=LATER),  # it has no edge to SOFT_DELETED
    Case("RESTORE vm0", {"vm0": S("SOFT_DELETED", 24)}, True, "F18", row={"deferred": 1}),
    Case("RESTORE vm0", {"vm0": S("SOFT_DELETED", 25)}, "age 25 > 24", "F18", row={"deferred": 1}),
    Case("FORCE_DELETE vm0", {"vm0": S("SOFT_DELETED", 99)}, True, "F18", row={"deferred": 1}),
    Case("DELETE vm0", {"vm0": S("BUILDING", task="SPAWNING")}, True, "F17"),  # in any stage, under any task
    Case("UNLOCK vm0", {"vm0": S("ACTIVE", lock="ADMIN")}, "lock ADMIN, needs OWNER, unless admin", "F16"),
    Case("UNLOCK vm0", {"vm0": S("ACTIVE", lock="OWNER")}, True, "F16"),
    Case("UNLOCK vm0", {"vm0": S("ACTIVE")}, "lock NO, needs OWNER or ADMIN", "F16", row=ADMIN),
    Case("ADMIN_LOCK vm0", {"vm0": S("ACTIVE", lock="OWNER")}, True, "F16", row=ADMIN),
    Case("RESET_TO_ACTIVE vm0", {"vm0": S("ERROR")}, "admin False, needs True", "F22"),
    Case(
        "START vm1",
        {"vm0": S("ACTIVE"), "vm1": S("STOPPED")},
        "the slot is not enabled",
        "contract",
        enabled=("vm0",),
    ),
    Case("WAIT", {}, True, "contract", row={"instances_left": 0}, enabled=()),
]

ALWAYS_THERE = " LOCK ADMIN_LOCK UNLOCK RESET_TO_ERROR"
ASK_LOCK = (
    "DELETE SOFT_DELETE RESTORE FORCE_DELETE START STOP SOFT_REBOOT HARD_REBOOT PAUSE UNPAUSE SUSPEND RESUME RESCUE"
    " UNRESCUE RESIZE CONFIRM_RESIZE REVERT_RESIZE REBUILD SNAPSHOT BACKUP SET_PASSWORD SHELVE SHELVE_OFFLOAD UNSHELVE"
)
ASK_TASK = "STOP SOFT_REBOOT PAUSE RESCUE RESIZE CONFIRM_RESIZE REVERT_RESIZE REBUILD"
ASK_ADMIN = "MIGRATE LIVE_MIGRATE EVACUATE ADMIN_LOCK RESET_TO_ACTIVE RESET_TO_ERROR"
TIMED = "RESTORE CONFIRM_RESIZE REVERT_RESIZE"
NO_TASK = "MIGRATE LIVE_MIGRATE EVACUATE DELETE START SUSPEND SHELVE LOCK"  # their documentation asks for no task

TABLE = Table(
    name="servers",
    row={"admin": 0, "deferred": 0, "instances_left": 1},
    cases=CASES,
    slot="vm0",
    legal={
        "NONE": "CREATE",
        "BUILDING": "DELETE" + ALWAYS_THERE,
        "ACTIVE": "DELETE SOFT_DELETE STOP SOFT_REBOOT HARD_REBOOT PAUSE SUSPEND RESCUE RESIZE MIGRATE LIVE_MIGRATE"
        " EVACUATE REBUILD SNAPSHOT BACKUP SET_PASSWORD SHELVE" + ALWAYS_THERE,
        "PAUSED": "DELETE HARD_REBOOT UNPAUSE SNAPSHOT SHELVE" + ALWAYS_THERE,
        "SUSPENDED": "DELETE HARD_REBOOT RESUME SNAPSHOT SHELVE" + ALWAYS_THERE,
        "STOPPED": "DELETE SOFT_DELETE START HARD_REBOOT RESCUE RESIZE MIGRATE EVACUATE REBUILD SNAPSHOT BACKUP SHELVE"
        + ALWAYS_THERE,
        "RESCUED": "DELETE UNRESCUE" + ALWAYS_THERE,
        "RESIZED": "DELETE CONFIRM_RESIZE REVERT_RESIZE" + ALWAYS_THERE,
        "SOFT_DELETED": "RESTORE FORCE_DELETE" + ALWAYS_THERE,
        "SHELVED": "DELETE SHELVE_OFFLOAD UNSHELVE" + ALWAYS_THERE,
        "SHELVED_OFFLOADED": "DELETE UNSHELVE" + ALWAYS_THERE,
        "ERROR": "DELETE SOFT_DELETE STOP HARD_REBOOT EVACUATE REBUILD LOCK ADMIN_LOCK UNLOCK RESET_TO_ACTIVE",
    },
    opening={
        "SOFT_DELETE": {"row": {"deferred": 1}},
        **{op: {"row": ADMIN} for op in ASK_ADMIN.split()},
        "EVACUATE": {"row": ADMIN, "features": {"host_down": 1}},
        "UNLOCK": {"features": {"lock": "OWNER"}},
    },
    closing=[
        (ASK_LOCK, {"features": {"lock": "OWNER"}}, "lock OWNER, needs NO, unless admin"),
        (ASK_LOCK, {"features": {"lock": "ADMIN"}}, "lock ADMIN, needs NO, unless admin"),
        (ASK_LOCK, {"features": {"lock": "ADMIN"}, "row": ADMIN}, True),
        (ASK_TASK, {"features": {"task": "SPAWNING"}}, "task SPAWNING, needs UNSET or VERIFY"),
        (ASK_TASK + " HARD_REBOOT", {"features": {"task": "VERIFY"}}, True),
        (NO_TASK, {"features": {"task": "SPAWNING"}}, True),
        ("HARD_REBOOT", {"features": {"task": "REBOOTING"}}, True),
        ("HARD_REBOOT", {"features": {"task": "REBOOTING_HARD"}}, True),
        (
            "HARD_REBOOT",
            {"features": {"task": "SPAWNING"}},
            "task SPAWNING, needs UNSET, VERIFY, REBOOTING or REBOOTING_HARD",
        ),
        (ASK_ADMIN, {"row": {"admin": 0}}, "admin False, needs True"),
        ("RESCUE BACKUP", {"features": {"from_volume": 1}}, "from_volume True, needs False"),
        ("EVACUATE", {"features": {"host_down": 0}}, "host_down False, needs True"),
        (TIMED, {"age": 24}, True),
        (TIMED, {"age": 25}, "age 25 > 24"),
        *(
            (f"DELETE@{stage}", {"row": LATER}, f"deferred True, needs False; or stage {stage}, {AT_ONCE}")
            for stage in ("ACTIVE", "STOPPED", "ERROR")
        ),
        *(
            (f"DELETE@{stage}", {"row": LATER}, True)
            for stage in ("BUILDING", "PAUSED", "SUSPENDED", "RESCUED", "RESIZED", "SHELVED", "SHELVED_OFFLOADED")
        ),
        ("SOFT_DELETE", {"row": {"deferred": 0}}, "deferred False, needs True"),
        ("CREATE", {"row": {"instances_left": 1}}, True),
        ("CREATE", {"row": {"instances_left": 0}}, "instances_left 0, needs at least 1"),
        ("LOCK", {"row": ADMIN}, "admin True, needs False"),
        ("LOCK", {"features": {"lock": "OWNER"}}, "lock OWNER, needs NO"),
        ("ADMIN_LOCK", {"features": {"lock": "OWNER"}}, True),
        ("ADMIN_LOCK", {"features": {"lock": "ADMIN"}}, "lock ADMIN, needs NO or OWNER"),
        ("UNLOCK", {"features": {"lock": "NO"}}, "lock NO, needs OWNER or ADMIN"),
        ("UNLOCK", {"features": {"lock": "ADMIN"}}, "lock ADMIN, needs OWNER, unless admin"),
        ("UNLOCK", {"features": {"lock": "ADMIN"}, "row": ADMIN}, True),
    ],
)
