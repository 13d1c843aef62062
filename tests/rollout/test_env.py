"""The environment: in lockstep with a twin in plain loops, in every mode, deterministic, and never read back."""

import math
import pickle
import subprocess
import sys
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.rollout import MECHANICS, Assumptions, Calibration, Improvement, LifecycleEnv, Mechanics
from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.env.calibrated import State, normal_quantile
from tests.helpers import HOST_READS, OpRecorder, assert_near
from tests.rollout.twin import Slot, Twin

RULES = "esper-2025-12"


def make(batch: int = 40, slots: int = 3, rules: str = RULES, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(em.ruleset(rules), batch, [f"s{i}" for i in range(slots)], **settings)


def some_actions(env: LifecycleEnv, generator: torch.Generator, legal: bool = False) -> Tensor:
    """Legal ones at random; every third row anything at all."""
    heads = len(env.engine.layout.heads)
    noise = torch.rand(env.num_envs, heads, generator=generator)
    actions = em.FactoredCategorical(torch.zeros(env.num_envs, _columns(env)), env.masks()).sample(noise=noise)
    anything = torch.randint(-1, 7, actions.shape, generator=generator)
    return actions if legal else torch.where(torch.arange(env.num_envs).unsqueeze(-1) % 3 == 0, anything, actions)


def _columns(env: LifecycleEnv) -> int:
    return sum(head.size for head in env.engine.layout.heads)


def twins(env: LifecycleEnv, **settings: Any) -> list[Twin]:
    one = {"max_seeds": 0, "length": 25, "calibration": Calibration.default(), "assumptions": Assumptions()} | settings
    rules = env.engine.rules
    return [
        Twin(rules=rules, slot_count=len(env.engine.slot_ids), mechanics=MECHANICS[rules.name], **one)
        for _ in range(env.num_envs)
    ]


def assert_in_step(env: LifecycleEnv, others: list[Twin]) -> None:
    stages = {int(stage): stage.name for stage in env.engine.rules.stages}
    state = env.state
    names = [[stages[stage] for stage in row] for row in env.states[..., 0].tolist()]
    assert names == [[slot.stage for slot in twin.slots] for twin in others]
    assert env.states[..., 1].tolist() == [[slot.age for slot in twin.slots] for twin in others]
    for name in ("elapsed", "dwell", "blueprint"):
        assert getattr(state, name).T.tolist() == [[getattr(s, name) for s in twin.slots] for twin in others], name
    for name in ("quality", "evidence", "weight"):
        expected = torch.tensor([[getattr(s, name) for s in twin.slots] for twin in others])
        torch.testing.assert_close(getattr(state, name).T, expected, rtol=1e-5, atol=1e-4, msg=name)
    assert env.total_seeds.tolist() == [twin.seeds for twin in others]
    assert state.epoch.tolist() == [twin.epoch for twin in others]
    for name in ("gain", "returns"):
        expected = torch.tensor([getattr(twin, name) for twin in others])
        torch.testing.assert_close(getattr(state, name), expected, rtol=1e-5, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("rules", "slots", "settings"),
    [
        (RULES, 3, {}),
        (RULES, 1, {"episode_length": 17}),
        (RULES, 5, {"max_seeds": 4}),
        ("esper-2025-11", 2, {"max_seeds": 3, "assumptions": Assumptions(rent=1e-4, noise=3.0)}),
    ],
)
def test_lockstep_with_plain_loops(rules: str, slots: int, settings: dict[str, Any]) -> None:
    env = make(30, slots, rules, **settings)
    known = {name: value for name, value in settings.items() if name != "episode_length"}
    others = twins(env, length=settings.get("episode_length", 25), **known)
    assert_near(env.reset(), torch.tensor([observed(env, twin) for twin in others]))
    generator, heads = torch.Generator().manual_seed(slots), env.engine.layout.head_names
    illegal, ended = torch.zeros(30, dtype=torch.int64), 0
    for _ in range(60):
        actions = some_actions(env, generator)
        noise = torch.rand(30, env.dynamics.uniforms, generator=generator)
        obs, reward, terminated, truncated, info = env.step(actions, noise)
        rows = zip(others, actions.tolist(), noise.tolist())
        before = [pickle.loads(pickle.dumps(twin)) for twin in others]  # our own
        results = [twin.step(dict(zip(heads, action)), numbers) for twin, action, numbers in rows]
        assert terminated.tolist() == [ends for _, ends, _ in results]
        assert not truncated.any()
        torch.testing.assert_close(reward, torch.tensor([points for points, _, _ in results]), rtol=1e-4, atol=1e-4)
        illegal += torch.tensor([not legal for _, _, legal in results])
        assert_in_step(env, others)
        torch.testing.assert_close(obs, torch.tensor([observed(env, twin) for twin in others]), rtol=1e-5, atol=1e-4)
        if terminated.any():
            ended += 1
            for twin, action, numbers in zip(before, actions.tolist(), noise.tolist()):
                twin.step(dict(zip(heads, action)), numbers, reset=False)
            finals = torch.tensor([observed(env, twin) for twin in before])
            torch.testing.assert_close(info["final_obs"], finals, rtol=1e-5, atol=1e-4)
            returns = torch.tensor([twin.returns for twin in before])
            torch.testing.assert_close(info["returns"], returns, rtol=1e-4, atol=1e-3)
    assert torch.equal(env.illegal_actions, illegal)
    assert illegal.sum() > 100
    assert ended >= 2
    assert set(info) == {"returns", "final_obs", "final_masks"}


def observed(env: LifecycleEnv, twin: Twin) -> list[float]:
    names = {int(stage): stage.name for stage in env.engine.rules.stages}
    return twin.observe([names[stage] for stage in env.dynamics.stages], env.dynamics.blueprints)


def test_the_twin_can_disagree() -> None:
    env = make(2)
    others = twins(env)
    others[1].slots[2] = Slot("TRAINING")
    with pytest.raises(AssertionError):
        assert_in_step(env, others)


def test_an_action_is_legal_where_the_masks_permit_it() -> None:
    env, generator = make(500, 4, max_seeds=3), torch.Generator().manual_seed(1)
    for _ in range(40):
        heads = [torch.randint(-2, head.size + 2, (500,), generator=generator) for head in env.engine.layout.heads]
        actions = torch.stack(heads, -1)
        permitted, before = env.masks().permits(actions), env.illegal_actions.clone()
        env.step(actions)
        assert torch.equal(env.illegal_actions - before == 0, permitted)
        env.step(some_actions(env, generator, legal=True))


def test_an_illegal_action_is_to_wait() -> None:
    env, other = make(), make()
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        actions, noise = some_actions(env, generator), torch.rand(40, env.dynamics.uniforms, generator=generator)
        legal = env.masks().permits(actions)
        env.step(actions, noise)
        other.step(torch.where(legal.unsqueeze(-1), actions, 0), noise)
        assert all(torch.equal(mine, its) for mine, its in zip(env.state, other.state))
    assert env.illegal_actions.sum() > 0
    assert other.illegal_actions.sum() == 0


@pytest.mark.slow
def test_compiled_is_eager() -> None:
    eager, compiled = make(300), make(300, mode="compiled")
    assert torch.equal(eager.reset(), compiled.reset())
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        actions, noise = some_actions(eager, generator), torch.rand(300, eager.dynamics.uniforms, generator=generator)
        ours, theirs = compiled.step(actions, noise), eager.step(actions, noise)
        for mine, other in zip(ours[:4], theirs[:4]):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
        for mine, other in zip(compiled.state, eager.state):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)
    assert torch.equal(compiled.illegal_actions, eager.illegal_actions)
    torch.testing.assert_close(ours[4]["final_obs"], theirs[4]["final_obs"], rtol=1e-4, atol=1e-4)
    rewards = [compiled.step(actions)[1] for _ in range(3)]  # noise of its own
    assert not torch.equal(rewards[1], rewards[2])


