"""``LifecycleEnv`` for libraries that live in numpy: Gymnasium, stable-baselines3 and PettingZoo."""

import secrets
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.interop.action_forms import ActionForm, Form
from esper_masks.rollout import LifecycleEnv
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset

RULES = "esper-2025-12"  # of environments for which no others are given


class Last(NamedTuple):
    """What was seen before environments whose episode ended began another."""

    obs: Any  # float32 [batch, obs_size]
    masks: Callable[[], Any]  # bool [batch, sum(sizes)], made when they are asked for


class ArrayEnv:
    """``LifecycleEnv`` with arrays in and out.

    Args:
        num_envs: number of environments, or environments ready made.
        action: ``"joint"`` or ``"factored"``.
        settings: see ``make_env``.
        own: what else the adapter takes, for hints.

    Raises:
        TypeError, RulesError, SlotStateError, ValueError, RuntimeError: see ``make_env``; or no such form.
    """

    def __init__(self, num_envs: int | LifecycleEnv, action: Form, settings: dict[str, Any], own: Sequence[str] = ()):
        self.env = make_env(num_envs, settings, ("action", *own))
        self.form = ActionForm(self.env.engine, action)

    def reset(self, seed: int | None = None, where: Any = None) -> Any:
        """Start an episode everywhere, or where a bool array ``[batch]`` is True. Returns: observations, float32."""
        if where is None:
            return _array(self.env.reset(seed=seed))
        mask, wanted = own_array("reset_mask", where, "b"), (self.env.num_envs,)
        if mask.shape != wanted:
            raise ValueError(f"reset_mask has shape {tuple(mask.shape)}; wanted {wanted}")
        return _array(self.env.reset(mask.to(self.env.device), seed=seed))

    def masks(self) -> Any:
        """Bool ``[batch, sum(sizes)]``."""
        return _array(self.form.masks(self.env.masks()))

    def step(self, given: Any, idle: Any = None) -> tuple[Any, Any, Any, Last | None]:
        """Observations, rewards, ends, and what was last seen of environments that ended; None where none did.

        Args:
            given: actions, in the form of the environment.
            idle: bool array ``[batch]``: environments whose action may be anything, and is not counted. They step
                nevertheless: the caller resets them, or looks at them no more.

        Raises:
            ValueError: actions of another dtype, shape or number, or out of range.
        """
        actions = own_array("actions", given, "iu")
        made = self.form.actions(actions, self.env.num_envs)
        outside = ((actions < 0) | (actions >= torch.tensor(self.form.sizes))).view(self.env.num_envs, -1).any(1)
        none = None if idle is None else torch.from_numpy(idle)
        if none is not None:
            outside = outside & ~none
        if outside.any():
            at = int(outside.nonzero()[0])
            last = [size - 1 for size in self.form.sizes]
            most = last if self.form.row else last[0]
            raise ValueError(f"the action of environment {at} is {actions[at].tolist()}; wanted from 0 to {most}")
        counts = self.env.illegal_actions
        obs, reward, terminated, _, info = self.env.step(made.to(self.env.device))
        if none is not None:
            self.env.illegal_actions = torch.where(none.to(self.env.device), counts, self.env.illegal_actions)
        ended, last_seen = _array(terminated), None
        if ended.any():
            last_seen = Last(_array(info["final_obs"]), lambda: _array(self.form.masks(info["final_masks"])))
        return _array(obs), _array(reward), ended, last_seen


class OverArrays:
    """What every adapter on top of an ``ArrayEnv`` offers."""

    arrays: ArrayEnv

    @property
    def lifecycles(self) -> LifecycleEnv:
        """The environments themselves: ``lifecycles.engine``, ``lifecycles.masks()``, ``lifecycles.states``."""
        return self.arrays.env

    @property
    def illegal_actions(self) -> Any:
        """How many actions of each environment were illegal since it was made, int64 ``[num_envs]``, a new array."""
        return _array(self.lifecycles.illegal_actions.clone())

    def action_masks(self) -> Any:
        """Masks of the current states, bool ``[num_envs, n]``."""
        return self.arrays.masks()


def own_array(name: str, given: Any, kinds: str) -> Tensor:
    """An array of a library as a new tensor, whatever its layout and the width of its numbers.

    Raises:
        ValueError: an array of other kinds; these are numpy's letters: b for bool, iu for integers.
    """
    import numpy as np  # the libraries bring it

    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # ragged
        array = np.asarray(None)
    if array.dtype.kind not in kinds:
        what = "bools" if kinds == "b" else "integers"
        raise ValueError(f"{name} must be an array of {what}, got {_kind(array, given)}")
    return torch.from_numpy(np.array(array, dtype=np.bool_ if kinds == "b" else np.int64))


def _kind(array: Any, given: Any) -> str:
    return str(array.dtype) if array.dtype.kind in "biufc" else f"{type(given).__name__}: {given!r:.80}"


def make_env(num_envs: int | LifecycleEnv, settings: dict[str, Any], own: Sequence[str] = ("action",)) -> LifecycleEnv:
    """The environments behind an adapter: made for it, or ready made.

    Without a ``seed`` among the settings, the noise is unlike that of any other environment, as libraries expect.

    Args:
        num_envs: number of environments, or environments ready made, which the adapter takes over as they are.
        settings: ``rules``, a rule set or the name of one that the package has, by default ``"esper-2025-12"``; and
            settings of ``LifecycleEnv``. None beside environments ready made.
        own: what else the adapter takes, for hints.

    Raises:
        TypeError: a setting that neither ``LifecycleEnv`` nor the rules have, or any beside environments ready made.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``LifecycleEnv``.
    """
    if isinstance(num_envs, LifecycleEnv):
        if settings:
            names = " and ".join(f"{name}=" for name in settings)
            raise TypeError(f"{names} beside a LifecycleEnv, which has its settings: give them where it is made")
        return num_envs
    rules, settings = settings.get("rules", RULES), {k: v for k, v in settings.items() if k != "rules"}
    found = ruleset(rules) if isinstance(rules, str) else rules
    if not isinstance(found, MaskRules):
        raise TypeError(f"rules must be MaskRules or the name of a rule set, got {type(rules).__name__}")
    if settings.get("seed") is None:
        settings = {**settings, "seed": secrets.randbits(32)}
    parameters = signature(LifecycleEnv).parameters.values()
    known = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY] + ["slot_ids", *found.switches]
    everything = sorted([*known, "rules", *own])
    for name in settings:
        if name not in known:
            near = get_close_matches(name, everything, 1, cutoff=0.7)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(  # in Python's words, by which callers see that they may leave an argument out
                f"LifecycleEnv.__init__() got an unexpected keyword argument {name!r}{hint}. "
                f"There are {', '.join(everything)}"
            )
    return LifecycleEnv(found, num_envs, **settings)


def _array(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()
