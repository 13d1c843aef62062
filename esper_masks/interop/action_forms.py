"""Actions and masks in the two forms that libraries have: the index of a whole action, or one choice a head."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from esper_masks.checks import check_integer
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks

Form = Literal["joint", "factored"]


def check_form(action: str) -> None:
    """Raises: ValueError: no such form."""
    if action not in get_args(Form):
        raise ValueError(f"action={action!r} is not one of {', '.join(map(repr, get_args(Form)))}")


def rows_of(masks: ActionMasks, observation: Any, action: str) -> Tensor:
    """Observations as a new tensor on the CPU, once all arguments are checked.

    Raises:
        ValueError: anything but masks ``[batch]`` and numbers ``[batch, ...]``, as a tensor or an array; no such form.
    """
    check_form(action)
    if not isinstance(masks, ActionMasks):
        raise ValueError(f"masks must be ActionMasks, got {type(masks).__name__}; ActionMasks.from_bools makes them")
    try:
        seen = torch.as_tensor(observation).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"the observation must be numbers [batch, ...], got {type(observation).__name__}") from None
    seen = seen.float() if seen.dtype == torch.bfloat16 else seen  # which numpy does not have
    if len(masks.shape) != 1 or seen.shape[:1] != masks.shape:
        shapes = f"masks of shape {tuple(masks.shape)} beside an observation of shape {tuple(seen.shape)}"
        raise ValueError(f"{shapes}; wanted [batch] of both")
    return seen


class ActionForm:
    """The form in which a library has actions.

    ``"joint"``: the index of a whole action, whose masks are exact, heads whose choices depend on the slot included.
    ``"factored"``: one choice a head, with the masks of all heads side by side. A library that draws the heads by
    themselves then forms illegal pairs of op and slot, and of slot and choice, whatever mask it is given.

    Args:
        engine: the engine of the actions.
        name: ``"joint"`` or ``"factored"``.

    Raises:
        ValueError: no such form.
    """

    def __init__(self, engine: MaskEngine, name: Form = "joint"):
        check_form(name)
        self.engine, self.name = engine, name
        joint = name == "joint"
        self.sizes = (engine.joint_actions.size,) if joint else tuple(head.size for head in engine.layout.heads)
        self.row = () if joint else (len(self.sizes),)  # the shape of one action

    def masks(self, masks: ActionMasks) -> Tensor:
        """Bool ``[..., sum(sizes)]``, True is legal."""
        return masks.joint() if self.name == "joint" else masks.flat()

    def actions(self, given: Tensor, num_envs: int) -> Tensor:
        """The library's actions as the environment takes them, int64 ``[num_envs, heads]``.

        Args:
            given: integer ``[num_envs]`` (joint) or ``[num_envs, heads]``. A number out of range is no action: it is
                illegal, and the environment counts it.
            num_envs: how many actions there must be.

        Raises:
            ValueError: another dtype or shape.
        """
        check_integer("actions", given)
        wanted = (num_envs, *self.row)
        if given.shape != wanted:
            form = f"the {self.name} form (action= chooses it)"
            raise ValueError(f"actions have shape {tuple(given.shape)}; wanted {wanted}, {form}")
        return self.engine.joint_actions.decode(given) if self.name == "joint" else given.long()
