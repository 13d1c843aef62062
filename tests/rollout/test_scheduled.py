"""June's environment: in lockstep with a twin in plain loops, tables by hand, every mode, baselines."""

import math
import pickle
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import esper_masks as em
from esper_masks.cli.common import find_rules
from esper_masks.cli.train import find_dynamics
from esper_masks.rollout import Calibration, LifecycleEnv, ScheduledAssumptions, ScheduledDynamics
from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.env.calibration import Improvement
from esper_masks.rollout.training.train import TrainSettings, build
from tests.helpers import HOST_READS, OpRecorder
from tests.rollout.scheduled_twin import CNN, TRANSFORMER, ScheduledTwin

JUNE = em.ruleset("esper-2026-06")
STAGES, OPS = JUNE.stages, JUNE.ops
HEADS = ("slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve", "op")
ALL = ("G1", "G2", "G3")
SURE = ScheduledAssumptions(refusal=0.0, strict_refusal=0.0, noise=0.0)


def make(batch: int = 1, slots: int = 3, max_seeds: int = 0, mode: Any = "eager", **settings: Any) -> LifecycleEnv:
    """Settings that the rules have are switches; others are of the dynamics."""
    switches = {name: settings.pop(name) for name in JUNE.switches if name in settings}
    dynamics = partial(ScheduledDynamics, **settings)
    ids = [f"s{i}" for i in range(slots)]
    return LifecycleEnv(JUNE, batch, ids, max_seeds=max_seeds, mode=mode, dynamics=dynamics, **switches)


def act(op: str, slot: int = 0, **choices: str) -> list[int]:
    """An action by names, with the first choice that is legal for the rest."""
    values = {"blueprint": "NORM", "style": "LINEAR_ADD", "tempo": "STANDARD", "alpha_target": "FULL"} | choices
    row = {"slot": slot, "op": int(OPS[op])}
    return [row[name] if name in row else _index(name, values.get(name)) for name in HEADS]


def _index(head: str, name: str | None) -> int:
    return JUNE.head(head).choices.index(name) if name else 0


def play(env: LifecycleEnv, *actions: list[int], noise: Tensor | None = None) -> Tensor:
    """Rewards of actions, the same in every environment; noise is that of mean seeds that no gate refuses."""
    given = torch.full((env.num_envs, env.dynamics.uniforms), 0.5) if noise is None else noise
    rewards = [env.step(torch.tensor([action]).expand(env.num_envs, -1), given)[1] for action in actions]
    return torch.stack(rewards)


WAIT = act("WAIT")


def stage_of(env: LifecycleEnv, slot: int = 0) -> str:
    return STAGES(int(env.states[0, slot, 0])).name


def some_actions(env: LifecycleEnv, generator: torch.Generator, legal: bool = False) -> Tensor:
    """Legal ones at random, most of them of ops by which seeds get on; every fourth row anything at all."""
    masks = env.masks()
    noise = torch.rand(env.num_envs, len(HEADS), generator=generator)
    logits = torch.zeros(env.num_envs, env.engine.layout.logit_size)
    logits[:, -6:] = torch.tensor([0.0, 1, 0, -2, -1, 1.5])  # in the order of the ops
    actions = em.FactoredCategorical(logits, masks).sample(noise=noise)
    anything = torch.randint(-1, 7, actions.shape, generator=generator)
    return actions if legal else torch.where(torch.arange(env.num_envs).unsqueeze(-1) % 4 == 0, anything, actions)


def twins(env: LifecycleEnv, **settings: Any) -> list[ScheduledTwin]:
    return [ScheduledTwin(env.engine.rules, len(env.engine.slot_ids), **settings) for _ in range(env.num_envs)]


def assert_in_step(env: LifecycleEnv, others: list[ScheduledTwin]) -> None:
    assert env.states.tolist() == [[list(row) for row in twin.slot_words()] for twin in others]
    assert env.total_seeds.tolist() == [twin.seeds for twin in others]
    assert env.state.epoch.tolist() == [twin.epoch for twin in others]
    fields = [twin.fields() for twin in others]
    for name in fields[0]:
        mine, its = getattr(env.state, name).T, torch.tensor([field[name] for field in fields])
        if mine.dtype == torch.int32:
            assert mine.tolist() == its.tolist(), name
        else:
            torch.testing.assert_close(mine, its.float(), rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    for name in ("gain", "rise", "returns"):
        expected = torch.tensor([getattr(twin, name) for twin in others])
        torch.testing.assert_close(getattr(env.state, name), expected, rtol=1e-4, atol=2e-3, msg=name)


def observed(env: LifecycleEnv, twin: ScheduledTwin) -> list[float]:
    seen = twin.observe()
    assert set(seen) <= set(env.obs_names)
    return [seen.get(name, 0.0) for name in env.obs_names]


LOCKSTEP: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"slots": 3}, {}),
    ({"slots": 1, "episode_length": 40, "reward": "shaped", "automatic": ("G1",)}, {}),
    ({"slots": 3, "strict": True, "reward": "shaped", "max_seeds": 2}, {"refusal": 0.3}),
    (
        {"slots": 8, "topology": "transformer", "reward": "shaped", "max_seeds": 5},
        {"params": TRANSFORMER, "rent": 6e-8, "host": 10_000_000},
    ),
    ({"slots": 3, "automatic": ALL, "disable_advance": True, "reward": "shaped", "episode_length": 60}, {}),
    ({"slots": 3, "automatic": ("G2", "G3"), "strict": True, "allow_governor_override": True}, {"refusal": 0.3}),
    (
        {"slots": 2, "topology": "transformer", "allow_governor_override": True, "automatic": ("G3",)},
        {"params": TRANSFORMER, "rent": 6e-8, "host": 10_000_000},
    ),
    (
        {"slots": 3, "allow_governor_override": True, "reward": "shaped"}
        | {"assumptions": ScheduledAssumptions(refusal=0.5, rent=1e-4, noise=3.0, host=50)},
        {"refusal": 0.5, "rent": 1e-4, "noise": 3.0, "host": 50},
    ),
]


