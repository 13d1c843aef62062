"""``LifecycleEnv`` for Gymnasium, https://gymnasium.farama.org: a real vector environment, and a single one."""

from typing import Any

from esper_masks.extras import needs
from esper_masks.interop.action_forms import ActionForm, Form
from esper_masks.interop.arrays import ArrayEnv, OverArrays
from esper_masks.rules import MaskRules

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

    An environment whose episode ends begins the next one in the same step (``AutoresetMode.SAME_STEP``). Observation
    and ``action_mask`` are then those of the new episode, so that a mask always belongs to the observation beside it
    and to the action that follows. The last observation of the old episode is ``info["final_obs"]``. The mask in
    ``info["final_info"]`` is that of the new episode, since no action follows the end.

        info["action_mask"]      int8 [num_envs, n], 1 is legal: n whole actions; factored, of all heads side by side
        info["illegal_actions"]  int64 [num_envs]: how many actions were taken for WAIT since the environment was made
        info["_action_mask"]     bool [num_envs]: where there is a mask, which is everywhere; so is "_illegal_actions"

    An illegal action is WAIT, and is counted. The factored form has illegal pairs of op and slot however it is masked;
    see ``docs/frameworks/gymnasium.md``.

    >>> import esper_masks as em, numpy as np
    >>> env = em.interop.gymnasium.LifecycleVectorEnv(4)
    >>> obs, info = env.reset(seed=0)
    >>> obs.shape, info["action_mask"].shape, info["action_mask"].sum(1).tolist()
    ((4, 53), (4, 43), [37, 37, 37, 37])

    Args:
        num_envs: number of environments.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.
        rules: a rule set, or the name of one that the package has.
        settings: settings of ``rollout.LifecycleEnv``, ``slot_ids``, ``seed`` and ``mode`` among them. Without a seed
            here or in ``reset``, no two environments have the same noise.

    Raises:
        TypeError: there is no such setting; nothing can be rendered.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``rollout.LifecycleEnv``; or no such form.
    """

    autoreset_mode = AutoresetMode.SAME_STEP  # where TorchRL looks
    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": autoreset_mode}  # noqa: RUF012  # as there

    def __init__(
        self,
        num_envs: int = 1,
        *,
        action: Form = "joint",
        rules: MaskRules | str = "esper-2025-12",
        render_mode: None = None,
        **settings: Any,
    ):
        if render_mode is not None:
            raise TypeError(f"render_mode={render_mode!r}: there is nothing to render")
        self.arrays, self.render_mode, self.num_envs = ArrayEnv(num_envs, action, rules, settings), None, num_envs
        self.single_observation_space, self.single_action_space = spaces_of(self.arrays.form, self.arrays.env.obs_size)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

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
        return self.arrays.reset(seed, (options or {}).get("reset_mask")), self._info()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One epoch of every environment.

        Args:
            actions: as in ``action_space``.

        Raises:
            ValueError: another dtype or shape, or out of range.
        """
        obs, reward, ended, final = self.arrays.step(actions)
        info = self._info()
        if final is not None:
            rows = np.full(self.num_envs, None, dtype=object)
            for at in np.flatnonzero(ended):
                rows[at] = final[at]
            last = {name: each.copy() for name, each in info.items()}
            info |= {"final_obs": rows, "_final_obs": ended.copy(), "final_info": last, "_final_info": ended.copy()}
        return obs, reward, ended, np.zeros_like(ended), info

    def _info(self) -> dict[str, Any]:
        info = {"action_mask": self.action_masks().astype(np.int8), "illegal_actions": self.illegal_actions}
        return info | {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in info}


class LifecycleEnv(gymnasium.Env[Any, Any]):
    """One environment, for programs that take no vector of them: ``LifecycleVectorEnv`` of one, whose episode ends.

    ``info["action_mask"]`` is int8 ``[n]``, as ``env.action_space.sample(mask)`` takes it in the joint form. Beside the
    last observation of an episode the mask is already that of the next episode, which begins with ``reset``.

    Args:
        settings: see ``LifecycleVectorEnv``, ``action`` and ``rules`` among them.

    Raises:
        RulesError, SlotStateError, ValueError, RuntimeError: see ``LifecycleVectorEnv``.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as there

    def __init__(self, **settings: Any):
        self.vector = LifecycleVectorEnv(1, **settings)
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
        last = info["final_obs"] if ended[0] else obs
        return last[0], float(reward[0]), bool(ended[0]), False, _first(info)


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: info[name][0] for name in ("action_mask", "illegal_actions")}


gymnasium.register(ID, entry_point=f"{__name__}:LifecycleEnv", vector_entry_point=f"{__name__}:LifecycleVectorEnv")
