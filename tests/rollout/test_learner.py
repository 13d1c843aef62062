"""A step of the optimizer against its textbook form, call by call and as one graph."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper_masks as em
from esper_masks.rollout import PPO, FactoredActorCritic, FactoredRecurrentActorCritic, LifecycleEnv, PPOConfig
from esper_masks.rollout.training.policy import Tanh

ENVS = 12


def make(kind: Any = FactoredActorCritic, mode: Any = "eager", **settings: Any) -> PPO:
    """A training with one rollout in its buffer, that its policy made in eager code."""
    torch.manual_seed(0)
    env = LifecycleEnv(em.ruleset("esper-2025-12"), ENVS, seed=1)
    ppo = PPO(env, kind(em.DecisionStep(env.engine, mode="eager"), env.obs_size, 16), PPOConfig(**settings))
    ppo.rollout()
    ppo.policy.step = em.DecisionStep(env.engine, mode=mode)
    compiled = mode == "compiled"
    ppo.learner = type(ppo.learner)(ppo.policy, ppo.buffer, ppo.optimizer, ppo.config, ppo.processes, compiled)
    return ppo


def given(ppo: PPO, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, or environments, and advantages and returns of all."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(ppo.rows, generator=generator)[: ppo.rows // 2]
    return index, *torch.randn(2, ppo.config.steps, ENVS, generator=generator)


@pytest.fixture
def as_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled runs op by op."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def textbook(ppo: PPO, adam: torch.optim.Adam, index: Tensor, advantages: Tensor, returns: Tensor) -> float:
    """Proximal policy optimization as papers have it, with torch's own Adam: one step; gives the gradient's norm."""
    config = ppo.config
    if ppo.first_hidden is None:
        rows, (gained, wanted) = ppo.buffer.minibatch(index), (v.flatten()[index] for v in (advantages, returns))
        scored = ppo.policy.evaluate_actions(rows.fields["obs"], rows.masks, rows.actions)
    else:
        rows, (gained, wanted) = ppo.buffer.sequences(index), (v[:, index] for v in (advantages, returns))
        past = {
            "hidden": (ppo.first_hidden[0][index], ppo.first_hidden[1][index]),
            "starts": rows.fields["start"],
        }
        scored = ppo.policy.evaluate_actions(rows.fields["obs"], rows.masks, rows.actions, **past)
    ratio = (scored.evaluation.log_prob - rows.log_prob).exp()
    surrogate = torch.min(ratio * gained, ratio.clamp(1 - config.clip, 1 + config.clip) * gained)
    heads = scored.evaluation.head_entropies
    assert heads is not None
    loss = config.value_weight * 0.5 * ((scored.values - wanted) ** 2).mean()
    loss = loss - surrogate.mean() - config.entropy_weight * heads.mean()
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    norm = nn.utils.clip_grad_norm_(ppo.policy.parameters(), config.max_grad_norm)
    adam.step()
    return float(norm)


def held(ppo: PPO) -> list[Tensor]:
    """All that a step changes."""
    states = [ppo.optimizer.state[parameter] for parameter in ppo.policy.parameters()]
    kept = [state[name] for state in states if state for name in ("step", "exp_avg", "exp_avg_sq")]
    return [part.detach().clone() for part in (*ppo.policy.parameters(), *kept)]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(FactoredActorCritic, "eager"), (FactoredRecurrentActorCritic, "eager"), (FactoredActorCritic, "compiled")],
)
def test_steps_are_those_of_the_textbook(kind: Any, mode: Any, traced: None, fresh_compiler: None) -> None:
    ppo, plain = make(kind, mode, max_grad_norm=0.1), make(kind, max_grad_norm=0.1)
    assert (ppo.learner.graph is None) == (mode == "eager")
    adam = torch.optim.Adam(plain.policy.parameters(), plain.config.learning_rate, eps=1e-5)
    norms = []
    for seed in range(4):
        given_now = given(ppo, seed)
        learned = ppo.learner.step(given_now[0], ppo.first_hidden, *given_now[1:])
        norms.append(textbook(plain, adam, *given_now))
        assert learned.near
        figures = dict(zip(ppo.learner.names, learned.figures.tolist(), strict=True))
        assert figures["gradient_norm"] == pytest.approx(norms[-1], rel=1e-4)
        for mine, wanted in zip(ppo.policy.parameters(), plain.policy.parameters()):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=2e-5)
    assert max(norms) > 0.1  # or nothing was clipped
    for mine, wanted in zip(ppo.policy.parameters(), plain.policy.parameters()):
        for name, value in adam.state[wanted].items():
            torch.testing.assert_close(ppo.optimizer.state[mine][name], value, rtol=1e-3, atol=1e-6)
    if mode == "compiled":
        assert len(ppo.learner.graph.entries) == 1
        assert not ppo.policy.step.runs  # and nothing else has run


def test_a_graph_gives_the_same_figures(as_is: None) -> None:
    one, other = make(mode="compiled"), make()
    index, *values = given(one)
    with torch.no_grad():
        for ppo in (one, other):
            ppo.policy.output.weight.mul_(40)  # so that some ratios are clipped
    mine, wanted = (ppo.learner.step(index, None, *values) for ppo in (one, other))
    assert mine.near == wanted.near
    torch.testing.assert_close(mine.figures, wanted.figures, rtol=1e-4, atol=1e-6)
    figures = dict(zip(one.learner.names, mine.figures.tolist()))
    assert 0 < figures["clip_fraction"] < 1
    assert 0 < figures["entropy_op"] < 1


@pytest.mark.usefixtures("as_is")
class TestAGraph:
    """What a step that is not taken leaves as it was."""

    def test_of_a_policy_that_has_gone_far(self) -> None:
        ppo = make(mode="compiled", target_kl=1e-6, learning_rate=0.01)
        index, *values = given(ppo)
        assert ppo.learner.step(index, None, *values).near
        before = held(ppo)
        assert not ppo.learner.step(index, None, *values).near
        assert all(map(torch.equal, held(ppo), before))

    def test_of_rows_at_fault(self) -> None:
        ppo = make(mode="compiled")
        index, *values = given(ppo)
        ppo.learner.step(index, None, *values)
        before = held(ppo)
        step, env = divmod(int(index[3]), ENVS)
        ppo.buffer.fields["obs"][step, env, 2] = torch.nan
        ppo.policy.step = em.DecisionStep(ppo.env.engine, mode="eager")
        with pytest.raises(em.InvalidStateMachineError, match=r"faults: 1 of 150 rows are faulty: row 3 "):
            ppo.learner.step(index, None, *values)
        assert all(map(torch.equal, held(ppo), before))

    def test_of_a_gradient_that_is_not_finite(self) -> None:
        ppo = make(mode="compiled")
        index, advantages, returns = given(ppo)
        ppo.learner.step(index, None, advantages, returns)
        before = held(ppo)
        ppo.policy.step = em.DecisionStep(ppo.env.engine, mode="eager")
        with pytest.raises(em.InvalidStateMachineError, match="gradient_norm"):
            ppo.learner.step(index, None, advantages, returns * torch.inf)
        assert all(map(torch.equal, held(ppo), before))

    def test_of_parameters_that_are_not_trained(self) -> None:
        ppo = make()
        ppo.policy.output.bias.requires_grad_(False)
        ppo.policy.step = em.DecisionStep(ppo.env.engine)
        ppo.learner = type(ppo.learner)(ppo.policy, ppo.buffer, ppo.optimizer, ppo.config, ppo.processes, True)
        before = [parameter.clone() for parameter in ppo.policy.parameters()]
        index, *values = given(ppo)
        ppo.learner.step(index, None, *values)
        assert [torch.equal(*both) for both in zip(ppo.policy.parameters(), before)] == [*[False] * 5, True]


def test_a_recurrent_policy_has_no_graph() -> None:
    assert make(FactoredRecurrentActorCritic, "compiled").learner.graph is None


def test_an_optimizer_of_an_older_version_goes_on() -> None:
    """Whose steps torch took one parameter at a time."""
    ppo, plain = make(), make()
    plain.optimizer = torch.optim.Adam(plain.policy.parameters(), plain.config.learning_rate, eps=1e-5)
    plain.learner.optimizer = plain.optimizer
    plain.update()
    ppo.load_state_dict(deepcopy(plain.state_dict()))
    assert [group["fused"] for group in ppo.optimizer.param_groups] == [True]
    index, *values = given(ppo)
    plain.rollout()
    ppo.buffer.load_state_dict(plain.buffer.state_dict())
    for each in (ppo, plain):
        assert each.learner.step(index, None, *values).near
    for mine, wanted in zip(ppo.policy.parameters(), plain.policy.parameters()):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-5)


def test_the_tangent_of_compiled_code(traced: None, fresh_compiler: None) -> None:
    layer, x = Tanh(), torch.cat([torch.linspace(-12, 12, 20001), torch.tensor([torch.inf, -torch.inf, 1e-30])])
    x.requires_grad_()
    made = torch.compile(layer.forward, fullgraph=True)(x)
    made.sum().backward()
    wanted = x.detach().double().tanh()
    assert x.grad is not None
    assert (made.double() - wanted).abs().max() < 4e-7
    assert made.abs().max() <= 1
    assert (x.grad.double() - (1 - wanted**2)).abs().max() < 1e-6
    assert made[-1] == 1e-30  # small numbers are themselves
    assert torch.compile(layer.forward, fullgraph=True)(torch.tensor([torch.nan])).isnan()


class Own(FactoredActorCritic):
    """A policy that does what no graph can."""

    def forward(self, *given: Any, **named: Any) -> Any:
        assert given[0].isfinite().all().item()
        return super().forward(*given, **named)


def test_a_policy_of_one_s_own_is_in_no_graph(as_is: None) -> None:
    env = LifecycleEnv(em.ruleset("esper-2025-12"), 4, mode="compiled")
    for kind, graphed in ((FactoredActorCritic, True), (Own, False)):
        policy = kind(em.DecisionStep(env.engine, mode="compiled"), env.obs_size, 8)
        learner = PPO(env, policy, PPOConfig(steps=2, minibatches=1)).learner
        assert (learner.graph is not None) == graphed
    policy = FactoredActorCritic(em.DecisionStep(env.engine, mode="compiled"), env.obs_size, 8)
    eager = PPO(env.another(4, 0), policy, PPOConfig(steps=2, minibatches=1))
    assert eager.learner.graph is None  # nor is the rollout: both take the same tangents
