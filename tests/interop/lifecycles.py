"""Environments of every kind, for the tests of adapters: those of the package, dynamics of one's own, rules alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from esper_masks.rollout import LifecycleEnv
from esper_masks.rulesets import ruleset
from tests.rollout import bakery, given_rules
from tests.rollout.kilns import RULES, Kilns, KilnsInPlace


def no_stop_late(state: Any) -> Any:
    """From the third epoch on no kiln is stopped, not at an end either."""
    return {"restrict": {"op": (state.epoch < 3).unsqueeze(-1) | torch.tensor([True, True, False])}}


def networks(batch: int, horizon: int, **more: Any) -> LifecycleEnv:
    return LifecycleEnv(ruleset("esper-2025-12"), batch, episode_length=horizon, **more)


def limited(batch: int, horizon: int, **more: Any) -> LifecycleEnv:
    return given_rules.make(batch, episode_length=horizon, **more)


def june(batch: int, horizon: int, **more: Any) -> LifecycleEnv:
    return LifecycleEnv(ruleset("esper-2026-06"), batch, episode_length=horizon, max_seeds=2, **more)


def kilns(batch: int, horizon: int, dynamics: Any = Kilns, **more: Any) -> LifecycleEnv:
    """Whose episodes may also end early."""
    return LifecycleEnv(RULES, batch, dynamics=partial(dynamics, horizon=horizon), max_seeds=3, **more)


def loaves(batch: int, horizon: int, **more: Any) -> LifecycleEnv:
    """By rules alone, with masks of a head by slot; all environments begin alike."""
    dynamics = bakery.make(horizon=horizon, rows_start={"power": True, "customers": 2})
    return LifecycleEnv(bakery.RULES, batch, dynamics=dynamics, **more)


ALIKE: dict[str, Callable[..., LifecycleEnv]] = {  # whose environments are the same wherever in the batch they are
    "kilns": kilns,
    "in place": partial(kilns, dynamics=KilnsInPlace),
    "given": partial(kilns, given=no_stop_late),
    "loaves": loaves,
}
ALL = {**ALIKE, "networks": networks, "limited": limited, "june": june}
