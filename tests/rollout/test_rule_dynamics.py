"""Dynamics from the rules alone: in lockstep with plain loops, for any rules, compiled, trained in."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import esper_masks as em
from esper_masks.cli.entry import main
from esper_masks.compiled import methods
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, PPOConfig, RuleDynamics
from esper_masks.rollout.env.baselines import baselines_of, random_legal
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.train import TrainSettings, build
from tests import strategies
from tests.helpers import HOST_READS, OpRecorder, assert_near, assert_same_masks, seeded
from tests.rollout import bakery
from tests.rollout.bakery import DYNAMICS, HORIZON, RULES, Day, Do, Loaf, Twin

NEVER = pytest.mark.filterwarnings("ignore:.*neither an op nor leaves takes")


def make(batch: int = 40, dynamics: Any = DYNAMICS, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(RULES, batch, dynamics=dynamics, **settings)


def some_actions(env: LifecycleEnv, generator: torch.Generator) -> Tensor:
    """Legal ones at random; of every three rows one has another value in one head, and one anything at all."""
    noise = torch.rand(env.num_envs, 4, generator=generator)
    logits = torch.zeros(env.num_envs, env.engine.layout.logit_size)
    legal = em.FactoredCategorical(logits, env.masks()).sample(noise=noise)
    sizes = torch.tensor([len(head.choices) for head in env.engine.layout.heads])  # -1 to one beyond the last
    anything = (torch.rand(legal.shape, generator=generator) * (sizes + 2)).long() - 1
    one = torch.arange(4) == torch.randint(4, (env.num_envs, 1), generator=generator)
    row = torch.arange(env.num_envs).unsqueeze(-1) % 3
    return torch.where((row == 0) | (row == 1) & one, anything, legal)


# -- beside plain loops -----------------------------------------------------------------------------------------------


def assert_same_as_reference(made: em.ActionMasks, twins: list[Twin]) -> None:
    masks = [em.reference.Situation(twin.rules, twin.slots, **twin.situation()).masks() for twin in twins]
    wanted = {name: torch.tensor([one[name] for one in masks]) for name in masks[0]}
    assert torch.equal(made.by_slot("tin"), wanted.pop("tin_by_slot"))
    assert_same_masks(made, {name: mask for name, mask in wanted.items() if not name.endswith("_by_slot")})


def in_lockstep(env: LifecycleEnv, steps: int) -> set[tuple[int, int]]:
    """Step an environment beside its twins, and compare all that it says. Returns: pairs of stages that were seen."""
    batch, generator, pairs = env.num_envs, seeded(0), set()
    begin = partial(Twin, max_seeds=env.engine.max_seeds)
    twins = [begin(at) for at in range(batch)]
    assert_near(env.reset(), torch.tensor([twin.observe() for twin in twins]))
    illegal = torch.zeros(batch, dtype=torch.int64)
    for _ in range(steps):
        actions, noise = some_actions(env, generator), torch.rand(batch, 5, generator=generator)
        before = [[slot[0] for slot in twin.slots] for twin in twins]
        obs, reward, terminated, _, info = env.step(actions, noise)
        results = [twin.step(a, u) for twin, a, u in zip(twins, actions.tolist(), noise.tolist())]
        pairs |= {(b, s[0]) for old, twin in zip(before, twins) for b, s in zip(old, twin.slots)}
        assert_near(reward, torch.tensor([points for points, _, _ in results]))
        assert terminated.tolist() == [ended for _, ended, _ in results]
        assert_near(info["returns"], torch.tensor([twin.returns for twin in twins]))
        assert_near(info["final_obs"], torch.tensor([twin.observe() for twin in twins]))
        assert_same_as_reference(info["final_masks"], twins)
        illegal += torch.tensor([not legal for _, _, legal in results])
        twins = [begin(at) if ended else twin for at, (twin, (_, ended, _)) in enumerate(zip(twins, results))]
        assert env.states.tolist() == [twin.slots for twin in twins]
        assert_near(obs, torch.tensor([twin.observe() for twin in twins]))
        assert env.total_seeds.tolist() == [twin.seeds for twin in twins]
        rows = [[int(twin.power), twin.customers, twin.day] for twin in twins]
        assert env.state.rows.T.tolist() == rows
        assert_same_as_reference(env.masks(), twins)
        env.engine.check_slots(env.states)
    assert env.illegal_actions.tolist() == illegal.tolist()
    assert illegal.sum() > steps
    return pairs


@pytest.mark.parametrize("max_seeds", [0, 2])
def test_lockstep_with_plain_loops(max_seeds: int) -> None:
    pairs = in_lockstep(make(max_seeds=max_seeds), 3 * HORIZON)
    edges = {(int(stage), int(to)) for stage, targets in RULES.transitions.items() for to in targets}
    assert edges <= pairs  # each edge was taken


@pytest.mark.parametrize(
    "changes",
    [
        {"leaves": {**bakery.GIVEN["leaves"], Loaf.NONE: {Loaf.DOUGH: 0.25}}},
        {"leaves": {**bakery.GIVEN["leaves"], Loaf.BURNT: (Loaf.NONE, {1: 1})}},
        {"rows_start": {"customers": bakery.customers}},
        {"clocks": None},
        {"head_masks": None},
    ],
)
@NEVER
def test_the_twin_can_disagree(changes: Any) -> None:
    with pytest.raises(AssertionError):
        in_lockstep(make(dynamics=bakery.make(**changes)), 3 * HORIZON)


# -- any rules --------------------------------------------------------------------------------------------------------


def kept(before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    return (after[..., 0] != before[..., 0]).sum(-1).float()


def go_at_random(rules: em.MaskRules, batch: int, steps: int) -> None:
    """Every action is legal, and every state one that the rules know."""
    leaves: Any = {stage: dict.fromkeys(targets, 0.25) for stage, targets in strategies.EDGES.items()}
    leaves[strategies.Site.BUILD] = (strategies.Site.EMPTY, {2: 0.5, 5: 0.5})
    env = LifecycleEnv(rules, batch, dynamics=RuleDynamics(rules, reward=kept, leaves=leaves), seed=1)
    for step in range(steps):
        obs, *_ = env.step(random_legal(env))
        if step % 10 == 0:
            env.engine.check_slots(env.states)
            assert obs.isfinite().all()
    assert not env.illegal_actions.any()


@NEVER
@settings(max_examples=10)
@given(rules=strategies.guarded_rules())
def test_rules_at_random_get_an_environment(rules: em.MaskRules) -> None:
    go_at_random(rules, batch=40, steps=30)


@pytest.mark.slow
@NEVER
@settings(max_examples=5)
@given(rules=strategies.guarded_rules())
def test_a_thousand_steps_under_rules_at_random(rules: em.MaskRules) -> None:
    go_at_random(rules, batch=8, steps=1000)


@NEVER
@pytest.mark.parametrize("steps", [2, {2: 1}])
def test_a_dwell_time_counts_the_steps_in_a_stage(steps: Any) -> None:
    """From the step after that in which the stage was entered; an op in the slot puts the end off."""
    env = make(3, bakery.make(leaves={Loaf.BAKING: (Loaf.DONE, steps)}, head_masks=None))
    noise = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]] * 3)

    def go(*ops: Do) -> list[str]:
        env.step(torch.tensor([[0, 0, 0, int(op)] for op in ops]), noise)
        return [Loaf(int(stage)).name for stage in env.states[:, 0, 0]]

    assert go(Do.KNEAD, Do.KNEAD, Do.WAIT) == ["DOUGH", "DOUGH", "NONE"]
    assert go(Do.BAKE, Do.BAKE, Do.WAIT) == ["BAKING", "BAKING", "NONE"]
    assert go(Do.WAIT, Do.WATER, Do.WAIT) == ["BAKING", "BAKING", "NONE"]
    assert go(Do.WAIT, Do.WATER, Do.WAIT) == ["DONE", "BAKING", "NONE"]
    assert go(Do.WAIT, Do.WAIT, Do.WAIT) == ["DONE", "DONE", "NONE"]
    assert env.state.total_seeds.tolist() == [1, 1, 0]
    assert not env.illegal_actions.any()


@NEVER
def test_an_episode_may_begin_in_a_stage_with_a_dwell_time() -> None:
    env = make(2, bakery.make(leaves={Loaf.NONE: (Loaf.DOUGH, {1: 0.5, 3: 0.5})}))
    stages = []
    for _ in range(3):
        env.step(torch.tensor([[0, 0, 0, 0]] * 2), torch.tensor([[0.1, 0.9, 0.9, 0, 0], [0.9, 0.9, 0.1, 0, 0]]))
        stages.append((env.states[..., 0] == int(Loaf.DOUGH)).int().tolist())
    assert stages == [[[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]], [[1, 1, 1], [1, 1, 1]]]
    assert not env.total_seeds.any()  # no op filled them


def half_baked(states: Tensor) -> Tensor:
    """A heavy loaf of white in the oven."""
    return states.index_fill(1, torch.tensor([1]), 0) + torch.tensor(
        [[0] * 6, [int(Loaf.BAKING), 2, 0, 1, 7, 0], [0] * 6]
    )


def weights(states: Tensor) -> Tensor:
    return states[..., bakery.WEIGHT].sum(-1)


def test_an_episode_may_begin_with_slots_that_are_filled() -> None:
    """In the first one and all others; rows begin by what is in them."""
    env = make(3, bakery.make(start=half_baked, rows_start={"customers": weights}))
    begin = [[[1, 0, 0, 0, 0, 0], [3, 2, 0, 1, 7, 0], [1, 0, 0, 0, 0, 0]]] * 3
    for _ in range(2):
        assert env.states.tolist() == begin
        assert env.state.rows[1].tolist() == [7] * 3
        assert not env.total_seeds.any()
        ends = []
        for _ in range(HORIZON):
            assert not ends or env.states.tolist() != begin
            ends = env.step(random_legal(env))[2].tolist()
    assert ends == [True] * 3
    env.reset(where=torch.tensor([True, False, False]))
    assert env.states.tolist() == begin
    assert env.dynamics.fingerprint != make(3, bakery.make(rows_start={"customers": weights})).dynamics.fingerprint


def sell_first(states: Tensor, rows: Any, masks: em.ActionMasks) -> Tensor:
    """The first loaf that can be sold, or else nothing."""
    sells = masks.slot_by_op[:, int(Do.SELL)]
    op = torch.where(sells.any(-1) & (rows["customers"] > 0), int(Do.SELL), int(Do.WAIT))
    return torch.stack([torch.zeros_like(op), sells.int().argmax(-1), torch.zeros_like(op), op], -1)


def test_a_heuristic_is_a_baseline() -> None:
    env, none = make(40, bakery.make(heuristic=sell_first)), make(40)
    assert list(baselines_of(none)) == ["random", "wait"]
    assert env.dynamics.fingerprint == none.dynamics.fingerprint  # the task is the same
    sold = 0
    for _ in range(HORIZON):
        actions = baselines_of(env)["heuristic"](env)
        sold += int((actions[:, bakery.OP] == int(Do.SELL)).sum())
        env.step(actions)
    assert sold > 0
    assert not env.illegal_actions.any()


def test_nothing_is_read_from_the_device() -> None:
    env = make()
    with OpRecorder() as recorder:
        env.reset()
        env.masks()
        env.step(torch.zeros(40, 4, dtype=torch.int64))[4]["final_obs"]
    assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]


def test_each_number_observed_has_its_name() -> None:
    env = make(1, max_seeds=4)
    obs, *_ = env.step(torch.tensor([[0, 1, 0, int(Do.KNEAD)]]), torch.tensor([[0.9, 0.9, 0.9, 0.1, 0.1]]))
    seen = {name: value for name, value in zip(env.obs_names, obs[0].tolist()) if value}
    assert seen == {
        "a: stage NONE": 1,
        "b: stage DOUGH": 1,
        "c: stage NONE": 1,
        "b: age": pytest.approx(1 / 9),
        "a: sort WHITE": 1,
        "b: sort RYE": 1,
        "c: sort WHITE": 1,
        "row power": 1,
        "row customers": pytest.approx(1 / (1 + 9)),
        "row day WEEK": 1,
        "time": pytest.approx(1 / 9),
        "seeds": 0.25,
    }
    assert "a: weight" in env.obs_names


# -- compiled, trained in, saved --------------------------------------------------------------------------------------


@NEVER
@pytest.mark.usefixtures("traced", "fresh_compiler")
@pytest.mark.parametrize("rows", [True, False])
def test_one_graph_is_the_same(monkeypatch: pytest.MonkeyPatch, rows: bool) -> None:
    monkeypatch.setattr(methods, "can_compile_ahead", lambda call: False)
    rules = RULES if rows else em.ruleset("esper-2025-12")
    dynamics = DYNAMICS if rows else RuleDynamics(rules, reward=kept, horizon=HORIZON, uniforms=2)
    env, other = (LifecycleEnv(rules, 40, dynamics=dynamics, mode=mode) for mode in ("compiled", "eager"))
    generator = seeded(0)
    for _ in range(12):
        actions, noise = some_actions(other, generator), torch.rand(40, 5, generator=generator)
        ours, theirs = env.step(actions, noise), other.step(actions, noise)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))
    assert all(torch.equal(mine, its) for mine, its in zip(env.state, other.state))


@pytest.mark.slow
def test_compiled_is_eager() -> None:
    env, other, generator = make(64, mode="compiled"), make(64), seeded(0)
    for _ in range(12):
        actions, noise = some_actions(other, generator), torch.rand(64, 5, generator=generator)
        ours, theirs = env.step(actions, noise), other.step(actions, noise)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))
    assert all(torch.equal(mine, its) for mine, its in zip(env.state, other.state))


@pytest.mark.slow
def test_it_learns() -> None:
    torch.manual_seed(0)
    env = make(100, seed=1)
    ppo = PPO(env, FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size, width=16))
    returns = [ppo.iterate()["return_mean"] for _ in range(12)]
    assert returns[-1] > returns[0] + 0.5, returns
    assert not env.illegal_actions.any()


def test_a_checkpoint_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    how, config = TrainSettings(envs=12, width=8), PPOConfig(steps=5, minibatches=2)
    ppo = build(RULES, how, config, dynamics=DYNAMICS)
    ppo.iterate()
    path = checkpoint.save(ppo, how.to_dict(), tmp_path)
    ppo.iterate()
    again = build(RULES, how, config, dynamics=bakery.make())
    checkpoint.restore(again, checkpoint.load(path))
    again.iterate()
    assert all(torch.equal(mine, its) for mine, its in zip(again.env.state, ppo.env.state))
    assert all(torch.equal(mine, its) for mine, its in zip(again.policy.parameters(), ppo.policy.parameters()))
    with pytest.raises(checkpoint.CheckpointError, match="does not fit: the state is of other dynamics"):
        checkpoint.restore(build(RULES, how, config, dynamics=bakery.make(horizon=8)), checkpoint.load(path))


@NEVER
def test_fingerprints_tell_dynamics_apart() -> None:
    leaves = bakery.GIVEN["leaves"]
    changes: list[dict[str, Any]] = [{}, {"horizon": 8}, {"uniforms": 3}, {"clocks": None}, {"head_masks": None}]
    changes += [{"rows_start": {}}, {"rows_start": {"customers": 2}}, {"rows_start": {"customers": bakery.customers}}]
    changes += [{"leaves": {}}, {"leaves": {**leaves, Loaf.DONE: {Loaf.BURNT: 0.25}}}, {"reward": kept}]
    found = [make(2, bakery.make(**each)).dynamics.fingerprint for each in changes]
    assert len(set(found)) == len(changes)
    assert found == [make(2, bakery.make(**each)).dynamics.fingerprint for each in changes]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bakery.py").write_text(Path(bakery.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    code = ["--rules", "./bakery.py:RULES", "--dynamics", "./bakery.py:DYNAMICS"]
    small = ["--logdir", "log", "--json"]
    assert main(["train", *code, "--envs", "20", "--width", "8", "--steps", "1000", *small]) == 0
    assert main(["train", "--resume", *code[2:], *code[:2], "--steps", "1500", *small]) == 0
    assert main(["evaluate", "log", *code, "--episodes", "50", "--json"]) == 0
    assert '"illegal_actions": 0' in capsys.readouterr().out
    assert main(["train", *code[:3], "./bakery.py:NONE", "--logdir", "no"]) == 2
    assert "has no NONE; dynamics in it: DYNAMICS" in capsys.readouterr().err
    assert main(["train", *code[2:], "--logdir", "no"]) == 2
    assert "has the rules esper-2025-12, and its RuleDynamics those of bakery" in capsys.readouterr().err


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_gymnasium() -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("gymnasium")
    from esper_masks.interop.gymnasium import LifecycleVectorEnv

    env, twin = LifecycleVectorEnv(6, rules=RULES, dynamics=DYNAMICS), make(6)
    obs, info = env.reset(seed=4)
    assert np.array_equal(obs, twin.reset(seed=4).numpy())
    for _ in range(HORIZON + 2):
        assert np.array_equal(info["action_mask"], twin.masks().joint().numpy())
        actions = random_legal(twin)
        obs, reward, ended, _, info = env.step(twin.engine.joint_actions.encode(actions).numpy())
        wanted, gained, terminated, *_ = twin.step(actions)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert ended.tolist() == terminated.tolist()
    assert not env.illegal_actions.any()


def test_sb3() -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("stable_baselines3")
    from esper_masks.interop.sb3 import LifecycleVecEnv

    env, twin = LifecycleVecEnv(6, rules=RULES, dynamics=DYNAMICS, seed=4), make(6, seed=4)
    assert np.array_equal(env.reset(), twin.reset().numpy())
    for _ in range(HORIZON + 2):
        assert np.array_equal(env.action_masks(), twin.masks().joint().numpy())
        actions = random_legal(twin)
        obs, reward, ended, infos = env.step(twin.engine.joint_actions.encode(actions).numpy())
        wanted, gained, terminated, _, last = twin.step(actions)
        assert np.array_equal(obs, wanted.numpy())
        assert np.array_equal(reward, gained.numpy())
        assert ended.tolist() == terminated.tolist()
        if ended.all():
            assert np.array_equal(infos[3]["terminal_observation"], last["final_obs"][3].numpy())


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"leaves": {Day.FEAST: {}}},
            "leaves: <Day.FEAST: 5> is no stage of bakery; they are NONE, DOUGH, BAKING, DONE",
        ),
        (
            {"leaves": {Loaf.DONE: {Loaf.DOUGH: 0.5}}},
            "leaves of DONE: DONE -> DOUGH is no transition; .* to BURNT or NONE",
        ),
        ({"leaves": {Loaf.DONE: (Loaf.DOUGH, {1: 1})}}, "leaves of DONE: DONE -> DOUGH is no transition; bakery leads"),
        ({"leaves": {Loaf.DONE: {7: 0.5}}}, "leaves of DONE: DONE -> 7 is no transition"),
        ({"leaves": {Loaf.DONE: {Loaf.NONE: -0.1}}}, "leaves of DONE: the probability of NONE is -0.1; wanted 0 to 1"),
        ({"leaves": {Loaf.DONE: {Loaf.NONE: float("nan")}}}, "the probability of NONE is nan; wanted 0 to 1"),
        ({"leaves": {Loaf.DONE: {Loaf.NONE: "often"}}}, "the probability of NONE is 'often'; wanted 0 to 1"),
        (
            {"leaves": {Loaf.DONE: {Loaf.NONE: 0.6, Loaf.BURNT: 0.5}}},
            "leaves of DONE: the probabilities add up to 1.1; wanted at most 1",
        ),
        ({"leaves": {Loaf.DONE: (Loaf.NONE, {1: 0.6, 2: 0.5})}}, "leaves of DONE: the .* add up to 1.1; wanted 1"),
        ({"leaves": {Loaf.DONE: (Loaf.NONE, {1: 0.6})}}, "leaves of DONE: the probabilities add up to 0.6; wanted 1"),
        ({"leaves": {Loaf.DONE: (Loaf.NONE, {0: 1})}}, "leaves of DONE: 0 steps; wanted an int of at least 1"),
        ({"leaves": {Loaf.DONE: (Loaf.NONE, {1.5: 1})}}, "leaves of DONE: 1.5 steps; wanted an int of at least 1"),
        ({"leaves": {Loaf.DONE: Loaf.NONE}}, "leaves of DONE: wanted {target: probability} or .*, got <Loaf.NONE: 1>"),
        ({"leaves": {Loaf.DONE: (Loaf.NONE, {})}}, "leaves of DONE: wanted {target: probability} or"),
        (
            {"rows_start": {"weather": 1}},
            "rows_start: 'weather' is no row of bakery; it has 'power', 'customers', 'day'",
        ),
        ({"rows_start": {"day": 3}}, "rows_start: 'day' begins as 3; wanted WEEK or FEAST, or a function"),
        ({"rows_start": {"power": "on"}}, "rows_start: 'power' begins as 'on'; wanted False or True, or a function"),
    ],
)
def test_descriptions_that_are_none_are_named(changes: Any, reason: str) -> None:
    with pytest.raises(em.RulesError, match=reason):
        bakery.make(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"horizon": 0}, "horizon must be an int of at least 1, got 0"),
        ({"uniforms": 0.5}, "uniforms must be an int of at least 0, got 0.5"),
        ({"reward": None}, "reward must be a function, got None"),
        ({"clocks": {"weight": 1}}, "clocks must be a function, got {'weight': 1}"),
        ({"leaves": [Loaf.DONE]}, "leaves must be a mapping, got list"),
        ({"start": 1}, "start must be a function, got 1"),
        ({"heuristic": "sell"}, "heuristic must be a function, got 'sell'"),
    ],
)
def test_arguments_of_another_kind_are_named(changes: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bakery.make(**changes)


def test_rows_where_rules_have_none() -> None:
    rules = em.ruleset("esper-2025-12")
    with pytest.raises(em.RulesError, match="rows: esper-2025-12 has no row_features, so there is"):
        RuleDynamics(rules, reward=kept, rows=bakery.rows)
    with pytest.raises(ValueError, match="rules must be MaskRules, got str"):
        RuleDynamics("bakery", reward=kept)  # type: ignore[arg-type]


def gives(made: Any) -> Any:
    """A function of the engine's states and of anything else."""
    return lambda states, *others: made(states)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"reward": gives(lambda s: s[:, 0, 0])},
            r"reward is torch.int32 \(64,\) on cpu; wanted torch.float32 \(64,\)",
        ),
        (
            {"reward": gives(lambda s: s[..., 0].float())},
            r"reward is torch.float32 \(64, 3\) on cpu; wanted .* \(64,\)",
        ),
        ({"reward": gives(lambda s: 0.0)}, "reward must be a tensor, got float"),
        (
            {"reward": gives(lambda s: torch.where(s[:, 1, 0] == 5, float("nan"), 1.0))},
            r"reward is nan in a step from the random states \[\[.*by \[.* not finite in \d+ of 64",
        ),
        (
            {"reward": lambda before, actions, after: actions[:, 3].float().sqrt()},
            r"by \[-1, -1, -1, -1\] to .* not finite in 1 of 64",
        ),
        ({"clocks": gives(lambda s: s)}, "clocks must give a mapping from name to tensor, got Tensor"),
        (
            {"clocks": gives(lambda s: {"stage": s[..., 0]})},
            "clocks gives 'stage', .* no feature that may change; .* 'age', 'sort', 'wet', 'weight', 'waters'",
        ),
        ({"clocks": gives(lambda s: {"age": s[..., 1] * 0 - 1})}, "clocks: 'age' becomes -1; wanted at least 0"),
        ({"clocks": gives(lambda s: {"sort": s[..., 2] * 0 + 2})}, "clocks: 'sort' becomes 2; wanted WHITE or RYE"),
        (
            {"clocks": gives(lambda s: {"wet": s[..., 3].float()})},
            r"clocks: 'wet' is torch.float32 \(64, 3\) on cpu; wanted torch.int32",
        ),
        ({"start": lambda states: states.float()}, r"start is torch.float32 \(64, 3, 6\) on cpu; wanted torch.int32"),
        ({"start": lambda states: states + 7}, "start: env 0 slot 'a': stage 8 is not a stage of bakery"),
        ({"heuristic": lambda states, rows, masks: masks["op"].long()}, r"heuristic is .*\(64, 7\) .*\(64, 4\)"),
        ({"heuristic": lambda states, rows, masks: 0}, "heuristic must be a tensor, got int"),
        (
            {"heuristic": lambda states, rows, masks: masks["oven"]},
            r"heuristic raised KeyError in test_rule_dynamics.py:\d+: .*oven",
        ),
        (
            {"reward": lambda before, actions, after: after.lost},
            "reward raised AttributeError in test_rule_dynamics.py",
        ),
        ({"head_masks": lambda states, rows: {"tin": rows["none"]}}, "head_masks raised KeyError in test_rule"),
        (
            {"rows_start": {"power": lambda states: states[..., 99]}},
            "rows_start of power raised IndexError in test_rule",
        ),
        (
            {"rows": lambda before, actions, after, rows, noise: {"power": rows["pwr"]}},
            "rows raised KeyError in test_rule_dynamics.py:.*'pwr'; the rows are 'power', 'customers', 'day'",
        ),
        ({"uniforms": 0}, "clocks raised RuntimeError in bakery.py:.*; noise has 0 columns, uniforms= says how many"),
        (
            {"clocks": gives(lambda s: {"weight": s[..., 4].float()})},
            r"clocks: 'weight' is torch.float32 \(64, 3\) on cpu; wanted torch.int32 \(64, 3\)",
        ),
        (
            {"clocks": gives(lambda s: {"weight": s[..., 4] > 0})},
            r"clocks: 'weight' is torch.bool .* wanted torch.int32",
        ),
        ({"clocks": gives(lambda s: {"weight": 3})}, "clocks: 'weight' must be a tensor, got int"),
        (
            {"rows": gives(lambda s: {"hour": s[:, 0, 0]})},
            "rows gives 'hour', which is no row; there is 'power', 'cust",
        ),
        (
            {"rows": gives(lambda s: {"power": s[..., 0] > 2})},
            r"rows: 'power' is torch.bool \(64, 3\) on cpu; wanted .*64,",
        ),
        ({"rows": gives(lambda s: {"day": s[:, 0, 0] * 0})}, "rows: 'day' becomes 0; wanted WEEK or FEAST"),
        ({"rows": gives(lambda s: None)}, "rows must give a mapping from name to tensor, got NoneType"),
        (
            {"rows_start": {"power": gives(lambda s: s[:1, 0, 0])}},
            r"rows_start of power: 'power' is torch.int32 \(1,\)",
        ),
        ({"head_masks": gives(lambda s: {"tin": s[:, 0, 0] > 1})}, r"head_masks 'tin' has shape \(64,\)"),
    ],
)
@NEVER
def test_functions_that_give_something_else_are_named(changes: Any, reason: str) -> None:
    """Before a step, whatever the number of environments."""
    with pytest.raises(ValueError, match=reason):
        make(1, bakery.make(**changes))


