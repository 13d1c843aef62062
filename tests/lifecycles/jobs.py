"""What the jobs of ``docs/lifecycles/jobs.md`` must say, by hand from the pages that it names."""

from tests.lifecycles.tables import Case, S, Table

OPERATOR = {"operator": 1}
MINE = {"own": 1, "requeue": 1}
FINISHED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "PREEMPTED")
FINISHED += ("NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")
REQUEUED = f"CONFIGURING, RUNNING, SUSPENDED, {', '.join(FINISHED[:-1])} or {FINISHED[-1]}"
PENDING, RUNNING = S("PENDING"), S("RUNNING")
HIGH = S("PENDING", qos="HIGH")


def victim(age: int, **features: str) -> S:
    return S("RUNNING", age, **{**MINE, **features})


CASES = [
    Case("START job0", {"job0": PENDING}, True, "F1"),
    Case("START job0", {"job0": RUNNING}, "stage RUNNING, needs PENDING", "F1"),
    Case("START job0", {"job0": S("PENDING", hold="USER")}, "hold USER, needs NO", "F2"),
    Case(  # of two reasons the first is told
        "START job0", {"job0": S("PENDING", hold="ADMIN", dependency="WAITING")}, "hold ADMIN, needs NO", "F2"
    ),
    Case(
        "START job0",
        {"job0": S("PENDING", dependency="WAITING")},
        "dependency WAITING, needs NONE or SATISFIED",
        "F5",
    ),
    Case(  # it pends for ever
        "START job0", {"job0": S("PENDING", dependency="NEVER")}, "dependency NEVER, needs NONE or SATISFIED", "F5"
    ),
    Case("START job0", {"job0": S("PENDING", dependency="SATISFIED")}, True, "F5"),
    Case("START job0", {"job0": S("PENDING", begin_in=1)}, "begin_in 1, needs at most 0", "F6"),
    Case("START job0", {"job0": S("PENDING", begin_in=0)}, True, "F6"),
    Case("START job0", {"job0": S("PENDING", cleaning=1)}, "cleaning True, needs False", "F7"),
    Case("START job0", {"job0": S("PENDING", restarts=4)}, True, "F8"),
    Case("START job0", {"job0": S("PENDING", restarts=5)}, "restarts 5, needs at most 4", "F8"),
    Case("START job0", {"job0": PENDING}, "partition_up False, needs True", "F9", row={"partition_up": 0}),
    Case("START job0", {"job0": PENDING, "job1": RUNNING}, True, "F10"),
    Case(  # a suspended job keeps its allocation
        "START job0",
        {"job0": PENDING, "job1": RUNNING, "job2": S("SUSPENDED")},
        "2 CONFIGURING, RUNNING or SUSPENDED, needs at most 1",
        "F10",
    ),
    Case("START job0", {"job0": PENDING, "job1": RUNNING, "job2": S("COMPLETED")}, True, "F10"),
    Case(  # what is not enabled is not counted
        "START job0",
        {"job0": PENDING, "job1": RUNNING, "job2": RUNNING},
        True,
        "contract",
        enabled=("job0", "job1"),
    ),
    Case("START job0", {"job0": S("PENDING", user_at_limit=1)}, "user_at_limit True, needs False", "F11"),
    Case(
        "START job0",
        {"job0": PENDING},
        "no choice of node is left by head_masks",
        "F12",
        head_masks={"node": {"job0": []}},
    ),
    Case(
        "START job1 node=?",
        {"job0": PENDING, "job1": PENDING},
        ("n2",),
        "F12",
        head_masks={"node": {"job0": ["n0"], "job1": ["n2"]}},
    ),
    Case("START job0", {"job0": S("PENDING", licensed=1)}, True, "F19", row={"licences_free": 1}),
    Case(
        "START job0",
        {"job0": S("PENDING", licensed=1)},
        "licensed True, needs False; or licences_free 0, needs at least 1",
        "F19",
    ),
    Case("START job0", {"job0": PENDING}, True, "F19"),  # none is free, and it needs none
    Case(
        "SUBMIT job4",
        {f"job{i}": PENDING for i in range(4)},
        "4 PENDING, CONFIGURING, RUNNING or SUSPENDED, needs at most 3",
        "F10",
    ),
    Case("SUBMIT job4", {**{f"job{i}": PENDING for i in range(3)}, "job3": S("FAILED")}, True, "F10"),
    Case("SUBMIT job3", {"job3": S("FAILED")}, "stage FAILED, needs NONE", "F3"),  # to PENDING it goes by REQUEUE
    Case("HOLD job0", {"job0": S("RUNNING", own=1)}, True, "F2"),  # it runs on, and is held if it is queued again
    Case("HOLD job0", {"job0": PENDING}, "own False, needs True, unless operator", "F2"),
    Case("RELEASE job0", {"job0": S("PENDING", own=1, hold="ADMIN")}, "hold ADMIN, needs USER, unless operator", "F2"),
    Case("RELEASE job0", {"job0": S("PENDING", hold="ADMIN")}, True, "F2", row=OPERATOR),
    Case("RELEASE job0", {"job0": S("PENDING", own=1)}, "hold NO, needs USER or ADMIN", "F2"),
    Case("SUSPEND job0", {"job0": S("RUNNING", own=1)}, "operator False, needs True", "F4"),
    Case("RESUME job0", {"job0": S("PENDING", own=1)}, "stage PENDING, needs SUSPENDED", "F4", row=OPERATOR),
    Case("REQUEUE job0", {"job0": S("PENDING", **MINE)}, f"stage PENDING, needs {REQUEUED}", "F3"),
    Case("REQUEUE job0", {"job0": S("TIMEOUT", **MINE)}, True, "F3"),
    Case("REQUEUE_HOLD job0", {"job0": S("COMPLETING", **MINE)}, f"stage COMPLETING, needs {REQUEUED}", "F3"),
    Case("REQUEUE job0", {"job0": S("RUNNING", own=1)}, "requeue False, needs True", "F3", row=OPERATOR),
    Case(
        "CANCEL job0",
        {"job0": S("COMPLETED", own=1)},
        "stage COMPLETED, needs PENDING, CONFIGURING, RUNNING or SUSPENDED",
        "F15",
    ),
    Case("CANCEL job0", {"job0": RUNNING}, "own False, needs True, unless operator", "F15"),
    Case("EXTEND job0", {"job0": S("RUNNING", own=1)}, "operator False, needs True", "F13"),
    Case("SHORTEN job0", {"job0": S("RUNNING", own=1)}, True, "F13"),
    Case("TOP job0", {"job0": S("PENDING", own=1)}, "operator False, needs True", "F16"),
    Case("TOP job0", {"job0": S("PENDING", own=1)}, True, "F16", switches={"enable_user_top": True}),
    Case(  # job2 is a minute too young, job3 does not run
        "PREEMPT job0 victim=?",
        {"job0": HIGH, "job1": victim(10), "job2": victim(9), "job3": S("PENDING", **MINE)},
        ("job1",),
        "F14",
    ),
    Case("PREEMPT job0 victim=job1", {"job0": HIGH, "job1": victim(9)}, "no choice of victim", "F14"),
    Case(
        "PREEMPT job0 victim=job2",
        {"job0": HIGH, "job1": victim(10), "job2": victim(9)},
        "victim job2: age 9 < 10",
        "F14",
    ),
    Case(
        "PREEMPT job0 victim=job0",
        {"job0": HIGH, "job1": victim(10)},
        "victim job0: stage PENDING, needs RUNNING",
        "F14",
    ),
    Case("PREEMPT job0", {"job0": HIGH, "job1": victim(30, qos="HIGH")}, "no choice of victim", "F14"),
    Case("PREEMPT job0", {"job0": S("PENDING", qos="NORMAL"), "job1": victim(30)}, "qos NORMAL, needs HIGH", "F14"),
    Case(  # as many run as may, so that START is illegal
        "PREEMPT job0 victim=?",
        {"job0": HIGH, "job1": victim(30), "job2": victim(30)},
        ("job1", "job2"),
        "F10",
    ),
    Case("PURGE job0", {"job0": S("FAILED", 4)}, "age 4 < 5", "F17"),
    Case("PURGE job0", {"job0": S("FAILED", 5)}, True, "F17"),
    Case("POWER_UP", {"job0": PENDING}, True, "F18", row={"operator": 1, "nodes_down": 1}),
    Case("POWER_UP", {}, True, "F18", row={"operator": 1, "nodes_down": 1}, enabled=()),  # whether a job waits or not
    Case("REQUEUE job0", {"job0": S("CONFIGURING", **MINE)}, True, "F3"),
    Case(
        "CANCEL job0",
        {"job0": S("COMPLETING", **MINE)},
        "stage COMPLETING, needs PENDING, CONFIGURING, RUNNING or SUSPENDED",
        "F15",
    ),
    Case("POWER_UP", {"job0": PENDING}, "nodes_down 0, needs at least 1", "F18", row=OPERATOR),
    Case("POWER_UP", {"job0": PENDING}, "operator False, needs True", "F18", row={"nodes_down": 1}),
    Case("WAIT", {}, True, "contract", row={"partition_up": 0}, enabled=()),
]

