"""``LifecycleEnv`` for Gymnasium, https://gymnasium.farama.org: a real vector environment, and a single one."""

from typing import Any

from esper_masks import rollout
from esper_masks.extras import needs
from esper_masks.interop.action_forms import ActionForm, Form
from esper_masks.interop.arrays import ArrayEnv, OverArrays

with needs("interop.gymnasium"):
    import gymnasium
    import numpy as np
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space

ID = "esper/Lifecycle-v0"


def spaces_of(form: ActionForm, obs_size: int) -> tuple[spaces.Box, spaces.Space[Any]]:
    """Spaces of one environment: observations and actions."""
    sizes = form.sizes
    action: spaces.Space[Any] = spaces.MultiDiscrete(list(sizes)) if form.row else spaces.Discrete(sizes[0])
    return spaces.Box(-np.inf, np.inf, (obs_size,), np.float32), action


class LifecycleVectorEnv(OverArrays, VectorEnv[Any, Any, Any]):
    """``rollout.LifecycleEnv`` as a vector environment.

    A mask always belongs to the observation beside it, and to the action that follows. What follows the end of an
    episode is the affair of ``autoreset_mode``, as in ``gymnasium.vector.SyncVectorEnv``:

        SAME_STEP   another episode has begun, whose observation it is, and whose mask; the old one's last are
                    ``info["final_obs"]`` and ``info["final_info"]["action_mask"]``
        NEXT_STEP   observation and mask are the last of the episode; the next step of this environment ignores the
                    action, gives reward 0, and begins the next episode
        DISABLED    observation and mask are the last of the episode; the environment waits for ``reset`` with
                    ``options={"reset_mask": ...}``, and no environment steps before that

        info["action_mask"]      int8 [num_envs, n], 1 is legal: n whole actions; factored, of all heads side by side
        info["illegal_actions"]  int64 [num_envs]: how many actions were taken for WAIT since the environment was made
        info["_action_mask"]     bool [num_envs]: where there is a mask, which is everywhere, and in ``final_info``
                                 where an episode ended; so is "_illegal_actions"

    An illegal action is WAIT, and is counted. The factored form has illegal pairs of op and slot however it is masked;
    see ``docs/frameworks/gymnasium.md``.

    >>> import esper_masks as em, numpy as np
    >>> env = em.interop.gymnasium.LifecycleVectorEnv(4)
    >>> obs, info = env.reset(seed=0)
    >>> obs.shape, info["action_mask"].shape, info["action_mask"].sum(1).tolist()
    ((4, 53), (4, 43), [37, 37, 37, 37])

    Args:
        num_envs: number of environments, or a ``rollout.LifecycleEnv``, which takes no settings beside it.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.
        autoreset_mode: an ``AutoresetMode``, or its value: ``"SameStep"``, ``"NextStep"``, ``"Disabled"``.
        settings: ``rules``, a rule set or the name of one, by default ``"esper-2025-12"``; and settings of
            ``rollout.LifecycleEnv``, ``slot_ids``, ``seed``, ``mode`` and ``dynamics`` among them. Without a seed here
            or in ``reset``, no two environments have the same noise.

    Attributes:
        lifecycles: the environments themselves. Where an episode ended they have begun the next one, in any mode.

    Raises:
        TypeError: there is no such setting, or there are some beside a ``rollout.LifecycleEnv``; nothing can be
            rendered.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``rollout.LifecycleEnv``; or no such form or mode.
    """

    autoreset_mode = AutoresetMode.SAME_STEP  # where TorchRL looks
    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": autoreset_mode}  # noqa: RUF012  # as there

    def __init__(
        self,
        num_envs: int | rollout.LifecycleEnv = 1,
        *,
        action: Form = "joint",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: None = None,
        **settings: Any,
    ):
        if render_mode is not None:
            raise TypeError(f"render_mode={render_mode!r}: there is nothing to render")
        if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
            known = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise ValueError(f"autoreset_mode={autoreset_mode!r} is not one of {known}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.arrays, self.render_mode = ArrayEnv(num_envs, action, settings, ["autoreset_mode"]), None
        self.num_envs = self.arrays.env.num_envs
        self.single_observation_space, self.single_action_space = spaces_of(self.arrays.form, self.arrays.env.obs_size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)  # where the last of an episode is what is seen
        self._last: tuple[Any, Any] | None = None  # observations and masks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode everywhere.

        Args:
            seed: seed of the noise of all environments; by default the noise is not seeded again.
            options: ``{"reset_mask": bool [num_envs]}``: which environments; the others stay as they are.

        Raises:
            ValueError: a list of seeds, other options, or a mask that does not fit.
        """
        if isinstance(seed, (list, tuple)):
            raise ValueError(f"{len(seed)} seeds: the environments share one generator; give one int")
        if options is not None and not isinstance(options, dict):
            raise ValueError(f"options must be a dict, got {type(options).__name__}")
        if others := set(options or {}) - {"reset_mask"}:
            raise ValueError(f"options {', '.join(map(repr, others))}: there is 'reset_mask' and nothing else")
        super().reset(seed=seed)
        where = (options or {}).get("reset_mask")
        obs = self.arrays.reset(seed, where)
        self._ended = self._ended & (False if where is None else ~np.asarray(where))
        return self._shown(obs), self._info()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One epoch of every environment.

        Args:
            actions: as in ``action_space``.

        Raises:
            ValueError: another dtype or shape, or out of range; or, without autoreset, an environment whose episode has
                ended.
        """
        idle = self._ended
        if self.autoreset_mode == AutoresetMode.DISABLED and idle.any():
            raise ValueError(
                f"the episode of environment {int(idle.argmax())} has ended, of {int(idle.sum())} in all: reset them "
                "first, options={'reset_mask': terminated} for these alone"
            )
        obs, reward, ended, last = self.arrays.step(actions, idle if idle.any() else None)
        if idle.any():
            obs, reward, ended = self.arrays.reset(where=idle), np.where(idle, np.float32(0), reward), ended & ~idle
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            self._ended = ended.copy()
            self._last = None if last is None else (last.obs, last.masks())
            return self._shown(obs), reward, ended, np.zeros_like(ended), self._info()
        info = self._info()
        if last is not None:
            rows = np.full(self.num_envs, None, dtype=object)
            for at in np.flatnonzero(ended):
                rows[at] = last.obs[at]
            masks = {"action_mask": last.masks().astype(np.int8), "illegal_actions": info["illegal_actions"]}
            final = {name: np.where(ended.reshape(-1, *[1] * (of.ndim - 1)), of, 0) for name, of in masks.items()}
            final |= {f"_{name}": ended.copy() for name in masks}
            info |= {"final_obs": rows, "_final_obs": ended.copy(), "final_info": final, "_final_info": ended.copy()}
        return obs, reward, ended, np.zeros_like(ended), info

    def action_masks(self) -> Any:
        """Masks of the states that are seen, bool ``[num_envs, n]``."""
        masks = super().action_masks()
        return masks if self._last is None else np.where(self._ended[:, None], self._last[1], masks)

    def _shown(self, obs: Any) -> Any:
        return obs if self._last is None else np.where(self._ended[:, None], self._last[0], obs)

    def _info(self) -> dict[str, Any]:
        info = {"action_mask": self.action_masks().astype(np.int8), "illegal_actions": self.illegal_actions}
        return info | {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in info}


class LifecycleEnv(gymnasium.Env[Any, Any]):
    """One environment, for programs that take no vector of them: ``LifecycleVectorEnv`` of one, without autoreset.

    ``info["action_mask"]`` is int8 ``[n]``, as ``env.action_space.sample(mask)`` takes it in the joint form. When an
    episode has ended, ``reset`` begins the next.

    Args:
        num_envs: 1, or a ``rollout.LifecycleEnv`` of one environment, which takes no settings beside it.
        settings: see ``LifecycleVectorEnv``, ``action`` and ``rules`` among them; not its ``autoreset_mode``.

    Raises:
        TypeError, RulesError, SlotStateError, ValueError, RuntimeError: see ``LifecycleVectorEnv``; or there is more
            than one environment.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as there

    def __init__(self, num_envs: int | rollout.LifecycleEnv = 1, **settings: Any):
        if "autoreset_mode" in settings:
            raise TypeError(
                "one environment has no autoreset_mode: it ends, and reset begins the next episode. For a vector of "
                "them, make_vec(..., vectorization_mode='vector_entry_point', autoreset_mode=...), or 'sync' with "
                "vector_kwargs={'autoreset_mode': ...}"
            )
        self.vector = LifecycleVectorEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **settings)
        if self.vector.num_envs != 1:
            raise ValueError(f"this is one environment, got {self.vector.num_envs}: LifecycleVectorEnv takes them")
        self.render_mode = None
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space

    def action_masks(self) -> Any:
        """Mask of the current state, bool ``[n]``; sb3-contrib looks for this name."""
        return self.vector.action_masks()[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode. Arguments and errors: see ``LifecycleVectorEnv.reset``."""
        super().reset(seed=seed)
        obs, info = self.vector.reset(seed=seed, options=options)
        return obs[0], _first(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One epoch. Errors: see ``LifecycleVectorEnv.step``."""
        obs, reward, ended, _, info = self.vector.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(ended[0]), False, _first(info)


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: info[name][0] for name in ("action_mask", "illegal_actions")}


gymnasium.register(ID, entry_point=f"{__name__}:LifecycleEnv", vector_entry_point=f"{__name__}:LifecycleVectorEnv")
