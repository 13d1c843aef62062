"""What the pods of ``docs/lifecycles/pods.md`` must say, by hand from the pages that it names.

The application "web" has pod0 to pod5, of which 4 are wanted and 3 must be ready; pod6 and pod7 stand alone.
"""

from tests.lifecycles.tables import Case, S, Table

READY, RUNNING, PENDING = S("READY"), S("RUNNING"), S("PENDING")
PLAIN = tuple(f"n{i}" for i in range(12))
LARGE, GPU = ("n12", "n13"), ("n14", "n15")
ENOUGH = "4 GATED, PENDING, CREATING, RUNNING or READY of kind web, needs at most 3; or pod0 is not of kind alone"


def budget(number: int, pod: str = "pod0", running: bool = False) -> str:
    policy = "; or always_allow False, needs True" if running else ""
    return f"{number} READY of kind web elsewhere, needs at least 3{policy}; or {pod} is not of kind alone"


def ready(number: int, **more: S) -> dict[str, S]:
    return {**{f"pod{i}": READY for i in range(number)}, **more}


CASES = [
    Case("EVICT pod0", ready(4), True, "F2"),
    Case("EVICT pod0", ready(3), budget(2), "F2"),  # the pod itself does not count
    Case("EVICT pod1", ready(3, pod3=S("TERMINATING")), budget(2, "pod1"), "F3"),  # the second of two in a row
    Case("EVICT pod1", ready(3, pod3=RUNNING), budget(2, "pod1"), "F2"),  # pod3 starts, and is not available yet
    Case("EVICT pod6", ready(0, pod6=READY), True, "F3"),  # a pod beside the application has no budget
    Case("EVICT pod0", ready(3, pod6=READY), budget(2), "F3"),  # ... and counts for none
    Case("EVICT pod6", ready(2, pod6=RUNNING), True, "F3"),
    Case("EVICT pod3", ready(3, pod3=RUNNING), True, "F4"),  # as many are healthy as are wanted
    Case("EVICT pod2", ready(2, pod2=RUNNING), budget(2, "pod2", running=True), "F4"),
    Case("EVICT pod2", ready(2, pod2=RUNNING, pod6=READY), budget(2, "pod2", running=True), "F4"),
    Case("EVICT pod2", ready(2, pod2=RUNNING), True, "F4", row={"always_allow": 1}),
    Case("EVICT pod0", ready(2), budget(1), "F4", row={"always_allow": 1}),  # which is for unhealthy pods
    Case("EVICT pod0", {"pod0": PENDING}, True, "F5"),  # no healthy pod at all
    Case("EVICT pod0", {"pod0": S("CREATING")}, True, "F5"),  # bound, and its phase still Pending
    Case("EVICT pod0", {"pod0": S("FAILED")}, True, "F5"),
    Case("EVICT pod0", {"pod0": S("TERMINATING")}, True, "F5"),
    Case("EVICT pod0", ready(4), "throttled True, needs False", "F6", row={"throttled": 1}),
    Case("EVICT pod0", ready(2), "throttled True, needs False", "F6", row={"throttled": 1}),  # the first reason is told
    Case("DELETE pod0", ready(3), True, "F7"),
    Case(
        "DELETE pod0",
        {"pod0": S("TERMINATING")},
        "stage TERMINATING, needs GATED, PENDING, CREATING, RUNNING, READY, SUCCEEDED or FAILED",
        "F8",
    ),
    Case("FORCE_DELETE pod0", {"pod0": S("TERMINATING")}, True, "F8"),
    Case(
        "FORCE_DELETE pod0",
        {},
        "stage ABSENT, needs GATED, PENDING, CREATING, RUNNING, READY, TERMINATING, SUCCEEDED or FAILED",
        "F8",
    ),
    Case("CREATE pod3", ready(3), True, "F9"),
    Case("CREATE pod4", ready(4), ENOUGH.replace("pod0", "pod4"), "F9"),
    Case("CREATE pod4", ready(3, pod3=S("TERMINATING")), True, "F9"),  # the new one comes while the old one ends
    Case("CREATE pod4", ready(3, pod3=S("FAILED")), True, "F9"),
    Case("CREATE pod3", ready(3, pod6=READY, pod7=READY), True, "F9"),  # those beside it are no replicas of it
    Case("CREATE pod6", ready(4), True, "F9"),
    Case("CREATE_GATED pod7", ready(4), True, "F9"),
    Case("CREATE pod5", ready(4), True, "contract", enabled=("pod0", "pod1", "pod2", "pod5")),  # 3 are enabled
    Case("BIND pod0", {"pod0": S("GATED")}, "stage GATED, needs PENDING", "F10"),
    Case("UNGATE pod0", {"pod0": PENDING}, "stage PENDING, needs GATED", "F10"),
    Case("BIND pod0", {"pod0": READY}, "stage READY, needs PENDING", "F11"),
    Case("BIND pod0 node=?", {"pod0": PENDING}, PLAIN + LARGE, "F12"),
    Case("BIND pod0 node=?", {"pod0": S("PENDING", size="LARGE")}, LARGE, "F12"),
    Case("BIND pod0 node=?", {"pod0": S("PENDING", size="LARGE", tolerates=1)}, LARGE, "F12"),
    Case("BIND pod0 node=?", {"pod0": S("PENDING", size="GPU", tolerates=1)}, GPU, "F13"),
    Case(
        "BIND pod0",
        {"pod0": S("PENDING", size="GPU")},
        f"no choice of node: size GPU has {', '.join(GPU)}; tolerates False has {', '.join(PLAIN + LARGE)}",
        "F13",
    ),
    Case("BIND pod0 node=n14", {"pod0": PENDING}, False, "F13"),  # it does not tolerate the taint
    Case("BIND pod0 node=?", {"pod0": S("PENDING", tolerates=1)}, PLAIN + LARGE + GPU, "F13"),  # it may, and need not
    Case(  # room on small nodes alone
        "BIND pod0",
        {"pod0": S("PENDING", size="GPU", tolerates=1)},
        "no choice of node is left by head_masks",
        "F14",
        head_masks={"node": {"pod0": ["n0", "n1"]}},
    ),
    Case(  # each pod by its own room
        "BIND pod1 node=?",
        {"pod0": PENDING, "pod1": S("PENDING", size="LARGE")},
        ("n13",),
        "F14",
        head_masks={"node": {"pod0": ["n0", "n12"], "pod1": ["n0", "n13"]}},
    ),
    Case(  # which is cordoned
        "BIND pod0 node=n3",
        {"pod0": PENDING},
        "node n3: masked by the caller",
        "F14",
        head_masks={"node": {"pod0": ["n0"]}},
    ),
    Case(
        "TAINT_EVICT pod0",
        {"pod0": S("READY", unreachable=299)},
        "unreachable 299, needs at least 300",
        "F15",
    ),
    Case("TAINT_EVICT pod0", {"pod0": S("READY", unreachable=300)}, True, "F15"),  # the budget is not asked
    Case(
        "COLLECT pod0",
        {f"pod{i}": S("FAILED") for i in range(2)},
        "2 SUCCEEDED or FAILED, needs at least 3",
        "F16",
    ),
    Case("COLLECT pod1", {"pod0": S("FAILED"), "pod1": S("SUCCEEDED"), "pod7": S("FAILED")}, True, "F16"),
    Case("CORDON", {}, True, "F17", enabled=()),
    Case(
        "UNCORDON",
        {},
        "no choice of uncordon is left by head_masks",
        "F17",
        head_masks={"uncordon": {"*": []}, "cordon": {"*": ["n1"]}},
    ),
    Case("CORDON", {}, True, "F17", head_masks={"cordon": {"*": ["n1"]}}),
    Case("CORDON", {}, "no choice of cordon is left by head_masks", "F17", head_masks={"cordon": {"*": []}}),
    Case("UNCORDON", {}, True, "F17", head_masks={"uncordon": {"*": ["n1"]}}),
    Case("WAIT", {}, True, "contract", row={"throttled": 1}, enabled=()),
]

