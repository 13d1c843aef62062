"""``LifecycleEnv`` for libraries that live in numpy: what the adapters to Gymnasium and stable-baselines3 share."""

import secrets
from difflib import get_close_matches
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from esper_masks.interop.action_forms import ActionForm, Form
from esper_masks.rollout import LifecycleEnv
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset


class ArrayEnv:
    """``LifecycleEnv`` with arrays in and out.

    Args:
        num_envs: number of environments.
        action: ``"joint"`` or ``"factored"``.
        rules: a rule set, or the name of one that the package has.
        settings: settings of ``LifecycleEnv``.

    Raises:
        RulesError, SlotStateError, ValueError, RuntimeError: see ``LifecycleEnv``; or no such form.
    """

    def __init__(self, num_envs: int, action: Form, rules: MaskRules | str, settings: dict[str, Any]):
        self.env = make_env(num_envs, rules, settings)
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

    def step(self, given: Any) -> tuple[Any, Any, Any, Any]:
        """Observations, rewards, ends, and the final observations of environments that ended; None where none did.

        Raises:
            ValueError: actions of another dtype, shape or number, or out of range.
        """
        actions = own_array("actions", given, "iu")
        made = self.form.actions(actions, self.env.num_envs)
        outside = (actions < 0) | (actions >= torch.tensor(self.form.sizes))
        if outside.any():
            at = int(outside.view(self.env.num_envs, -1).any(1).nonzero()[0])
            last = [size - 1 for size in self.form.sizes]
            most = last if self.form.row else last[0]
            raise ValueError(f"the action of environment {at} is {actions[at].tolist()}; wanted from 0 to {most}")
        obs, reward, terminated, _, info = self.env.step(made.to(self.env.device))
        ended = _array(terminated)
        final = _array(info["final_obs"]) if ended.any() else None
        return _array(obs), _array(reward), ended, final


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


def make_env(num_envs: int, rules: MaskRules | str, settings: dict[str, Any]) -> LifecycleEnv:
    """The environment behind an adapter; ``rules`` may be the name of a rule set of the package.

    Without a ``seed`` among the settings, the noise is unlike that of any other environment, as libraries expect.

    Raises:
        TypeError: a setting that neither ``LifecycleEnv`` nor the rules have.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``LifecycleEnv``.
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
