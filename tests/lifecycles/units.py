"""What the units of ``docs/lifecycles/units.md`` must say, by hand from the pages that it names."""

from tests.lifecycles.tables import Case, S, Table

NIGHT = {"day": 0}
BASE, ORE = S("BASE", 10), S("ORE")
CASES = [
    Case("MOVE u0", {"u0": S("WORKER", 2)}, True, "F7"),
    Case("MOVE u0", {"u0": S("WORKER", 1)}, "age 1 < 2", "F7"),
    Case("MOVE u0", {"u0": S("WORKER", 2)}, "age 2 < 4, unless day", "F8", row=NIGHT),
    Case("MOVE u0", {"u0": S("WORKER", 4)}, True, "F8", row=NIGHT),
    Case("MOVE u0", {"u0": S("CART", 2)}, "age 2 < 3", "F7"),  # a cart is slower
    Case("MOVE u0", {"u0": S("CART", 3)}, "age 3 < 6, unless day", "F8", row=NIGHT),
    Case("MOVE u0", {"u0": S("BASE", 99)}, "stage BASE, needs WORKER, CART, LIGHT or RANGED", "F1"),
    Case("MOVE e0", {"e0": S("LIGHT", 9)}, "e0 is not of kind own", "F2"),
    Case(
        "MOVE u0 direction=?",
        {"u0": S("WORKER", 9)},
        ("right",),
        "F1",
        head_masks={"direction": {"u0": ["right"]}},
    ),
    Case(  # walled in
        "MOVE u1",
        {"u0": S("WORKER", 9), "u1": S("WORKER", 9)},
        "no choice of direction is left by head_masks",
        "F1",
        head_masks={"direction": {"u0": ["up"], "u1": []}},
    ),
    Case("ATTACK u0 victim=?", {"u0": S("LIGHT", 9), "e0": S("WORKER"), "e1": S("BASE")}, ("e0", "e1"), "F3"),
    Case(  # range; a field of ore in range is no foe
        "ATTACK u0 victim=?",
        {"u0": S("LIGHT", 9), "e0": S("WORKER"), "e1": S("LIGHT"), "f0": ORE},
        ("e1",),
        "F3",
        head_masks={"victim": {"u0": ["e1", "f0"]}},
    ),
    Case(  # an empty slot is a target, too, unless a guard says no
        "ATTACK u0 victim=e1",
        {"u0": S("LIGHT", 9), "e0": S("WORKER")},
        "victim e1: stage GONE, needs WORKER, CART, LIGHT, RANGED, BASE or BARRACKS",
        "F3",
    ),
    Case("ATTACK u0", {"u0": S("LIGHT", 9)}, "no choice of victim", "F3"),
    Case(
        "ATTACK u0 victim=u1",
        {"u0": S("LIGHT", 9), "u1": S("WORKER", 9), "e0": S("WORKER")},
        "victim u1: u1 is not of kind foe",
        "F3",
    ),
    Case("ATTACK u0", {"u0": S("CART", 9), "e0": S("WORKER")}, "stage CART, needs WORKER, LIGHT or RANGED", "F3"),
    Case("HARVEST u0 source=?", {"u0": S("WORKER", 9), "f0": ORE}, ("f0",), "F4"),
    Case("HARVEST u0", {"u0": S("WORKER", 9, cargo=1), "f0": ORE}, "cargo 1, needs at most 0", "F4"),
    Case(  # not beside it
        "HARVEST u0",
        {"u0": S("WORKER", 9), "f0": ORE},
        "no choice of source is left by head_masks",
        "F4",
        head_masks={"source": {"u0": []}},
    ),
    Case("HARVEST u0", {"u0": S("WORKER", 9)}, "no choice of source", "F4"),  # exhausted
    Case(
        "HARVEST u0 source=u1",
        {"u0": S("WORKER", 9), "f0": ORE, "u1": ORE},
        "source u1: u1 is not of kind field",
        "F4",
    ),
    Case("RETURN u0", {"u0": S("WORKER", 9), "u1": BASE}, "cargo 0, needs at least 1", "F4"),
    Case("RETURN u0 store=?", {"u0": S("WORKER", 9, cargo=1), "u1": BASE, "e0": BASE}, ("u1",), "F4"),
    Case("TRANSFER u0 partner=?", {"u0": S("WORKER", 9, cargo=5), "u1": S("CART")}, ("u1",), "F6"),  # it need not rest
    Case(
        "TRANSFER u0 partner=u0",
        {"u0": S("WORKER", 9, cargo=5), "u1": S("CART")},
        "partner u0: another slot than u0 is needed",
        "F6",
    ),
    Case("TRANSFER u0", {"u0": S("WORKER", 9, cargo=5), "u1": S("CART", cargo=2000)}, "no choice of partner", "F6"),
    Case("TRANSFER u0", {"u0": S("CART", 9, cargo=5), "u1": S("WORKER", cargo=100)}, "no choice of partner", "F6"),
    Case(
        "TRANSFER u0 partner=?",
        {"u0": S("CART", 9, cargo=5), "u1": S("WORKER", cargo=99), "u2": S("CART", cargo=1999)},
        ("u1", "u2"),
        "F6",
    ),
    Case(  # adjacent; itself and a foe in the mask change nothing
        "TRANSFER u0 partner=?",
        {"u0": S("WORKER", 9, cargo=5), "u1": S("CART"), "u2": S("WORKER"), "e0": S("CART")},
        ("u2",),
        "F6",
        head_masks={"partner": {"u0": ["u0", "u2", "e0"]}},
    ),
    Case("TRANSFER u0", {"u0": S("WORKER", 9), "u1": S("CART")}, "cargo 0, needs at least 1", "F6"),
    Case("TRANSFER u0 partner=u1", {"u0": S("WORKER", 9, cargo=5), "u1": S("LIGHT")}, "no choice of partner", "F6"),
    Case("PILLAGE u0", {"u0": S("WORKER", 9)}, "road 0, needs at least 1", "F9"),
    Case("PILLAGE u0", {"u0": S("WORKER", 9, road=50)}, True, "F9"),
    Case("PILLAGE u0", {"u0": S("CART", 9, road=50)}, "stage CART, needs WORKER", "F9"),
    Case("BUILD_BASE u1 builder=?", {"u0": S("WORKER", 9, cargo=100)}, ("u0",), "F10"),
    Case("BUILD_BASE u1", {"u0": S("WORKER", 9, cargo=99)}, "no choice of builder", "F10"),
    Case("BUILD_BASE u0", {"u0": S("WORKER", 9, cargo=100)}, "stage WORKER, needs GONE", "F10"),
    Case("BUILD_BASE e0", {"u0": S("WORKER", 9, cargo=100)}, "e0 is not of kind own", "F10"),
    Case("TRAIN_WORKER u1", {"u0": BASE}, True, "F5"),
    Case("TRAIN_WORKER u1", {"u0": S("BASE", 9)}, "no choice of base", "F7"),
    Case("TRAIN_WORKER u1", {"u0": BASE}, "free_homes 0, needs at least 1", "F11", row={"free_homes": 0}),
    Case("TRAIN_LIGHT u1", {"u0": S("BARRACKS", 10)}, "minerals 1, needs at least 2", "F5", row={"minerals": 1}),
    Case("TRAIN_RANGED u1", {"u0": S("BARRACKS", 10)}, True, "F5", row={"minerals": 2, "free_homes": 0}),
    Case("TRAIN_LIGHT u1", {"u0": BASE}, "no choice of barracks", "F5"),
    Case("RESEARCH u0", {"u0": BASE}, True, "F12", row=NIGHT),  # a city is no unit: the night costs it nothing
    Case(  # a unit that cannot move may harvest: a head each
        "HARVEST u0",
        {"u0": S("WORKER", 9), "f0": ORE},
        True,
        "F14",
        head_masks={"direction": {"u0": []}},
    ),
    Case("PASS", {"u0": S("WORKER", 9), "u1": BASE}, True, "F13", enabled=()),
]

