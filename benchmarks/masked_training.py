"""Training with masks against training without, at equal environment steps: ``python -m benchmarks.masked_training``.

    masked      the library's actor-critic as it is
    unmasked    the same network and the same update, drawing from all that exists: every op, every slot given an op
                that uses one, whatever the rules leave to the other heads at all. The environment takes an illegal
                action for WAIT and counts it
    penalized   unmasked, and an illegal action costs points (not counted in returns)

Every arm is checked before it is trained: what is stored is what was drawn from, the ratio of probabilities before the
first optimizer step is 1, and the environment counts exactly the actions that its masks do not permit.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import esper_masks as em
from benchmarks.tables import new_table
from esper_masks.bench.plot import check_plot
from esper_masks.bench.suite import BenchError, machine
from esper_masks.files import check_output, write_file
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, PPOConfig, StepInfo
from esper_masks.rollout.training.train import BASELINES, TrainSettings, learned, returns_of
from esper_masks.viz import compare_trainings
from esper_masks.viz.style import save

RULES = "esper-2025-12"
ARMS = ("masked", "unmasked", "penalized")
REACHED = (0.5, 0.9)  # parts of the heuristic's return
EVALUATED = 8192  # episodes behind the return of a policy at the end, and of a baseline
NEAR = 1e-4  # most that a ratio in a minibatch may be off by rounding, since its layers run over other rows at once
Result = dict[str, Any]


class AllLegal(em.MaskEngine):
    """An engine that masks nothing: every op that some state allows is legal in every slot."""

    def forward(self, states: Tensor, *_: Any, **__: Any) -> em.ActionMasks:
        words = torch.full_like(states[..., 0], self.layout.possible)
        return em.ActionMasks(self.layout, words, torch.full_like(words[..., 0], self.layout.possible))


class PenalizedEnv(LifecycleEnv):
    """An environment that charges for illegal actions; the returns in ``info`` are as without."""

    penalty = 0.1  # points

    def step(self, actions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, StepInfo]:
        before = self.illegal_actions
        obs, reward, terminated, truncated, info = super().step(actions, noise)
        return obs, reward - self.penalty * (self.illegal_actions - before), terminated, truncated, info


def build(arm: str, slots: int, seed: int, options: argparse.Namespace) -> PPO:
    """A training that has not begun; arms of one seed begin with the same weights. Seeds torch's own generator."""
    torch.manual_seed(seed)
    rules, ids = em.ruleset(RULES), [f"slot{i}" for i in range(slots)]
    env = (PenalizedEnv if arm == "penalized" else LifecycleEnv)(rules, options.envs, ids, seed=seed)
    if isinstance(env, PenalizedEnv):
        env.penalty = options.penalty
    engine = env.engine if arm == "masked" else AllLegal(rules, ids)
    policy = FactoredActorCritic(em.DecisionStep(engine, mode="eager"), env.obs_size, TrainSettings().width)
    return PPO(env, policy, PPOConfig(horizon=options.steps))


def check(ppo: PPO, masked: bool) -> float:
    """Whether rows are what they should be, after an iteration; returns how far ratios are from 1 at most.

    Raises:
        AssertionError: a row that is not.
    """
    ppo.iterate()
    ppo.rollout()
    buffer, env, layout = ppo.buffer, ppo.env, ppo.env.engine.layout
    if not masked:
        words = buffer.slot_words
        assert (words == layout.possible).all(), "stored masks are not those that were drawn from"
    rows = buffer.minibatch(torch.arange(buffer.steps * buffer.batch))
    assert rows.active.all(), "a row that did not act"
    assert rows.masks.permits(rows.actions).all(), "an action that its own masks do not permit"
    with torch.no_grad():
        obs = ppo.obs_moments(rows.fields["obs"])
        scored = ppo.policy.evaluate_actions(obs, rows.masks, rows.actions, active=rows.active)
        off = float(((scored.evaluation.log_prob - rows.log_prob).exp() - 1).abs().max())
    assert off < NEAR, f"a ratio is off by {off} before the first optimizer step"
    env.reset()
    counted = torch.zeros_like(env.illegal_actions)
    before = env.illegal_actions
    for _ in range(env.dynamics.episode_length):
        acted = ppo.policy.act(ppo.obs_moments(env.obs), env.states, env.total_seeds)
        assert torch.equal(_score(ppo, acted.decision), acted.decision.log_prob), "a ratio of one step is not 1"
        counted = counted + ~env.masks().permits(acted.decision.actions)
        env.step(acted.decision.actions)
    assert torch.equal(env.illegal_actions - before, counted), "the environment counts other actions as illegal"
    assert bool(counted.any()) != masked, f"{int(counted.sum())} actions were illegal"
    return off