def test_a_seed_decides_what_happens() -> None:
    runs = [make(seed=seed) for seed in (3, 3, 4)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        actions = some_actions(runs[0], generator, legal=True)
        rewards = [env.step(actions)[1] for env in runs]
        assert torch.equal(rewards[0], rewards[1])
    assert not torch.equal(rewards[0], rewards[2])
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    runs[0].step(actions)
    assert torch.equal(torch.random.get_rng_state(), before)  # torch's own generator is the caller's


def test_a_state_goes_on_as_it_was() -> None:
    env, generator = make(seed=5), torch.Generator().manual_seed(0)
    for _ in range(30):
        env.step(some_actions(env, generator))
    saved = pickle.loads(pickle.dumps(env.state_dict()))  # our own
    other = make(seed=6)
    other.load_state_dict(saved)
    for _ in range(30):
        actions = some_actions(env, generator)
        ours, theirs = env.step(actions), other.step(actions)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))
    assert torch.equal(env.illegal_actions, other.illegal_actions)


def test_some_begin_again_and_the_others_stay() -> None:
    env = LifecycleEnv(em.ruleset(RULES), 4, seed=3)
    for _ in range(6):
        env.step(em.FactoredCategorical(torch.zeros(4, 15), env.masks()).sample())
    before, where = env.state, torch.tensor([True, False, True, False])
    obs = env.reset(where)
    fresh = LifecycleEnv(em.ruleset(RULES), 4)
    for name, field in env.state._asdict().items():
        parts = zip(field.movedim(0 if name == "states" else -1, 0), where.tolist())
        for at, (part, begins) in enumerate(parts):
            wanted = getattr(fresh.state if begins else before, name)
            assert torch.equal(part, wanted.movedim(0 if name == "states" else -1, 0)[at]), (name, at)
    assert env.states.stride() == before.states.stride()
    assert torch.equal(obs[where], fresh.obs[where])
    with pytest.raises(ValueError, match="where must be a bool tensor, got torch"):
        env.reset(torch.tensor([1, 0, 1, 0]))
    with pytest.raises(ValueError, match="where"):
        env.reset(torch.tensor([True, False]))


