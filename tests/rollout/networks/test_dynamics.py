"""Real networks under ``LifecycleEnv``: twins, rewards, data that no action shifts, checkpoints."""

from dataclasses import replace
from enum import IntEnum
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.bench.sequential import Alone, saved
from esper_masks.rollout import MECHANICS, PPO, FactoredActorCritic, LifecycleEnv, NetworkDynamics, PPOConfig, Task
from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.networks import memory
from esper_masks.rollout.networks.hosts import MLPHost
from esper_masks.rollout.networks.plans import Plan, find_plans, plans_for, playing
from esper_masks.rollout.networks.samples import births_of, keys_of, numbers_of, rounds_of
from esper_masks.rollout.training import checkpoint
from tests.rollout.networks.worlds import (
    CONV_LIGHT,
    CULL,
    FOSSILIZE,
    GERMINATE,
    NORM,
    RULES,
    SMALL,
    TASKS,
    acted,
    bumps,
    played,
    rewards_that_are_the_score,
    small,
)

TRAINED = ("host", "host_momentum", "seeds", "seed_momentum")


@pytest.mark.parametrize("task", [TASKS, bumps(9), bumps(5, 4)], ids=["mlp", "sequences", "images"])
def test_a_host_without_seeds_is_its_twin_to_the_last_bit(task: Any) -> None:
    env = small(6, task=task)
    assert torch.equal(played(env, always_wait, 12), torch.zeros(12, 6))
    env = small(6, task=task)
    played(env, always_wait, 11)
    after, _ = env.dynamics.advance(env.state, always_wait(env), torch.zeros(6, 0))
    [course] = env.dynamics.twins.of(after.key).values()
    assert torch.equal(after.host, course.host)
    assert torch.equal(env.dynamics.score(after, "test"), torch.zeros(6))
    assert course.loss.shape == course.accuracy.shape == (13, 6)
    learned = course.loss[-1] < course.loss[0]
    assert learned.all() if task is TASKS else course.loss[-1].mean() < course.loss[0].mean()


def test_an_action_shifts_nobodys_data() -> None:
    one, other = small(6), small(6)
    here = torch.tensor([True, False, True, False, False, False])
    for _ in range(8):
        some = torch.where(here.unsqueeze(-1), random_legal(one), always_wait(one))
        one.step(some)
        other.step(always_wait(other))
    assert int(one.total_seeds[here].sum()) > 0
    for name in TRAINED:
        mine, its = getattr(one.state, name), getattr(other.state, name)
        assert torch.equal(mine[..., ~here], its[..., ~here]), name
    assert not torch.equal(one.state.host[..., here], other.state.host[..., here])


@pytest.mark.parametrize("task", [TASKS, (bumps(9),), (bumps(5, 4),)], ids=["mlp", "sequences", "images"])
@pytest.mark.parametrize("policy", [random_legal, heuristic])
def test_rewards_are_the_score_when_all_is_over(policy, task: tuple[Task, ...]) -> None:
    env = small(8, rounds=1, task=task)
    rewards, scores = rewards_that_are_the_score(env, policy)
    assert scores.validation.mean == pytest.approx(float(rewards.mean()), abs=1e-5)
    assert set(scores.by_task) == {each.name for each in task}


