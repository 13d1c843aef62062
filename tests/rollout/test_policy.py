"""Actor-critics: rollout and update agree, masks are in one place, and the recurrence forgets in time."""

from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.rollout import FactoredActorCritic, FactoredRecurrentActorCritic, LifecycleEnv

CLASSES = [FactoredActorCritic, FactoredRecurrentActorCritic]


def make(kind: Any, batch: int = 12, **settings: Any) -> tuple[LifecycleEnv, Any]:
    env = LifecycleEnv(em.ruleset("esper-2025-12"), batch, max_seeds=4)
    torch.manual_seed(0)
    return env, kind(em.DecisionStep(env.engine, mode="eager"), env.obs_size, 16, **settings)


def rollout(env: LifecycleEnv, policy: Any, steps: int) -> tuple[Any, ...]:
    """Observations, starts, actions, log-probabilities, values and masks, ``[steps, batch, ...]``."""
    obs, hidden, rows = env.reset(), policy.initial(env.num_envs), []
    starts = torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(steps):
        masks = env.masks()
        (decision, values, hidden) = policy.act(obs, env.states, env.total_seeds, hidden=hidden, starts=starts)
        rows.append((obs, starts, decision.actions, decision.log_prob, values, masks))
        obs, _, starts, _, _ = env.step(decision.actions)
    *columns, masks = zip(*rows)
    return *(torch.stack(column) for column in columns), em.ActionMasks.stack(masks)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_update_scores_what_the_rollout_did(kind: Any) -> None:
    env, policy = make(kind)
    obs, starts, actions, log_prob, values, masks = rollout(env, policy, 30)
    assert env.illegal_actions.sum() == 0
    assert starts[25].all()  # an episode ended on the way
    scored = policy.evaluate_actions(obs, masks, actions, starts=starts)
    torch.testing.assert_close(scored.evaluation.log_prob, log_prob, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scored.values, values, rtol=1e-5, atol=1e-6)
    (scored.evaluation.log_prob.sum() + scored.values.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def test_what_is_illegal_moves_nothing() -> None:
    """The mask is in the distribution alone: logits of what is illegal get no gradient."""
    env, policy = make(FactoredActorCritic)
    obs, masks = env.reset(), env.masks()  # in an empty network only WAIT and GERMINATE are legal
    acted = policy.act(obs, env.states, env.total_seeds)
    scored = policy.evaluate_actions(obs, masks, acted.decision.actions)
    (scored.evaluation.log_prob.sum() + scored.evaluation.raw_entropy.sum()).backward()
    grads = policy.output.weight.grad.split([3, 5, 3, 4, 1])
    assert not grads[3][2:].any()  # CULL, FOSSILIZE
    assert not grads[1][0].any()  # NOOP
    assert grads[1][1:].any()


def test_a_recurrence_forgets_where_an_episode_begins() -> None:
    _, policy = make(FactoredRecurrentActorCritic)
    obs = torch.randn(6, 12, policy.features[0].in_features)
    starts = torch.zeros(6, 12, dtype=torch.bool)
    starts[3, ::2] = True
    logits, values, kept = policy(obs, None, starts)
    later, later_values, later_kept = policy(obs[3:])
    torch.testing.assert_close(values[3:, ::2], later_values[:, ::2])
    assert not torch.allclose(logits[3:, 1::2], later[:, 1::2], atol=1e-6)
    torch.testing.assert_close(kept[0][::2], later_kept[0][::2])
    first = policy(obs[:2])[2]
    one_by_one = policy(obs[1], policy(obs[0])[2])[2]
    assert all(torch.equal(mine, other) for mine, other in zip(first, one_by_one))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_evaluate_actions_compiles(kind: Any) -> None:
    env, policy = make(kind)
    obs, starts, actions, log_prob, _, masks = rollout(env, policy, 4)

    def score(obs: Tensor, masks: em.ActionMasks, actions: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        scored = policy.evaluate_actions(obs, masks, actions, starts=starts)
        return scored.evaluation.log_prob, scored.values

    score(obs, masks, actions, starts)
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    made, _ = compiled(obs, masks, actions, starts)
    torch.testing.assert_close(made, log_prob, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", CLASSES)
def test_layers_may_run_in_half_precision(kind: Any) -> None:
    env, policy = make(kind, autocast=True)
    obs = env.reset()
    logits, values, hidden = policy(obs)
    assert logits.dtype == values.dtype == torch.float32
    assert hidden is None or hidden[0].dtype == torch.float32
    acted = policy.act(obs, env.states, env.total_seeds)
    assert env.masks().permits(acted.decision.actions).all()
    assert acted.decision.log_prob.dtype == torch.float32


def test_a_policy_learns_what_pays() -> None:
    """Germinating pays here, whatever comes of it: a few steps of gradients raise the probability of it."""
    env, policy = make(FactoredActorCritic, 64)
    optimizer = torch.optim.Adam(policy.parameters(), 0.01)
    obs, masks = env.reset(), env.masks()
    rewarded = []
    for _ in range(40):
        actions = policy.act(obs, env.states, env.total_seeds).decision.actions
        paid = (actions[:, 3] == 1).float()
        rewarded.append(float(paid.mean()))
        scored = policy.evaluate_actions(obs, masks, actions)
        loss = -(scored.evaluation.log_prob * (paid - paid.mean())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(rewarded[-5:]) > sum(rewarded[:5]) + 1
