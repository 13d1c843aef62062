"""``LifecycleEnv`` for Gymnasium, https://gymnasium.farama.org: a real vector environment, and a single one."""

from typing import Any

from esper_masks.extras import needs
from esper_masks.interop.hosts import ActionForm, Form, Hosted, HostEnv
from esper_masks.rules import MaskRules

with needs("interop.gymnasium"):
    import gymnasium
    import numpy as np
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space

ID = "esper/Lifecycle-v0"


def spaces_of(form: ActionForm, obs_size: int) -> tuple[spaces.Box, spaces.Space[Any]]:
    """Of one environment: observations and actions."""
    sizes = form.sizes
    action: spaces.Space[Any] = spaces.MultiDiscrete(list(sizes)) if form.row else spaces.Discrete(sizes[0])
    return spaces.Box(-np.inf, np.inf, (obs_size,), np.float32), action


class LifecycleVectorEnv(Hosted, VectorEnv[Any, Any, Any]):
    """Environments stepped together, as of ``rollout.LifecycleEnv``.

    An environment whose episode ends begins anew in the same step (``AutoresetMode.SAME_STEP``). Observation and
    ``action_mask`` are those of the new episode then, so that a mask always belongs to the observation beside it and to
    the action that follows. The last of the old one are ``info["final_obs"]`` and ``info["final_info"]``, whose mask is
    that of the new one, as no action follows the end.

        info["action_mask"]      int8 [num_envs, n], 1 is legal: n whole actions; factored, of all heads side by side
        info["illegal_actions"]  int64 [num_envs]: how many were taken for WAIT since it was made
        info["_action_mask"]     bool [num_envs]: where there is one, which is everywhere; so is "_illegal_actions"

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
        settings: of ``rollout.LifecycleEnv``, ``slot_ids``, ``seed`` and ``mode`` among them. Without a seed here or
            in ``reset``, no two have the same noise.

    Raises:
        TypeError: there is no such setting; nothing can be rendered.
        RulesError, SlotStateError, ValueError, RuntimeError: as of ``LifecycleEnv``; or no such form.
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
        self.host, self.render_mode, self.num_envs = HostEnv(num_envs, action, rules, settings), None, num_envs
        self.single_observation_space, self.single_action_space = spaces_of(self.host.form, self.host.env.obs_size)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode everywhere.

        Args:
            seed: of the noise of all environments; by default it goes on.
            options: ``{"reset_mask": bool [num_envs]}``, which of them; the others stay as they are.

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
        return self.host.reset(seed, (options or {}).get("reset_mask")), self._info()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One epoch of every environment.

        Args:
            actions: of the action space.

        Raises:
            ValueError: another dtype or shape, or out of range.
        """
        obs, reward, ended, final = self.host.step(actions)
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
    """One environment, for what takes no others: ``LifecycleVectorEnv`` of one, which ends instead of beginning anew.

    ``info["action_mask"]`` is int8 ``[n]``, as ``env.action_space.sample(mask)`` takes it in the joint form. Beside the
    last observation of an episode it is already that of the next one, which begins with ``reset``.

    Args:
        action: as of ``LifecycleVectorEnv``.
        rules: as of ``LifecycleVectorEnv``.
        settings: as of ``LifecycleVectorEnv``.

    Raises:
        RulesError, SlotStateError, ValueError, RuntimeError: as of ``LifecycleVectorEnv``.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as there

    def __init__(self, **settings: Any):
        self.vector = LifecycleVectorEnv(1, **settings)
        self.render_mode = None
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space

    def action_masks(self) -> Any:
        """Of the current state, bool ``[n]``; the name that sb3-contrib looks for."""
        return self.vector.action_masks()[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode. Arguments and errors as of ``LifecycleVectorEnv.reset``."""
        super().reset(seed=seed)
        obs, info = self.vector.reset(seed=seed, options=options)
        return obs[0], _first(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One epoch. Errors as of ``LifecycleVectorEnv.step``."""
        obs, reward, ended, _, info = self.vector.step(np.asarray(action)[None])
        last = info["final_obs"] if ended[0] else obs
        return last[0], float(reward[0]), bool(ended[0]), False, _first(info)


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: info[name][0] for name in ("action_mask", "illegal_actions")}


gymnasium.register(ID, entry_point=f"{__name__}:LifecycleEnv", vector_entry_point=f"{__name__}:LifecycleVectorEnv")
