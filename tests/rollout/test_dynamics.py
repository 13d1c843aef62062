"""Dynamics as a part: environment, learner, checkpoints, adapters and commands run by any, of plain tensors or not."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.cli.entry import main
from esper_masks.compiled import methods
from esper_masks.rollout import (
    PPO,
    Assumptions,
    CalibratedDynamics,
    Dynamics,
    FactoredActorCritic,
    FactoredRecurrentActorCritic,
    LifecycleEnv,
    Outcome,
    PPOConfig,
    TrainedPolicy,
    load_policy,
)
from esper_masks.rollout.env.baselines import BASELINES, heuristic, random_legal
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.train import TrainSettings, build
from esper_masks.rollout.training.trained import players, returns_of
from tests.helpers import HOST_READS, OpRecorder, assert_near, seeded
from tests.rollout import kilns
from tests.rollout.kilns import RULES, Do, Kiln, Kilns, KilnsInPlace, KilnState, Twin

DECEMBER = em.ruleset("esper-2025-12")
BOTH = pytest.mark.parametrize("dynamics", [Kilns, KilnsInPlace])


def make(batch: int = 30, dynamics: Any = Kilns, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(RULES, batch, dynamics=dynamics, **settings)


def some_actions(env: LifecycleEnv, generator: torch.Generator) -> Tensor:
    """Legal ones at random; every third row anything at all."""
    noise = torch.rand(env.num_envs, 2, generator=generator)
    legal = em.FactoredCategorical(torch.zeros(env.num_envs, 5), env.masks()).sample(noise=noise)
    anything = torch.randint(-1, 4, legal.shape, generator=generator)
    return torch.where(torch.arange(env.num_envs).unsqueeze(-1) % 3 == 0, anything, legal)


@pytest.fixture
def graphs(traced: None, fresh_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole graphs of compiled code, which no compiler builds."""
    monkeypatch.setattr(methods, "can_compile_ahead", lambda call: False)


def copies(state: Any) -> list[Tensor]:
    return [field.clone() for field in state]


# -- the environment --------------------------------------------------------------------------------------------------


def in_lockstep(env: LifecycleEnv, steps: int, **of_twin: Any) -> None:
    """Step an environment beside its twins, and compare all that it says."""
    batch, generator, early = env.num_envs, seeded(0), 0
    others = [Twin(**of_twin) for _ in range(batch)]
    assert_near(env.reset(), torch.tensor([twin.observe() for twin in others]))
    illegal = torch.zeros(batch, dtype=torch.int64)
    for _ in range(steps):
        actions, noise = some_actions(env, generator), torch.rand(batch, 2, generator=generator)
        obs, reward, terminated, truncated, info = env.step(actions, noise)
        results = [twin.step(a, u) for twin, a, u in zip(others, actions.tolist(), noise.tolist())]
        assert terminated.tolist() == [ended for _, ended, _ in results]
        assert not truncated.any()
        assert_near(reward, torch.tensor([points for points, _, _ in results]), 1e-5)
        assert_near(info["returns"], torch.tensor([twin.returns for twin in others]), 1e-5)
        assert_near(info["final_obs"], torch.tensor([twin.observe() for twin in others]), 1e-5)
        may = [[[twin.is_legal(slot, op) for slot in range(2)] for op in (1, 2)] for twin in others]
        assert info["final_masks"].slot_by_op[:, 1:].tolist() == may
        early += sum(ended and twin.epoch < twin.horizon for twin, (_, ended, _) in zip(others, results))
        illegal += torch.tensor([not legal for _, _, legal in results])
        others = [Twin(**of_twin) if ended else twin for twin, (_, ended, _) in zip(others, results)]
        assert_near(obs, torch.tensor([twin.observe() for twin in others]), 1e-5)
        assert env.states[..., 0].tolist() == [list(map(int, twin.fires)) for twin in others]
        assert env.states[..., 1].tolist() == [twin.age for twin in others]
        assert env.total_seeds.tolist() == [twin.seeds for twin in others]
        assert env.state.epoch.tolist() == [twin.epoch for twin in others]
        assert_near(env.state.returns, torch.tensor([twin.returns for twin in others]), 1e-5)
        assert torch.equal(env.obs, obs)
    assert env.illegal_actions.tolist() == illegal.tolist()
    assert illegal.sum() > steps
    assert early > 0


@BOTH
@pytest.mark.parametrize(("horizon", "max_seeds"), [(6, 0), (4, 1)])
def test_lockstep_with_plain_loops(dynamics: Any, horizon: int, max_seeds: int) -> None:
    env = make(dynamics=partial(dynamics, horizon=horizon), max_seeds=max_seeds)
    in_lockstep(env, 25, horizon=horizon, max_seeds=max_seeds)
    assert env.dynamics.calls == 25  # the final observations, too, are of these


class Careless(Kilns):
    """Leaves to the environment what the environment counts, and worse."""

    def advance(self, state: KilnState, actions: Tensor, noise: Tensor) -> tuple[KilnState, Outcome]:
        after, outcome = super().advance(state, actions, noise)
        return after._replace(epoch=after.epoch + 7, returns=after.returns - 5), outcome

    def reset(self, state: KilnState, where: Tensor) -> KilnState:
        return super().reset(state, where)._replace(epoch=state.epoch, returns=state.returns)


def test_the_environment_counts_steps_and_returns() -> None:
    in_lockstep(make(dynamics=Careless), 25)


def test_the_twin_can_disagree() -> None:
    with pytest.raises(AssertionError):
        in_lockstep(make(dynamics=partial(Kilns, horizon=5)), 25)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("look", [False, True])