OF_OWNERS = "HOLD RELEASE REQUEUE REQUEUE_HOLD CANCEL SHORTEN CLEAR_DEPENDENCY"
OF_OPERATORS = "ADMIN_HOLD SUSPEND RESUME EXTEND"
STARTS = "START PREEMPT"
OWNED = "own False, needs True, unless operator"

TABLE = Table(
    name="jobs",
    row={"operator": 0, "partition_up": 1, "licences_free": 0, "nodes_down": 0},
    cases=CASES,
    slot="job0",
    base={"features": MINE},
    legal={
        "NONE": "SUBMIT",
        "PENDING": "START HOLD ADMIN_HOLD RELEASE CANCEL EXTEND SHORTEN CLEAR_DEPENDENCY TOP PREEMPT",
        "CONFIGURING": "HOLD ADMIN_HOLD RELEASE REQUEUE REQUEUE_HOLD CANCEL",
        "RUNNING": "HOLD ADMIN_HOLD RELEASE SUSPEND REQUEUE REQUEUE_HOLD CANCEL EXTEND SHORTEN",
        "SUSPENDED": "HOLD ADMIN_HOLD RELEASE RESUME REQUEUE REQUEUE_HOLD CANCEL EXTEND SHORTEN",
        "COMPLETING": "",
        **dict.fromkeys(FINISHED, "REQUEUE REQUEUE_HOLD PURGE"),
    },
    opening={
        **{op: {"row": OPERATOR} for op in OF_OPERATORS.split()},
        "RELEASE": {"features": {"hold": "USER"}},
        "CLEAR_DEPENDENCY": {"features": {"dependency": "WAITING"}},
        "TOP": {"row": OPERATOR},
        "PURGE": {"age": 5},
        "PREEMPT": {"features": {"qos": "HIGH"}, "others": {"job1": victim(10)}},
    },
    closing=[
        (OF_OWNERS, {"features": {"own": 0}}, OWNED),
        (OF_OWNERS + " TOP", {"features": {"own": 0}, "row": OPERATOR}, True),
        ("TOP", {"features": {"own": 0}, "row": {"operator": 0}, "switches": {"enable_user_top": True}}, OWNED),
        ("TOP", {"row": {"operator": 0}}, "operator False, needs True"),
        (OF_OPERATORS, {"row": {"operator": 0}}, "operator False, needs True"),
        (STARTS, {"features": {"hold": "USER"}}, "hold USER, needs NO"),
        (STARTS, {"features": {"dependency": "WAITING"}}, "dependency WAITING, needs NONE or SATISFIED"),
        (STARTS, {"features": {"dependency": "NEVER"}}, "dependency NEVER, needs NONE or SATISFIED"),
        (STARTS, {"features": {"dependency": "SATISFIED"}}, True),
        (STARTS, {"features": {"begin_in": 0}}, True),
        (STARTS, {"features": {"begin_in": 1}}, "begin_in 1, needs at most 0"),
        (STARTS, {"features": {"cleaning": 1}}, "cleaning True, needs False"),
        (STARTS, {"features": {"restarts": 4}}, True),
        (STARTS, {"features": {"restarts": 5}}, "restarts 5, needs at most 4"),
        (STARTS, {"row": {"partition_up": 0}}, "partition_up False, needs True"),
        (STARTS, {"features": {"user_at_limit": 1}}, "user_at_limit True, needs False"),
        (STARTS, {"features": {"licensed": 1}}, "licensed True, needs False; or licences_free 0, needs at least 1"),
        (STARTS, {"features": {"licensed": 1}, "row": {"licences_free": 1}}, True),
        ("START", {"others": {"job1": RUNNING}}, True),
        (
            "START",
            {"others": {"job1": RUNNING, "job2": S("CONFIGURING")}},
            "2 CONFIGURING, RUNNING or SUSPENDED, needs at most 1",
        ),
        (
            "START",
            {"others": {"job1": RUNNING, "job2": S("SUSPENDED")}},
            "2 CONFIGURING, RUNNING or SUSPENDED, needs at most 1",
        ),
        ("PREEMPT", {"others": {"job2": RUNNING}}, True),
        (
            "PREEMPT",
            {"others": {"job2": S("CONFIGURING"), "job3": S("SUSPENDED")}},
            "3 CONFIGURING, RUNNING or SUSPENDED, needs at most 2",
        ),
        ("PREEMPT", {"features": {"qos": "NORMAL"}}, "qos NORMAL, needs HIGH"),
        ("PREEMPT", {"others": {"job1": victim(10, qos="HIGH")}}, "no choice of victim"),
        ("PREEMPT", {"others": {"job1": victim(10, qos="NORMAL")}}, True),
        ("PREEMPT", {"others": {"job1": victim(9)}}, "no choice of victim"),
        ("PREEMPT", {"others": {"job1": S("RUNNING", 10, own=1)}}, "no choice of victim"),
        ("PREEMPT", {"others": {"job1": S("SUSPENDED", 10, **MINE)}}, "no choice of victim"),
        ("SUBMIT", {"others": {f"job{i}": PENDING for i in (1, 2, 3)}}, True),
        (
            "SUBMIT",
            {"others": {"job1": PENDING, "job2": RUNNING, "job3": S("SUSPENDED"), "job4": S("CONFIGURING")}},
            "4 PENDING, CONFIGURING, RUNNING or SUSPENDED, needs at most 3",
        ),
        ("HOLD", {"features": {"hold": "ADMIN"}}, "hold ADMIN, needs NO"),
        ("ADMIN_HOLD", {"features": {"hold": "USER"}}, True),
        ("ADMIN_HOLD", {"features": {"hold": "ADMIN"}}, "hold ADMIN, needs NO or USER"),
        ("RELEASE", {"features": {"hold": "NO"}}, "hold NO, needs USER or ADMIN"),
        ("RELEASE", {"features": {"hold": "NO"}, "row": OPERATOR}, "hold NO, needs USER or ADMIN"),
        ("RELEASE", {"features": {"hold": "ADMIN"}}, "hold ADMIN, needs USER, unless operator"),
        ("RELEASE", {"features": {"hold": "ADMIN"}, "row": OPERATOR}, True),
        ("REQUEUE REQUEUE_HOLD", {"features": {"requeue": 0}}, "requeue False, needs True"),
        (
            "CLEAR_DEPENDENCY",
            {"features": {"dependency": "NONE"}},
            "dependency NONE, needs WAITING, SATISFIED or NEVER",
        ),
        ("CLEAR_DEPENDENCY", {"features": {"dependency": "NEVER"}}, True),
        ("CLEAR_DEPENDENCY", {"features": {"dependency": "SATISFIED"}}, True),
        ("PURGE", {"age": 4}, "age 4 < 5"),
    ],
)
