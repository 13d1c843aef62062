"""Real networks under the rules of June: beside hosts trained alone, whose seeds plain loops move."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.bench.sequential import Alone, saved
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, NetworkDynamics, PPOConfig
from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.networks import plans
from esper_masks.rollout.networks.blueprints import BLUEPRINTS
from esper_masks.rollout.networks.plans import Plan, baselines_for, plans_for, playing
from esper_masks.rollout.networks.samples import births_of
from esper_masks.rollout.networks.score import score_of
from tests.rollout.networks.lockstep import norm
from tests.rollout.networks.worlds import JUNE, TASKS, bumps, june, rewards_that_are_the_score, small
from tests.rollout.scheduled_twin import ScheduledTwin, Slot

RATES: dict[str, Any] = {"lr": 0.05, "seed_lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "clip": 1.0}
HEADS = ("slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve", "op")
NEUTRAL = {"tempo": "FAST", "alpha_target": "FULL", "style": "LINEAR_ADD"}
LIGHT = 4 * 8 + 8 + 8 * 4 + 4  # parameters of a light seed in hosts of width 4
HOLDING = int(JUNE.stages.HOLDING)


def action(op: str, slot: int = 0, **choices: str) -> list[int]:
    """An action by names."""
    values = {**NEUTRAL, **choices}
    row = {name: JUNE.head(name).choices.index(choice) for name, choice in values.items()}
    row |= {"slot": slot, "op": int(JUNE.ops[op])}
    return [row.get(name, 0) for name in HEADS]


def everywhere(env: LifecycleEnv, *row: int) -> torch.Tensor:
    return torch.tensor([row]).expand(env.num_envs, -1).contiguous()


class Life(ScheduledTwin):
    """The slots of one host, and the host, trained alone: a gradient that a seed had says whether it is healthy."""

    def __init__(self, host: Alone, length: int, **settings: Any):
        super().__init__(JUNE, host.slots, length, **settings)
        self.host, self.norms, self.frozen = host, dict.fromkeys(range(host.slots), 0.0), set[int]()

    def second_gate(self, slot: Slot, healthy: bool) -> bool:
        return slot.in_stage >= 10 and 1e-7 < self.norms[self.slots.index(slot)] < 10

    def tick(self, slot: Slot, healthy: bool) -> None:
        at = next(at for at, each in enumerate(self.slots) if each is slot)
        if slot.stage == "BLENDING" and slot.seed is not None and slot.seed.ramp.mode == "DOWN":
            self.frozen.add(at)
        super().tick(slot, healthy)

    def act_on(self, row: list[int]) -> None:
        """An op and the tick."""
        self.frozen.clear()
        _, _, legal = self.step(dict(zip(HEADS, row)), [0.5] * (2 + len(self.slots)), reset=False)
        assert legal
        for at, slot in enumerate(self.slots):
            if slot.seed is None:
                self.host.seeds.pop(at, None)

    def train(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """An epoch of training, in which seeds take part as their stages say."""
        self.norms = dict.fromkeys(self.norms, 0.0)
        for at, seed in self.host.seeds.items():
            seed.alpha, seed.ste = self.slots[at].seed.ramp.alpha, self.slots[at].stage == "TRAINING"  # type: ignore[union-attr]
            seed.freeze(at in self.frozen or not (seed.alpha or seed.ste))  # without a share there is no gradient
        for samples, classes in zip(x, y):
            self.host.backward(samples, classes)
            for at, seed in self.host.seeds.items():
                self.norms[at] += norm(seed.module.parameters()) / len(x)
            torch.nn.utils.clip_grad_norm_(self.host.parameters(), RATES["clip"])
            self.host.step()


def some(env: LifecycleEnv, generator: torch.Generator) -> torch.Tensor:
    """Legal ones at random, most of them of ops by which seeds get on."""
    noise = torch.rand(env.num_envs, len(HEADS), generator=generator)
    logits = torch.zeros(env.num_envs, env.engine.layout.logit_size)
    logits[:, -6:] = torch.tensor([0.0, 1, 0, -1.5, 0, 2])  # in the order of the ops
    return em.FactoredCategorical(logits, env.masks()).sample(noise=noise)


ALL_GATES = {"automatic": ("G1", "G2", "G3")}


@pytest.mark.parametrize(
    "settings", [{}, {"isolated": True, "automatic": ("G1", "G3")}, ALL_GATES], ids=["free", "isolated", "automatic"]
)
def test_networks_live_as_hosts_alone(settings: dict[str, Any]) -> None:
    """Slots, shares, parameters of hosts and seeds, and what they are ahead of their twins by, epoch by epoch."""
    length, steps = 40, 1
    automatic = settings.get("automatic", ())
    env = june(5, {"disable_advance": len(automatic) == 3}, episode_length=length, steps=steps, **settings)
    dynamics, state = env.dynamics, env.state
    population, generator = dynamics.population, torch.Generator().manual_seed(1)
    rates = {**RATES, "isolated": settings.get("isolated", False)}
    lives = [Life(Alone(population.host, 3, host, rates), length, automatic=automatic) for host in state.host.t()]
    inputs, labels = dynamics.samples.whole(state.key, "validation")(0, slice(0, 5))
    seen: Counter[str] = Counter()
    for epoch in range(length):
        last, actions = epoch == length - 1, some(env, generator)
        keys, before = births_of(state.key, state.epoch), state
        x, y = dynamics.samples.drawn(state.key, state.epoch, steps, 8)(0, slice(0, 5))
        for at, (life, row) in enumerate(zip(lives, actions.tolist())):
            life.act_on(row)
            slot, op = row[0], JUNE.ops(row[-1]).name
            if op == "GERMINATE":
                number, where = dynamics.number[row[1]], torch.zeros(3, 5) > 0
                where[slot, at] = True
                born = population.germinate(before.networks, where, number.expand(where.shape), keys)
                life.host.germinate(slot, population.names[int(number)], born.seeds[slot, :, at])
            life.train(x[None, at], y[None, at])
            seen.update([op, *(each.stage for each in life.slots), *["frozen"] * len(life.frozen)])
            seen["begun"] += sum(
                each.stage == "BLENDING" and not life.host.seeds[i].alpha for i, each in enumerate(life.slots)
            )
        state, outcome = dynamics.advance(state, actions, torch.empty(5, 0))
        assert not outcome.illegal.any()
        assert state.states.tolist() == [[list(row) for row in life.slot_words()] for life in lives]
        twin = dynamics.twins.losses(state.key, state.epoch + 1)
        for at, life in enumerate(lives):
            where = f"epoch {epoch} host {at}: {[slot.stage for slot in life.slots]}"
            fossils = []
            for slot, seed in life.host.seeds.items():
                assert float(state.alpha[slot, at]) == pytest.approx(seed.alpha, abs=1e-6), where
                assert float(state.seed_norm[slot, at]) == pytest.approx(life.norms[slot], rel=0.01, abs=1e-4), where
                vector = saved(list(seed.module.parameters()), state.seeds.shape[1])
                torch.testing.assert_close(state.seeds[slot, :, at], vector, rtol=0, atol=1e-3, msg=where)
                fossil = life.slots[slot].stage == "FOSSILIZED"
                fossils += [sum(p.numel() for p in seed.module.parameters())] * fossil
                seed.alpha *= fossil or not last
            for slot in {0, 1, 2} - set(life.host.seeds):
                assert not state.seeds[slot, :, at].any(), where
                assert not state.seed_momentum[slot, :, at].any(), where
            host = saved(list(life.host.net.parameters()), len(state.host))
            torch.testing.assert_close(state.host[:, at], host, rtol=0, atol=1e-3, msg=where)
            for seed in life.host.seeds.values():
                seed.ste = False
            loss, _ = life.host.evaluate(inputs[at], labels[at])
            assert abs(float(state.loss[0, at]) - loss) < 1e-3, where
            ahead = float(twin[at]) - loss - sum(0.01 + 0.04 * size / LIGHT for size in fossils)
            assert abs(float(state.potential[at]) - ahead) < 1e-3, where
        env.state = state = state._replace(epoch=state.epoch + 1)
    wanted = {"TRAINING", "BLENDING", "HOLDING", "FOSSILIZED", "EMBARGOED", "SET_ALPHA_TARGET", "PRUNE"}
    wanted.add("begun" if "G2" in automatic else "frozen")  # begun: in BLENDING, and its share has not
    assert min(seen[name] for name in wanted) > 0, seen


def test_a_seed_rests_in_germinated_and_while_its_share_goes_down() -> None:
    env = june(3)
    env.step(everywhere(env, *action("GERMINATE", 1, blueprint="CONV_HEAVY")))
    first = env.state.seeds
    env.step(always_wait(env))
    assert torch.equal(env.state.seeds, first)
    assert env.state.seed_norm.eq(0).all()
    env.step(everywhere(env, *action("ADVANCE", 1)))
    assert not torch.equal(env.state.seeds, first)
    for _ in range(10):
        env.step(everywhere(env, *action("ADVANCE", 1)))
    assert env.state.alpha[1].tolist() == pytest.approx([1 / 3] * 3)
    for _ in range(2):
        env.step(always_wait(env))
    env.step(everywhere(env, *action("SET_ALPHA_TARGET", 1, alpha_target="HALF", alpha_speed="FAST")))
    before = env.state
    env.step(always_wait(env))
    assert torch.equal(env.state.seeds, before.seeds)
    assert torch.equal(env.state.seed_momentum, before.seed_momentum)
    assert not torch.equal(env.state.host, before.host)
    env.step(always_wait(env))
    env.step(always_wait(env))
    assert env.state.alpha[1].tolist() == [0.5] * 3
    assert not torch.equal(env.state.seeds, before.seeds)


@pytest.mark.parametrize("norm_of_seed", [0.0, 1e-8, 1e-3, 9.0, 11.0])
def test_the_second_gate_asks_for_a_gradient(norm_of_seed: float) -> None:
    env = june(2)
    env.step(everywhere(env, *action("GERMINATE", 0, blueprint="NORM")))
    for _ in range(10):
        env.step(everywhere(env, *action("ADVANCE", 0)))
    env.step(always_wait(env))
    env.state = env.state._replace(seed_norm=torch.full_like(env.state.seed_norm, norm_of_seed))
    env.step(everywhere(env, *action("ADVANCE", 0)))
    opened = JUNE.stages.BLENDING if 1e-7 < norm_of_seed < 10 else JUNE.stages.TRAINING
    assert env.states[:, 0, 0].tolist() == [int(opened)] * 2


def test_a_host_without_seeds_is_its_twin_to_the_last_bit() -> None:
    env = june(4)
    assert NetworkDynamics(env.engine, task=TASKS).episode_length == 30
    rewards = torch.stack([env.step(always_wait(env))[1] for _ in range(22)])
    assert torch.equal(rewards, torch.zeros(22, 4))


FEW, IMAGES = {"steps": 1, "depth": 2}, bumps(5, 4)


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        (random_legal, {}),
        (heuristic, {}),
        (random_legal, FEW | {"task": bumps(9)}),
        (random_legal, FEW | {"task": IMAGES}),
    ],
    ids=["random", "heuristic", "sequences", "images"],
)
def test_rewards_are_the_score_and_no_action_is_illegal(policy, changes: dict[str, Any]) -> None:
    env = june(4 if changes else 8, rounds=1, **changes)
    rewards_that_are_the_score(env, policy)
    assert int(env.illegal_actions.sum()) == 0


def test_a_plan_plants_advances_and_keeps() -> None:
    """And a seed that is not kept in time counts for nothing."""
    env = june(4, rounds=1)
    norm_seed, ops = JUNE.head("blueprint").choices.index("NORM"), JUNE.ops
    play, seen = playing([Plan(norm_seed, 2, 1), Plan(norm_seed, 2, 6)]), []
    dynamics = env.dynamics
    for epoch in range(22):
        actions = play(env)
        seen.append(actions[:2, -1].tolist())
        if epoch < 21:
            env.step(actions)
    last, _ = dynamics.advance(env.state, actions, torch.empty(4, 0))
    for at, birth in enumerate((1, 6)):  # tempo STANDARD
        told = {epoch: JUNE.ops(op[at]).name for epoch, op in enumerate(seen) if op[at] != int(ops.WAIT)}
        wanted = {birth: "GERMINATE", **dict.fromkeys((birth + 1, birth + 11, birth + 16), "ADVANCE")}
        wanted |= {birth + 17: "FOSSILIZE"}
        assert told == {epoch: name for epoch, name in wanted.items() if epoch < 22}
    assert int(env.illegal_actions.sum()) == 0
    number, alpha = dynamics.kept_alone(last)
    assert (number[2] >= 0).tolist() == [True, False, True, False]
    assert alpha[2].tolist() == [1, 0, 1, 0]
    assert last.alpha[2, 1] > 0
    without, _ = dynamics.measure(last.networks, torch.full((3, 4), -1), 0 * alpha, last.key, "validation")
    twin = dynamics.twins.losses(last.key, torch.full((4,), 22))
    assert torch.equal(last.potential[1::2], (twin - without)[1::2])


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("modules", range(1, 8))
def test_plans_are_spread_over_slots_and_births(slots: int, modules: int) -> None:
    """For any number of modules; blueprints that share one are tried once."""
    choices, kinds = JUNE.head("blueprint").choices, list(BLUEPRINTS)
    names = {choice: kinds[max(at - 1, 0) % modules] for at, choice in enumerate(choices)}
    dynamics = june(1, slot_ids=[f"slot{at}" for at in range(slots)], names=names).dynamics
    made = plans_for(dynamics)
    assert len(made) == len(set(made)) <= 36
    tried = {int(dynamics.number[plan.blueprint]): plan.blueprint for plan in made}
    assert len(tried) == len({plan.blueprint for plan in made}) == modules
    for blueprint in tried.values():
        mine = [plan for plan in made if plan.blueprint == blueprint]
        assert {plan.epoch for plan in mine} == {0, 2, 5}
        assert len({plan.slot for plan in mine}) >= min(slots, 2)
    of_slots, of_births = (Counter(column) for column in list(zip(*made))[1:])
    for counts in (of_slots, of_births):
        assert max(counts.values()) - min(counts.values()) <= 2 * (modules > 4)
    assert len(of_slots) >= min(slots, 3)
    assert max(of_slots) - min(of_slots) >= slots // 2


def test_as_many_plans_as_may_be_where_blueprints_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = june(1).dynamics
    assert len(plans_for(dynamics)) == 35
    assert {(plan.slot, plan.epoch) for plan in plans_for(dynamics)} == set(product(range(3), (0, 2, 5)))
    monkeypatch.setattr(plans, "PLANS", 5)
    assert len({plan.blueprint for plan in plans_for(dynamics)}) == 5
    assert len({(plan.slot, plan.epoch) for plan in plans_for(dynamics)}) == 5


def test_a_seed_that_is_half_there_is_not_advanced() -> None:
    """ADVANCE would do nothing; another target comes first."""
    env = june(2)
    env.step(everywhere(env, *action("GERMINATE", 0, blueprint="NORM", alpha_target="HALF")))
    for _ in range(14):
        env.step(everywhere(env, *action("ADVANCE", 0)))
    assert env.state.alpha[0].tolist() == [0.5] * 2
    assert env.states[:, 0, 2].tolist() == [0, 0]  # HOLD
    assert env.dynamics.lifecycle.onward(env.state).eq(-1).all()


def test_the_heuristic_advances_and_judges_by_alpha_0() -> None:
    env, seen = june(6, rounds=1, episode_length=40), set()
    for _ in range(40):
        actions, state = heuristic(env), env.state
        seen |= {JUNE.ops(op).name for op in actions[:, -1].tolist()}
        planted = actions[actions[:, -1] == int(JUNE.ops.GERMINATE), 1].tolist()
        assert set(planted) <= {env.dynamics.blueprints[int(state.epoch[0]) % 7]}
        holds = (state.states[..., 0] == HOLDING).any(1)
        for at in holds.nonzero().flatten().tolist():
            slot = int((state.states[at, :, 0] == HOLDING).int().argmax())
            without = state.alpha.clone()
            without[slot] = 0
            number = torch.where(state.alpha > 0, env.dynamics.number[state.blueprint.long()], -1)
            loss, _ = env.dynamics.measure(state.networks, number, without, state.key, "validation")
            wanted = "FOSSILIZE" if loss[at] > state.loss[0, at] else "PRUNE"
            assert (JUNE.ops(int(actions[at, -1])).name, int(actions[at, 0])) == (wanted, slot)
        env.step(actions)
    assert seen >= {"WAIT", "GERMINATE", "ADVANCE"}
    assert seen & {"FOSSILIZE", "PRUNE"}
    assert int(env.illegal_actions.sum()) == 0


def test_what_is_observed_has_a_name() -> None:
    env = june(2)
    assert env.obs.shape == (2, len(env.obs_names))
    env.step(everywhere(env, *action("GERMINATE", 1, blueprint="BOTTLENECK", tempo="SLOW")))
    for _ in range(11):
        env.step(everywhere(env, *action("ADVANCE", 1)))
    seen, state = dict(zip(env.obs_names, env.obs.T)), env.state
    for name, value in {
        **{"stage BLENDING": 1, "blueprint BOTTLENECK": 1, "blueprint NORM": 0, "style LINEAR_ADD": 1, "tempo": 1},
        **{"goal": 1, "alpha": 1 / 8, "alpha velocity": 1 / 8, "target": 1, "alpha mode": 1, "steps done": 1 / 8},
        **{"steps left": 7 / 8, "age": 12 / 22, "epochs in stage": 1 / 22},
    }.items():
        assert seen[f"r0c1: {name}"].tolist() == pytest.approx([value] * 2), name
    assert torch.equal(seen["r0c1: improvement"], state.loss_at_birth[1] - state.loss[0])
    assert torch.equal(seen["r0c1: gradient"], state.seed_norm[1].log1p())
    assert seen["seeds"].tolist() == pytest.approx([1 / 3] * 2)
    assert seen["r0c0: stage DORMANT"].tolist() == [1, 1]
    assert seen["r0c0: improvement"].tolist() == [0, 0]


def test_all_gates_may_open_by_themselves() -> None:
    env = june(3, {"disable_advance": True}, automatic=("G1", "G2", "G3"))
    env.step(everywhere(env, *action("GERMINATE", 0, blueprint="ATTENTION")))
    for _ in range(13):
        env.step(always_wait(env))
    assert env.states[:, 0, 0].tolist() == [HOLDING] * 3


def test_every_blueprint_of_both_topologies_has_a_module() -> None:
    for topology in ("cnn", "transformer"):
        dynamics = june(1, {"topology": topology}).dynamics
        choices = dynamics.engine.layout.head("blueprint").choices
        numbers = [int(dynamics.number[at]) for at in dynamics.blueprints]
        assert min(numbers) >= 0
        assert max(numbers) == len(dynamics.population.names) - 1
        rents = {choices[at]: float(dynamics.rent[at]) for at in dynamics.blueprints}
        assert max(rents, key=lambda name: rents[name]) in ("CONV_HEAVY", "MLP")
        assert ("FLEX_ATTENTION" in rents) == (topology == "transformer")
        if "FLEX_ATTENTION" in rents:
            assert rents["FLEX_ATTENTION"] == rents["ATTENTION"]


def test_two_blueprints_may_be_one_module() -> None:
    choices = JUNE.head("blueprint").choices
    dynamics = june(1, names={**dict.fromkeys(choices, "norm"), "CONV_HEAVY": "light"}).dynamics
    assert dynamics.population.names == ("norm", "light")
    assert {choices[at]: int(dynamics.number[at]) for at in dynamics.blueprints if dynamics.number[at]} == {
        "CONV_HEAVY": 1
    }


def test_ppo_runs_on_them_and_their_state_is_taken_up() -> None:
    torch.manual_seed(0)
    env = june(6, episode_length=7)
    policy = FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size, 16)
    ppo = PPO(env, policy, PPOConfig(steps=5, epochs=1, minibatches=2))
    for _ in range(3):
        assert ppo.iterate()["illegal_actions"] == 0
    other = june(6, episode_length=7)
    other.load_state_dict(env.state_dict())
    for _ in range(9):
        actions = random_legal(env)
        for mine, its in zip(env.step(actions)[:2], other.step(actions)[:2]):
            assert torch.equal(mine, its)
    for mine, its in zip(other.state, env.state):
        assert torch.equal(mine, its)


def test_other_gates_are_other_dynamics_and_go_with_the_pool() -> None:
    free, gated = june(4, rounds=1).dynamics, june(4, {"disable_advance": True}, rounds=1, **ALL_GATES)
    assert free.fingerprint != june(4, automatic=("G1",)).dynamics.fingerprint != gated.dynamics.fingerprint
    other = gated.another(4, 0, dynamics=gated.dynamics.of_pool("test"))
    assert other.dynamics.lifecycle.automatic == ("G1", "G2", "G3")
    with pytest.raises(ValueError, match="the state is of other dynamics"):
        june(4, rounds=1).load_state_dict(june(4, rounds=1, automatic=("G1",)).state_dict())


def test_a_plan_and_the_heuristic_where_all_gates_open_by_themselves() -> None:
    env = june(6, {"disable_advance": True}, rounds=1, episode_length=40, **ALL_GATES)
    norm_seed, ops = JUNE.head("blueprint").choices.index("NORM"), JUNE.ops
    for policy, wanted in ((playing([Plan(norm_seed, 1, 2)]), {"FOSSILIZE"}), (heuristic, {"FOSSILIZE", "PRUNE"})):
        env.reset()
        seen = Counter[str]()
        for _ in range(40):
            actions = policy(env)
            seen.update(ops(op).name for op in actions[:, -1].tolist())
            env.step(actions)
        assert set(seen) <= {"WAIT", "GERMINATE", "FOSSILIZE", "PRUNE"}
        assert set(seen) & wanted
        assert seen["GERMINATE"] >= 6 or policy is heuristic
    assert int(env.illegal_actions.sum()) == 0


def test_baselines_are_found_under_june() -> None:
    env = june(4, {"disable_advance": True}, width=3, steps=1, episode_length=6, **ALL_GATES)
    players, found = baselines_for(env, 4)
    assert [plan for plan, _ in found.tried] == plans_for(env.dynamics)
    test = env.another(4, 0, dynamics=env.dynamics.of_pool("test"))
    for name, play in players.items():
        scores = score_of(play, test)
        assert scores.illegal_actions == 0
        assert name != "no_op" or not scores.hosts.any()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dwells": {"TRAINING": 2}}, "dwells= is of stages that are left after a time, and under esper-2026-06"),
        ({"automatic": ("G4",)}, "automatic must be some of"),
        ({"automatic": ("G1", "G2", "G3")}, "give disable_advance=True, too"),
        ({"names": {"NORM": "norm"}}, "names does not say what the blueprint CONV_LIGHT, ATTENTION, DEPTHWISE, BOTT"),
    ],
)
def test_arguments_that_no_network_can_have(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        june(2, **changes)


def test_gates_are_those_of_june() -> None:
    with pytest.raises(ValueError, match="automatic= is of the gates of esper-2026-06, and esper-2025-12 has none"):
        small(2, automatic=("G1",))