def _score(ppo: PPO, decision: Any) -> Tensor:
    """What the update makes of the decision that was taken last."""
    masks = em.ActionMasks.from_words(ppo.env.engine.layout, decision.slot_words)
    with torch.no_grad():
        scored = ppo.policy.evaluate_actions(ppo.obs_moments(ppo.env.obs), masks, decision.actions)
    return scored.evaluation.log_prob


def train(ppo: PPO, steps: int) -> Result:
    """A training to its end: what each iteration gave, and how long all took."""
    curve: dict[str, list[float]] = {"env_steps": [], "return_mean": [], "illegal_share": []}
    began = perf_counter()
    while ppo.env_steps < steps:
        before = ppo.env.illegal_actions.sum(), ppo.env_steps
        figures = ppo.iterate()
        illegal = int(ppo.env.illegal_actions.sum() - before[0]) / (ppo.env_steps - before[1])
        for name, value in zip(curve, (ppo.env_steps, round(figures["return_mean"], 4), round(illegal, 6))):
            curve[name].append(value)
    return {"curve": curve, "seconds": round(perf_counter() - began, 2)}


def run(options: argparse.Namespace) -> Result:
    """Every arm, seed and number of slots."""
    torch.set_num_threads(options.threads)
    names = ("steps", "envs", "penalty", "threads")
    settings = {"rules": RULES, **{name: getattr(options, name) for name in names}, "width": TrainSettings().width}
    config = asdict(PPOConfig(horizon=options.steps))
    result = {**machine("cpu"), "settings": settings, "config": config, "baselines": [], "runs": []}
    for slots in options.slots:
        like = LifecycleEnv(em.ruleset(RULES), EVALUATED, [f"slot{i}" for i in range(slots)])
        torch.manual_seed(0)
        for name, policy in BASELINES.items():
            mean, error, _ = returns_of(policy, like, seed=1)
            result["baselines"].append({"slots": slots, "policy": name, "return_mean": mean, "standard_error": error})
        for arm in options.arms:
            off = check(build(arm, slots, 0, options), arm == "masked")
            for seed in range(options.seeds):
                ppo = build(arm, slots, seed, options)
                row = {"slots": slots, "arm": arm, "seed": seed, **train(ppo, options.steps), "ratio_off": off}
                row["return_mean"], row["standard_error"], _ = returns_of(learned(ppo), like, seed=10_000 + seed)
                result["runs"].append(row)
                end = f"return {row['return_mean']:.2f}, illegal {row['curve']['illegal_share'][-1]:.2%}"
                print(f"{slots} slots, {arm}, seed {seed}: {end}, {row['seconds']:.0f} s", file=sys.stderr, flush=True)
    return result


# -- what is shown ----------------------------------------------------------------------------------------------------


def groups(result: Result) -> Iterator[tuple[int, float, dict[str, list[Result]]]]:
    """Numbers of slots, the heuristic's return there, and the runs of each arm."""
    for slots in dict.fromkeys(row["slots"] for row in result["runs"]):
        rows = [row for row in result["runs"] if row["slots"] == slots]
        heuristic = next(b for b in result["baselines"] if (b["slots"], b["policy"]) == (slots, "heuristic"))
        arms = {arm: [row for row in rows if row["arm"] == arm] for arm in ARMS}
        yield slots, heuristic["return_mean"], {arm: rows for arm, rows in arms.items() if rows}