def test_a_step_is_what_plain_modules_do() -> None:
    """Whole lifecycles, host after host with ``torch.optim.SGD``: what a stage means is written out by epochs here."""
    env = small(4, rounds=1)
    dynamics, state = env.dynamics, env.state
    rates = {"lr": 0.05, "seed_lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "clip": 1.0, "isolated": False}
    architecture = dynamics.population.host
    hosts = [Alone(architecture, 3, vector.clone(), rates) for vector in state.host.T]
    played = {0: (GERMINATE, 1, CONV_LIGHT), 1: (GERMINATE, 0, NORM), 5: (CULL, 0, 0), 8: (FOSSILIZE, 1, 0)}
    born: dict[int, int] = {}
    for epoch in range(10):
        op, slot, blueprint = played.get(epoch, (0, 0, 0))
        if op == GERMINATE:
            where = torch.zeros(3, 4, dtype=torch.bool)
            where[slot] = True
            number = dynamics.blueprints.index(blueprint)
            keys = births_of(state.key, torch.full((4,), epoch))
            made = dynamics.population.germinate(state.networks, where, where * number, keys).seeds[slot]
            for host, vector in zip(hosts, made.T):
                host.germinate(slot, dynamics.population.names[number], vector)
            born[slot] = epoch
        elif op == CULL:
            for host in hosts:
                del host.seeds[slot]
        batches = dynamics.samples.drawn(state.key, torch.full((4,), epoch), 3, 8)
        x, y = (torch.stack(parts) for parts in zip(*(batches(step, slice(0, 4)) for step in range(3))))
        whole = dynamics.samples.whole(state.key, "validation")(0, slice(0, 4))
        env.step(acted(env, op, slot, blueprint))
        for at, host in enumerate(hosts):
            for number, seed in host.seeds.items():
                seed.ste = epoch - born[number] < 3  # GERMINATED once, TRAINING twice
                seed.alpha = min(max(epoch - born[number] - 2, 0) / 3, 1)
            host.train(x[:, at], y[:, at])
            loss, accuracy = host.evaluate(whole[0][at], whole[1][at])
            assert float(env.state.loss[0, at]) == pytest.approx(loss, abs=1e-4)
            assert float(env.state.accuracy[at]) == pytest.approx(accuracy, abs=0.06)
            vector = saved(list(host.net.parameters()), len(env.state.host))
            torch.testing.assert_close(env.state.host[:, at], vector, rtol=1e-3, atol=1e-4)
            for number, seed in host.seeds.items():
                vector = saved(list(seed.module.parameters()), env.state.seeds.shape[1])
                torch.testing.assert_close(env.state.seeds[number, :, at], vector, rtol=1e-3, atol=1e-4)
    assert env.state.seeds[0].eq(0).all()


def test_a_potential_by_hand() -> None:
    """Loss of the twin less that of the network, less 0.01 a kept seed and 0.04 times its part of a light one."""
    env = small(4, rounds=1)
    env.step(acted(env, GERMINATE, 1, NORM))
    for _ in range(7):
        env.step(always_wait(env))
    env.step(acted(env, FOSSILIZE, 1))
    state, dynamics = env.state, env.dynamics
    light = 2 * 4 * 8 + 8 + 4
    sizes = dict(zip(dynamics.population.names, dynamics.population.seed_parameters))
    assert (sizes["norm"], sizes["light"]) == (8, light)
    loss = dynamics.twins.losses(state.key, state.epoch)
    torch.testing.assert_close(state.potential, loss - state.loss[0] - (0.01 + 0.04 * 8 / light))
    torch.testing.assert_close(env.state.returns, state.potential)


def test_stages_are_left_after_their_epochs_and_alpha_rises_between() -> None:
    env, seen = small(2), []
    env.step(acted(env, GERMINATE, 2, CONV_LIGHT))
    for _ in range(8):
        seen.append((RULES.stages(int(env.states[0, 2, 0])).name, round(float(env.state.alpha[2, 0]), 3)))
        env.step(always_wait(env))
    assert seen == [
        ("TRAINING", 0.0),
        ("TRAINING", 0.0),
        ("BLENDING", 0.0),
        ("BLENDING", 0.333),
        ("BLENDING", 0.667),
        ("PROBATIONARY", 1.0),
        ("PROBATIONARY", 1.0),
        ("PROBATIONARY", 1.0),
    ]
    assert env.states[0, 2].tolist() == [6, 9]
    env.step(acted(env, CULL, 2))
    assert not env.state.seeds[2].any()
    assert RULES.stages(int(env.states[0, 2, 0])).name == "EMBARGOED"
    assert env.state.alpha[2].eq(0).all()
    assert env.state.blueprint[2].eq(0).all()


def test_only_kept_seeds_count_at_the_end() -> None:
    env = small(4, rounds=1)
    env.step(acted(env, GERMINATE, 0, CONV_LIGHT))
    for _ in range(10):
        env.step(always_wait(env))
    assert env.state.alpha[0].eq(1).all()
    last, _ = env.dynamics.advance(env.state, always_wait(env), torch.zeros(4, 0))
    number = torch.full((3, 4), -1)
    loss, _ = env.dynamics.measure(last.networks, number, torch.zeros(3, 4), last.key, "validation")
    assert torch.equal(last.loss[0], loss)
    assert torch.equal(last.potential, env.dynamics.twins.losses(last.key, torch.full((4,), 12)) - loss)


def test_keys_of_the_test_pool_are_none_of_the_training() -> None:
    """Of seeds too, whatever the round, the number and the epoch."""
    numbers = torch.tensor([0, 1, 5, (1 << 32) - 1])
    rounds, epochs = torch.tensor([0, 1, 7, (1 << 16) - 1]), torch.tensor([0, 1, 19, (1 << 11) - 3])
    made = {}
    for pool in ("train", "test"):
        keys = torch.stack([keys_of(pool, numbers, each) for each in rounds]).flatten()
        assert torch.equal(numbers_of(keys).view(4, 4), numbers.expand(4, 4))
        assert torch.equal(rounds_of(keys).view(4, 4), rounds.unsqueeze(-1).expand(4, 4))
        born = [births_of(keys, each.expand_as(keys)) for each in epochs]
        made[pool] = torch.cat([keys, *born]).tolist()
    assert len(set(made["train"] + made["test"])) == 2 * 5 * 16
    train, test = small(4), small(4, pool="test")
    assert not set(train.state.key.tolist()) & set(test.state.key.tolist())
    assert (train.state.host != test.state.host).any(0).all()


def test_rounds_follow_one_another_and_come_again() -> None:
    env, hosts = small(3, rounds=2, episode_length=2), []
    env.reset()  # of what has not begun nothing changes
    for _ in range(3):
        hosts.append(env.state.host)
        assert torch.equal(played(env, always_wait, 2), torch.zeros(2, 3))
    assert torch.equal(hosts[0], hosts[2])
    assert not torch.equal(hosts[0], hosts[1])
    env.step(always_wait(env))
    env.reset(torch.tensor([True, False, False]))
    assert rounds_of(env.state.key).tolist() == [0, 1, 1]
    assert env.state.epoch.tolist() == [0, 1, 1]
    rewards = env.step(always_wait(env))[1]
    assert torch.equal(rewards, torch.zeros(3))  # twins of two rounds at once


def test_samples_are_drawn_from_the_training_split_and_from_the_task_of_the_host() -> None:
    env = small(4)
    samples = env.dynamics.samples
    keys, epoch = env.state.key, torch.tensor([0, 0, 5, 5], dtype=torch.int32)
    x, y = samples.drawn(keys, epoch, 50, 8)(49, slice(0, 4))
    assert x.shape == (4, 8, 6)
    for at in range(4):
        inputs, labels = TASKS[at % 2].of("training")
        for row, label in zip(x[at], y[at]):
            found = (inputs == row).all(-1).nonzero()
            assert len(found) == 1
            assert labels[found[0, 0]] == label
    again, _ = samples.drawn(keys[2:], epoch[2:], 50, 8)(49, slice(0, 2))
    assert torch.equal(again, x[2:])  # whoever stands beside a host
    index = torch.cat([samples.drawn(keys, epoch, 50, 8)(step, slice(0, 1))[0] for step in range(50)]).flatten(0, 1)
    assert len({tuple(row.tolist()) for row in index}) == 60  # each of them, in 400 draws
    for split, size in (("validation", 20), ("test", 25)):
        x, y = samples.whole(keys, split)(0, slice(1, 3))
        assert torch.equal(x[0], TASKS[1].of(split)[0])
        assert torch.equal(y[1], TASKS[0].of(split)[1])
        assert x.shape == (2, size, 6)


def test_hosts_of_other_processes_are_others() -> None:
    whole, part = small(6), small(3, first=3)
    for env in (whole, part):
        played(env, partial(acted, op=GERMINATE, slot=1, blueprint=NORM), 1)
        played(env, always_wait, 5)
    assert torch.equal(part.state.host, whole.state.host[:, 3:])
    assert torch.equal(part.state.seeds, whole.state.seeds[..., 3:])
    assert torch.equal(part.state.potential, whole.state.potential[3:])
    assert part.dynamics.fingerprint == whole.dynamics.fingerprint
    assert small(3, width=5).dynamics.fingerprint != part.dynamics.fingerprint
    assert small(3, pool="test").dynamics.fingerprint != part.dynamics.fingerprint


def test_a_training_is_resumed_to_the_last_bit(tmp_path: Path) -> None:
    def begun(seed: int) -> PPO:
        torch.manual_seed(seed)
        env = small(6)
        policy = FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size, 16)
        return PPO(env, policy, PPOConfig(steps=7, epochs=1, minibatches=2))

    whole = begun(0)
    whole.iterate()
    path = checkpoint.save(whole, {}, tmp_path)
    figures = [whole.iterate() for _ in range(2)]
    other = begun(1)
    checkpoint.restore(other, checkpoint.load(path))
    assert other.iterate()["return_mean"] == pytest.approx(figures[0]["return_mean"], abs=0, nan_ok=True)
    other.iterate()
    for mine, its in zip(
        (*other.policy.parameters(), *other.env.state), (*whole.policy.parameters(), *whole.env.state)
    ):
        assert torch.equal(mine, its)
    assert int(whole.env.illegal_actions.sum()) == 0


