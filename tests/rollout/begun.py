"""A small training, as it begins."""

from typing import Any

import esper_masks as em
from esper_masks.rollout import PPO, PPOConfig
from esper_masks.rollout.training.train import TrainSettings, build

SMALL = TrainSettings(envs=16, width=8)


def begin(**settings: Any) -> PPO:
    config = PPOConfig(steps=10, horizon=16 * 10 * 5)
    return build(em.ruleset("esper-2025-12"), TrainSettings(**{**SMALL.to_dict(), **settings}), config)


def nothing(figures: dict[str, float]) -> None:
    pass
