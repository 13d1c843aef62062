"""``LifecycleEnv`` for stable-baselines3, and for sb3-contrib's ``MaskablePPO``: https://sb3-contrib.readthedocs.io."""

import secrets
from typing import Any

from esper_masks.extras import needs
from esper_masks.interop.action_forms import Form
from esper_masks.interop.arrays import ArrayEnv, OverArrays
from esper_masks.rollout import LifecycleEnv

with needs("interop.sb3"):
    import numpy as np
    from stable_baselines3.common.vec_env import VecEnv

from esper_masks.interop.gymnasium import spaces_of

MASKS = "action_masks"  # the name that sb3-contrib asks for


class LifecycleVecEnv(OverArrays, VecEnv):
    """``rollout.LifecycleEnv`` as a ``VecEnv``. The masks of all environments come from one tensor.

    An environment whose episode ends begins the next one in the same step, as everywhere in stable-baselines3; the last
    observation of the old episode is ``infos[i]["terminal_observation"]``.

    An illegal action is WAIT, and is counted in ``illegal_actions``. The factored form has illegal pairs of op and slot
    however it is masked; see ``docs/frameworks/sb3.md``.

    >>> import esper_masks as em
    >>> env = em.interop.sb3.LifecycleVecEnv(4)
    >>> env.reset().shape, env.action_masks().shape
    ((4, 53), (4, 43))

    Args:
        num_envs: number of environments, or a ``rollout.LifecycleEnv``, which takes no settings beside it.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.
        settings: ``rules``, a rule set or the name of one, by default ``"esper-2025-12"``; and settings of
            ``rollout.LifecycleEnv``, ``slot_ids``, ``seed``, ``mode`` and ``dynamics`` among them. Without a seed here
            or by ``seed``, no two environments have the same noise.

    Raises:
        TypeError: there is no such setting, or there are some beside a ``rollout.LifecycleEnv``.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``rollout.LifecycleEnv``; or no such form.
    """

    render_mode = None

    def __init__(self, num_envs: int | LifecycleEnv, *, action: Form = "joint", **settings: Any):
        self.arrays = ArrayEnv(num_envs, action, settings)
        self._actions: Any = None
        super().__init__(self.arrays.env.num_envs, *spaces_of(self.arrays.form, self.arrays.env.obs_size))

    def reset(self) -> Any:
        """Start an episode everywhere; if ``seed`` was called since the last reset, with that seed."""
        obs = self.arrays.reset(self._seeds[0])
        self._reset_seeds()
        return obs

    def seed(self, seed: int | None = None) -> Any:
        """Seed the next ``reset``; None for a random seed.

        Raises:
            ValueError: the seed is no int.
        """
        if not (seed is None or isinstance(seed, int | np.integer)):
            raise ValueError(f"seed {seed!r:.80}: the environments share one generator; give one int")
        return super().seed(secrets.randbits(31) if seed is None else int(seed))

    def set_options(self, options: Any = None) -> None:
        """Raises: ValueError: any options; a reset has none."""
        if options:
            raise ValueError(f"options {options!r:.80}: there are none; all environments begin together")

    def step_async(self, actions: Any) -> None:
        """Keep the actions for the next ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> Any:
        """One epoch of every environment.

        Raises:
            ValueError: actions of another dtype or shape, or out of range.
        """
        obs, reward, ended, last = self.arrays.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if last is not None:
            for at in np.flatnonzero(ended):
                infos[at] = {"terminal_observation": last.obs[at], "TimeLimit.truncated": False}
        return obs, reward, ended, infos

    def close(self) -> None:
        """There is nothing to close."""

    # -- questions to single environments ------------------------------------------------------------------------------

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """``action_masks``, a row for each environment.

        Raises:
            AttributeError: another method; the environments are one object, without methods of their own.
        """
        if method_name != MASKS or method_args or method_kwargs:
            raise AttributeError(
                f"a lifecycle has no method {method_name!r} with arguments of its own; it has {MASKS}()"
            )
        masks = self.action_masks()
        return [masks[at] for at in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """``illegal_actions`` or ``action_masks`` of each environment; any other attribute is the same for all.

        Raises:
            AttributeError: there is no such attribute.
        """
        value, chosen = getattr(self, attr_name), self._get_indices(indices)
        if attr_name == "illegal_actions":
            return [value[at] for at in chosen]
        if attr_name == MASKS:
            return [lambda at=at: self.action_masks()[at] for at in chosen]
        return [value for _ in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raises: AttributeError: the environments are one object, without attributes of their own."""
        raise AttributeError(f"{attr_name!r} cannot be set for single environments: they are one object")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No environment is wrapped by itself."""
        return [False for _ in self._get_indices(indices)]
