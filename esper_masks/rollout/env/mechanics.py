"""What a lifecycle does by itself, and what a stage means for the network: facts that masks do not need."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from esper_masks.errors import RulesError
from esper_masks.rules import MaskRules


@dataclass(frozen=True)
class Mechanics:
    """What a lifecycle does by itself. Stages go by their names.

    Args:
        advances: stage -> the stage that follows after its dwell time. Stages that are not here are left by ops alone.
        blending: the stage in which a seed's share of the network's output rises from 0 to 1.
        full: stages in which the share is 1.
        kept: the one of ``full`` in which the seed stays; seeds in other stages are lost when the episode ends.
        cleared: stages of a slot that its seed has left, and that is not empty yet.
    """

    advances: Mapping[str, str]
    blending: str
    full: tuple[str, ...]
    kept: str
    cleared: tuple[str, ...]

    def of(self, rules: MaskRules) -> "Mechanics":
        """These mechanics, if they fit the rules.

        Raises:
            RulesError: a stage that the rules do not have, or an advance that is not a transition of the rules.
        """
        names = {stage.name for stage in rules.stages}
        for stage in (*self.advances, *self.advances.values(), self.blending, *self.full, *self.cleared):
            if stage not in names:
                raise RulesError(f"{rules.name} has no stage {stage!r}, which the mechanics name")
        for source, target in self.advances.items():
            if rules.stages[target] not in rules.transitions[rules.stages[source]]:
                raise RulesError(f"{rules.name} has no transition {source} to {target}, which the mechanics take")
        if self.kept not in self.full or self.blending in self.full:
            raise RulesError("mechanics: `kept` is one of `full`, `blending` is not")
        return self


_CLEARED = dict(pairwise(("CULLED", "EMBARGOED", "RESETTING", "DORMANT")))

MECHANICS = {
    "esper-2025-12": Mechanics(
        advances=dict(pairwise(("GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY"))) | _CLEARED,
        blending="BLENDING",
        full=("PROBATIONARY", "FOSSILIZED"),
        kept="FOSSILIZED",
        cleared=tuple(_CLEARED),
    ),
    "esper-2025-11": Mechanics(
        advances=dict(pairwise(("GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"))) | _CLEARED,
        blending="BLENDING",
        full=("SHADOWING", "PROBATIONARY", "FOSSILIZED"),
        kept="FOSSILIZED",
        cleared=tuple(_CLEARED),
    ),
}


def mechanics_of(rules: MaskRules) -> Mechanics:
    """The mechanics that the package, or a module of rules, has entered for a rule set in ``MECHANICS``.

    Raises:
        RulesError: there are none.
    """
    if rules.name not in MECHANICS:
        raise RulesError(
            f"no mechanics are known for {rules.name}; known are {', '.join(sorted(MECHANICS))}: if networks grow "
            "under these rules, pass mechanics=, or, for commands, let the module of the rules enter them as "
            f"esper_masks.rollout.MECHANICS[{rules.name!r}]; else give dynamics, dynamics= or --dynamics, which "
            "rollout.RuleDynamics makes from the rules and a reward"
        )
    return MECHANICS[rules.name].of(rules)
