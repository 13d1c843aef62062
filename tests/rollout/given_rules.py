"""Rules for growing networks with a row, and a function of the state that gives it, a head's mask and a restriction."""

from dataclasses import replace
from typing import Any

import torch

import esper_masks as em
from esper_masks.rollout import LifecycleEnv, State

BASE = em.ruleset("esper-2025-12")
RULES = replace(
    BASE,
    op_rules=[
        replace(op, when=(em.Row("frozen", in_=(False,)),)) if op.id.name == "CULL" else op for op in BASE.op_rules
    ],
    row_features={"frozen": bool},
)


def given(state: State) -> Any:
    """No seed is culled in even epochs, none germinates late, and NORM is for odd environments."""
    batch = torch.arange(state.epoch.shape[0], device=state.epoch.device)
    late = (state.epoch >= 15).unsqueeze(-1)
    choice = torch.arange(5, device=state.epoch.device)
    return {
        "row": {"frozen": state.epoch % 2 == 0},
        "head_masks": {"blueprint": (choice != 2) | (batch % 2 == 1).unsqueeze(-1)},
        "restrict": {"op": ~late | (torch.arange(4, device=state.epoch.device) != 1)},
    }


def make(batch: int = 30, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(RULES, batch, given=given, **settings)
