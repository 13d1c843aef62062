"""The lifecycle of June 2026: alpha schedules, pruning, and a controller that advances seeds itself."""

from enum import IntEnum

from esper_masks.rules import Head, MaskRules, Op

MIN_PRUNE_AGE = 5


class SeedStage(IntEnum):
    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    # 5 was SHADOWING until November 2025
    HOLDING = 6
    FOSSILIZED = 7
    PRUNED = 8
    EMBARGOED = 9
    RESETTING = 10


class AlphaMode(IntEnum):
    HOLD = 0
    UP = 1
    DOWN = 2


class LifecycleOp(IntEnum):
    WAIT = 0
    GERMINATE = 1
    SET_ALPHA_TARGET = 2
    PRUNE = 3
    FOSSILIZE = 4
    ADVANCE = 5


VALID_TRANSITIONS = {
    SeedStage.UNKNOWN: (SeedStage.DORMANT,),
    SeedStage.DORMANT: (SeedStage.GERMINATED,),
    SeedStage.GERMINATED: (SeedStage.TRAINING, SeedStage.PRUNED),
    SeedStage.TRAINING: (SeedStage.BLENDING, SeedStage.PRUNED),
    SeedStage.BLENDING: (SeedStage.HOLDING, SeedStage.PRUNED),
    SeedStage.HOLDING: (SeedStage.FOSSILIZED, SeedStage.BLENDING, SeedStage.PRUNED),
    SeedStage.FOSSILIZED: (),
    SeedStage.PRUNED: (SeedStage.EMBARGOED,),
    SeedStage.EMBARGOED: (SeedStage.RESETTING,),
    SeedStage.RESETTING: (SeedStage.DORMANT,),
}

CNN = ("CONV_LIGHT", "ATTENTION", "NORM", "DEPTHWISE", "BOTTLENECK", "CONV_SMALL", "CONV_HEAVY")
TRANSFORMER_ONLY = ("LORA", "LORA_LARGE", "MLP_SMALL", "MLP", "FLEX_ATTENTION")

SCHEDULING = (LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA_TARGET)  # the ops that say how a seed is blended in

RULES = MaskRules(
    name="esper-2026-06",
    stages=SeedStage,
    transitions=VALID_TRANSITIONS,
    empty=SeedStage.DORMANT,
    features={"alpha_mode": AlphaMode},
    switches={
        "topology": ("cnn", "transformer"),
        "allow_governor_override": (False, True),
        "disable_advance": (False, True),
    },
    op_rules=(
        Op(LifecycleOp.WAIT, always=True),
        Op(
            LifecycleOp.GERMINATE,
            enters=SeedStage.GERMINATED,
            seed_limit=True,
            # one seed at a time: nobody germinates while another is young or being cleared away
            blocked_by=(
                SeedStage.GERMINATED,
                SeedStage.TRAINING,
                SeedStage.PRUNED,
                SeedStage.EMBARGOED,
                SeedStage.RESETTING,
            ),
            uses=("slot", "blueprint", "style", "tempo", "alpha_target"),
        ),
        Op(
            LifecycleOp.SET_ALPHA_TARGET,
            acts_in=(SeedStage.BLENDING, SeedStage.HOLDING),
            requires={"alpha_mode": AlphaMode.HOLD},
            uses=("slot", "style", "alpha_target", "alpha_speed", "alpha_curve"),
        ),
        Op(
            LifecycleOp.PRUNE,
            enters=SeedStage.PRUNED,
            min_age=MIN_PRUNE_AGE,
            requires={"alpha_mode": AlphaMode.HOLD},
            waived_by="allow_governor_override",
            uses=("slot", "alpha_speed", "alpha_curve"),
        ),
        Op(LifecycleOp.FOSSILIZE, enters=SeedStage.FOSSILIZED, uses=("slot",)),
        Op(
            LifecycleOp.ADVANCE,
            moves={
                SeedStage.GERMINATED: SeedStage.TRAINING,
                SeedStage.TRAINING: SeedStage.BLENDING,
                SeedStage.BLENDING: SeedStage.HOLDING,
            },
            disabled_by="disable_advance",
            uses=("slot",),
        ),
    ),
    heads=(
        Head("slot"),
        Head(
            "blueprint",
            ("NOOP", *CNN, *TRANSFORMER_ONLY),
            switch="topology",
            legal={"cnn": CNN, "transformer": ("ATTENTION", "NORM", *TRANSFORMER_ONLY)},
            canonical="NOOP",
        ),
        Head(
            "style",
            ("LINEAR_ADD", "LINEAR_MULTIPLY", "SIGMOID_ADD", "GATED_GATE"),
            closed=("SIGMOID_ADD",),
            opened_by=SCHEDULING,
            canonical="SIGMOID_ADD",
        ),
        Head("tempo", ("FAST", "STANDARD", "SLOW"), canonical="STANDARD"),
        Head("alpha_target", ("HALF", "SEVENTY", "FULL"), closed=("FULL",), opened_by=SCHEDULING, canonical="FULL"),
        Head("alpha_speed", ("INSTANT", "FAST", "MEDIUM", "SLOW"), canonical="INSTANT"),
        Head("alpha_curve", ("LINEAR", "COSINE", "SIGMOID_GENTLE", "SIGMOID", "SIGMOID_SHARP"), canonical="LINEAR"),
        Head("op"),
    ),
    slot_ids=("r0c0", "r0c1", "r0c2"),
)