def test_a_seed_begins_the_noise_again() -> None:
    env = LifecycleEnv(em.ruleset(RULES), 50, seed=3)
    made = []
    for seed in (5, 6, 5):
        env.reset(seed=seed)
        torch.manual_seed(0)
        for _ in range(5):
            obs, *_ = env.step(em.FactoredCategorical(torch.zeros(50, 15), env.masks()).sample())
        made.append(obs)
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


def test_a_state_of_something_else_is_refused() -> None:
    env = make()
    with pytest.raises(ValueError, match="no state_dict of a LifecycleEnv"):
        env.load_state_dict({})
    with pytest.raises(ValueError, match="other rules"):
        env.load_state_dict(make(rules="esper-2025-11").state_dict())
    n = env.num_envs
    with pytest.raises(ValueError, match=f"of 7 environments, and there are {n} here: make them with num_envs=7"):
        env.load_state_dict(make(7).state_dict())
    with pytest.raises(ValueError, match=rf"gain of the state is torch.float64 \({n},\)"):
        env.load_state_dict(env.state_dict() | {"gain": env.state.gain.double()})
    for other in (make(episode_length=9), make(max_seeds=1), make(assumptions=Assumptions(rent=0.0))):
        with pytest.raises(
            ValueError, match="other dynamics, or of other slots, another episode length, seed limit or calibration"
        ):
            env.load_state_dict(other.state_dict())
    for generator in (None, torch.zeros(16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="generator of another kind"):
            env.load_state_dict(env.state_dict() | {"generator": generator})


@pytest.mark.parametrize("slots", [1, 64])
def test_one_slot_and_many(slots: int) -> None:
    env, generator = make(50, slots), torch.Generator().manual_seed(0)
    for _ in range(30):
        obs, reward, *_ = env.step(some_actions(env, generator, legal=True))
        assert obs.shape == (50, env.obs_size)
        assert torch.isfinite(obs).all()
        assert torch.isfinite(reward).all()
    assert env.illegal_actions.sum() == 0


def test_nothing_is_read_from_the_device() -> None:
    env, generator = make(20), torch.Generator().manual_seed(0)
    actions = some_actions(env, generator)
    with OpRecorder() as recorder:
        env.reset()
        env.masks()
        env.step(actions)[4]["final_obs"]
    assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]