@pytest.mark.parametrize(("settings", "of_twin"), LOCKSTEP)
def test_lockstep_with_plain_loops(settings: dict[str, Any], of_twin: dict[str, Any]) -> None:
    batch, length = 8, settings.get("episode_length", 110)
    env = make(batch, **{"episode_length": length} | settings)
    shared = {name: settings[name] for name in ("max_seeds", "automatic", "strict", "reward") if name in settings}
    others = twins(env, length=length, **shared, **of_twin)
    generator = torch.Generator().manual_seed(settings["slots"])
    illegal, reached = torch.zeros(batch, dtype=torch.int64), set()
    for _ in range(120):
        actions = some_actions(env, generator)
        noise = torch.rand(batch, env.dynamics.uniforms, generator=generator)
        before = pickle.loads(pickle.dumps(others)) if others[0].epoch + 1 == length else []  # our own
        obs, reward, terminated, _, info = env.step(actions, noise)
        rows = zip(others, actions.tolist(), noise.tolist())
        results = [twin.step(dict(zip(HEADS, action)), numbers) for twin, action, numbers in rows]
        assert terminated.tolist() == [ends for _, ends, _ in results]
        wanted = torch.tensor([points for points, _, _ in results])
        torch.testing.assert_close(reward, wanted, rtol=1e-4, atol=1e-3)
        illegal += torch.tensor([not legal for _, _, legal in results])
        assert_in_step(env, others)
        seen = torch.tensor([observed(env, twin) for twin in others])
        torch.testing.assert_close(obs, seen, rtol=1e-4, atol=1e-4)
        reached |= {slot.stage for twin in others for slot in twin.slots}
        if terminated.any():
            for twin, action, numbers in zip(before, actions.tolist(), noise.tolist()):
                twin.step(dict(zip(HEADS, action)), numbers, reset=False)
            finals = torch.tensor([observed(env, twin) for twin in before])
            torch.testing.assert_close(info["final_obs"], finals, rtol=1e-4, atol=1e-4)
    assert torch.equal(env.illegal_actions, illegal)
    assert illegal.sum() > 100
    assert {"BLENDING", "HOLDING", "FOSSILIZED", "PRUNED", "EMBARGOED", "RESETTING"} <= reached


def test_the_twin_can_disagree() -> None:
    env = make(2)
    others = twins(env, length=150)
    assert_in_step(env, others)
    others[1].slots[2].in_stage = 1
    with pytest.raises(AssertionError, match="in_stage"):
        assert_in_step(env, others)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_the_schedule_by_hand() -> None:
    """Manual, tempo 5: GERMINATE in epoch 1, ADVANCE in 2, 12 and 17, FOSSILIZE in 18; in between it is refused."""
    env = make(assumptions=SURE)
    ops = {1: act("GERMINATE"), 18: act("FOSSILIZE")}
    at_end = {1: "GERMINATED", 2: "TRAINING", 12: "BLENDING", 17: "HOLDING", 18: "FOSSILIZED"}
    stage = ""
    for epoch in range(1, 25):
        play(env, ops.get(epoch, act("ADVANCE") if epoch < 18 else WAIT))
        stage = at_end.get(epoch, stage)
        assert stage_of(env) == stage, epoch
        assert env.states[0, 0, 1] == epoch  # age at the next decision, t - t0
    assert env.illegal_actions.sum() == 0


@pytest.mark.parametrize(
    ("tempo", "epochs", "strict"),
    [("FAST", 3, False), ("STANDARD", 5, False), ("SLOW", 8, False), ("FAST", 10, True), ("SLOW", 10, True)],
)
def test_the_automatic_schedule_by_hand(tempo: str, epochs: int, strict: bool) -> None:
    """GERMINATE at t0: TRAINING at the end of t0, BLENDING of t0 + 10, HOLDING of t0 + 10 + N; nothing after that.

    A strict G3 waits for ten epochs in BLENDING.
    """
    env, stages = make(assumptions=SURE, automatic=ALL, disable_advance=True, strict=strict), []
    play(env, act("GERMINATE", tempo=tempo))
    for _ in range(40):
        stages.append(stage_of(env))
        play(env, WAIT)
    assert stages == ["TRAINING"] * 10 + ["BLENDING"] * epochs + ["HOLDING"] * (30 - epochs)


GROWN = {
    "GERMINATED": [act("GERMINATE"), *[WAIT] * 5],
    "TRAINING": [act("GERMINATE"), act("ADVANCE"), *[WAIT] * 4],
    "BLENDING": [act("GERMINATE"), act("ADVANCE"), *[WAIT] * 9, act("ADVANCE"), *[WAIT] * 4],
    "HOLDING": [act("GERMINATE"), act("ADVANCE"), *[WAIT] * 9, act("ADVANCE"), *[WAIT] * 4, act("ADVANCE")],
}


