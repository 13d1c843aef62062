"""What pictures are given: errors that say what came and what was wanted."""

from esper_masks.masks.masks import ActionMasks
from esper_masks.rules import MaskRules


def check_rules_given(rules: object) -> None:
    """Raise ``TypeError`` unless it is a rule set."""
    if not isinstance(rules, MaskRules):
        raise TypeError(f"wanted MaskRules, got {type(rules).__name__}; ruleset(name) gives one")


def check_masks_given(masks: object) -> None:
    """Raise ``TypeError`` unless it is masks, ``ValueError`` unless they are those of one step or more."""
    if not isinstance(masks, ActionMasks):
        raise TypeError(f"wanted ActionMasks, got {type(masks).__name__}; an engine gives them, and buffer.masks()")
    if len(masks.shape) not in (1, 2) or not masks.shape.numel():
        raise ValueError(
            f"masks have the leading shape {tuple(masks.shape)}; wanted [time] or [time, batch] with a step at least, "
            "as ActionMasks.stack makes of those of single steps"
        )
