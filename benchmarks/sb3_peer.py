"""The environment for stable-baselines3, and sb3-contrib's MaskablePPO as near to our training as it allows.

What favours it: no ``VecNormalize`` (ours normalizes observations and returns), no ``Monitor``, no final observations
(episodes end for good, so it never reads them), and masks of all environments at once, given out as rows.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from esper_masks.rollout import LifecycleEnv, PPOConfig


class Sb3Env(VecEnv):
    """``LifecycleEnv`` as a ``VecEnv``.

    Args:
        env: the environments.
        joint: whether an action is the index of a whole one, with exact masks; else one choice a head, with the masks
            of all heads side by side, which leave pairs of op and slot that are illegal.
    """

    def __init__(self, env: LifecycleEnv, joint: bool):
        self.env, self.joint = env, joint
        sizes = [head.size for head in env.engine.layout.heads]
        action = spaces.Discrete(env.engine.joint_actions.size) if joint else spaces.MultiDiscrete(sizes)
        observed = spaces.Box(-np.inf, np.inf, (env.obs_size,), np.float32)
        self._actions = torch.empty(0)
        self._infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        super().__init__(env.num_envs, observed, action)

    def reset(self) -> Any:
        return self.env.reset().numpy()

    def whole(self, actions: Any) -> Tensor:
        """Actions of the library's form, int64 ``[batch, heads]``."""
        made = torch.from_numpy(actions)
        return self.env.engine.joint_actions.decode(made) if self.joint else made

    def step_async(self, actions: Any) -> None:
        self._actions = self.whole(actions)

    def step_wait(self) -> Any:
        obs, reward, terminated, *_ = self.env.step(self._actions)
        return obs.numpy(), reward.numpy(), terminated.numpy(), self._infos

    def action_masks(self) -> Any:
        """Bool ``[batch, choices]``."""
        masks = self.env.masks()
        return (masks.joint() if self.joint else masks.flat()).numpy()

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        if method_name != "action_masks" or indices is not None:
            raise AttributeError(method_name)
        return list(self.action_masks())

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs if attr_name == "action_masks" else [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None:
        pass


class TwoLayers(BaseFeaturesExtractor):
    """The hidden layers of ``FactoredActorCritic``, shared by logits and value."""

    def __init__(self, space: spaces.Space[Any], width: int):
        super().__init__(space, width)
        assert space.shape is not None
        self.layers = nn.Sequential(nn.Linear(space.shape[0], width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())

    def forward(self, obs: Tensor) -> Tensor:
        made: Tensor = self.layers(obs)
        return made


class Sb3Training:
    """MaskablePPO with our hyper-parameters, its two halves to be called one by one.

    Args:
        env: to act in.
        joint: as of ``Sb3Env``.
        config: hyper-parameters; updates do not end early.
        width: of the hidden layers.
    """

    def __init__(self, env: LifecycleEnv, joint: bool, config: PPOConfig, width: int):
        self.venv, self.steps = Sb3Env(env, joint), config.steps
        self.model = MaskablePPO(
            "MlpPolicy",
            self.venv,
            learning_rate=config.learning_rate,
            n_steps=config.steps,
            batch_size=-(-config.steps * env.num_envs // config.minibatches),
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip,
            ent_coef=config.entropy_weight,
            vf_coef=config.value_weight,
            max_grad_norm=config.max_grad_norm,
            policy_kwargs={
                "features_extractor_class": TwoLayers,
                "features_extractor_kwargs": {"width": width},
                "net_arch": {"pi": [], "vf": []},
            },
            device="cpu",
            seed=0,
        )
        total = 1 << 62  # the end that `learn` would go on to
        _, self.callback = self.model._setup_learn(total, None)

    def rollout(self) -> None:
        """Fill the buffer, and make the advantages of it."""
        buffer, steps = self.model.rollout_buffer, self.steps
        assert isinstance(self.callback, BaseCallback)
        assert self.model.collect_rollouts(self.venv, self.callback, buffer, steps)

    def iterate(self) -> None:
        """One rollout and one update."""
        self.rollout()
        self.model.train()

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.policy.parameters())
