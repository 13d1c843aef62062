"""The oracle: the same results by plain Python loops, one environment at a time. It reads the rules and nothing else.

lifecycle   which actions are legal
policy      how likely the actions of one row are
joint       how likely whole actions are
explain     why each op is legal or not, in words
"""

from esper_masks.reference.joint import Joint, joint_kl
from esper_masks.reference.lifecycle import (
    Action,
    canonical_choice,
    forbids,
    head_choices,
    head_masks,
    joint_actions,
    joint_mask,
    masks,
    slot_by_op,
    stage_name,
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

__all__ = [
    "Action",
    "Joint",
    "canonical_choice",
    "edge_distance",
    "entropy",
    "forbids",
    "head_choices",
    "head_masks",
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
]
