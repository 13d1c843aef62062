"""Environments to train in, grounded in logs of real runs. ``import esper_masks`` does not load this."""

from esper_masks.rollout.calibration import Blueprint, Calibration, Improvement
from esper_masks.rollout.env import LifecycleEnv, StepInfo
from esper_masks.rollout.hyper import PPOConfig
from esper_masks.rollout.measure import Measurement
from esper_masks.rollout.mechanics import MECHANICS, Mechanics
from esper_masks.rollout.policy import FactoredActorCritic, FactoredRecurrentActorCritic
from esper_masks.rollout.ppo import PPO
from esper_masks.rollout.state import Assumptions
from esper_masks.rollout.train import load_policy
from esper_masks.rollout.trained import TrainedPolicy

__all__ = [
    "MECHANICS",
    "PPO",
    "Assumptions",
    "Blueprint",
    "Calibration",
    "FactoredActorCritic",
    "FactoredRecurrentActorCritic",
    "Improvement",
    "LifecycleEnv",
    "Measurement",
    "Mechanics",
    "PPOConfig",
    "StepInfo",
    "TrainedPolicy",
    "load_policy",
]
