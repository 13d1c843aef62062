"""What a caller knows of each row beside the states: values of its environment, and what else is to be forbidden."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from esper_masks.actions.layout import ActionLayout
from esper_masks.checks import from_numpy, kind_of
from esper_masks.errors import SlotStateError
from esper_masks.masks.checks import constraint_axes

Named = Mapping[str, Tensor]


class Given(TypedDict, total=False):
    """Keywords of ``MaskEngine`` that everything between a caller and an engine hands on as they are.

        row         name -> bool or integer [...], what guards read of an environment
        head_masks  head -> bool [..., n] or [..., slots, n], what a caller leaves of a head
        restrict    keyword of ``ActionMasks.restrict`` -> bool, broadcasts

    A compiler takes the names as constants: other values need no new graph, another set of names needs one. A mask
    that only some steps have can be all True in the others.
    """

    row: Named | None
    head_masks: Named | None
    restrict: Named | None


KEYWORDS = tuple(Given.__annotations__)


def taken(given: Mapping[str, Any], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """What is given, less what is None or empty. Names in order, so that one set of names is one graph.

    Args:
        given: a ``Given``.
        device: where numpy arrays of bools go.

    Raises:
        TypeError: another keyword.
        SlotStateError: something that is no mapping.
    """
    made = {}
    for keyword in given:
        if keyword not in KEYWORDS:
            raise TypeError(f"there is no keyword {keyword!r}; beside the others there are {', '.join(KEYWORDS)}")
    for keyword in KEYWORDS:
        named = given.get(keyword)
        if not (named is None or isinstance(named, Mapping)):
            raise SlotStateError(f"{keyword} must be a mapping from name to tensor, got {kind_of(named)}")
        if named:
            made[keyword] = {name: from_numpy(named[name], device) for name in sorted(named)}
    return made


def over_rows(restrict: Named, batch: Sequence[int], layout: ActionLayout) -> dict[str, Tensor]:
    """Constraints as views with all axes of a batch, so that they can be cut like everything else.

    Raises:
        ValueError, KeyError, RuntimeError: a name that is none, or a constraint that does not broadcast.
    """
    made = {}
    for name, mask in restrict.items():
        axes = len(constraint_axes(layout, name))
        wide = mask[(None,) * (axes - mask.ndim)]
        made[name] = wide.expand(*batch, *wide.shape[wide.ndim - axes :])
    return made
