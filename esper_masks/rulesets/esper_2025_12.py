"""The lifecycle of December 2025, and what it shares with the one of November."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from esper_masks.rules import Head, MaskRules, Op

MIN_CULL_AGE = 1


class SeedStage(IntEnum):
    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    # 5 was SHADOWING until November 2025
    PROBATIONARY = 6
    FOSSILIZED = 7
    CULLED = 8
    EMBARGOED = 9
    RESETTING = 10


class LifecycleOp(IntEnum):
    WAIT = 0
    GERMINATE = 1
    CULL = 2
    FOSSILIZE = 3


VALID_TRANSITIONS = {
    SeedStage.UNKNOWN: (SeedStage.DORMANT,),
    SeedStage.DORMANT: (SeedStage.GERMINATED,),
    SeedStage.GERMINATED: (SeedStage.TRAINING, SeedStage.CULLED),
    SeedStage.TRAINING: (SeedStage.BLENDING, SeedStage.CULLED),
    SeedStage.BLENDING: (SeedStage.PROBATIONARY, SeedStage.CULLED),
    SeedStage.PROBATIONARY: (SeedStage.FOSSILIZED, SeedStage.CULLED),
    SeedStage.FOSSILIZED: (),
    SeedStage.CULLED: (SeedStage.EMBARGOED,),
    SeedStage.EMBARGOED: (SeedStage.RESETTING,),
    SeedStage.RESETTING: (SeedStage.DORMANT,),
}


def lifecycle_rules(name: str, stages: type[IntEnum], transitions: Mapping[Any, Sequence[IntEnum]]) -> MaskRules:
    """The rules of 2025 over the stages of one month: an op is the move into its stage."""
    return MaskRules(
        name=name,
        stages=stages,
        transitions=transitions,
        empty=stages["DORMANT"],
        op_rules=(
            Op(LifecycleOp.WAIT, always=True),
            Op(
                LifecycleOp.GERMINATE, enters=stages["GERMINATED"], seed_limit=True, uses=("slot", "blueprint", "blend")
            ),
            Op(LifecycleOp.CULL, enters=stages["CULLED"], min_age=MIN_CULL_AGE, uses=("slot",)),
            Op(LifecycleOp.FOSSILIZE, enters=stages["FOSSILIZED"], uses=("slot",)),
        ),
        heads=(
            Head("slot"),
            Head(
                "blueprint",
                ("NOOP", "CONV_LIGHT", "ATTENTION", "NORM", "DEPTHWISE"),
                legal=("CONV_LIGHT", "ATTENTION", "NORM", "DEPTHWISE"),  # NOOP has no trainable parameters
                canonical="NOOP",
            ),
            Head("blend", ("LINEAR", "SIGMOID", "GATED"), canonical="LINEAR"),
            Head("op"),
        ),
        slot_ids=("early", "mid", "late"),
    )


RULES = lifecycle_rules("esper-2025-12", SeedStage, VALID_TRANSITIONS)