def test_seeds_are_what_the_calibration_says() -> None:
    env = make(40_000, 1)
    env.reset()
    germinate = torch.tensor([[0, 3, 0, 1]]).expand(40_000, -1)  # NORM in the one slot
    env.step(germinate)
    statistics = Calibration.default().blueprints["norm"].improvement
    quality = env.state.quality
    assert_near(quality.mean(), statistics.mean, tolerance=0.02)
    noise = Calibration.default().unblended.spread
    assert_near(quality.std(), (statistics.spread**2 - noise**2) ** 0.5, tolerance=0.02)
    wait, ages = torch.zeros(40_000, 4, dtype=torch.int64), torch.zeros(40_000)
    for _ in range(24):
        ages += env.states[:, 0, 0] == 3
        if env.state.epoch[0] == 23:
            ready = env.states[:, 0, 0] == 6
            error = (env.dynamics.improvement(env.state)[0] - quality[0])[ready]
        env.step(wait)
    counts = Calibration.default().dwell["TRAINING"]
    mean = sum(epochs * seeds for epochs, seeds in counts.items()) / sum(counts.values())
    assert_near(ages.mean(), mean, tolerance=0.03)
    assert abs(error.mean()) < 0.02  # readings are of the quality
    assert 0.1 * noise < error.std() < 0.6 * noise  # and many of them are better than one


def test_outcomes_are_those_of_the_logs() -> None:
    """Seeds end where, and as often as, they did in the logs, if ops are as frequent as they were there."""
    calibration, batch = Calibration.default(), 20_000
    env = make(batch, 1, "esper-2025-11")
    stages = env.engine.rules.stages
    hazards = {}
    for stage, ends in calibration.ends.items():
        went_on = calibration.dwell.get(stage, {})
        passed, epochs = sum(went_on.values()), sum(max(n, 1) * seeds for n, seeds in went_on.items())
        if passed:
            share = ends["CULLED"] / (ends["CULLED"] + passed)
            hazards[int(stages[stage])] = 1 - (1 - share) ** (passed / epochs)
    legal = list(env.dynamics.blueprints)
    names = [name.lower() for name in env.engine.rules.head("blueprint").choices]
    weights = torch.tensor([float(calibration.blueprints[names[c]].seeds) for c in legal])
    kept = calibration.ends["PROBATIONARY"]
    kept_share = kept["FOSSILIZED"] / (kept["FOSSILIZED"] + kept["CULLED"])
    generator = torch.Generator().manual_seed(0)
    ended = {(stage, outcome): 0 for stage, ends in calibration.ends.items() for outcome in ends}
    ages, points = [], []
    for _ in range(25):
        stage = env.states[:, 0, 0]
        chance, lot = torch.zeros(batch), torch.rand(batch, generator=generator)
        for number, hazard in hazards.items():
            chance[stage == number] = hazard
        cull = (lot < chance) & (env.states[:, 0, 1] >= 1)
        probation = stage == int(stages.PROBATIONARY)
        keep = probation & (lot < kept_share)
        cull |= probation & ~keep
        blueprint = torch.tensor(legal)[torch.multinomial(weights, batch, replacement=True, generator=generator)]
        op = torch.where(keep, 3, torch.where(cull, 2, torch.where(stage == int(stages.DORMANT), 1, 0)))
        for of, outcome in ended:
            acted = keep if outcome == "FOSSILIZED" else cull
            ended[of, outcome] += int((acted & (stage == int(stages[of]))).sum())
        points.append(env.dynamics.improvement(env.state)[0][keep])
        ages.append(env.states[:, 0, 1][keep | cull].float())
        zero = torch.zeros_like(op)
        env.step(torch.stack([zero, torch.where(op == 1, blueprint, 0), zero, op], -1))
    assert env.illegal_actions.sum() == 0
    logged = {(of, outcome): calibration.ends[of][outcome] for of, outcome in ended}
    for end, seeds in ended.items():
        assert abs(seeds / sum(ended.values()) - logged[end] / sum(logged.values())) < 0.06, end
    parts = [calibration.blueprints[names[c]].improvement for c in legal]
    mean = sum(part.seeds * part.mean for part in parts) / sum(part.seeds for part in parts)
    square = sum(part.seeds * (part.spread**2 + part.mean**2) for part in parts) / sum(part.seeds for part in parts)
    assert abs(torch.cat(points).mean() - mean) < 0.3
    assert abs(torch.cat(points).std() / (square - mean**2) ** 0.5 - 1) < 0.1
    assert 8 < torch.cat(ages).mean() < 12  # the logs' seeds end at 10 or 11 epochs