OTHERS = {f"pod{i}": READY for i in (1, 2, 3)}
FULL = {"pod1": S("GATED"), "pod2": PENDING, "pod3": S("CREATING"), "pod4": RUNNING}
CREATES = "CREATE CREATE_GATED"

TABLE = Table(
    name="pods",
    row={"throttled": 0, "always_allow": 0},
    cases=CASES,
    slot="pod0",
    legal={
        "ABSENT": CREATES,
        "GATED": "UNGATE EVICT DELETE FORCE_DELETE",
        "PENDING": "BIND EVICT DELETE FORCE_DELETE",
        "CREATING": "EVICT TAINT_EVICT DELETE FORCE_DELETE",
        "RUNNING": "EVICT TAINT_EVICT DELETE FORCE_DELETE",
        "READY": "EVICT TAINT_EVICT DELETE FORCE_DELETE",
        "TERMINATING": "EVICT FORCE_DELETE",
        "SUCCEEDED": "EVICT DELETE FORCE_DELETE COLLECT",
        "FAILED": "EVICT DELETE FORCE_DELETE COLLECT",
    },
    opening={
        "TAINT_EVICT": {"features": {"unreachable": 300}},
        "EVICT": {"others": OTHERS},
        "COLLECT": {"others": {"pod1": S("SUCCEEDED"), "pod2": S("FAILED")}},
    },
    closing=[
        ("EVICT", {"row": {"throttled": 1}}, "throttled True, needs False"),
        ("EVICT@READY", {"others": {"pod3": RUNNING}}, budget(2)),
        ("EVICT@RUNNING", {"others": {"pod3": RUNNING}}, budget(2, running=True)),
        ("EVICT@RUNNING", {"others": {"pod3": RUNNING}, "row": {"always_allow": 1}}, True),
        ("EVICT@GATED EVICT@PENDING EVICT@CREATING", {"others": {"pod3": RUNNING}}, True),
        ("EVICT@TERMINATING EVICT@SUCCEEDED EVICT@FAILED", {"others": {"pod3": RUNNING}}, True),
        ("TAINT_EVICT", {"features": {"unreachable": 299}}, "unreachable 299, needs at least 300"),
        ("COLLECT", {"others": {"pod2": READY}}, "2 SUCCEEDED or FAILED, needs at least 3"),
        (CREATES, {"others": OTHERS}, True),
        (CREATES, {"others": {**OTHERS, "pod6": READY}}, True),
        (CREATES, {"others": {**OTHERS, "pod3": S("TERMINATING"), "pod4": RUNNING}}, True),
        (CREATES, {"others": FULL}, ENOUGH),
        (CREATES, {"others": {**OTHERS, "pod4": READY}}, ENOUGH),
    ],
)
