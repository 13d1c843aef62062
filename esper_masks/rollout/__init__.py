"""Environments to train in, grounded in logs of real runs, and a learner. ``import esper_masks`` does not load this.

env        the world: environments, the dynamics by which they run, and what logs say about those of growing networks
networks   real networks that are trained, in whose slots seeds grow
training   the learner: PPO, policies, checkpoints
"""

from esper_masks.rollout.env.calibrated import Assumptions, CalibratedDynamics, State
from esper_masks.rollout.env.calibration import Blueprint, Calibration, Improvement
from esper_masks.rollout.env.dynamics import Dynamics, Outcome
from esper_masks.rollout.env.env import LifecycleEnv, StepInfo
from esper_masks.rollout.env.measure import Measurement
from esper_masks.rollout.env.mechanics import MECHANICS, Mechanics
from esper_masks.rollout.env.rule_dynamics import RuleDynamics, RuleState
from esper_masks.rollout.env.scheduled import ScheduledAssumptions, ScheduledDynamics, ScheduledState
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.lifecycles import NetworkState
from esper_masks.rollout.networks.tasks import TASKS, Task
from esper_masks.rollout.training.config import PPOConfig
from esper_masks.rollout.training.policy import FactoredActorCritic, FactoredRecurrentActorCritic
from esper_masks.rollout.training.ppo import PPO
from esper_masks.rollout.training.trained import TrainedPolicy, load_policy
from esper_masks.starting import keep_freed_memory

__all__ = [
    "MECHANICS",
    "PPO",
    "TASKS",
    "Assumptions",
    "Blueprint",
    "CalibratedDynamics",
    "Calibration",
    "Dynamics",
    "FactoredActorCritic",
    "FactoredRecurrentActorCritic",
    "Improvement",
    "LifecycleEnv",
    "Measurement",
    "Mechanics",
    "NetworkDynamics",
    "NetworkState",
    "Outcome",
    "PPOConfig",
    "RuleDynamics",
    "RuleState",
    "ScheduledAssumptions",
    "ScheduledDynamics",
    "ScheduledState",
    "State",
    "StepInfo",
    "Task",
    "TrainedPolicy",
    "keep_freed_memory",
    "load_policy",
]