def enum_reward(before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    return torch.where(after[..., 0] == Loaf.BURNT, 1.0, 0.0).sum(-1)


def enum_clocks(before: Tensor, actions: Tensor, after: Tensor, rows: Any, noise: Tensor) -> dict[str, Tensor]:
    return {"weight": torch.where(after[..., 0] == Loaf.DONE, 1, after[..., 4]).int()}


def enum_rows(before: Tensor, actions: Tensor, after: Tensor, rows: Any, noise: Tensor) -> dict[str, Tensor]:
    return {"power": rows["power"] | (actions[:, 3] == Do.WATER)}


def enum_head_masks(states: Tensor, rows: Any) -> dict[str, Tensor]:
    return {"tin": torch.stack([rows["power"], rows["day"] == Day.FEAST], -1)}


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["reward", "clocks", "rows", "head_masks"])
def test_comparisons_that_compiled_code_does_not_make_are_named(name: str) -> None:
    dynamics = bakery.make(**{name: globals()[f"enum_{name}"]})
    assert make(2, dynamics).num_envs == 2  # op by op it is right
    with pytest.raises(ValueError, match=rf"^{name}.*compare with int\(Stage.NAME\)"):
        make(2, dynamics, mode="compiled")


def test_an_environment_of_other_rules() -> None:
    strict = LifecycleEnv(RULES, 2, ["x", "y"], dynamics=DYNAMICS, strict=True)
    assert strict.obs_names[0] == "x: stage NONE"
    sell = replace(RULES.op_rules[Do.SELL], when=())
    for rules, reason in (
        (em.ruleset("esper-2025-12"), "has the rules esper-2025-12, and its RuleDynamics those of bakery: make both"),
        (replace(RULES, op_rules=[sell if op.id == Do.SELL else op for op in RULES.op_rules]), "others of this name"),
    ):
        with pytest.raises(ValueError, match=reason):
            LifecycleEnv(rules, 2, dynamics=DYNAMICS)


def test_transitions_that_nothing_takes_are_a_note() -> None:
    leaves = {Loaf.BAKING: (Loaf.DONE, {1: 1}), Loaf.DONE: {Loaf.NONE: 0.5}}
    with pytest.warns(
        UserWarning, match="^bakery: neither an op nor leaves takes DONE -> BURNT; BURNT -> NONE$"
    ) as told:
        dynamics = bakery.make(leaves=leaves)
    assert told[0].filename == bakery.__file__
    assert make(2, dynamics).num_envs == 2