def test_one_graph_is_the_same(look: bool) -> None:
    """Whether or not somebody looks between steps, for which the next episode begins before the graph would do it."""
    env, other = make(mode="compiled", seed=1), make(seed=1)
    generator = seeded(0)
    for step in range(20):
        actions, noise = some_actions(other, generator), torch.rand(30, 2, generator=generator)
        if look:
            assert torch.equal(env.masks()["op"], other.masks()["op"])
            assert torch.equal(env.states, other.states)
            assert torch.equal(env.total_seeds, other.total_seeds)
            assert torch.equal(env.given["row"]["open"], other.given["row"]["open"])
            if step % 2:  # and the whole of it, beside its parts
                assert torch.equal(env.obs, other.obs)
                assert torch.equal(env.states, other.states)
        if step == 9:
            assert torch.equal(*[each.reset(torch.arange(30) % 4 == 0) for each in (env, other)])
        ours, theirs = env.step(actions, noise), other.step(actions, noise)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))
        assert torch.equal(ours[4]["returns"], theirs[4]["returns"])
        assert torch.equal(ours[4]["final_obs"], theirs[4]["final_obs"])
        assert torch.equal(*(each[4]["final_masks"].pack() for each in (ours, theirs)))
        for mine in (*ours[:4], ours[4]["returns"]):
            mine.fill_(1)  # it is the caller's
    assert all(torch.equal(mine, its) for mine, its in zip(env.state, other.state))
    assert torch.equal(env.illegal_actions, other.illegal_actions)
    assert (env.dynamics.calls, env.dynamics.resets) == (0, 1)  # in no way but by its graphs, and by ``reset``
    assert not torch.equal(*[env.step(actions)[0] for _ in range(2)])  # noise of its own


@pytest.mark.slow
def test_compiled_is_eager() -> None:
    env, other, generator = make(64, mode="compiled"), make(64), seeded(0)
    for _ in range(10):
        actions, noise = some_actions(other, generator), torch.rand(64, 2, generator=generator)
        ours, theirs = env.step(actions, noise), other.step(actions, noise)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))
        assert torch.equal(ours[4]["final_obs"], theirs[4]["final_obs"])


@BOTH
def test_what_a_step_tells_later_is_of_that_step(dynamics: Any) -> None:
    env, generator = make(dynamics=dynamics), seeded(0)
    infos, finals = [], []
    for step in range(12):
        *_, info = env.step(some_actions(env, generator))
        infos.append(info)
        finals.append((info["final_obs"].clone(), info["final_masks"].pack()) if step % 2 else None)
    again, generator = make(dynamics=dynamics), seeded(0)
    for info, final in zip(infos, finals):
        *_, same = again.step(some_actions(again, generator))
        assert torch.equal(info["final_obs"], same["final_obs"])
        assert torch.equal(info["final_masks"].pack(), same["final_masks"].pack())
        assert info["final_masks"] is info["final_masks"]
        assert final is None or all(map(torch.equal, (info["final_obs"], info["final_masks"].pack()), final))
        assert set(info) == {"returns", "final_obs", "final_masks"}
        assert len(info) == 3


@BOTH
def test_final_masks_are_made_for_those_who_ask(dynamics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env, made = make(dynamics=dynamics), []
    masks = env.dynamics.masks
    monkeypatch.setattr(env.dynamics, "masks", lambda state: (made.append(1), masks(state))[1])
    actions, in_place = torch.zeros(30, 2, dtype=torch.int64), env.dynamics.in_place
    info = env.step(actions)[4]
    assert len(made) == 1 + in_place  # the step itself asks once; where the reset writes over the state, it is now
    assert info["final_masks"]["op"].shape == (30, 3)
    assert len(made) == 2


class FromBuffers(KilnsInPlace):
    """Whose outcomes are in memory that the reset and the next step write to."""

    def advance(self, state: KilnState, actions: Tensor, noise: Tensor) -> tuple[KilnState, Outcome]:
        after, outcome = super().advance(state, actions, noise)
        if self.calls == 1:
            self.buffers = outcome
        for buffer, new in zip(self.buffers, outcome):
            buffer.copy_(new)
        return after, self.buffers

    def reset(self, state: KilnState, where: Tensor) -> KilnState:
        self.buffers.reward.masked_fill_(where, 0)
        return super().reset(state, where)


@pytest.mark.parametrize("dynamics", [Kilns, KilnsInPlace, FromBuffers])
def test_what_a_step_tells_is_the_callers(dynamics: Any) -> None:
    """No later step writes to it, and what the caller writes there nobody reads."""
    env, other, generator, kept = make(dynamics=dynamics), make(), seeded(0), []
    for _ in range(12):
        actions, noise = some_actions(other, generator), torch.rand(30, 2, generator=generator)
        ours, theirs = env.step(actions, noise), other.step(actions, noise)
        told, wanted = [(*each[:4], each[4]["returns"]) for each in (ours, theirs)]
        kept.append((told, [part.clone() for part in wanted]))
        for mine in wanted:
            mine.fill_(1)
        assert torch.equal(ours[4]["final_obs"], theirs[4]["final_obs"])
    for told, wanted in kept:
        assert all(torch.equal(mine, its) for mine, its in zip(told, wanted))


@BOTH
def test_some_begin_again_and_the_others_stay(dynamics: Any) -> None:
    env, generator = make(dynamics=dynamics, seed=1), seeded(0)
    for _ in range(3):
        env.step(some_actions(env, generator))
    before, where = copies(env.state), torch.arange(30) % 4 == 1
    strides = env.states.stride()
    obs = env.reset(where)
    fresh = make(dynamics=dynamics)
    for name, mine, old, new in zip(KilnState._fields, env.state, before, fresh.state):
        axis = 0 if name == "states" else -1
        for at, (one, kept, begun) in enumerate(zip(*[part.movedim(axis, 0) for part in (mine, old, new)])):
            assert torch.equal(one, begun if where[at] else kept), (name, at)
    assert env.states.stride() == strides
    assert torch.equal(obs[where], fresh.obs[where])
    assert not torch.equal(obs, fresh.obs)
    assert torch.equal(env.reset(), fresh.obs)
    assert all(torch.equal(mine, new) for mine, new in zip(env.state, fresh.state))


@BOTH
def test_a_state_goes_on_as_it_was(dynamics: Any) -> None:
    env, other, generator = make(dynamics=dynamics, seed=5), make(dynamics=dynamics, seed=6), seeded(0)
    for _ in range(7):
        env.step(some_actions(env, generator))
    saved = env.state_dict()
    assert set(saved) == {*KilnState._fields, "rules", "task", "generator", "illegal_actions"}
    kept = {name: value.clone() for name, value in saved.items() if isinstance(value, Tensor)}
    other.load_state_dict(saved)
    for _ in range(7):
        actions = some_actions(env, generator)
        ours, theirs = env.step(actions), other.step(actions)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))
    assert all(torch.equal(saved[name], value) for name, value in kept.items())  # memory of its own
    for wrong, reason in (
        (make(dynamics=partial(dynamics, horizon=7)), "the state is of other dynamics, or of other slots"),
        (make(dynamics=dynamics, max_seeds=1), "other dynamics, or of other slots, another episode length, seed limit"),
        (LifecycleEnv(RULES, 30, ["a", "b"], dynamics=dynamics), "of other slots"),
    ):
        with pytest.raises(ValueError, match=reason):
            wrong.load_state_dict(saved)
    lacking = {name: value for name, value in saved.items() if name != "heat"}
    with pytest.raises(ValueError, match="lacks fields or has others; wanted heat, states"):
        other.load_state_dict(lacking)
    with pytest.raises(ValueError, match=r"heat of the state is torch.float32 \(2, 29\)"):
        other.load_state_dict(saved | {"heat": saved["heat"][:, 1:]})