def test_a_plan_is_played_and_the_best_is_found() -> None:
    env = small(4, rounds=1)
    play = playing([Plan(NORM, 2, 1), None])  # on the second task nothing
    seen = []
    for _ in range(12):
        actions = play(env)
        seen.append(actions[:2, [0, 1, 3]].tolist())
        last = env.states
        env.step(actions)
    assert [at for at, (first, _) in enumerate(seen) if first[2] == GERMINATE] == [1]
    assert seen[1][0] == [2, NORM, GERMINATE]
    assert [at for at, (first, _) in enumerate(seen) if first[2] == FOSSILIZE] == [7]
    assert all(second[2] == 0 for _, second in seen)
    assert last[:, 2, 0].tolist() == [7, 1, 7, 1]
    assert int(env.illegal_actions.sum()) == 0

    dynamics = env.dynamics
    plans = plans_for(dynamics)
    assert plans == [Plan(*each) for each in product(dynamics.blueprints, range(3), (0, 2, 5))]
    assert plans_for(small(1, slots=8).dynamics) == [Plan(*each) for each in product(range(1, 5), (0, 3, 6), (0, 2, 5))]
    assert plans_for(small(1, slots=1).dynamics) == [Plan(*each) for each in product(range(1, 5), (0,), (0, 2, 5))]
    some = [Plan(NORM, 0, 0), Plan(CONV_LIGHT, 1, 0), Plan(CONV_LIGHT, 2, 3)]
    found = find_plans(env, some)
    assert [plan for plan, _ in found.tried] == some
    for at, best in enumerate(found.by_task):
        worth = {plan: scores[at] for plan, scores in found.tried}
        assert worth.get(best, 0.0) == max(0.0, *worth.values())
    means = {plan: sum(scores) / 2 for plan, scores in found.tried}
    assert means.get(found.fixed, 0.0) == max(0.0, *means.values())