ACTS = "MOVE ATTACK HARVEST RETURN TRANSFER PILLAGE"
COOLDOWN = {"WORKER": 2, "CART": 3, "LIGHT": 2, "RANGED": 2}
CIVIL, MILITARY = "TRAIN_WORKER TRAIN_CART", "TRAIN_LIGHT TRAIN_RANGED"
NEAR = {"e0": S("WORKER"), "f0": ORE, "u1": BASE, "u2": S("CART", 6), "u3": S("BARRACKS", 10)}


def builder(age: int, cargo: int = 0, stage: str = "WORKER") -> dict[str, S]:
    return {"u2": S(stage, age, cargo=cargo)}


TABLE = Table(
    name="units",
    row={"day": 1, "minerals": 10, "free_homes": 2},
    cases=CASES,
    slot="u0",
    base={"age": 10, "others": NEAR, "features": {"road": 1}},
    legal={
        "GONE": f"BUILD_BASE BUILD_BARRACKS {CIVIL} {MILITARY}",
        "WORKER": ACTS,
        "CART": "MOVE TRANSFER",
        "LIGHT": "MOVE ATTACK",
        "RANGED": "MOVE ATTACK",
        "BASE": "RESEARCH",
        "BARRACKS": "",
        "ORE": "",
    },
    opening={
        "RETURN": {"features": {"cargo": 1}},
        "TRANSFER": {"features": {"cargo": 1}},
        "BUILD_BASE": {"others": builder(4, 100)},
        "BUILD_BARRACKS": {"others": builder(4)},
    },
    closing=[
        ("HARVEST", {"features": {"cargo": 1}}, "cargo 1, needs at most 0"),
        ("RETURN TRANSFER", {"features": {"cargo": 0}}, "cargo 0, needs at least 1"),
        ("PILLAGE", {"features": {"road": 0}}, "road 0, needs at least 1"),
        ("ATTACK", {"others": {"e0": S("GONE")}}, "no choice of victim"),
        ("ATTACK", {"others": {"e0": ORE}}, "no choice of victim"),
        *(("ATTACK", {"others": {"e0": S(foe)}}, True) for foe in (*COOLDOWN, "BASE", "BARRACKS")),
        ("HARVEST", {"others": {"f0": S("GONE")}}, "no choice of source"),
        ("HARVEST", {"others": {"f0": S("GONE"), "e1": ORE}}, "no choice of source"),
        ("HARVEST", {"others": {"f0": BASE}}, "no choice of source"),
        ("RETURN", {"others": {"u1": S("WORKER"), "e1": BASE}}, "no choice of store"),
        ("TRANSFER", {"others": {"u2": S("CART", 6, cargo=2000), "e1": S("CART")}}, "no choice of partner"),
        ("TRANSFER", {"others": {"u2": S("CART", 6, cargo=1999)}}, True),
        ("TRANSFER", {"others": {"u2": S("WORKER", cargo=99)}}, True),
        ("TRANSFER", {"others": {"u2": S("WORKER", cargo=100)}}, "no choice of partner"),
        ("TRANSFER", {"others": {"u2": S("LIGHT", 6)}}, "no choice of partner"),
        ("RESEARCH", {"age": 9}, "age 9 < 10"),
        ("RESEARCH", {"row": NIGHT}, True),
        (CIVIL, {"row": {"minerals": 0}}, "minerals 0, needs at least 1"),
        (CIVIL, {"row": {"minerals": 1, "free_homes": 1}}, True),
        (CIVIL, {"row": {"free_homes": 0}}, "free_homes 0, needs at least 1"),
        (MILITARY, {"row": {"minerals": 1}}, "minerals 1, needs at least 2"),
        (MILITARY, {"row": {"minerals": 2, "free_homes": 0}}, True),
        ("BUILD_BARRACKS", {"row": {"minerals": 4}}, "minerals 4, needs at least 5"),
        ("BUILD_BARRACKS", {"row": {"minerals": 5}}, True),
        (CIVIL, {"others": {"u1": S("BASE", 9)}}, "no choice of base"),
        (CIVIL, {"others": {"u1": S("GONE"), "e1": S("BASE", 99)}}, "no choice of base"),
        (CIVIL, {"others": {"u1": S("BARRACKS", 99)}}, "no choice of base"),
        (MILITARY, {"others": {"u3": S("BARRACKS", 9)}}, "no choice of barracks"),
        (MILITARY, {"others": {"u3": S("BASE", 99), "e1": S("BARRACKS", 99)}}, "no choice of barracks"),
        ("BUILD_BASE", {"others": builder(1, 100)}, "no choice of builder"),
        ("BUILD_BASE", {"others": builder(2, 100)}, True),
        ("BUILD_BASE", {"others": builder(3, 100), "row": NIGHT}, "no choice of builder"),
        ("BUILD_BASE", {"others": builder(4, 100), "row": NIGHT}, True),
        ("BUILD_BASE", {"others": builder(6, 100, "CART")}, "no choice of builder"),
        (
            "BUILD_BASE",
            {"others": {**builder(4, 99), "e1": S("WORKER", 9, cargo=100)}},
            "no choice of builder",
        ),
        ("BUILD_BARRACKS", {"others": builder(1)}, "no choice of mason"),
        ("BUILD_BARRACKS", {"others": builder(2)}, True),
        ("BUILD_BARRACKS", {"others": builder(3), "row": NIGHT}, "no choice of mason"),
        ("BUILD_BARRACKS", {"others": builder(4), "row": NIGHT}, True),
        ("BUILD_BARRACKS", {"others": {**builder(9, stage="CART"), "e1": S("WORKER", 9)}}, "no choice of mason"),
        *(  # of each unit, by day and by night, on both sides of the bound
            (f"{op}@{unit}", change, want)
            for unit, turns in COOLDOWN.items()
            for op in ACTS.split()
            for change, want in (
                ({"age": turns}, True),
                ({"age": turns - 1}, f"age {turns - 1} < {turns}"),
                ({"age": 2 * turns, "row": NIGHT}, True),
                ({"age": 2 * turns - 1, "row": NIGHT}, f"age {2 * turns - 1} < {2 * turns}, unless day"),
            )
        ),
    ],
)
FOES = Table(  # of a foe's slot, where no op is legal
    name="units",
    row=TABLE.row,
    cases=[],
    slot="e1",
    legal={},
    opening=TABLE.opening,
    closing=[],
    base=TABLE.base,
)