def test_plain_and_in_place_are_other_dynamics() -> None:
    with pytest.raises(ValueError, match="other dynamics"):
        make().load_state_dict(make(dynamics=KilnsInPlace).state_dict())


@BOTH
def test_other_environments_of_the_same_task(dynamics: Any) -> None:
    env = make(dynamics=partial(dynamics, horizon=9), max_seeds=2, seed=3)
    env.step(torch.tensor([[0, 1]]).expand(30, -1))
    other = env.another(7, seed=4)
    assert (other.num_envs, other.dynamics.episode_length, other.engine.max_seeds) == (7, 9, 2)
    assert type(other.dynamics) is dynamics
    assert other.dynamics is not env.dynamics
    assert not other.states.any()


def test_nothing_is_read_from_the_device() -> None:
    for dynamics in (Kilns, KilnsInPlace):
        env = make(dynamics=dynamics)
        with OpRecorder() as recorder:
            env.reset()
            env.masks()
            env.step(torch.zeros(30, 2, dtype=torch.int64))[4]["final_obs"]
        assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]


def test_a_state_may_be_set() -> None:
    env, other, generator = make(), make(), seeded(0)
    for _ in range(5):
        env.step(some_actions(env, generator))
    other.state = env.state
    actions, noise = some_actions(env, generator), torch.rand(30, 2)
    assert torch.equal(env.step(actions, noise)[0], other.step(actions, noise)[0])
    for wrong, reason in (
        (tuple(env.state), "the state that was set must be a KilnState, got tuple"),
        (
            make(4).state,
            r"the state that was set: heat is torch.float32 \(2, 4\) on cpu; wanted torch.float32 \(2, 30\)",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            env.state = wrong


@BOTH
def test_a_state_that_is_set_stays_the_callers(dynamics: Any) -> None:
    env, generator = make(dynamics=dynamics), seeded(0)
    state = KilnState(*copies(make(dynamics=dynamics).state))
    before = copies(state)
    env.state = state
    for _ in range(3):
        env.step(some_actions(env, generator))
    assert all(torch.equal(mine, old) for mine, old in zip(state, before))


@BOTH
def test_every_episode_begins_with_counts_of_zero(dynamics: Any) -> None:
    """The first as any other, whatever the dynamics have there."""

    class Counted(dynamics):  # type: ignore[misc]  # of either
        def fresh(self, batch: int) -> KilnState:
            state = super().fresh(batch)
            return state._replace(epoch=state.epoch + 2, returns=state.returns + 5)

    env = make(dynamics=Counted)
    assert not env.state.epoch.any()
    assert not env.state.returns.any()
    in_lockstep(env, 12)


def test_environments_made_in_inference_serve_outside() -> None:
    for dynamics in (Kilns, KilnsInPlace):
        with torch.inference_mode():
            env = make(dynamics=dynamics)
            env.step(torch.zeros(30, 2, dtype=torch.int64))
            env.reset(torch.arange(30) < 3)
        env.step(torch.zeros(30, 2, dtype=torch.int64))


# -- names of what is observed ----------------------------------------------------------------------------------------


def test_each_number_observed_has_its_name() -> None:
    env = make(2)
    assert env.obs_names == env.dynamics.obs_names
    assert env.obs_size == len(env.obs_names) == 7
    obs = env.step(torch.tensor([[1, 1], [0, 0]]), torch.tensor([[0.5, 0.9], [0.25, 0.9]]))[0]
    seen = [dict(zip(env.obs_names, row)) for row in obs.tolist()]
    assert seen[0]["right: firing"] == 1
    assert seen[0]["right: heat"] == 0.5
    assert sum(seen[1].values()) == seen[1]["time"] == pytest.approx(1 / 6)


def test_names_of_growing_networks() -> None:
    env = LifecycleEnv(DECEMBER, 2, max_seeds=4)
    assert len(set(env.obs_names)) == env.obs_size == 53
    obs, *_ = env.step(torch.tensor([[1, 3, 0, 1], [0, 0, 0, 0]]))  # NORM in mid
    seen, other = [dict(zip(env.obs_names, row)) for row in obs.tolist()]
    ones = {name for name, value in seen.items() if value == 1}
    assert ones == {"early: stage DORMANT", "mid: stage TRAINING", "late: stage DORMANT", "mid: blueprint NORM"}
    assert seen["mid: age"] == seen["epoch"] == other["epoch"] == pytest.approx(1 / 25)
    assert (seen["seeds"], other["seeds"]) == (0.25, 0)
    env.state = env.state._replace(weight=env.state.weight + 1, evidence=env.state.evidence + 5)
    seen = dict(zip(env.obs_names, env.obs[0].tolist()))
    assert (seen["late: improvement"], seen["late: certainty"], seen["late: epochs in stage"]) == (0.5, 0.5, 0)


# -- what is given ----------------------------------------------------------------------------------------------------


def no_stop(state: Any) -> Any:
    return {"restrict": {"op": torch.arange(3) != 2}}


@BOTH
def test_a_caller_forbids_further_actions(dynamics: Any) -> None:
    env, generator = make(dynamics=dynamics, given=no_stop), seeded(0)
    assert set(env.given) == {"row", "restrict"}
    for _ in range(10):
        masks = env.masks()
        by_hand = env.engine(env.states, row={"open": env.state.epoch % 3 != 2}).restrict(**no_stop(None)["restrict"])
        assert torch.equal(masks.slot_by_op, by_hand.slot_by_op)
        actions = torch.randint(-1, 4, (30, 2), generator=generator)
        before = env.illegal_actions
        env.step(actions)
        assert torch.equal(env.illegal_actions - before == 0, by_hand.permits(actions))
    assert "restrict" in env.another(3, seed=0).given


def test_what_both_give_is_named() -> None:
    env = make(given=lambda state: {"row": {"open": state.epoch < 0}, "restrict": None})
    with pytest.raises(ValueError, match=r"row 'open' is given by the dynamics and by given=: leave it to one of them"):
        env.masks()


@pytest.mark.parametrize("wrong", [None, 3, {"row": torch.arange(4)}, {"restrict": []}])
def test_who_gives_what_is_no_mapping_is_named(wrong: Any) -> None:
    reason = "must give a mapping of keywords to mappings, such as {}, got "
    for env, who in (
        (make(4, changed(given=lambda made, state: wrong)), "given of the dynamics "),
        (make(4, given=lambda state: wrong), "the function given= "),
    ):
        for ask in (env.masks, lambda env=env: env.given, lambda env=env: env.step(torch.zeros(4, 2, dtype=int))):  # type: ignore[misc]
            with pytest.raises(ValueError, match=re.escape(f"{who}{reason}{wrong!r}")):
                ask()


# -- the learner ------------------------------------------------------------------------------------------------------


def begin(dynamics: Any, kind: Any = FactoredActorCritic, mode: Any = "eager", envs: int = 24, **config: Any) -> PPO:
    torch.manual_seed(0)
    env = make(envs, dynamics, seed=1, mode=mode)
    policy = kind(em.DecisionStep(env.engine, mode=mode), env.obs_size, width=8)
    return PPO(env, policy, PPOConfig(steps=10, **config))


def untimed(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if "second" not in name and "_per_s" not in name}


@pytest.mark.parametrize("kind", [FactoredActorCritic, FactoredRecurrentActorCritic])
def test_it_is_trained_in(kind: Any) -> None:
    """To the bit alike, by dynamics that write where they read."""
    made = []
    for dynamics in (Kilns, KilnsInPlace):
        ppo = begin(dynamics, kind)
        figures = [untimed(ppo.iterate()) for _ in range(3)]
        assert all(one["illegal_actions"] == 0 and math.isfinite(one["return_mean"]) for one in figures)
        assert ppo.env.dynamics.calls == 30
        made.append((figures, ppo.policy.state_dict()))
    assert made[0][0] == made[1][0]
    weights = [{name: each for name, each in state.items() if isinstance(each, Tensor)} for _, state in made]
    assert all(torch.equal(each, weights[1][name]) for name, each in weights[0].items())


def test_it_learns() -> None:
    ppo = begin(Kilns, envs=200)
    returns = [ppo.iterate()["return_mean"] for _ in range(40)]
    assert returns[-1] > returns[0] + 0.3
    assert ppo.env.illegal_actions.sum() == 0


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("kind", [FactoredActorCritic, FactoredRecurrentActorCritic])
def test_one_graph_with_a_policy(kind: Any) -> None:
    """What it stored is what these actions do in other environments."""
    ppo = begin(Kilns, kind, "compiled")
    assert ppo.collector.graph is not None
    again = ppo.env.another(24, 0, "compiled")
    for _ in range(2):
        begun = ppo.state
        again.load_state_dict(ppo.env.state_dict())  # and the noise that was about to be drawn
        assert ppo.rollout()["illegal_actions"] == 0
        rows = ppo.buffer.sequences(torch.arange(24))
        assert torch.equal(rows.fields["obs"][0], begun.obs)
        for step, actions in enumerate(rows.actions):
            assert again.masks().permits(actions).all()
            assert torch.equal(rows.fields["start"][step], again.state.epoch == 0)
            _, reward, terminated, _, info = again.step(actions)
            assert_near(rows.fields["reward"][step], reward, 1e-5)
            assert_near(rows.fields["returns"][step], info["returns"], 1e-5)
            assert torch.equal(rows.fields["terminated"][step], terminated)
        assert all(torch.equal(mine, its) for mine, its in zip(ppo.env.state, again.state))
        assert torch.equal(ppo.state.obs, again.obs)
    assert not ppo.env.illegal_actions.any()
    assert ppo.env.dynamics.calls == 0  # in no way but by the graph


@BOTH
def test_a_checkpoint_goes_on_to_the_last_bit(dynamics: Any, tmp_path: Path) -> None:
    settings, config = TrainSettings(envs=12, width=8, policy="lstm"), PPOConfig(steps=5, minibatches=2)
    ppo = build(RULES, settings, config, dynamics=dynamics)
    ppo.iterate()
    path = checkpoint.save(ppo, settings.to_dict(), tmp_path)
    going_on = [untimed(ppo.iterate()) for _ in range(2)]
    again = build(RULES, settings, config, dynamics=dynamics)
    checkpoint.restore(again, checkpoint.load(path))
    assert [untimed(again.iterate()) for _ in range(2)] == going_on
    other = build(RULES, settings, config, dynamics=partial(dynamics, horizon=7))
    with pytest.raises(checkpoint.CheckpointError, match="does not fit: the state is of other dynamics"):
        checkpoint.restore(other, checkpoint.load(path))


@pytest.mark.parametrize("size", [1, 3])
def test_a_checkpoint_is_divided_again(size: int, tmp_path: Path) -> None:
    settings, config, had = TrainSettings(envs=6, width=8), PPOConfig(steps=5, minibatches=1), []
    for rank in range(2):
        ppo = build(RULES, settings, config, dynamics=Kilns)
        ppo.env.seed(rank)
        ppo.iterate()
        had.append(ppo)
        content = checkpoint.load(checkpoint.save(ppo, settings.to_dict(), tmp_path / str(rank)))
        torch.save({**content, "processes": 2, "id": 7}, tmp_path / f"checkpoint-000000000030-{rank}-of-2.pt")
    for rank in range(size):
        env = checkpoint.load(tmp_path, Processes(rank, size))["training"]["env"]
        for name in KilnState._fields:
            axis = 0 if name == "states" else -1
            whole = torch.cat([getattr(ppo.env.state, name) for ppo in had], axis)
            share = 12 // size
            assert torch.equal(env[name], whole.narrow(axis, rank * share, share)), name
    assert not torch.equal(had[0].env.state.heat, had[1].env.state.heat)


def test_what_may_not_be_compiled_runs_op_by_op_beside_a_compiled_policy() -> None:
    settings = TrainSettings(envs=6, width=8, compile=True)
    ppo = build(RULES, settings, PPOConfig(), dynamics=KilnsInPlace)
    assert (ppo.env.mode, ppo.policy.step.mode, ppo.collector.graph) == ("eager", "compiled", None)
    assert build(RULES, settings, PPOConfig(), dynamics=Kilns).env.mode == "compiled"


# -- after the training -----------------------------------------------------------------------------------------------


def test_returns_are_of_the_first_episode() -> None:
    """Which ends at a time of its own in each environment."""
    env = make(400, seed=2)
    torch.manual_seed(0)
    got = returns_of(random_legal, env, seed=3, envs=400)
    again = env.another(400, seed=3)
    torch.manual_seed(0)
    firsts: list[float | None] = [None] * 400
    for _ in range(6):
        _, _, terminated, _, info = again.step(random_legal(again))
        for at in range(400):
            if terminated[at] and firsts[at] is None:
                firsts[at] = float(info["returns"][at])
    values = torch.tensor(firsts)
    assert got.mean == pytest.approx(float(values.mean()))
    assert got.standard_error == pytest.approx(float(values.std()) / 20)
    assert got.illegal_actions == 0


class Endless(Kilns):
    def advance(self, state: KilnState, actions: Tensor, noise: Tensor) -> tuple[KilnState, Outcome]:
        after, outcome = super().advance(state, actions, noise)
        return after, outcome._replace(terminated=outcome.terminated & (noise[:, 1] < kilns.EARLY))


def test_an_episode_that_does_not_end_is_named() -> None:
    with pytest.raises(ValueError, match=r"\d+ of 9 episodes have not ended after 6 steps, the episode_length of End"):
        returns_of(random_legal, make(9, Endless), seed=3, envs=9)


def test_baselines_are_those_that_there_are() -> None:
    without, having = begin(Kilns), begin(KilnsInPlace)
    assert set(players(without)) == {"learned", "random", "wait"}
    assert set(players(having)) == {"learned", *BASELINES}
    with pytest.raises(ValueError, match="Kilns has no heuristic"):
        heuristic(without.env)
    torch.manual_seed(0)
    results = {name: returns_of(play, having.env, 5, 500) for name, play in players(having).items()}
    assert results["wait"].mean == 0
    assert results["heuristic"].mean > results["random"].mean + 0.1
    assert all(each.illegal_actions == 0 for each in results.values())


@pytest.mark.parametrize("kind", [FactoredActorCritic, FactoredRecurrentActorCritic])
def test_a_trained_policy_acts(kind: Any) -> None:
    ppo = begin(Kilns, kind)
    ppo.iterate()
    policy = TrainedPolicy(ppo.policy, ppo.obs_moments, ppo.env)
    env, hidden = policy.env(50, seed=2), None
    for _ in range(12):
        starts = env.state.epoch == 0
        noise = torch.rand(50, 2)
        acted = policy.act_in(env, hidden, noise)
        same = policy.act(env.obs, env.states, env.total_seeds, hidden=hidden, starts=starts, noise=noise, **env.given)
        assert torch.equal(acted.decision.actions, same.decision.actions)
        hidden = acted.hidden
        env.step(acted.decision.actions)
    assert not env.illegal_actions.any()

    class Renamed(Kilns):
        def __init__(self, engine: em.MaskEngine):
            super().__init__(engine)
            self.obs_names = (*self.obs_names[:-1], "hour")

    with pytest.raises(ValueError, match="the environments observe 'hour' where those of the training had 'time'"):
        policy.act_in(make(4, Renamed))
    with pytest.raises(ValueError, match="episode_length of the environments: 9; the policy was trained with 6"):
        policy.act_in(make(4, partial(Kilns, horizon=9)))


# -- adapters ---------------------------------------------------------------------------------------------------------


@BOTH
def test_gymnasium(dynamics: Any) -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("gymnasium")
    from esper_masks.interop.gymnasium import LifecycleVectorEnv

    env, twin = LifecycleVectorEnv(6, rules=RULES, dynamics=dynamics), make(6, dynamics)
    obs, info = env.reset(seed=4)
    assert np.array_equal(obs, twin.reset(seed=4).numpy())
    ended_early = False
    for _ in range(20):
        assert np.array_equal(info["action_mask"], twin.masks().joint().numpy())
        actions = em.FactoredCategorical(torch.zeros(6, 5), twin.masks()).sample()
        obs, reward, ended, _, info = env.step(twin.engine.joint_actions.encode(actions).numpy())
        wanted, gained, terminated, _, last = twin.step(actions)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert ended.tolist() == terminated.tolist()
        for at in terminated.nonzero().flatten().tolist():
            assert np.array_equal(info["final_obs"][at], last["final_obs"][at].numpy())
        ended_early |= bool(terminated.any() and not terminated.all())
    assert ended_early
    assert not env.illegal_actions.any()


@BOTH
def test_sb3(dynamics: Any) -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("stable_baselines3")
    from esper_masks.interop.sb3 import LifecycleVecEnv

    env, twin = LifecycleVecEnv(6, rules=RULES, dynamics=dynamics, seed=4), make(6, dynamics, seed=4)
    assert np.array_equal(env.reset(), twin.reset().numpy())
    for _ in range(20):
        assert np.array_equal(env.action_masks(), twin.masks().joint().numpy())
        actions = em.FactoredCategorical(torch.zeros(6, 5), twin.masks()).sample()
        obs, reward, ended, infos = env.step(twin.engine.joint_actions.encode(actions).numpy())
        wanted, gained, terminated, _, last = twin.step(actions)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert ended.tolist() == terminated.tolist()
        for at, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(ended[at])
            if ended[at]:
                assert np.array_equal(info["terminal_observation"], last["final_obs"][at].numpy())


@BOTH
@pytest.mark.parametrize("action", ["joint", "factored"])
def test_torchrl(dynamics: Any, action: Any) -> None:
    pytest.importorskip("torchrl")
    from torchrl.envs import TransformedEnv, check_env_specs
    from torchrl.envs.transforms import ActionMask

    from esper_masks.interop.torchrl import LifecycleEnv as TheirEnv

    env = TheirEnv(5, rules=RULES, action=action, dynamics=dynamics)
    check_env_specs(env, break_when_any_done="both", seed=0)
    env = TransformedEnv(TheirEnv(5, rules=RULES, dynamics=dynamics), ActionMask())
    data = env.rollout(30, break_when_any_done=False)
    assert data["next", "done"].sum() > 5 * 5
    assert not env.illegal_actions.any()
    ends = data["next", "done"].squeeze(-1)
    time = data["next", "observation"][..., -1]
    assert (time[ends] > 0).all()  # of the last observation, not of the next episode
    assert (data["observation"][:, 1:, -1][ends[:, :-1]] == 0).all()


# -- the command line -------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kilns.py").write_text(Path(kilns.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    code = ["--rules", "./kilns.py:RULES", "--dynamics", "./kilns.py:KilnsInPlace"]
    begun = ["train", *code, "--envs", "20", "--width", "8", "--logdir", "log"]
    told = json.loads(run(capsys, *begun, "--steps", "1000", "--json"))
    assert (told["env_steps"], told["illegal_actions"]) == (1000, 0)
    assert set(told["baselines"]) == {"random", "wait", "heuristic"}
    saved = checkpoint.read_any("log")["settings"]
    assert (saved["rules"], saved["dynamics"]) == ("./kilns.py:RULES", "./kilns.py:KilnsInPlace")
    going_on = ["train", "--resume", "--logdir", "log", "--steps", "1500"]
    same_by_another_name = [*code[:2], "--dynamics", f"{tmp_path}/kilns.py:KilnsInPlace"]
    assert json.loads(run(capsys, *going_on, *same_by_another_name, "--json"))["env_steps"] == 1500
    told = json.loads(run(capsys, "evaluate", "log", *code, "--episodes", "50", "--json"))
    assert (told["env_steps"], told["illegal_actions"]) == (1500, 0)
    assert load_policy("log", rules=RULES, dynamics=KilnsInPlace).env(3).num_envs == 3
    for arguments, reason in (
        ([*going_on, *code[:2]], "of dynamics in Python code, '{0}/kilns.py:KilnsInPlace': give --dynamics too, to"),
        ([*going_on, *code[:3], "./kilns.py:Kilns"], "the checkpoint does not fit: the state is of other dynamics"),
        (["evaluate", "log", *code[:2]], "'{0}/kilns.py:KilnsInPlace': give dynamics, too (dynamics=, or --dynamics)"),
        (["evaluate", "log", *code[:3], "./kilns.py:Kilns"], "of other dynamics, or of an environment that its set"),
        ([*begun[:4], "./kilns.py:Nothing", "--logdir", "no"], "has no Nothing; dynamics in it: Kilns, KilnsInPlace"),
        ([*begun[:4], "kilns", "--logdir", "no"], "'kilns' lacks the name that the dynamics have in it; write kilns:N"),
        ([*begun[:4], "./nowhere.py:D", "--logdir", "no"], "file ./nowhere.py does not import: FileNotFoundError"),
        (
            [*begun[:4], "./kilns.py:PRICE", "--logdir", "no"],
            "must be a function of an engine to rollout.Dynamics, got",
        ),
        ([*begun[:3], "--logdir", "no"], "no mechanics are known for kilns; known are esper-2025-11, esper-2025-12"),
        (
            [*begun[:5], "--calibration", "some.json", "--logdir", "no"],
            "--calibration is of the networks that grow, and --dynamics of something else: leave one out",
        ),
    ):
        error = run(capsys, *arguments, code=2)
        assert reason.format(tmp_path) in error, error
        assert len(error.splitlines()) == 1
    assert not Path("no").exists()


def test_dynamics_are_not_given_to_a_training_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = ["train", "--envs", "20", "--steps", "500", "--logdir", str(tmp_path), "--json"]
    run(capsys, *begun)
    assert "dynamics" not in checkpoint.read_any(tmp_path)["settings"]  # as in those of 0.1.0
    error = run(capsys, "train", "--resume", "--logdir", str(tmp_path), "--dynamics", "mine:Dynamics", code=2)
    assert "--dynamics mine:Dynamics: the checkpoint was begun with those of the rules; leave it out" in error


# -- what is refused --------------------------------------------------------------------------------------------------


class Few(NamedTuple):
    states: Tensor
    epoch: Tensor


class Taken(NamedTuple):
    states: Tensor
    total_seeds: Tensor
    epoch: Tensor
    returns: Tensor
    rules: Tensor


def changed(**attributes: Any) -> Callable[[em.MaskEngine], Dynamics]:
    """Kilns with other attributes or methods; a method is a function of the dynamics and its own arguments."""

    def build(engine: em.MaskEngine) -> Dynamics:
        made = Kilns(engine)
        for name, value in attributes.items():
            setattr(made, name, partial(value, made) if callable(value) else value)
        return made

    return build


def fresh(made: Kilns, batch: int, **fields: Any) -> Any:
    state = Kilns.fresh(made, batch)
    return state._replace(**{name: of(getattr(state, name)) for name, of in fields.items()})


@pytest.mark.parametrize(
    ("dynamics", "reason"),
    [
        (3, "dynamics must be a function of an engine to rollout.Dynamics, got int"),
        (lambda engine: 3, r"dynamics\(engine\) gave 3, wanted a rollout.Dynamics"),
        (lambda engine: Kilns(em.MaskEngine(RULES)), "Kilns has another engine than it was given: super"),
        (changed(uniforms=-1), "Kilns.uniforms must be an int of at least 0, got -1"),
        (changed(uniforms=2.0), "Kilns.uniforms must be an int of at least 0, got 2.0"),
        (changed(episode_length=0), "Kilns.episode_length must be an int of at least 1, got 0"),
        (
            changed(obs_names=["a"]),
            r"Kilns.obs_names must be a tuple with a name for each number observed, got \['a'\]",
        ),
        (changed(obs_names=()), r"Kilns.obs_names must be a tuple with a name for each number observed, got \(\)"),
        (changed(obs_names=("a", "b", "a")), "Kilns.obs_names has 'a' more than once"),
        (
            changed(obs_names=("a", "b")),
            r"Kilns.observe is torch.float32 \(4, 7\) on cpu; wanted torch.float32 \(4, 2\)",
        ),
        (changed(fingerprint=7), r"Kilns.fingerprint must be a str, got 7; self.digest\(...\) makes one"),
        (changed(modes="eager"), r"Kilns.modes must be a tuple of \(.*\), 'eager' among them, got 'eager'"),
        (changed(modes=["eager"]), r"'eager' among them, got \['eager'\]"),
        (changed(modes=("compiled",)), r"'eager' among them, got \('compiled',\)"),
        (changed(modes=("eager", "compield")), r"Kilns.modes must be a tuple of .*, got \('eager', 'compield'\)"),
        (changed(modes=("eager", ["compiled"])), r"Kilns.modes must be a tuple of .*, got \('eager', \['compiled'\]\)"),
        (changed(in_place=True), r"Kilns writes in place, so its modes must be \('eager',\), got \('eager', 'comp"),
        (changed(fresh=lambda made, batch: {"a": 1}), "Kilns.fresh must give a NamedTuple of tensors, got {'a': 1}"),
        (
            changed(fresh=lambda made, batch: Few(made.engine.empty_slots(batch), torch.zeros(batch))),
            "Kilns.fresh gives a state without total_seeds, returns; it has states, epoch",
        ),
        (
            changed(fresh=lambda made, batch: Taken(*Kilns.fresh(made, batch)[1:])),
            "Kilns.fresh gives a state with rules, names that the environment has for its own",
        ),
        (
            changed(fresh=partial(fresh, epoch=Tensor.long)),
            r"Kilns.fresh: epoch is torch.int64 \(4,\) on cpu; wanted torch.int32 \(4,\) on cpu",
        ),
        (
            changed(fresh=partial(fresh, states=lambda states: states[:, :1])),
            r"fresh: states is torch.int32 \(4, 1, 2\) on cpu; wanted torch.int32 \(4, 2, 2\) on cpu",
        ),
        (
            changed(fresh=partial(fresh, heat=lambda heat: heat.T)),
            r"Kilns.fresh: heat is \(4, 2\); its last axis must be the batch, here 4",
        ),
        (changed(observe=lambda made, state: None), "Kilns.observe must be a tensor, got NoneType"),
    ],
)
def test_dynamics_that_are_none_are_named(dynamics: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make(4, dynamics)


def spoiled(**fields: Any) -> Any:
    """Kilns whose step gives other fields of the state or of the outcome."""

    def advance(made: Kilns, state: KilnState, actions: Tensor, noise: Tensor) -> Any:
        parts = [part._asdict() for part in Kilns.advance(made, state, actions, noise)]
        for name, of in fields.items():
            for part in parts:
                if name in part:
                    part[name] = of(part[name])
        return KilnState(**parts[0]), Outcome(**parts[1])

    return changed(advance=advance)


def seeing(of: Any) -> Any:
    """Kilns of which something else is observed, but not at the beginning."""
    return changed(
        observe=lambda made, state: Kilns.observe(made, state) if made.calls == 0 else of(Kilns.observe(made, state))
    )


LATER = [
    (changed(reset=lambda made, state, where: state.heat), "Kilns.reset must be a KilnState, got Tensor"),
    (
        changed(reset=lambda made, state, where: state._replace(heat=torch.where(where, 0, state.heat.double()))),
        r"Kilns.reset: heat is torch.float64 \(2, 4\) on cpu; wanted torch.float32 \(2, 4\)",
    ),
    (seeing(Tensor.double), r"Kilns.observe is torch.float64 \(4, 7\) on cpu; wanted torch.float32 \(4, 7\) on cpu"),
    (seeing(lambda obs: obs[:, 1:]), r"Kilns.observe is torch.float32 \(4, 6\) on cpu; wanted torch.float32 \(4, 7"),
]


@pytest.mark.parametrize(
    ("dynamics", "reason"),
    [
        (
            changed(advance=lambda made, state, actions, noise: (3, 4)),
            "Kilns.advance must give a state and a rollout.Outcome, got int for",
        ),
        (
            spoiled(reward=Tensor.double),
            r"Kilns.advance: reward is torch.float64 \(4,\) on cpu; wanted torch.float32 \(",
        ),
        (
            spoiled(reward=lambda reward: reward.sum()),
            r"Kilns.advance: reward is torch.float32 \(\) on cpu; wanted .* \(4",
        ),
        (spoiled(reward=lambda reward: 0.0), "Kilns.advance: reward must be a tensor, got float"),
        (spoiled(terminated=Tensor.int), r"terminated is torch.int32 \(4,\) on cpu; wanted torch.bool \(4,\)"),
        (
            spoiled(illegal=lambda illegal: illegal[:2]),
            r"illegal is torch.bool \(2,\) on cpu; wanted torch.bool \(4,\)",
        ),
        (
            spoiled(heat=lambda heat: heat.T),
            r"Kilns.advance: heat is .* \(4, 2\) on cpu; wanted torch.float32 \(2, 4\)",
        ),
        (spoiled(states=Tensor.long), r"Kilns.advance: states is torch.int64 \(4, 2, 2\) on cpu; wanted torch.int32"),
        *LATER,
    ],
)
def test_a_step_that_is_none_is_named(dynamics: Any, reason: str) -> None:
    env = make(4, dynamics)
    with pytest.raises(ValueError, match=reason):
        env.step(torch.zeros(4, 2, dtype=torch.int64))


@pytest.mark.parametrize(("dynamics", "reason"), LATER)
def test_a_reset_that_is_none_is_named(dynamics: Any, reason: str) -> None:
    env = make(4, dynamics)
    env.dynamics.calls = 1
    with pytest.raises(ValueError, match=reason):
        env.reset(torch.arange(4) < 2)


@pytest.mark.usefixtures("graphs")
def test_compiled_code_names_it_as_well() -> None:
    env = make(4, spoiled(reward=Tensor.double), mode="compiled")
    with pytest.raises(ValueError, match=r"Kilns.advance: reward is torch.float64 \(4,\)"):
        env.step(torch.zeros(4, 2, dtype=torch.int64))


def by_member(made: Kilns, state: KilnState, actions: Tensor, noise: Tensor) -> Any:
    after, outcome = Kilns.advance(made, state, actions, noise)
    return after, outcome._replace(reward=(outcome.illegal | (actions[:, 1] == Do.STOP)).float())


def by_sight(made: Kilns, state: KilnState) -> Tensor:
    stage = state.states[:, :1, 0]
    return Kilns.observe(made, state) + ((stage < 0) | (stage == Kiln.FIRING)).float()


def by_value(made: Kilns, state: KilnState) -> Tensor:
    return Kilns.observe(made, state) * (2 if bool(state.states.any()) else 1)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("dynamics", "reason"),
    [
        (changed(advance=by_member), r"advance: reward is not the same compiled as op by op.*int\(Stage.NAME\)"),
        (changed(observe=by_sight), "observe is not the same compiled as op by op"),
        (changed(observe=by_value), "observe does not compile as one graph"),
    ],
)
def test_what_compiled_code_makes_otherwise_is_named(dynamics: Any, reason: str) -> None:
    """Before any step. Op by op it is right."""
    with pytest.raises(ValueError, match=reason):
        make(4, dynamics, mode="compiled")
    assert make(4, dynamics).num_envs == 4


@pytest.mark.usefixtures("fresh_compiler")
def test_any_number_of_environments_is_tried() -> None:
    """More than torch keeps graphs of one function."""
    for horizon in range(5, 15):
        assert make(4, partial(Kilns, horizon=horizon), mode="compiled").mode == "compiled"


def test_an_instance_is_of_one_engine() -> None:
    made = make().dynamics
    with pytest.raises(ValueError, match=r"got Kilns, which is of one engine already: give the class, or functools"):
        make(4, made)


def test_modes_that_they_do_not_have() -> None:
    with pytest.raises(ValueError, match="mode='compiled' is not one of those in which KilnsInPlace may run: eager"):
        make(4, KilnsInPlace, mode="compiled")


def test_a_class_that_lacks_a_method() -> None:
    class Half(Dynamics):
        def fresh(self, batch: int) -> Any:
            return None

    with pytest.raises(TypeError, match=r"abstract methods? .*advance.*observe"):
        make(4, Half)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"episode_length": 25}, "episode_length="),
        ({"calibration": em.rollout.Calibration.default()}, "calibration="),
        ({"mechanics": em.rollout.MECHANICS["esper-2025-12"]}, "mechanics="),
        ({"assumptions": Assumptions(), "episode_length": 3}, "episode_length= and assumptions="),
    ],
)
def test_arguments_of_networks_are_not_for_others(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=f"dynamics= together with {names}: these are of CalibratedDynamics"):
        make(4, **settings)
    env = LifecycleEnv(DECEMBER, 4, dynamics=partial(CalibratedDynamics, **settings))
    same = LifecycleEnv(DECEMBER, 4, **settings)
    assert env.dynamics.fingerprint == same.dynamics.fingerprint
    assert env.obs_names == same.obs_names


