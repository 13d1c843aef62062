"""The oracle: the same results by plain Python loops, one environment at a time. It reads the rules and nothing else.

lifecycle   which actions are legal
situation   one environment, and what is legal in it
policy      how likely the actions of one row are
joint       how likely whole actions are
explain     why each op is legal or not, in words
successors  what an action makes of what slots hold
"""

from esper_masks.reference.joint import Joint, joint_kl
from esper_masks.reference.lifecycle import (
    Action,
    forbids,
    head_masks,
    is_legal,
    joint_actions,
    joint_mask,
    masks,
    slot_by_op,
)
from esper_masks.reference.policy import (
    edge_distance,
    entropy,
    kl,
    log_probability,
    mode,
    probabilities,
    raw_entropy,
    sample,
)
from esper_masks.reference.situation import Situation, canonical_choice, head_choices, stage_name
from esper_masks.reference.successors import after, successor

__all__ = [
    "Action",
    "Joint",
    "Situation",
    "after",
    "canonical_choice",
    "edge_distance",
    "entropy",
    "forbids",
    "head_choices",
    "head_masks",
    "is_legal",
    "joint_actions",
    "joint_kl",
    "joint_mask",
    "kl",
    "log_probability",
    "masks",
    "mode",
    "probabilities",
    "raw_entropy",
    "sample",
    "slot_by_op",
    "stage_name",
    "successor",
]