class Ops(IntEnum):
    WAIT, BLOCK, GERMINATE, CULL, FOSSILIZE = range(5)


def test_an_op_that_blocks_an_empty_slot_neither_fills_nor_culls(monkeypatch: pytest.MonkeyPatch) -> None:
    stages, ops = RULES.stages, {op.name: replace(op, id=Ops[op.name]) for op in RULES.op_rules}
    culls = {source: stages.CULLED for source, to in RULES.transitions.items() if stages.CULLED in to}
    ops["CULL"] = replace(ops["CULL"], enters=None, moves=culls)
    ops["BLOCK"] = em.Op(Ops.BLOCK, moves={stages.DORMANT: stages.CULLED}, uses=["slot"])
    after = {**RULES.transitions, stages.DORMANT: (stages.GERMINATED, stages.CULLED)}
    rules = replace(RULES, name="blocking", transitions=after, op_rules=[ops[op.name] for op in Ops])
    monkeypatch.setitem(MECHANICS, "blocking", MECHANICS[RULES.name])
    lifecycle = LifecycleEnv(rules, 2, dynamics=partial(NetworkDynamics, **SMALL)).dynamics.lifecycle
    named = {what: Ops(lifecycle.op(what)).name for what in ("fill", "cull", "keep")}
    assert named == {"fill": "GERMINATE", "cull": "CULL", "keep": "FOSSILIZE"}
    ops["GERMINATE"] = replace(ops["GERMINATE"], enters=None, moves={stages.DORMANT: stages.CULLED})
    with pytest.raises(em.RulesError, match="no op of blocking fills an empty slot"):
        LifecycleEnv(replace(rules, op_rules=[*ops.values()]), 2, dynamics=partial(NetworkDynamics, **SMALL))


def test_ops_that_do_more_than_to_move_their_slot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = [replace(op, sets={"mark": True}) if op.name == "CULL" else op for op in RULES.op_rules]
    rules = replace(RULES, name="marked", features={"mark": bool}, op_rules=ops)
    monkeypatch.setitem(MECHANICS, "marked", MECHANICS[RULES.name])
    with pytest.raises(em.RulesError, match="op CULL of marked sets mark, and in NetworkDynamics ops only move their"):
        LifecycleEnv(rules, 2, dynamics=partial(NetworkDynamics, **SMALL))


