"""sb3-contrib's MaskablePPO in our environment, as near to our training as it allows. Its import needs sb3-contrib."""

from typing import Any

from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from esper_masks.interop.sb3 import LifecycleVecEnv
from esper_masks.rollout import PPOConfig


class TwoLayers(BaseFeaturesExtractor):
    """The hidden layers of ``FactoredActorCritic``, shared by logits and value."""

    def __init__(self, space: spaces.Space[Any], width: int):
        super().__init__(space, width)
        assert space.shape is not None
        self.layers = nn.Sequential(nn.Linear(space.shape[0], width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())

    def forward(self, obs: Tensor) -> Tensor:
        made: Tensor = self.layers(obs)
        return made


class MaskableTraining:
    """MaskablePPO with our hyper-parameters, its two halves to be called one by one.

    Args:
        venv: to act in.
        config: hyper-parameters; updates do not end early.
        width: of the hidden layers.
    """

    def __init__(self, venv: LifecycleVecEnv, config: PPOConfig, width: int):
        self.venv, self.steps = venv, config.steps
        self.model = MaskablePPO(
            "MlpPolicy",
            self.venv,
            learning_rate=config.learning_rate,
            n_steps=config.steps,
            batch_size=-(-config.steps * venv.num_envs // config.minibatches),
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
        assert isinstance(self.callback, BaseCallback)
        assert self.model.collect_rollouts(self.venv, self.callback, self.model.rollout_buffer, self.steps)

    def iterate(self) -> None:
        """One rollout and one update."""
        self.rollout()
        self.model.train()