@pytest.mark.parametrize(
    ("stage", "speed", "events"),
    [  # the stage at the end of each epoch from that of the PRUNE on, t
        ("GERMINATED", "INSTANT", "EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),
        ("GERMINATED", "SLOW", "EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),  # alpha is 0
        ("TRAINING", "FAST", "EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),
        ("BLENDING", "INSTANT", "EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),
        ("HOLDING", "INSTANT", "EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),
        ("BLENDING", "FAST", "BLENDING BLENDING PRUNED EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),
        ("HOLDING", "FAST", "BLENDING BLENDING PRUNED EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT"),
        (
            "HOLDING",
            "MEDIUM",
            "BLENDING BLENDING BLENDING BLENDING PRUNED EMBARGOED EMBARGOED EMBARGOED RESETTING DORMANT",
        ),
    ],
)
def test_the_way_of_a_pruned_seed_by_hand(stage: str, speed: str, events: str) -> None:
    """PRUNE at once at t: EMBARGOED at the end of t, RESETTING of t + 3, empty of t + 4, GERMINATE legal at t + 5; with
    a ramp of N: PRUNED at the end of t + N - 1, and all of it N epochs later.
    """
    env = make(assumptions=SURE)
    play(env, *GROWN[stage])
    assert stage_of(env) == stage
    germinable, stages = [], []
    for epoch in range(len(events.split())):
        germinable.append(bool(env.masks()["op"][0, int(OPS.GERMINATE)]))
        play(env, act("PRUNE", alpha_speed=speed) if epoch == 0 else act("PRUNE", slot=1))  # the second is illegal
        stages.append(stage_of(env))
        seed = stages[-1] == "BLENDING"
        assert bool(env.state.quality[0, 0] != 0) == seed  # freed in PRUNED
        assert int(env.states[0, 0, 2]) == (2 if seed else 0)
    assert stages == events.split()
    assert not any(now for now, stage in zip(germinable[1:], stages) if stage != "BLENDING")
    assert env.masks()["op"][0, int(OPS.GERMINATE)]
    assert all(not field[..., 0].any() for field in env.state[1:18])  # an empty slot is all 0


@pytest.mark.parametrize(
    ("curve", "values"),
    [
        ("LINEAR", (1 / 3, 2 / 3, 1)),
        ("COSINE", (0.25, 0.75, 1)),
        ("SIGMOID_GENTLE", (0.2447, 0.7553, 1)),
        ("SIGMOID", (0.117, 0.883, 1)),
        ("SIGMOID_SHARP", (0.018, 0.982, 1)),
    ],
)
def test_curves_by_hand(curve: str, values: tuple[float, ...]) -> None:
    """Down from 1 to .5 in three epochs, and up again; the first step belongs to the epoch of the op."""
    env = make(assumptions=SURE)
    play(env, *GROWN["HOLDING"])
    for target, low, rise in (("HALF", 1.0, -0.5), ("FULL", 0.5, 0.5)):
        settings = {"alpha_target": target, "alpha_speed": "FAST", "alpha_curve": curve}
        alphas, modes = [], []
        for epoch in range(4):
            play(env, WAIT if epoch else act("SET_ALPHA_TARGET", **settings))
            alphas.append(float(env.state.alpha[0, 0]))
            modes.append(int(env.states[0, 0, 2]))
            assert stage_of(env) == "BLENDING"  # HOLDING is left for a target below 1, and not entered by itself
        assert alphas == pytest.approx([low + rise * value for value in (*values, 1)], abs=6e-4)
        assert alphas[2] == low + rise
        assert modes == [[1, 1, 0, 0], [2, 2, 0, 0]][rise < 0]


@pytest.mark.parametrize(
    ("style", "first"),
    [("LINEAR_ADD", 1 / 3), ("LINEAR_MULTIPLY", 1 / 3), ("SIGMOID_ADD", 0.117), ("GATED_GATE", 1 / 3)],
)
@pytest.mark.parametrize(("target", "height"), [("HALF", 0.5), ("SEVENTY", 0.7), ("FULL", 1.0)])
def test_the_first_ramp_is_that_of_the_style(style: str, first: float, target: str, height: float) -> None:
    env = make(assumptions=SURE)
    play(env, act("GERMINATE", style=style, tempo="FAST", alpha_target=target), act("ADVANCE"), *[WAIT] * 9)
    play(env, act("ADVANCE"))
    assert float(env.state.alpha[0, 0]) == pytest.approx(height * first, abs=1e-3)
    play(env, WAIT, WAIT)
    assert float(env.state.alpha[0, 0]) == pytest.approx(height)
    play(env, act("ADVANCE"))  # G3 wants a target of 1
    assert stage_of(env) == ("HOLDING" if target == "FULL" else "BLENDING")
    if target != "FULL":
        play(env, act("SET_ALPHA_TARGET"), act("ADVANCE"))  # FULL, at once
        assert stage_of(env) == "HOLDING"


def test_set_alpha_target_by_hand() -> None:
    env = make(assumptions=SURE)
    play(env, *GROWN["BLENDING"], act("SET_ALPHA_TARGET", style="GATED_GATE", alpha_speed="FAST"))  # it is there
    assert (stage_of(env), float(env.state.alpha[0, 0]), int(env.states[0, 0, 2])) == ("BLENDING", 1, 0)
    assert [int(env.state._asdict()[name][0, 0]) for name in ("style", "steps", "done")] == [3, 3, 0]
    play(env, act("ADVANCE"))
    before = int(env.state.in_stage[0, 0])
    play(env, act("SET_ALPHA_TARGET", alpha_speed="SLOW"))  # FULL in HOLDING: nothing moves
    assert (stage_of(env), int(env.state.in_stage[0, 0])) == ("HOLDING", before + 1)
    play(env, act("SET_ALPHA_TARGET", alpha_target="SEVENTY"))  # at once: back to BLENDING, which begins anew
    assert (stage_of(env), int(env.state.in_stage[0, 0])) == ("BLENDING", 1)
    assert float(env.state.alpha[0, 0]) == pytest.approx(0.7)
    play(env, act("SET_ALPHA_TARGET", alpha_target="FULL", alpha_speed="SLOW"))
    illegal = env.illegal_actions.sum()
    play(env, act("SET_ALPHA_TARGET", alpha_target="HALF"), act("PRUNE"))  # a ramp runs
    assert env.illegal_actions.sum() == illegal + 2


def test_set_alpha_target_and_a_gate_that_opens_by_itself() -> None:
    env = make(assumptions=SURE, automatic=("G3",))
    play(env, act("GERMINATE", alpha_target="HALF"), *GROWN["BLENDING"][1:])
    assert (stage_of(env), float(env.state.alpha[0, 0])) == ("BLENDING", 0.5)
    play(env, act("SET_ALPHA_TARGET"))  # FULL, at once: HOLDING at the end of the same epoch
    assert stage_of(env) == "HOLDING"


@pytest.mark.parametrize(
    ("blueprint", "style", "opens"),
    [
        *[("CONV_SMALL", style, False) for style in JUNE.head("style").choices],
        *[(name, "LINEAR_MULTIPLY", False) for name in ("CONV_LIGHT", "CONV_HEAVY", "DEPTHWISE")],
        *[(name, "SIGMOID_ADD", True) for name in ("CONV_LIGHT", "CONV_HEAVY", "DEPTHWISE")],
        *[(name, "LINEAR_MULTIPLY", True) for name in ("NORM", "ATTENTION", "BOTTLENECK")],
    ],
)
def test_seeds_that_are_dead_at_birth(blueprint: str, style: str, opens: bool) -> None:
    for strict in (False, True):
        env = make(assumptions=SURE, strict=strict)
        play(env, act("GERMINATE", blueprint=blueprint, style=style), *[act("ADVANCE")] * 12)
        assert stage_of(env) == ("BLENDING" if opens else "TRAINING")


def test_strict_gates_by_hand() -> None:
    """G3 after ten epochs in BLENDING; G5 at a contribution of 1, which a seed of 0.5 has not."""
    env = make(assumptions=SURE, strict=True)
    play(env, act("GERMINATE"), *[act("ADVANCE")] * 20)
    assert stage_of(env) == "BLENDING"
    play(env, act("ADVANCE"))  # the decision of epoch 22, ten after that of 12
    assert stage_of(env) == "HOLDING"
    env.state.contribution[0] = 0.5
    env.state.quality[0] = 1.5
    play(env, act("FOSSILIZE"))
    assert stage_of(env) == "HOLDING"
    play(env, act("FOSSILIZE"))
    assert stage_of(env) == "FOSSILIZED"
    assert env.illegal_actions.sum() == 0


@pytest.mark.parametrize("refusal", [0.0, 0.25, 1.0])
def test_how_often_the_second_gate_refuses(refusal: float) -> None:
    """Each epoch anew."""
    env = make(4000, assumptions=ScheduledAssumptions(refusal=refusal))
    noise = torch.rand(40, 4000, env.dynamics.uniforms, generator=torch.Generator().manual_seed(0))
    for step, action in enumerate([act("GERMINATE"), act("ADVANCE"), *[WAIT] * 9]):
        play(env, action, noise=noise[step])
    for epoch in range(1, 4):
        play(env, act("ADVANCE"), noise=noise[20 + epoch])
        stays = float((env.states[:, 0, 0] == int(STAGES.TRAINING)).float().mean())
        assert stays == pytest.approx(refusal**epoch, abs=0.03)


def test_an_override_prunes_while_a_ramp_runs() -> None:
    env = make(assumptions=SURE, allow_governor_override=True)
    play(env, act("GERMINATE"), act("ADVANCE"), *[WAIT] * 9, act("ADVANCE"))
    play(env, act("PRUNE", alpha_speed="FAST"))  # a ramp begins from HOLD alone
    assert (stage_of(env), int(env.states[0, 0, 2])) == ("BLENDING", 1)
    play(env, act("PRUNE"))
    assert stage_of(env) == "EMBARGOED"
    assert env.illegal_actions.sum() == 0


def test_the_seed_limit_counts_seeds_that_are_there() -> None:
    env = make(assumptions=SURE, max_seeds=1)
    play(env, *GROWN["TRAINING"])
    assert env.total_seeds.tolist() == [1]
    assert not env.masks()["op"][0, int(OPS.GERMINATE)]
    play(env, act("PRUNE"))
    assert env.total_seeds.tolist() == [0]
    play(env, *[WAIT] * 4, *GROWN["HOLDING"], act("FOSSILIZE"))
    assert env.total_seeds.tolist() == [1]
    assert not env.masks()["op"][0, int(OPS.GERMINATE)]


def test_the_gain_by_hand() -> None:
    """NORM at its mean, 2.5359 points and 129 parameters; the ramp of five epochs; only a fossil counts at the end."""
    mean = Calibration.default().blueprints["norm"].improvement.mean
    env = make(assumptions=replace(SURE, rent=1e-3), episode_length=19)
    rewards = play(env, *GROWN["HOLDING"], act("FOSSILIZE"), WAIT)[:, 0]
    assert rewards[:11].tolist() == pytest.approx([-0.129] * 11, rel=1e-4)
    assert rewards[11:16].tolist() == pytest.approx([mean / 5 - 0.129] * 5, rel=1e-4)
    assert rewards[16:].tolist() == pytest.approx([-0.129] * 3, rel=1e-3)
    env = make(assumptions=replace(SURE, rent=0.0), episode_length=18)
    rewards = play(env, *GROWN["HOLDING"], WAIT)[:, 0]
    assert float(rewards.sum()) == pytest.approx(0, abs=1e-5)
    assert float(rewards[-1]) == pytest.approx(-mean, rel=1e-4)


# -- the shaped reward by hand ----------------------------------------------------------------------------------------


def decision(op: str = "WAIT", stage: str = "HOLDING", **changes: Any) -> dict[str, float]:
    """Terms of one slot, rounded; by default a good seed that was born in epoch 20 and holds for the first epoch."""
    length, age = 50 if changes.pop("last", False) else 150, int(changes.pop("age", 30))
    dynamics = alone(length)
    blueprint = JUNE.head("blueprint").choices.index(str(changes.pop("blueprint", "NORM")))
    values = {"in_stage": 1, "alpha": 1.0, "contribution": 2.0, "epoch": 49, "gain": 2.0, "blueprint": blueprint}
    state = dynamics.fresh(1)
    fields = {name: torch.full_like(getattr(state, name), value) for name, value in (values | changes).items()}
    words = torch.tensor([[[int(STAGES[stage]), age, 0]]], dtype=torch.int32)
    terms = dynamics.shaped_terms(state._replace(states=words, **fields), torch.tensor([act(op)]))
    return {name: round(float(value), 4) for name, value in terms.items()}


@cache
def alone(length: int) -> Any:
    return make(slots=1, episode_length=length).dynamics


@pytest.mark.parametrize(
    ("term", "value", "op", "given"),
    [
        ("contribution", 2.0, "WAIT", {}),  # 2 * 2 * 2 / 4
        ("contribution", 2.4, "WAIT", {"contribution": 3.0}),  # 2 * 2 * 3 / 5
        ("contribution", 1.5, "WAIT", {"contribution": 1.5}),  # less than it won since
        ("contribution", 0.0, "WAIT", {"base": 3.0}),
        ("contribution", -1.0, "WAIT", {"contribution": -1.0}),
        ("contribution", -2.0, "PRUNE", {}),
        ("contribution", 0.92, "WAIT", {"age": 49}),  # born in 1: 0.46
        ("contribution", 2.0, "WAIT", {"age": 40}),  # in 10
        ("contribution", -0.0474, "WAIT", {"gain": -1.0, "contribution": -1.0}),  # sigmoid(-3)
        ("contribution", 0.0, "FOSSILIZE", {"gain": -1.0, "contribution": -1.0}),
        ("contribution", 0.0, "WAIT", {"stage": "TRAINING", "alpha": 0.0, "contribution": 0.0}),
        ("contribution", 0.0, "WAIT", {"stage": "FOSSILIZED"}),
        ("contribution", 0.6, "WAIT", {"stage": "BLENDING", "alpha": 0.0, "contribution": 0.0, "rise": 2.0}),
        ("contribution", 0.0, "WAIT", {"stage": "BLENDING", "alpha": 0.0, "contribution": 0.0, "rise": -2.0}),
        ("contribution", 0.0, "WAIT", {"stage": "TRAINING", "alpha": 0.0, "contribution": 0.0, "rise": 2.0}),
        ("contribution", 2.0, "WAIT", {"stage": "BLENDING", "rise": 2.0}),
        ("ratio", 0.0, "WAIT", {}),
        ("ratio", -0.1, "WAIT", {"gain": 0.2}),  # 2 / 0.2 is 10
        ("ratio", -0.3, "WAIT", {"gain": 0.11, "contribution": 9.0}),
        ("ratio", -0.06, "WAIT", {"gain": 0.05}),
        ("ratio", -0.3, "WAIT", {"gain": 0.0, "contribution": 12.0}),
        ("ratio", 0.0, "WAIT", {"gain": -0.1}),
        ("ratio", 0.0, "WAIT", {"gain": 0.05, "contribution": 0.9}),
        ("blending", -0.15, "WAIT", {"stage": "BLENDING", "gain": -1.0}),
        ("blending", -0.4, "WAIT", {"stage": "BLENDING", "gain": -1.0, "in_stage": 7}),
        ("blending", 0.0, "WAIT", {"stage": "BLENDING"}),
        ("holding", 0.0, "WAIT", {}),
        ("holding", -0.1, "WAIT", {"in_stage": 2}),
        ("holding", -0.2, "SET_ALPHA_TARGET", {"in_stage": 4}),
        ("holding", -0.3, "WAIT", {"in_stage": 9}),
        ("holding", 0.0, "FOSSILIZE", {"in_stage": 9}),
        ("holding", 0.0, "PRUNE", {"in_stage": 9}),
        ("holding", 0.0, "WAIT", {"in_stage": 9, "contribution": -1.0}),
        ("potential", 0.0813, "WAIT", {}),  # .3 * (.995 * 5.8 - 5.5)
        ("potential", 0.088, "WAIT", {"stage": "GERMINATED"}),  # .3 * (.995 * 1.3 - 1)
        ("potential", -0.012, "WAIT", {"stage": "FOSSILIZED", "in_stage": 20}),  # .3 * -.005 * 8
        ("potential", 0.0, "WAIT", {"stage": "EMBARGOED"}),
        ("rent", -0.0119, "WAIT", {}),  # .5 ln(1 + (.0039 * 6418 + 129) / 6418)
        ("rent", -0.9561, "WAIT", {"blueprint": "CONV_LIGHT"}),
        ("rent", -1.5, "WAIT", {"blueprint": "CONV_HEAVY", "alpha": 2.0}),  # as of a larger one
        ("rent", 0.0, "WAIT", {"stage": "TRAINING"}),
        ("shock", -0.001, "WAIT", {"velocity": 0.5}),  # .1958 * .25 * 129 / 6418
        ("shock", -1.0, "WAIT", {"velocity": -1.0, "blueprint": "CONV_LIGHT"}),
        ("occupancy", 0.0, "WAIT", {}),
        ("occupancy", -0.002, "WAIT", {"stage": "FOSSILIZED"}),
        ("op", 0.0, "WAIT", {}),
        ("op", -0.0127, "GERMINATE", {"stage": "DORMANT", "epoch": 0}),  # -.15 + .2985 * .46
        ("op", 0.1485, "GERMINATE", {"stage": "DORMANT"}),
        ("op", -0.1, "ADVANCE", {"stage": "TRAINING"}),
        ("op", 0.0, "ADVANCE", {"stage": "BLENDING"}),
        ("op", -0.005, "SET_ALPHA_TARGET", {}),
        ("op", 0.3229, "FOSSILIZE", {}),  # -.01 + (.5 + .2 + 3 * .3215) / 5
        ("op", 1.6545, "FOSSILIZE", {"in_stage": 6}),
        ("op", -0.21, "FOSSILIZE", {"contribution": 0.9}),
        ("op", -0.71, "FOSSILIZE", {"gain": -1.0, "contribution": 0.0}),
        ("op", -1.01, "FOSSILIZE", {"gain": -1.0, "contribution": 0.5}),
        ("op", -1.51, "FOSSILIZE", {"gain": -9.0, "contribution": 0.0}),
        ("op", -2.145, "PRUNE", {}),  # -.005 - .3 * 5.8 - .4
        ("op", -1.595, "PRUNE", {"contribution": -1.0}),
        ("op", -1.645, "PRUNE", {"contribution": -0.3}),
        ("op", -2.645, "PRUNE", {"contribution": 20.0}),
        ("op", -0.695, "PRUNE", {"stage": "TRAINING", "alpha": 0.0, "contribution": 0.0}),
        ("end", 0.0, "WAIT", {"stage": "TRAINING"}),
        ("end", 0.1, "WAIT", {"last": True}),
        ("end", -0.2469, "WAIT", {"last": True, "stage": "TRAINING"}),  # .1 - .2985 / .995^30
    ],
)
def test_shaped_terms_by_hand(term: str, value: float, op: str, given: dict[str, Any]) -> None:
    assert decision(op, **given)[term] == pytest.approx(value, abs=1.1e-4)


def test_the_slots_of_the_shaped_reward() -> None:
    """WAIT is about the first slot; all others by their own. Occupancy, rent, and the bill at the end are of all."""
    stages = ("TRAINING", "HOLDING", "FOSSILIZED", "EMBARGOED", "PRUNED", "DORMANT")
    dynamics: Any = make(slots=6, episode_length=50).dynamics
    fresh = dynamics.fresh(1)
    values = {"in_stage": 10, "alpha": 1, "contribution": 2, "epoch": 49, "gain": 2, "blueprint": 3}
    fields = {name: torch.full_like(getattr(fresh, name), value) for name, value in values.items()}
    words = torch.tensor([[[int(STAGES[name]), 10, 0] for name in stages]], dtype=torch.int32)
    told = []
    for action in (act("WAIT", slot=1), act("SET_ALPHA_TARGET", slot=1)):
        terms = dynamics.shaped_terms(fresh._replace(states=words, **fields), torch.tensor([action]))
        told.append({name: float(value) for name, value in terms.items()})
    assert told[0]["holding"] == 0
    assert told[1]["holding"] == pytest.approx(-0.3)
    for terms in told:
        assert terms["occupancy"] == pytest.approx(-0.01 * 3 - 0.002)
        assert terms["rent"] == pytest.approx(-0.5 * math.log(1 + 2 * (0.0039 * 6418 + 129) / 6418))
        assert terms["end"] == pytest.approx(0.1 - 0.2985 / 0.995**10)


# -- as an environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["cnn", "transformer"])
@pytest.mark.parametrize("settings", [{}, {"max_seeds": 2, "reward": "shaped"}, {"strict": True, "automatic": ("G1",)}])
def test_legal_actions_are_never_illegal(topology: str, settings: dict[str, Any]) -> None:
    env, generator = make(200, topology=topology, **settings), torch.Generator().manual_seed(1)
    for _ in range(60):
        obs, reward, *_ = env.step(some_actions(env, generator, legal=True))
        assert torch.isfinite(obs).all()
        assert torch.isfinite(reward).all()
        env.engine.check_slots(env.states)
    assert env.illegal_actions.sum() == 0
    head = env.engine.layout.head("blueprint")
    known = CNN if topology == "cnn" else TRANSFORMER
    assert {head.choices[b] for b in env.dynamics.blueprints} == set(known)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"slots": 1, "max_seeds": 1},
        {"topology": "transformer"},
        {"strict": True, "max_seeds": 2},
        {"automatic": ALL, "disable_advance": True},
    ],
)
def test_baselines_are_legal_and_in_order(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    returns = {}
    for policy in (random_legal, always_wait, heuristic):
        env = make(500, episode_length=60, **settings)
        for _ in range(60):
            *_, info = env.step(policy(env))
        assert env.illegal_actions.sum() == 0
        returns[policy] = float(info["returns"].mean())
    assert returns[always_wait] == 0
    assert returns[heuristic] > returns[random_legal] + 1


def test_the_heuristic_by_hand() -> None:
    """GERMINATED 2, TRAINING 3, BLENDING 4, HOLDING 6: holding first, then blended, then young, then empty slots."""
    env = make(8)
    states = [[1, 1, 1], [2, 1, 1], [3, 1, 1], [4, 3, 1], [4, 6, 3], [4, 6, 3], [4, 4, 1], [7, 4, 1]]
    env.states[..., 0] = torch.tensor(states, dtype=torch.int32)
    env.states[..., 1] = 20
    env.states[6, 1, 2] = env.states[7, 1, 2] = 1  # UP: a ramp that runs is waited for
    env.state.in_stage.fill_(10)
    env.state.in_stage[0, 2] = 9
    env.state.weight.fill_(1)
    evidence = [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, -1, 0], [-1, 1, 0], [1, 1, 0.0]]
    env.state.evidence.copy_(torch.tensor(evidence).T)
    wanted = [act("GERMINATE"), act("ADVANCE"), WAIT, act("ADVANCE"), act("FOSSILIZE", 1), act("PRUNE", 1)]
    wanted += [act("PRUNE"), act("GERMINATE", 2)]
    canonical = {name: env.engine.layout.head(name).canonical for name in HEADS}
    for env_at, (action, expected) in enumerate(zip(heuristic(env).tolist(), wanted)):
        op = env.engine.rules.op_rules[expected[-1]]
        assert action[-1] == expected[-1], env_at
        for at, name in enumerate(HEADS):
            choice = expected[at] if name in ("op", "slot", "blueprint") and name in op.uses else canonical[name]
            assert action[at] == choice or name == "op", (env_at, name)


def test_the_heuristic_leaves_out_seeds_that_are_dead() -> None:
    known = Calibration.default()
    best = replace(known.blueprints["norm"], improvement=Improvement(9, 99.0, 1.0))
    env = make(calibration=replace(known, blueprints={**known.blueprints, "conv_small": best}))
    assert int(heuristic(env)[0, 1]) not in (0, JUNE.head("blueprint").choices.index("CONV_SMALL"))


def test_the_rules_have_these_dynamics() -> None:
    env = LifecycleEnv(JUNE, 4, episode_length=30, assumptions=SURE, calibration=Calibration.default())
    assert type(env.dynamics) is ScheduledDynamics
    assert env.dynamics.episode_length == 30
    assert env.dynamics.noise == 0
    assert LifecycleEnv(JUNE, 4).dynamics.episode_length == 150
    assert type(env.another(3, 1).dynamics) is ScheduledDynamics
    with pytest.raises(ValueError, match="mechanics= is of CalibratedDynamics, and esper-2026-06 runs by ScheduledD"):
        LifecycleEnv(JUNE, 4, mechanics=em.rollout.MECHANICS["esper-2025-12"])
    with pytest.raises(ValueError, match=r"^assumptions must be of rollout.ScheduledAssumptions, got Assumptions"):
        LifecycleEnv(JUNE, 4, assumptions=em.rollout.Assumptions())


def test_a_training_begins() -> None:
    ppo = build(JUNE, TrainSettings(envs=16, width=16), em.rollout.PPOConfig(epochs=1, minibatches=1))
    assert type(ppo.env.dynamics) is ScheduledDynamics
    assert ppo.iterate()["illegal_actions"] == 0


def test_a_training_takes_settings_and_switches_from_a_file(tmp_path: Path) -> None:
    """As docs/environment-june.md says; no flag of the command has them."""
    text = [
        "from functools import partial",
        "import esper_masks as em",
        'MINE = em.ruleset("esper-2026-06").resolve(topology="transformer", disable_advance=True)',
        'SHAPED = partial(em.rollout.ScheduledDynamics, reward="shaped", automatic=("G1", "G2", "G3"))',
    ]
    (tmp_path / "june.py").write_text("\n".join(text))
    place, settings = tmp_path / "june.py", TrainSettings(envs=16, width=16)
    few = em.rollout.PPOConfig(epochs=1, minibatches=1)
    ppo = build(find_rules(f"{place}:MINE"), settings, few, dynamics=find_dynamics(f"{place}:SHAPED"))
    dynamics: Any = ppo.env.dynamics
    assert (dynamics.reward, dynamics.automatic, dynamics.host) == ("shaped", ALL, 10_000_000)
    assert ppo.iterate()["illegal_actions"] == 0


def test_what_does_not_fit_is_named() -> None:
    for settings, reason in (
        ({"episode_length": 0}, "episode_length must be an int of at least 1, got 0"),
        ({"calibration": 3}, "calibration must be of rollout.Calibration, got 3"),
        ({"automatic": ("G5",)}, r"automatic must be some of \('G1', 'G2', 'G3'\), got \('G5',\)"),
        ({"automatic": "G1"}, "automatic must be some of"),
        ({"automatic": None}, "automatic must be some of .*, got None"),
        ({"automatic": 3}, "automatic must be some of .*, got 3"),
        ({"automatic": ("G1", ["G2"])}, "automatic must be some of .*, got"),
        ({"disable_advance": True}, r"advance from GERMINATED: ADVANCE is disabled and automatic, \(\), lacks G1"),
        ({"disable_advance": True, "automatic": ("G3", "G1")}, "no seed could ever advance from TRAINING: .* lacks G2"),
        ({"automatic": ALL}, "then the original masks ADVANCE: give disable_advance=True, too"),
        ({"strict": 1}, "strict must be True or False, got 1"),
        ({"reward": "sparse"}, r"reward='sparse' is not one of \('gain', 'shaped'\)"),
        (
            {"assumptions": ScheduledAssumptions(like={})},
            "the calibration lacks the blueprints BOTTLENECK, CONV_SMALL; ",
        ),
        (
            {"calibration": replace(Calibration.default(), unblended=Improvement(0, 0.0, 0.0))},
            "the noise of readings: pass assumptions with noise=, or calibrate",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            make(**settings)
    for name, value in (("refusal", 1.5), ("strict_refusal", -0.1), ("rent", -1.0), ("noise", math.inf), ("host", -1)):
        with pytest.raises(ValueError, match=f"{name} must be a"):
            ScheduledAssumptions(**{name: value})
    december = em.ruleset("esper-2025-12")
    with pytest.raises(em.RulesError, match=r"stages of esper-2025-12 are .*, and ScheduledDynamics knows what th"):
        LifecycleEnv(december, 4, dynamics=ScheduledDynamics)
    stays = {**JUNE.transitions, STAGES.RESETTING: ()}
    fork = replace(JUNE, name="fork", transitions=stays)
    with pytest.raises(em.RulesError, match="fork has no transition RESETTING to DORMANT, which ScheduledDynam"):
        LifecycleEnv(fork, 4, dynamics=ScheduledDynamics)
    with pytest.raises(em.RulesError, match="no mechanics are known for fork"):
        LifecycleEnv(fork, 4)
    for change, reason in (
        (
            {"ADVANCE": {"moves": {STAGES.TRAINING: STAGES.PRUNED}}},
            "ADVANCE .* leads from TRAINING to PRUNED, .* to BLE",
        ),
        (
            {"PRUNE": {"enters": STAGES.BLENDING}},
            "PRUNE of fork may be legal in TRAINING|leads from TRAINING to BLENDING",
        ),
        (
            {"SET_ALPHA_TARGET": {"acts_in": (STAGES.TRAINING,)}},
            "TARGET of fork may be legal in TRAINING, .* it is not",
        ),
    ):
        changed = [replace(op, **change.get(op.name, {})) for op in JUNE.op_rules]
        with pytest.raises(em.RulesError, match=reason):
            LifecycleEnv(replace(JUNE, name="fork", op_rules=changed), 4, dynamics=ScheduledDynamics)
    older = [replace(op, min_age=7) if op.name == "PRUNE" else op for op in JUNE.op_rules]
    LifecycleEnv(replace(JUNE, name="older", op_rules=older), 4, dynamics=ScheduledDynamics)


def test_parameters_are_those_of_the_topology() -> None:
    """Of the switch, where the rules have one; else of what the blueprints tell."""
    both = ("ATTENTION", "NORM")
    head = replace(JUNE.head("blueprint"), legal={"cnn": both, "transformer": both})
    fork = replace(JUNE, name="fork", heads=[head if old.name == "blueprint" else old for old in JUNE.heads])
    norm = head.choices.index("NORM")
    for topology, params in (("cnn", 129), ("transformer", 769)):
        given = {"dynamics": ScheduledDynamics, "topology": topology}
        env: Any = LifecycleEnv(fork, 4, **given)
        assert env.dynamics.params[norm] == params
        assert env.another(3, 1).dynamics.fingerprint == env.dynamics.fingerprint
        env = LifecycleEnv(JUNE.resolve(topology=topology), 4)
        assert env.dynamics.params[norm] == params
    with pytest.raises(em.RulesError, match=r"ATTENTION, NORM may be blueprints of cnn or transformer, .* switch 'top"):
        LifecycleEnv(fork.resolve(topology="transformer"), 4, dynamics=ScheduledDynamics)
    switch = {**JUNE.switches, "topology": ("cnn", "mlp")}
    head = replace(head, legal={"cnn": both, "mlp": both})
    other = replace(fork, switches=switch, heads=[head if old.name == "blueprint" else old for old in fork.heads])
    with pytest.raises(em.RulesError, match="ATTENTION, NORM are not known together, under topology='mlp'; known: for"):
        LifecycleEnv(other, 4, dynamics=ScheduledDynamics, topology="mlp")


def test_other_dynamics_are_told_apart() -> None:
    prints = {make().dynamics.fingerprint}
    others: list[dict[str, Any]] = [{"reward": "shaped"}, {"strict": True}, {"automatic": ("G1",)}, {"slots": 2}]
    others += [{"episode_length": 9}, {"max_seeds": 1}, {"assumptions": SURE}]
    others += [{"assumptions": ScheduledAssumptions(host=7)}, {"assumptions": ScheduledAssumptions(rent=0.0)}]
    prints |= {make(**settings).dynamics.fingerprint for settings in others}
    assert len(prints) == 1 + len(others)
    assert make().dynamics.fingerprint in prints


def test_a_state_goes_on_as_it_was() -> None:
    env, generator = make(20), torch.Generator().manual_seed(0)
    for _ in range(30):
        env.step(some_actions(env, generator))
    saved = pickle.loads(pickle.dumps(env.state_dict()))  # our own
    other = env.another(20, 6)
    other.load_state_dict(saved)
    for _ in range(20):
        actions = some_actions(env, generator)
        ours, theirs = env.step(actions), other.step(actions)
        assert all(torch.equal(mine, its) for mine, its in zip(ours[:4], theirs[:4]))


def test_some_begin_again_and_the_others_stay() -> None:
    env, generator = make(6), torch.Generator().manual_seed(3)
    for _ in range(25):
        env.step(some_actions(env, generator, legal=True))
    before, where = env.state, torch.tensor([True, False] * 3)
    env.reset(where)
    fresh = env.another(6, 0).state
    for name, field in env.state._asdict().items():
        for at, begins in enumerate(where.tolist()):
            wanted = getattr(fresh if begins else before, name)
            index = at if name == "states" else (..., at)
            assert torch.equal(field[index], wanted[index]), (name, at)


def test_nothing_is_read_from_the_device() -> None:
    env, generator = make(20, reward="shaped"), torch.Generator().manual_seed(0)
    actions = some_actions(env, generator)
    with OpRecorder() as recorder:
        env.reset()
        env.masks()
        env.step(actions)[4]["final_obs"]
    assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]


def test_the_callers_dtype_changes_nothing() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        env = make(3, reward="shaped")
        obs, reward, *_ = env.step(torch.zeros(3, 8, dtype=torch.int64))
    finally:
        torch.set_default_dtype(torch.float32)
    assert obs.dtype == reward.dtype == torch.float32


def test_one_graph_for_all_batches() -> None:
    counter = CompileCounterWithBackend("eager")
    env = make(4, reward="shaped", strict=True, automatic=ALL, disable_advance=True)
    step = torch.compile(env.dynamics.advance, fullgraph=True, dynamic=True, backend=counter)
    for batch in (4, 9, 17):
        state = env.dynamics.fresh(batch)
        actions, noise = torch.zeros(batch, 8, dtype=torch.int64), torch.rand(batch, env.dynamics.uniforms)
        actions[:, -1] = int(OPS.GERMINATE)
        actions[:, 1] = 3
        made, outcome = step(state, actions, noise)
        wanted, told = env.dynamics.advance(state, actions, noise)
        for mine, its in zip((*made, *outcome), (*wanted, *told)):
            torch.testing.assert_close(mine, its)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["gain", "shaped"])
def test_compiled_is_eager(reward: str) -> None:
    settings: dict[str, Any] = {"reward": reward, "automatic": ("G1",), "episode_length": 40}
    eager, compiled = make(300, **settings), make(300, mode="compiled", **settings)
    assert torch.equal(eager.reset(), compiled.reset())
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        actions, noise = some_actions(eager, generator), torch.rand(300, eager.dynamics.uniforms, generator=generator)
        ours, theirs = compiled.step(actions, noise), eager.step(actions, noise)
        for mine, other in zip((*ours[:4], *compiled.state), (*theirs[:4], *eager.state)):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)
    assert torch.equal(compiled.illegal_actions, eager.illegal_actions)