def test_the_heuristic_plants_where_a_loss_stands_still_and_judges_by_alpha_0() -> None:
    env = small(4, rounds=1)
    seen = []
    for _ in range(12):
        actions = heuristic(env)
        seen.append(actions[:, 3].tolist())
        env.step(actions)
    ops = torch.tensor(seen)
    assert (ops[0] == 0).all()
    assert (ops == GERMINATE).any()
    assert int(env.illegal_actions.sum()) == 0
    judged = small(4, rounds=1)
    judged.step(acted(judged, GERMINATE, 1, CONV_LIGHT))
    for _ in range(7):
        judged.step(always_wait(judged))
    state, dynamics = judged.state, judged.dynamics
    none = torch.full((3, 4), -1)
    without, _ = dynamics.measure(state.networks, none, torch.zeros(3, 4), state.key, "validation")
    wanted = torch.where(without > state.loss[0], FOSSILIZE, CULL)
    assert torch.equal(heuristic(judged)[:, 3], wanted)


def test_a_host_that_diverges_is_counted_and_told_in_numbers() -> None:
    env = small(4, lr=1e6, clip=float("inf"), momentum=0.0)
    beside = small(4, lr=1e6, clip=float("inf"), momentum=0.0)
    state = env.state
    broken = state.host.clone()
    broken[:, 1] = 1e38
    env.state = state._replace(host=broken)
    obs, reward, *_ = env.step(always_wait(env))
    its = beside.step(always_wait(beside))[1]
    assert obs.isfinite().all()
    assert reward.isfinite().all()
    assert env.state.diverged.tolist()[1] == 1
    assert torch.equal(reward[[0, 2, 3]], its[[0, 2, 3]])
    assert (env.state.loss <= 10).all()


def test_what_is_observed_has_a_name_and_no_task() -> None:
    env = small(4)
    assert env.obs.shape == (4, len(env.obs_names))
    assert not any("task" in name or "dots" in name for name in env.obs_names)
    env.step(acted(env, GERMINATE, 1, NORM))
    for _ in range(3):
        env.step(always_wait(env))
    seen, state = dict(zip(env.obs_names, env.obs.T)), env.state
    assert seen["slot1: stage BLENDING"].eq(1).all()
    assert seen["slot1: blueprint NORM"].eq(1).all()
    assert seen["slot0: blueprint NORM"].eq(0).all()
    torch.testing.assert_close(seen["slot1: alpha"], torch.full((4,), 1 / 3))
    assert torch.equal(seen["slot1: improvement"], state.loss_at_birth[1] - state.loss[0])
    assert torch.equal(seen["validation loss"], state.loss[0])
    assert torch.equal(seen["fall on validation"], state.loss[1] - state.loss[0])
    assert seen["epoch"].eq(4 / 12).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pool": "validation"}, "pool='validation' is not one of"),
        ({"rounds": 0}, "rounds must be an int of 1 to"),
        ({"first": -1}, "first must be an int of 0 to"),
        ({"episode_length": 5000}, "episode_length must be an int of 1 to"),
        ({"task": "rings"}, "task='rings' is not one of mixture, digits"),
        ({"task": 3}, "task must be a name of mixture"),
        ({"host": "cnn"}, r"host='cnn' is for inputs \[samples, channels, \*space\], and those of 'dots' are"),
        ({"host": MLPHost(5, 4, 3, 4)}, "host must be one of"),
        ({"names": {"NORM": "norm"}}, "names does not say what the blueprint CONV_LIGHT, ATTENTION, DEPTHWISE is"),
        ({"dwells": {"SHADOWING": 2}}, r"dwells must have stages of esper-2025-12 .* got \['SHADOWING'\]"),
    ],
)
def test_arguments_that_no_network_can_have(changes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        small(2, **changes)


def test_rules_without_a_lifecycle_of_networks_are_refused() -> None:
    with pytest.raises(em.RulesError, match="no mechanics are known for others"):
        LifecycleEnv(replace(RULES, name="others"), 2, dynamics=partial(NetworkDynamics, **SMALL))


def test_memory_is_estimated_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = small(1).dynamics
    each = dynamics.population.bytes_per_host() + dynamics.bytes_beside
    monkeypatch.setattr(memory, "free_memory", lambda device: 100 * each)
    small(100)
    with pytest.raises(ValueError, match=r"101 hosts need .* are free: 100 would fit"):
        small(101)