# -- fingerprints -----------------------------------------------------------------------------------------------------


@dataclass
class Held:
    what: Any


def test_fingerprints_tell_dynamics_apart() -> None:
    dynamics = make().dynamics
    assert dynamics.fingerprint == make(7, seed=3).dynamics.fingerprint
    others = [
        make(dynamics=KilnsInPlace),
        make(dynamics=partial(Kilns, horizon=7)),
        make(max_seeds=3),
        LifecycleEnv(RULES, 4, ["left", "middle"], dynamics=Kilns),
    ]
    kinds = replace(RULES, kinds={"big": ("left",)})
    others += [LifecycleEnv(kinds, 4, dynamics=Kilns, kinds={"big": (slot,)}) for slot in RULES.slot_ids]
    assert len({dynamics.fingerprint, *[env.dynamics.fingerprint for env in others]}) == 7
    facts: list[tuple[Any, ...]] = [(1,), (1.5,), ("1",), (1, 2), ((1, 2),), (heuristic,), (partial(heuristic, 1),)]
    facts += [(partial(heuristic, 2),), (Assumptions(),), (Assumptions(rent=2.0),), ((heuristic, random_legal),)]
    facts += [(True,), (None,), ("None",), (b"1",), (kilns.Kiln.EMPTY,), (kilns.Do.WAIT,), (0,), ("heuristic",)]
    facts += [(torch.relu,), (Kilns,), (partial(heuristic, a=1),), (["1", 1],), ("meet at 0x10",)]
    digests = [dynamics.digest(*each) for each in facts]
    assert len(set(digests)) == len(facts)
    assert digests == [dynamics.digest(*each) for each in facts]
    assert dynamics.digest([1, (2, 3)]) == dynamics.digest((1, [2, 3]))
    for fact in ({"a", "b"}, {"a": 1}, torch.arange(3), object(), dynamics.advance, range(3)):
        for held in (fact, (1, fact), partial(heuristic, a=fact), Held(fact)):
            with pytest.raises(ValueError, match=r"a fingerprint is made of (.|\n)*: give those that it was made"):
                dynamics.digest(held)


@pytest.mark.parametrize(
    ("rules", "slots", "settings", "fingerprint"),
    [
        ("esper-2025-12", None, {}, "1ebd683648aa52baaf056d804d1904af81d502438e15d64e8de4e6164b7f4686"),
        (
            "esper-2025-11",
            ["a", "b"],
            {"max_seeds": 4, "episode_length": 9, "assumptions": Assumptions(rent=0.5, noise=1.0)},
            "0b7eea3956e1003cb29067fdfefddca9e05f8a70c37a1f16a28ef2a892c2bcce",
        ),
    ],
)
def test_those_of_growing_networks_stay(
    rules: str, slots: list[str] | None, settings: dict[str, Any], fingerprint: str
) -> None:
    """They stand in checkpoints of 0.1.0."""
    env = LifecycleEnv(em.ruleset(rules), 1, slots, **settings)
    assert env.dynamics.fingerprint == env.state_dict()["task"] == fingerprint
