"""An engine's actions and masks as libraries write them: one choice of a whole action, or one choice a head."""

import secrets
from difflib import get_close_matches
from inspect import signature
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from esper_masks.checks import check_integer
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout import LifecycleEnv
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset

Form = Literal["joint", "factored"]


def check_form(action: str) -> None:
    """Raises: ValueError: no such form."""
    if action not in get_args(Form):
        raise ValueError(f"action={action!r} is not one of {', '.join(map(repr, get_args(Form)))}")


def rows_of(masks: ActionMasks, observation: Any) -> Tensor:
    """Observations as a tensor of its own on the host.

    Raises:
        ValueError: not masks ``[batch]`` and numbers ``[batch, ...]``, as a tensor or an array.
    """
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
    """How actions are written for a library.

    ``"joint"``: the index of a whole action, its masks are exact. ``"factored"``: one choice a head, with the masks of
    all heads side by side; a library that draws heads independently of each other forms illegal pairs of op and slot
    then, whatever mask it is given.

    Args:
        engine: whose actions they are.
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
            given: integer ``[num_envs]`` (joint) or ``[num_envs, heads]``. What is out of range is no action: it is
                illegal, and the environment counts it.
            num_envs: how many there must be.

        Raises:
            ValueError: another dtype or shape.
        """
        check_integer("actions", given)
        if given.shape != (num_envs, *self.row):
            wanted = (num_envs, *self.row)
            raise ValueError(
                f"actions have shape {tuple(given.shape)}; wanted {wanted}, the {self.name} form (action= chooses it)"
            )
        return self.engine.joint_actions.decode(given) if self.name == "joint" else given.long()


class HostEnv:
    """``LifecycleEnv`` for a library that lives in numpy: arrays in and out.

    Args:
        num_envs: number of environments.
        action: ``"joint"`` or ``"factored"``.
        rules: a rule set, or the name of one that the package has.
        settings: of ``LifecycleEnv``.

    Raises:
        RulesError, SlotStateError, ValueError, RuntimeError: as of ``LifecycleEnv``; or no such form.
    """

    def __init__(self, num_envs: int, action: Form, rules: MaskRules | str, settings: dict[str, Any]):
        self.env = make_env(num_envs, rules, settings)
        self.form = ActionForm(self.env.engine, action)

    def reset(self, seed: int | None = None, where: Any = None) -> Any:
        """Observations, float32 ``[batch, obs_size]``; ``where`` bool ``[batch]``, which of them begin anew."""
        if where is None:
            return _array(self.env.reset(seed=seed))
        mask, wanted = own_array("reset_mask", where, "b"), (self.env.num_envs,)
        if mask.shape != wanted:
            raise ValueError(f"reset_mask has shape {tuple(mask.shape)}; wanted {wanted}")
        return _array(self.env.reset(mask.to(self.env.device), seed=seed))

    def masks(self) -> Any:
        """Bool ``[batch, sum(sizes)]``."""
        return _array(self.form.masks(self.env.masks()))

    def illegal_actions(self) -> Any:
        """How many of each environment were illegal since it was made, int64 ``[batch]``, in memory of its own."""
        return _array(self.env.illegal_actions.clone())

    def step(self, given: Any) -> tuple[Any, Any, Any, Any]:
        """Observations, rewards, ends, and the final observations of environments that ended; None where none did.

        Raises:
            ValueError: actions of another dtype, shape or number, or that are none.
        """
        actions = own_array("actions", given, "iu")
        made = self.form.actions(actions, self.env.num_envs)
        outside = (actions < 0) | (actions >= torch.tensor(self.form.sizes))
        if outside.any():
            at = int(outside.view(self.env.num_envs, -1).any(1).nonzero()[0])
            sizes = [size - 1 for size in self.form.sizes]
            raise ValueError(
                f"the action of environment {at} is {actions[at].tolist()}; wanted from 0 to "
                f"{sizes if self.form.row else sizes[0]}"
            )
        obs, reward, terminated, _, info = self.env.step(made.to(self.env.device))
        ended = _array(terminated)
        final = _array(info["final_obs"]) if ended.any() else None
        return _array(obs), _array(reward), ended, final


class Hosted:
    """What the adapters on top of a ``HostEnv`` have in common."""

    host: HostEnv

    @property
    def lifecycles(self) -> LifecycleEnv:
        """What is stepped: ``lifecycles.engine``, ``lifecycles.masks()``, ``lifecycles.states``."""
        return self.host.env

    @property
    def illegal_actions(self) -> Any:
        """How many actions of each environment were illegal since it was made, int64 ``[num_envs]``."""
        return self.host.illegal_actions()

    def action_masks(self) -> Any:
        """Of the current states, bool ``[num_envs, n]``."""
        return self.host.masks()


def own_array(name: str, given: Any, kinds: str) -> Tensor:
    """An array of a library as a tensor of its own, whatever its layout and the width of its numbers.

    Raises:
        ValueError: nothing of these kinds, numpy's letters: b for bool, iu for integers.
    """
    import numpy as np  # the libraries that this is for bring it

    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # ragged
        array = np.asarray(None)
    if array.dtype.kind not in kinds:
        what = "bools" if kinds == "b" else "integers"
        raise ValueError(f"{name} must be an array of {what}, got {_told(array, given)}")
    return torch.from_numpy(np.array(array, dtype=np.bool_ if kinds == "b" else np.int64))


def _told(array: Any, given: Any) -> str:
    return str(array.dtype) if array.dtype.kind in "biufc" else f"{type(given).__name__}: {given!r:.80}"


def make_env(num_envs: int, rules: MaskRules | str, settings: dict[str, Any]) -> LifecycleEnv:
    """The environment that an adapter is of; rules may be the name of a rule set of the package.

    Without a ``seed`` among the settings its noise is unlike that of any other, as libraries expect.

    Raises:
        TypeError: a setting that neither ``LifecycleEnv`` nor the rules have.
        RulesError, SlotStateError, ValueError, RuntimeError: as of ``LifecycleEnv``.
    """
    found = ruleset(rules) if isinstance(rules, str) else rules
    if not isinstance(found, MaskRules):
        raise TypeError(f"rules must be MaskRules or the name of a rule set, got {type(rules).__name__}")
    if settings.get("seed") is None:
        settings = {**settings, "seed": secrets.randbits(32)}
    parameters = signature(LifecycleEnv).parameters.values()
    known = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY] + ["slot_ids", *found.switches]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1, cutoff=0.7)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(  # in Python's words, by which callers see that they may leave an argument out
                f"LifecycleEnv.__init__() got an unexpected keyword argument {name!r}{hint}. "
                f"There are {', '.join(sorted(known))}, rules and action"
            )
    return LifecycleEnv(found, num_envs, **settings)


def _array(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()