def test_normal_numbers() -> None:
    uniform = torch.linspace(0, 1, 100_001)
    inner = (uniform.double() * (1 - 2**-23) + 2**-24).clamp(2**-24, 1 - 2**-24)
    expected = torch.tensor([NormalDist().inv_cdf(u) for u in inner.tolist()])
    made = normal_quantile(uniform)
    assert torch.isfinite(made).all()
    torch.testing.assert_close(made[1:-1], expected[1:-1].float(), rtol=1e-4, atol=1e-5)
    assert made.diff().min() >= 0
    assert math.isclose(normal_quantile(torch.rand(1_000_000)).std(), 1, abs_tol=0.01)


OTHER = {em.ruleset(RULES).stages["BLENDING"]: em.ruleset(RULES).stages["CULLED"]}


@pytest.mark.parametrize(
    ("changes", "second", "reason"),
    [
        (
            {"sets": {"mark": True}},
            None,
            "op CULL of marked sets mark, and in CalibratedDynamics ops only move their own sl",
        ),
        (
            {},
            {"sets": {"mark": True}},
            "op CULL of marked moves or sets the slot of the head 'second', and in CalibratedD",
        ),
        ({}, {"moves": OTHER}, "moves or sets the slot of the head 'second', and .* slot: give dynamics of your own"),
        ({}, {}, None),
    ],
)
def test_ops_that_do_more_are_refused(changes: Any, second: Any, reason: str | None) -> None:
    december = em.ruleset(RULES)
    heads = [] if second is None else [em.SlotHead("second", distinct=True, **second)]
    cull = next(op for op in december.op_rules if op.name == "CULL")
    cull = replace(cull, uses=(*cull.uses, *[head.name for head in heads]), **changes)
    ops = [cull if op.name == "CULL" else op for op in december.op_rules]
    rules = replace(december, name="marked", features={"mark": bool}, heads=[*heads, *december.heads], op_rules=ops)
    if reason is None:  # it does no more than to name another slot
        LifecycleEnv(rules, 3, mechanics=MECHANICS[RULES])
        return
    with pytest.raises(em.RulesError, match=reason):
        LifecycleEnv(rules, 3, mechanics=MECHANICS[RULES])


