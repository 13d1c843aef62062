"""Environments whose masks depend on more than slot states: rows, masks of heads and restrictions of the caller."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, PPOConfig, State, TrainedPolicy
from tests.helpers import as_bools, assert_near, assert_same_masks, seeded
from tests.rollout.given_rules import RULES, given, make


def whole_masks(env: em.rollout.LifecycleEnv) -> em.ActionMasks:
    """By the engine and ``restrict`` alone."""
    now = given(env.state)
    masks = env.engine(env.states, row=now["row"])
    return masks.restrict(**now["head_masks"], **now["restrict"])


def test_an_action_is_legal_under_what_is_given() -> None:
    env, generator = make(500), seeded(0)
    seen = torch.zeros(4, dtype=torch.bool)
    for _ in range(30):
        masks = whole_masks(env)
        assert_same_masks(env.masks(), as_bools(masks))
        without = env.engine(env.states, row=env.given["row"])
        seen |= torch.stack([(without[name] & ~masks[name]).any() for name in ("op", "blueprint", "slot", "blend")])
        heads = [torch.randint(-1, head.size + 1, (500,), generator=generator) for head in env.engine.layout.heads]
        actions = torch.stack(heads, -1)
        before = env.illegal_actions.clone()
        env.step(actions)
        assert torch.equal(env.illegal_actions - before == 0, masks.permits(actions))
        before = env.illegal_actions.clone()
        env.step(em.FactoredCategorical(torch.zeros(500, 15), env.masks()).sample())
        assert torch.equal(env.illegal_actions, before)
    assert seen[:2].all()  # what is given has taken ops and blueprints away


def test_what_is_given_comes_from_a_function() -> None:
    with pytest.raises(ValueError, match=r"given must be a function of the environment's state, got dict"):
        em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 4, given={"row": {}})  # type: ignore[arg-type]


@pytest.mark.usefixtures("fresh_compiler")
def test_what_compiled_code_gives_otherwise_is_named() -> None:
    """A comparison with a member of an enum, which torch takes for False; seen once a seed is there."""
    rules = em.ruleset("esper-2025-12")

    def unless_training(state: em.rollout.State) -> Any:
        stage = state.states[..., 0]
        trains = ((stage < 0) | (stage == rules.stages.TRAINING)).any(-1, keepdim=True)
        return {"restrict": {"op": ~trains | (torch.arange(4) != int(rules.ops.GERMINATE))}}

    with pytest.raises(ValueError, match=r"given: 'restrict': 'op' is not the same compiled as op by op"):
        em.rollout.LifecycleEnv(rules, 4, given=unless_training, mode="compiled")
    assert em.rollout.LifecycleEnv(rules, 4, given=unless_training).given["restrict"]["op"].all()


def test_what_is_given_is_made_for_those_who_ask() -> None:
    asked = []
    env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 4, given=lambda state: asked.append(1) or {})
    begun = len(asked)
    assert env.states.shape == (4, 3, 2)
    assert env.total_seeds.shape == (4,)
    assert len(asked) == begun
    assert env.given == {}
    env.masks()
    assert len(asked) == begun + 2


def test_nothing_given_is_as_before() -> None:
    envs = [em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 20, seed=3) for _ in range(2)]
    assert envs[0].given == {}
    assert_same_masks(envs[0].masks(), as_bools(envs[1].engine(envs[1].states)))


@pytest.mark.slow
def test_a_compiled_environment_is_the_same() -> None:
    eager, compiled = make(seed=1), make(seed=1, mode="compiled")
    for step in range(20):
        actions = em.FactoredCategorical(torch.zeros(30, 15), eager.masks()).sample()
        actions[::4] = torch.randint(-1, 4, actions[::4].shape, generator=seeded(step))
        noise = torch.rand(30, eager.dynamics.uniforms, generator=seeded(step))
        for env in (eager, compiled):
            env.step(actions, noise)
        assert torch.equal(eager.states, compiled.states)
        assert torch.equal(eager.illegal_actions, compiled.illegal_actions)
        assert_near(compiled.obs, eager.obs, 1e-4)
    assert eager.illegal_actions.sum() > 0


def begin(mode: Any = "eager", **settings: Any) -> PPO:
    torch.manual_seed(0)
    env = make(16, seed=1, mode=mode, **settings)
    policy = FactoredActorCritic(em.DecisionStep(env.engine, mode=mode), env.obs_size, width=8)
    return PPO(env, policy, PPOConfig(steps=20))


@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_it_is_trained_in(mode: Any) -> None:
    ppo = begin(mode)
    for _ in range(2):
        figures = ppo.rollout()
        assert figures["illegal_actions"] == 0
        rows = ppo.buffer.minibatch(torch.arange(20 * 16))
        assert ppo.buffer.packed is not None
        assert rows.masks.permits(rows.actions).all()
        assert not rows.masks["blueprint"][::2, 2].any()  # NORM, in even environments
        with torch.no_grad():
            fields = rows.fields
            seen = ppo.obs_moments(fields["obs"])
            scored = ppo.policy.evaluate_actions(seen, rows.masks, rows.actions, active=rows.active)
        assert_near(scored.evaluation.log_prob, rows.log_prob, 1e-5)
        assert not scored.evaluation.faults.any()
        ppo.update()


@pytest.mark.parametrize("by_slot", [False, True])
def test_a_rollout_has_room_for_masks_of_heads_and_no_more(by_slot: bool) -> None:
    axes = (3, 5) if by_slot else (5,)

    def masks_of_blueprints(state: State) -> Any:
        mask = torch.arange(5).expand(16, *axes) != 1 + (state.epoch % 2).view(-1, *[1] * len(axes))
        return {"row": {"frozen": state.epoch < 0}, "head_masks": {"blueprint": mask}}

    env = LifecycleEnv(RULES, 16, given=masks_of_blueprints, seed=1)
    policy = FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size, width=8)
    ppo = PPO(env, policy, PPOConfig(steps=5))
    assert ppo.rollout()["illegal_actions"] == 0
    assert ppo.buffer.packed is not None
    assert ppo.buffer.packed.shape[-1] == env.masks().pack().shape[-1]
    left = ppo.buffer.masks().by_slot("blueprint")  # [steps, batch, slots, n]
    for step in range(5):
        assert not left[step, ..., 1 + step % 2].any()
        assert left[step, ..., 2 - step % 2].all()


def test_a_trained_policy_acts_under_it() -> None:
    ppo = begin()
    ppo.iterate()
    policy = TrainedPolicy(ppo.policy, ppo.obs_moments, ppo.env)
    env = policy.env(50, seed=2)
    for _ in range(20):
        acted = policy.act_in(env)
        masks = env.masks()
        assert masks.permits(acted.decision.actions).all()
        again = em.ActionMasks.from_packed(env.engine.layout, acted.decision.packed)
        assert_same_masks(again, as_bools(masks))
        same = policy.act(env.obs, env.states, env.total_seeds, **env.given).decision
        assert masks.permits(same.actions).all()
        env.step(acted.decision.actions)
    assert not env.illegal_actions.any()
    with pytest.raises(em.SlotStateError, match="row 'frozen' is missing"):
        policy.act(env.obs, env.states, env.total_seeds)


def test_other_environments_have_the_same_kinds() -> None:
    rules = replace(
        RULES,
        op_rules=[replace(op, when=(em.Kind("big"),)) if op.id.name == "GERMINATE" else op for op in RULES.op_rules],
        kinds={"big": ("early",)},
    )
    env = em.rollout.LifecycleEnv(rules, 4, kinds={"big": ("mid",)}, given=given)
    for each in (env, env.another(6, seed=1)):
        assert each.engine.kinds == {"big": ("mid",)}
        assert each.masks().slot_by_op[:, 1].tolist() == [[False, True, False]] * each.num_envs
