"""A user's own rules, with every field of 0.1.0, as the files beside this module hold them. Never changed."""

from enum import IntEnum

import esper_masks as em

Bay = IntEnum("Bay", "FREE PARKED CHARGING FULL BLOCKED", start=0)
Do = IntEnum("Do", "WAIT ADMIT PLUG_IN SET_POWER UNPLUG SEND_AWAY", start=0)
Cable = IntEnum("Cable", "LOOSE LOCKED", start=0)

RULES = em.MaskRules(
    name="charging-bays",
    stages=Bay,
    transitions={
        Bay.FREE: [Bay.PARKED],
        Bay.PARKED: [Bay.CHARGING, Bay.FREE],
        Bay.CHARGING: [Bay.FULL, Bay.PARKED, Bay.BLOCKED],
        Bay.FULL: [Bay.PARKED, Bay.FREE],
        Bay.BLOCKED: [],
    },
    empty=Bay.FREE,
    features={"cable": Cable},
    switches={"site": ["city", "motorway"], "manual": [False, True], "closing": [False, True]},
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(
            Do.ADMIT,
            enters=Bay.PARKED,
            seed_limit=True,
            blocked_by=[Bay.BLOCKED],
            disabled_by="closing",
            uses=["slot", "tariff"],
        ),
        em.Op(Do.PLUG_IN, enters=Bay.CHARGING, uses=["slot", "power", "limit"]),
        em.Op(Do.SET_POWER, acts_in=[Bay.CHARGING], uses=["slot", "power", "limit"]),
        em.Op(
            Do.UNPLUG,
            moves={Bay.CHARGING: Bay.PARKED, Bay.FULL: Bay.PARKED},
            min_age=2,
            requires={"cable": Cable.LOOSE},
            waived_by="manual",
            uses=["slot"],
        ),
        em.Op(Do.SEND_AWAY, enters=Bay.FREE, uses=["slot"]),
    ],
    heads=[
        em.Head("slot"),
        em.Head("tariff", ["NONE", "DAY", "NIGHT"], legal=["DAY", "NIGHT"], canonical="NONE"),
        em.Head(
            "power",
            ["SLOW", "FAST", "RAPID"],
            switch="site",
            legal={"city": ["SLOW", "FAST"], "motorway": ["SLOW", "FAST", "RAPID"]},
            closed=["SLOW"],
            opened_by=[Do.PLUG_IN, Do.SET_POWER],
        ),
        em.Head("limit", ["P50", "P80", "P100"], by_op={Do.PLUG_IN: ["P80", "P100"], Do.SET_POWER: ["P50", "P80"]}),
        em.Head("op"),
    ],
    slot_ids=["bay1", "bay2"],
)
