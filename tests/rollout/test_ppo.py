"""Proximal policy optimization: it learns, from what the rollout did, and from nothing that is faulty."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.rollout import PPO, FactoredActorCritic, FactoredRecurrentActorCritic, LifecycleEnv, PPOConfig
from esper_masks.rollout.env.baselines import BASELINES
from esper_masks.rollout.training.moments import RunningMoments


def make(kind: Any = FactoredActorCritic, batch: int = 64, slots: int = 3, **settings: Any) -> PPO:
    torch.manual_seed(0)
    env = LifecycleEnv(em.ruleset("esper-2025-12"), batch, [f"s{i}" for i in range(slots)], seed=1)
    policy = kind(em.DecisionStep(env.engine, mode="eager"), env.obs_size, 32)
    return PPO(env, policy, PPOConfig(**settings))


def test_it_learns() -> None:
    ppo = make(batch=200)
    returns = [ppo.iterate()["return_mean"] for _ in range(25)]
    assert abs(returns[0]) < 0.8  # as at random
    assert sum(returns[-3:]) / 3 > 5
    assert ppo.env.illegal_actions.sum() == 0
    assert ppo.env_steps == 25 * 25 * 200


def test_a_recurrent_policy_learns() -> None:
    ppo = make(FactoredRecurrentActorCritic, batch=100, slots=1)
    returns = [ppo.iterate()["return_mean"] for _ in range(20)]
    assert sum(returns[-3:]) / 3 > returns[0] + 0.7


@pytest.mark.parametrize("kind", [FactoredActorCritic, FactoredRecurrentActorCritic])
def test_the_first_step_is_of_the_policy_of_the_rollout(kind: Any) -> None:
    ppo = make(kind, steps=20, epochs=1, minibatches=1)  # episodes of 25 go on from one rollout into the next
    for _ in range(3):
        figures = ppo.iterate()
        assert figures["optimizer_steps"] == 1
        assert abs(figures["kl"]) < 1e-6
        assert figures["clip_fraction"] == 0


@pytest.fixture
def other_defaults() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("kind", [FactoredActorCritic, FactoredRecurrentActorCritic])
def test_the_callers_defaults_are_no_matter(kind: Any, other_defaults: None) -> None:
    """Layers have the default dtype, as every module; whatever else there is has its own, and the device's place."""
    ppo = make(kind, steps=20, epochs=1, minibatches=1)
    assert all(parameter.dtype == torch.float64 for parameter in ppo.policy.parameters())
    torch.set_default_device("meta")
    ppo = PPO(ppo.env, ppo.policy, ppo.config)
    for _ in range(2):
        figures = ppo.iterate()
        assert abs(figures["kl"]) < 1e-6
        assert 0 < figures["gradient_norm"] < 10
    assert ppo.buffer.log_prob.dtype == torch.float32
    dtypes = {name: rows.dtype for name, rows in ppo.buffer.fields.items()}
    flags = dict.fromkeys(("start", "terminated"), torch.bool)
    assert dtypes == {**dict.fromkeys(("obs", "value", "reward", "returns"), torch.float32), **flags}
    for baseline in BASELINES.values():
        assert baseline(ppo.env).shape == (64, 4)
    ppo.load_state_dict(ppo.state_dict())
    assert ppo.state.obs.dtype == torch.float32


def test_layers_may_be_of_another_dtype() -> None:
    ppo = make(steps=20, epochs=1, minibatches=1)
    for module in (ppo.policy.double(), ppo.policy.bfloat16()):
        obs = ppo.env.obs
        logits, values, _ = module(obs)
        assert logits.dtype == values.dtype == torch.float32
        acted = module.act(obs, ppo.env.states)
        scored = module.evaluate_actions(obs, ppo.env.masks(), acted.decision.actions)
        assert torch.equal(scored.evaluation.log_prob, acted.decision.log_prob)


def test_it_ends_where_the_policy_has_gone_far() -> None:
    ppo = make(target_kl=1e-9, learning_rate=0.01)
    assert ppo.iterate()["optimizer_steps"] < 16


def test_a_seed_decides_what_is_learned() -> None:
    runs = []
    for _ in range(2):
        ppo = make()
        made = [ppo.iterate() for _ in range(3)]
        runs.append([{name: one[name] for name in one if "second" not in name and "_s" not in name} for one in made])
    assert runs[0] == runs[1]


def test_nothing_is_learned_from_a_fault() -> None:
    ppo = make(minibatches=1)
    ppo.rollout()
    before = [p.clone() for p in ppo.policy.parameters()]
    ppo.buffer.fields["obs"][3, 5] = torch.nan
    with pytest.raises(em.InvalidStateMachineError, match="faults: 1 of 1600 rows are faulty"):
        ppo.update()
    assert all(torch.equal(p, old) for p, old in zip(ppo.policy.parameters(), before))


def test_nothing_is_learned_from_actions_that_have_become_illegal() -> None:
    """Masks that changed under the buffer, as those of an environment do that writes where it wrote before."""
    ppo = make(minibatches=1)
    ppo.rollout()
    legal = ppo.buffer.masks().permits(ppo.buffer.actions)
    assert legal.all()
    ppo.buffer.slot_words[3] = 1  # nothing but WAIT
    changed = int((~ppo.buffer.masks().permits(ppo.buffer.actions)).sum())
    assert changed > 0
    before = [p.clone() for p in ppo.policy.parameters()]
    wanted = (
        rf"faults: {changed} of \d+ rows are faulty: row \d+ \(illegal action\).* were written to since the decision"
    )
    with pytest.raises(em.InvalidStateMachineError, match=wanted):
        ppo.update()
    assert all(torch.equal(p, old) for p, old in zip(ppo.policy.parameters(), before))