def test_what_does_not_fit_is_named() -> None:
    env = make()
    fits = torch.zeros(40, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="actions has shape"):
        env.step(fits[:3])
    with pytest.raises(ValueError, match=r"actions have shape \(2, 40, 4\)"):
        env.step(fits.expand(2, -1, -1))
    with pytest.raises(ValueError, match="actions must be"):
        env.step(fits.float())
    with pytest.raises(ValueError, match=r"noise is \(40, 3\)"):
        env.step(fits, torch.rand(40, 3))
    for name, value in (("num_envs", 0), ("num_envs", 2.0), ("episode_length", 0), ("seed", -1), ("mode", "fast")):
        with pytest.raises(ValueError, match=name):
            LifecycleEnv(em.ruleset(RULES), **{"num_envs": 3, name: value})
    with pytest.raises(em.RulesError, match="no mechanics are known for mine"):
        LifecycleEnv(replace(em.ruleset(RULES), name="mine"), 3)
    with pytest.raises(em.RulesError, match="no stage 'GONE'"):
        make(mechanics=Mechanics({"GONE": "DORMANT"}, "BLENDING", ("FOSSILIZED",), "FOSSILIZED", ()))
    with pytest.raises(em.RulesError, match="no transition TRAINING to FOSSILIZED"):
        make(mechanics=Mechanics({"TRAINING": "FOSSILIZED"}, "BLENDING", ("FOSSILIZED",), "FOSSILIZED", ()))
    with pytest.raises(em.RulesError, match="`kept` is one of `full`"):
        make(mechanics=Mechanics({}, "BLENDING", ("PROBATIONARY",), "FOSSILIZED", ()))
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        make(mode="cuda-graph")
    for wrong in ({"noise": -0.1}, {"noise": math.inf}, {"rent": math.nan}, {"rent": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            Assumptions(**wrong)
    default = Calibration.default()
    with pytest.raises(ValueError, match="no epochs of BLENDING, GERMINATED"):
        make(calibration=replace(default, dwell={"TRAINING": {3: 1}}))
    few = replace(default, blueprints={"norm": default.blueprints["norm"]})
    with pytest.raises(ValueError, match="lacks the blueprints CONV_LIGHT, ATTENTION, DEPTHWISE"):
        make(calibration=few)
    with pytest.raises(ValueError, match=r"does not tell the noise of readings: pass assumptions with noise="):
        make(calibration=replace(default, unblended=Improvement(0, 0.0, 0.0)))
    make(calibration=replace(default, unblended=Improvement(0, 0.0, 0.0)), assumptions=Assumptions(noise=1.0))
    with pytest.raises(AttributeError, match="no attribute 'rollouts'"):
        em.rollouts  # noqa: B018  # asked for


def test_what_a_step_tells_later_is_of_that_step() -> None:
    env, other = make(seed=2), make(seed=2)
    actions = torch.tensor([[0, 3, 0, 1]]).repeat(40, 1)
    info, same = env.step(actions)[4], other.step(actions)[4]
    final = same["final_obs"]
    actions.zero_()
    env.step(actions)
    assert torch.equal(info["final_obs"], final)
    assert info["final_obs"] is info["final_obs"]


def test_numbers_beyond_int32_are_no_actions() -> None:
    env = make(2)
    env.step(torch.tensor([[2**32, 3, 0, 2**32 + 1], [0, 3, 0, 1]]))
    assert env.illegal_actions.tolist() == [1, 0]


def test_the_callers_dtype_and_modes_change_nothing() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        env = make(3)
        obs, reward, *_ = env.step(torch.zeros(3, 4, dtype=torch.int64))
    finally:
        torch.set_default_dtype(torch.float32)
    assert obs.dtype == reward.dtype == torch.float32
    with torch.inference_mode():
        env = make(3)
        env.step(torch.zeros(3, 4, dtype=torch.int64))
    env.step(torch.zeros(3, 4, dtype=torch.int64))


def test_the_package_loads_no_environment() -> None:
    code = "import sys, esper_masks; assert not any('rollout' in name for name in sys.modules); esper_masks.rollout"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_state_names_its_fields() -> None:
    assert set(make().state_dict()) == {*State._fields, "rules", "task", "generator", "illegal_actions"}


@pytest.mark.parametrize(("rules", "slots", "max_seeds"), [(RULES, 3, 0), (RULES, 1, 2), ("esper-2025-11", 4, 0)])
def test_baselines_are_legal_and_in_order(rules: str, slots: int, max_seeds: int) -> None:
    torch.manual_seed(0)
    returns = {}
    for policy in (random_legal, always_wait, heuristic):
        env = make(2000, slots, rules, max_seeds=max_seeds)
        env.reset()
        for _ in range(25):
            *_, info = env.step(policy(env))
        assert env.illegal_actions.sum() == 0
        returns[policy] = float(info["returns"].mean())
    assert returns[always_wait] == 0
    assert abs(returns[random_legal]) < 1
    assert returns[heuristic] > returns[random_legal] + 1


def test_the_heuristic_by_hand() -> None:
    """PROBATIONARY is 6: judged before slots are filled; a seed that waits is kept unless it measured below 0."""
    env = make(4)
    env.reset()
    env.states[..., 0] = torch.tensor([[1, 1, 1], [3, 6, 1], [3, 6, 6], [3, 4, 7]], dtype=torch.int32)
    env.state.weight.fill_(1)
    env.state.evidence.copy_(torch.tensor([[9, 9, 9], [9, 0, 9], [9, -1, 9], [9, 9, 9.0]]).T)
    assert heuristic(env).tolist() == [[0, 3, 0, 1], [1, 0, 0, 3], [1, 0, 0, 2], [0, 0, 0, 0]]


def test_without_a_stage_of_probation_the_heuristic_judges_nobody() -> None:
    env = make(1, mechanics=replace(MECHANICS[RULES], full=("FOSSILIZED",)))
    env.reset()
    env.states[..., 0] = 6
    assert heuristic(env).tolist() == [[0, 0, 0, 0]]
