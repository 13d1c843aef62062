"""What a policy should be better than: functions of an environment to actions, int64 ``[batch, heads]``."""

import torch
from torch import Tensor

from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.errors import RulesError
from esper_masks.rollout.env.dynamics import is_any
from esper_masks.rollout.env.env import LifecycleEnv


def random_legal(env: LifecycleEnv) -> Tensor:
    """Any legal action: each head uniformly over its legal choices given the op, from torch's own generator."""
    logits = torch.zeros(env.num_envs, env.engine.layout.logit_size, dtype=torch.float32, device=env.device)
    return FactoredCategorical(logits, env.masks(), validate="off").sample()


def always_wait(env: LifecycleEnv) -> Tensor:
    """WAIT, always."""
    return _whole(env, torch.full((env.num_envs,), _wait(env), device=env.device), {})


def heuristic(env: LifecycleEnv) -> Tensor:
    """Judge the first seed on probation, or else fill a slot.

    A seed whose measured improvement is negative is culled, any other is kept. New seeds have the blueprint with the
    largest mean improvement.

    Raises:
        RulesError: rules without ops that fill, keep and cull.
    """
    dynamics, layout = env.dynamics, env.engine.layout
    probation = [s for s in dynamics.full if s != dynamics.kept and s not in dict(dynamics.advances)]
    fill, keep, cull = (_op(env, targets) for targets in ("fill", "keep", "cull"))
    stage = env.states[..., 0]
    waits = is_any(stage, probation)
    empty = (stage == dynamics.empty) & env.masks().slot_by_op[..., fill, :]
    judged, at = waits.any(-1), waits.int().argmax(-1)
    negative = env.improvement.gather(-1, at.unsqueeze(-1)).squeeze(-1) < 0
    filled = empty.any(-1) & ~judged
    op = torch.where(judged, torch.where(negative, cull, keep), torch.where(filled, fill, _wait(env)))
    slot = torch.where(judged, at, torch.where(filled, empty.int().argmax(-1), layout.head("slot").canonical))
    best = max(dynamics.blueprints, key=lambda choice: dynamics.mean[choice])
    blueprint = torch.where(filled, best, layout.heads[dynamics.blueprint_at].canonical)
    return _whole(env, op, {dynamics.slot_at: slot, dynamics.blueprint_at: blueprint})


BASELINES = {"random": random_legal, "wait": always_wait, "heuristic": heuristic}


def _wait(env: LifecycleEnv) -> int:
    """The op that is legal everywhere and does nothing."""
    layout = env.engine.layout
    return next(op for op in range(len(layout.ops)) if layout.unconditional >> op & 1)


def _op(env: LifecycleEnv, what: str) -> int:
    """The op that fills a slot, keeps a seed or culls it."""
    dynamics = env.dynamics
    gone = dynamics.without_seed
    for op, source, target in dynamics.moves:
        fits = {"fill": source == dynamics.empty, "keep": target == dynamics.kept, "cull": target in gone}
        if fits[what]:
            return op
    raise RulesError(f"no op of {env.engine.rules.name} could {what} a seed")


def _whole(env: LifecycleEnv, op: Tensor, heads: dict[int, Tensor]) -> Tensor:
    values = [torch.full_like(op, head.canonical) for head in env.engine.layout.heads]
    values[env.dynamics.op_at] = op
    for at, value in heads.items():
        values[at] = value
    return torch.stack(values, -1)
