"""Units that move, fight, harvest, build and hand over cargo, after microRTS and Lux AI: to copy and to change.

F1, F2, ... are the facts that ``units.md`` lists, each with the page that says it. A stage is what stands in a slot;
the clock, ``age``, is in turns since it last acted.
"""

from enum import IntEnum

import esper_masks as em

Unit = IntEnum("Unit", "GONE WORKER CART LIGHT RANGED BASE BARRACKS ORE", start=0)
Do = IntEnum(
    "Do",
    "PASS MOVE ATTACK HARVEST RETURN TRANSFER PILLAGE BUILD_BASE BUILD_BARRACKS TRAIN_WORKER TRAIN_CART TRAIN_LIGHT"
    " TRAIN_RANGED RESEARCH",
    start=0,
)

OWN, FOE, FIELD = em.Kind("own"), em.Kind("foe"), em.Kind("field")  # F2; only what is in a slot can be a target
MOBILE = (Unit.WORKER, Unit.CART, Unit.LIGHT, Unit.RANGED)
STANDING = (*MOBILE, Unit.BASE, Unit.BARRACKS)
HOLD = {Unit.WORKER: 100, Unit.CART: 2000}  # F6
BY_DAY = {Unit.WORKER: 2, Unit.CART: 3, Unit.LIGHT: 2, Unit.RANGED: 2, Unit.BASE: 10, Unit.BARRACKS: 10}  # F7
BY_NIGHT = {unit: 2 * BY_DAY[unit] for unit in MOBILE}  # F8
RESTED = (OWN, em.Age(at_least=BY_DAY), em.Unless("day", em.Age(at_least=BY_NIGHT)))
LOADED = em.Feature("cargo", at_least=1)


def train(op: IntEnum, unit: IntEnum, cost: int, house: str, *more: em.Row) -> em.Op:
    """An op that puts a unit into an empty slot; the head ``house`` says where it is trained."""
    when = (OWN, em.Row("minerals", at_least=cost), *more)  # F5
    return em.Op(op, moves={Unit.GONE: unit}, when=when, uses=("slot", house))


HOMES = em.Row("free_homes", at_least=1)  # F11: city tiles less workers and carts
UNITS = em.MaskRules(
    name="units",
    stages=Unit,
    empty=Unit.GONE,
    transitions={
        Unit.GONE: (Unit.WORKER, Unit.CART, Unit.LIGHT, Unit.RANGED, Unit.BASE, Unit.BARRACKS),
        **{stage: (Unit.GONE,) for stage in Unit if stage is not Unit.GONE},
    },
    features={"cargo": int, "road": int},  # road: under the unit, in hundredths
    row_features={"day": bool, "minerals": int, "free_homes": int},
    kinds={"own": ("u0", "u1", "u2", "u3"), "foe": ("e0", "e1"), "field": ("f0",)},
    op_rules=(
        em.Op(Do.PASS, always=True),
        em.Op(Do.MOVE, acts_in=MOBILE, when=RESTED, uses=("slot", "direction")),
        em.Op(Do.ATTACK, acts_in=(Unit.WORKER, Unit.LIGHT, Unit.RANGED), when=RESTED, uses=("slot", "victim")),
        em.Op(
            Do.HARVEST, acts_in=(Unit.WORKER,), when=(*RESTED, em.Feature("cargo", at_most=0)), uses=("slot", "source")
        ),
        em.Op(Do.RETURN, acts_in=(Unit.WORKER,), when=(*RESTED, LOADED), uses=("slot", "store"), sets={"cargo": 0}),
        em.Op(
            Do.TRANSFER, acts_in=(Unit.WORKER, Unit.CART), when=(*RESTED, LOADED), uses=("slot", "partner", "amount")
        ),
        em.Op(Do.PILLAGE, acts_in=(Unit.WORKER,), when=(*RESTED, em.Feature("road", at_least=1)), uses=("slot",)),
        em.Op(Do.BUILD_BASE, moves={Unit.GONE: Unit.BASE}, when=(OWN,), uses=("slot", "builder")),
        em.Op(
            Do.BUILD_BARRACKS,
            moves={Unit.GONE: Unit.BARRACKS},
            when=(OWN, em.Row("minerals", at_least=5)),
            uses=("slot", "mason"),
        ),
        train(Do.TRAIN_WORKER, Unit.WORKER, 1, "base", HOMES),
        train(Do.TRAIN_CART, Unit.CART, 1, "base", HOMES),
        train(Do.TRAIN_LIGHT, Unit.LIGHT, 2, "barracks"),
        train(Do.TRAIN_RANGED, Unit.RANGED, 2, "barracks"),
        em.Op(Do.RESEARCH, acts_in=(Unit.BASE,), when=(OWN, em.Age(at_least=BY_DAY)), uses=("slot",)),
    ),
    heads=(
        em.Head("slot"),
        em.Head("direction", ("up", "right", "down", "left")),  # head_masks: free cells beside the unit
        em.Head("amount", ("some", "all")),
        em.SlotHead("victim", when=(FOE, em.Feature("stage", in_=STANDING))),  # head_masks: in range
        em.SlotHead("source", when=(FIELD, em.Feature("stage", in_=(Unit.ORE,)))),  # head_masks: beside the unit
        em.SlotHead("store", when=(OWN, em.Feature("stage", in_=(Unit.BASE,)))),  # head_masks: beside the unit
        em.SlotHead(  # head_masks: beside the unit
            "partner",
            when=(
                OWN,
                em.Feature("stage", in_=tuple(HOLD)),
                em.Feature("cargo", at_most={unit: hold - 1 for unit, hold in HOLD.items()}),
            ),
            distinct=True,
        ),
        em.SlotHead(
            "builder",
            when=(*RESTED, em.Feature("stage", in_=(Unit.WORKER,)), em.Feature("cargo", at_least=100)),  # F10
            sets={"cargo": 0},
        ),
        em.SlotHead("mason", when=(*RESTED, em.Feature("stage", in_=(Unit.WORKER,)))),
        em.SlotHead("base", when=(OWN, em.Feature("stage", in_=(Unit.BASE,)), em.Age(at_least=BY_DAY))),
        em.SlotHead("barracks", when=(OWN, em.Feature("stage", in_=(Unit.BARRACKS,)), em.Age(at_least=BY_DAY))),
        em.Head("op"),
    ),
    slot_ids=("u0", "u1", "u2", "u3", "e0", "e1", "f0"),
)
