"""Environments to train in, grounded in logs of real runs. ``import esper_masks`` does not load this."""

from esper_masks.rollout.calibration import Blueprint, Calibration, Improvement
from esper_masks.rollout.dynamics import Assumptions
from esper_masks.rollout.env import LifecycleEnv, StepInfo
from esper_masks.rollout.measure import Measurement
from esper_masks.rollout.mechanics import MECHANICS, Mechanics

__all__ = [
    "MECHANICS",
    "Assumptions",
    "Blueprint",
    "Calibration",
    "Improvement",
    "LifecycleEnv",
    "Measurement",
    "Mechanics",
    "StepInfo",
]