def test_nothing_is_learned_from_a_rollout_without_actions() -> None:
    ppo = make(minibatches=1)
    with torch.no_grad():
        ppo.policy.output.bias[-2] = torch.inf
    before = [p.clone() for p in ppo.policy.parameters()]
    with pytest.raises(em.InvalidStateMachineError, match="rows of the rollout have no action"):
        ppo.iterate()
    assert all(torch.equal(p, old) for p, old in zip(ppo.policy.parameters(), before))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FactoredActorCritic, FactoredRecurrentActorCritic])
def test_one_graph_does_what_its_parts_do(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy and environment as one graph: what it stored is what the policy says of it, and what the rules allow."""
    torch.manual_seed(0)
    env = LifecycleEnv(em.ruleset("esper-2025-12"), 40, seed=1, mode="compiled", max_seeds=4)
    ppo = PPO(env, kind(em.DecisionStep(env.engine), env.obs_size, 16), PPOConfig(steps=30))
    graph = ppo.collector.graph
    assert graph is not None
    places, find = [ppo.buffer.at(step).actions.data_ptr() for step in range(30)], graph.find
    looked: list[int] = []

    def counted(given: Any, out: Any) -> Any:
        looked.append(places.index(out[0].data_ptr()))
        return find(given, out)

    monkeypatch.setattr(graph, "find", counted)
    again, counted = env.another(40, 0, mode="compiled"), torch.zeros(40)
    for _ in range(2):
        begun, hidden, before = ppo.state, ppo.state.hidden, env.state_dict()
        figures = ppo.rollout()
        assert figures["illegal_actions"] == 0
        rows = ppo.buffer.sequences(torch.arange(40))
        seen = ppo.obs_moments(rows.fields["obs"])
        scored = ppo.policy.evaluate_actions(seen, rows.masks, rows.actions, hidden=hidden, starts=rows.fields["start"])
        torch.testing.assert_close(scored.evaluation.log_prob, rows.log_prob, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scored.values, rows.fields["value"], rtol=1e-4, atol=1e-5)
        assert torch.equal(rows.fields["obs"][0], begun.obs)
        assert torch.equal(rows.fields["start"][1:], rows.fields["terminated"][:-1])
        assert torch.equal(ppo.state.starts, rows.fields["terminated"][-1])
        assert torch.equal(ppo.state.obs, env.obs)
        for step in range(30):
            counted = counted + rows.fields["reward"][step]
            torch.testing.assert_close(rows.fields["returns"][step], counted)
            counted = counted.masked_fill(rows.fields["terminated"][step], 0)
        again.load_state_dict(before)  # what was stored is what these actions do in it
        for step, actions in enumerate(rows.actions):
            _, reward, terminated, *_ = again.step(actions)
            torch.testing.assert_close(reward, rows.fields["reward"][step], rtol=1e-4, atol=1e-5)
            assert torch.equal(terminated, rows.fields["terminated"][step])
        torch.testing.assert_close(again.obs, env.obs, rtol=1e-4, atol=1e-5)
        assert torch.equal(again.states, env.states)
        ppo.update()
    assert looked == [0, 1, 0, 1]  # steps of the rollouts at which the graph is looked up: modes may change in between
    assert len(graph.entries) == 1  # and nothing else has run
    assert len(torch.unique(rows.actions.flatten(0, 1), dim=0)) > 10


def test_figures_are_named_and_finite() -> None:
    figures = make(batch=30).iterate()
    heads = {f"entropy_{name}" for name in ("slot", "blueprint", "blend", "op")}
    rest = {
        "return_mean",
        "forced_share",
        "legal_ops",
        "illegal_actions",
        "policy_loss",
        "value_loss",
        "kl",
        "gradient_norm",
    }
    rest |= {"clip_fraction", "explained_variance", "optimizer_steps", "learning_rate"}
    times = {"env_seconds", "rollout_seconds", "update_seconds", "env_steps_per_s"}
    assert set(figures) == heads | rest | times
    assert all(value == value and abs(value) < float("inf") for value in figures.values())


@pytest.mark.parametrize("value", [0.1, 1000.3, 70001.7])
def test_moments_of_what_is_always_the_same(value: float) -> None:
    """Rounded sums of equal numbers are no spread, by which they would be scaled up."""
    moments = RunningMoments(1)
    moments.update(torch.full((25600, 1), value))
    assert moments.spread.item() == 1
    assert moments.mean.item() == pytest.approx(value)


def test_moments_are_those_of_all_rows() -> None:
    rows = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.0]) + 7
    moments = RunningMoments(3)
    assert torch.equal(moments(rows[:2]), (rows[:2]).clamp(-10, 10))  # nothing seen yet
    for part in rows.split([1, 9, 490, 500]):
        moments.update(part.view(-1, 1, 3))
    torch.testing.assert_close(moments.mean, rows.double().mean(0))
    torch.testing.assert_close(moments.spread[:2], rows.std(0, correction=0)[:2])
    assert moments.spread[2] == 1  # of what never differs
    assert moments(torch.full((2, 3), 1e9)).max() == 10
    wanted, written = moments(rows * 30), rows * 30
    moments.scale_(written)
    assert torch.equal(written, wanted)


def test_the_learning_rate_is_told_as_it_falls() -> None:
    ppo = make(batch=4, steps=10, minibatches=1, learning_rate=1e-3, final_learning_rate=2e-4, horizon=80)
    told = [ppo.iterate()["learning_rate"] for _ in range(3)]
    assert told == pytest.approx([6e-4, 2e-4, 2e-4])  # of the update, which comes after the steps of the rollout
    assert told[-1] == ppo.optimizer.param_groups[0]["lr"]