def print_result(console: Console, result: Result) -> None:
    """Returns at the end over seeds, how soon parts of the heuristic's were reached, and illegal actions."""
    settings, facts = result["settings"], result["machine"]
    console.print(f"{facts['cpu']}, threads: {settings['threads']}, torch {result['versions']['torch']}")
    console.print(f"{settings['rules']}, {settings['envs']:,} environments, {settings['steps']:,} steps in all")
    console.print("\nreturn  of an episode at the end, accuracy points: mean (range) of seeds")
    console.print("50 %    environment steps in millions until a training's return was that part")
    console.print("        of the heuristic's, for the slowest seed; ! seeds that never were there")
    console.print("illegal share of actions in the first iteration, in the last, and in all")
    for slots, heuristic, arms in groups(result):
        reached = [f"{100 * part:.0f} %" for part in REACHED]
        table = new_table(f"{slots} slots", "return", "range", *reached, "illegal", "last", "all")
        for arm, rows in arms.items():
            ends = [row["return_mean"] for row in rows]
            after = [_slowest([_steps_to(row["curve"], part * heuristic) for row in rows]) for part in REACHED]
            shares = [row["curve"]["illegal_share"] for row in rows]
            told = [_mean(share[at] for share in shares) for at in (0, -1)] + [_mean(map(_mean, shares))]
            cells = [f"{_mean(ends):.2f}", f"{min(ends):.2f} to {max(ends):.2f}", *after, *(f"{x:.1%}" for x in told)]
            table.add_row(arm, *cells)
        for row in result["baselines"]:
            if row["slots"] == slots:
                table.add_row(row["policy"], f"{row['return_mean']:.2f}", f"± {row['standard_error']:.2f}")
        console.print(table)


def _steps_to(curve: dict[str, list[float]], level: float) -> float | None:
    return next((steps for steps, mean in zip(curve["env_steps"], curve["return_mean"]) if mean >= level), None)


def _slowest(steps: Sequence[float | None]) -> str:
    there = [number for number in steps if number is not None]
    return f"{max(there) / 1e6:.2f}" if len(there) == len(steps) else f"{len(steps) - len(there)} of {len(steps)}!"


def _mean(values: Any) -> float:
    numbers = list(values)
    return float(sum(numbers) / len(numbers))


def plot(result: Result, path: str) -> None:
    """Write the picture of ``viz.compare_trainings``, a column for each number of slots."""
    parts = list(groups(result))
    curves = {
        f"{slots} slots": {arm: [row["curve"] for row in rows] for arm, rows in arms.items()}
        for slots, _, arms in parts
    }
    figure = compare_trainings(curves, {f"{slots} slots": heuristic for slots, heuristic, _ in parts})
    seeds = len({row["seed"] for row in result["runs"]})
    figure.suptitle(f"{result['settings']['rules']}, seeds: {seeds} (line: mean, band: least to most)", fontsize=10)
    save(figure, path)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masked_training", description="See the module.")
    parser.add_argument("--slots", type=int, nargs="+", default=[3, 16], metavar="N")
    parser.add_argument("--steps", type=int, default=3_000_000, metavar="N", help="of all environments together")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each arm")
    parser.add_argument("--envs", type=int, default=1024, metavar="N")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--penalty", type=float, default=0.1, metavar="POINTS", help="of an illegal action")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw it: .png, .svg or .pdf (extra `viz`)")
    parser.add_argument("--from", dest="source", metavar="FILE", help="print or draw a result instead of training")
    options = parser.parse_args(arguments)
    try:
        for path in filter(None, (options.output, options.plot)):
            check_output(path, filter(None, [options.source]))
        if options.plot:
            check_plot(options.plot)
    except (BenchError, OSError) as error:
        parser.error(str(error))
    result = json.loads(Path(options.source).read_text(encoding="utf-8")) if options.source else run(options)
    print_result(Console(highlight=False), result)
    if options.output:
        write_file(options.output, f"{json.dumps(result, indent=1)}\n".encode())
    if options.plot:
        plot(result, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
