"""The oracle: the same results by plain Python loops, one environment at a time.

``lifecycle`` says which actions are legal, ``policy`` how likely those of one row are, ``joint`` those of all heads
together. They read the rules and nothing else of this package.
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
