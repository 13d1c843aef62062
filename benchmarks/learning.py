"""Training with masks against training without, at equal environment steps.

    masked      the library's actor-critic as it is
    unmasked    the same network and the same update, drawing from all that exists: every op, every slot given an op
                that uses one, whatever the rules leave to the other heads at all. The environment takes an illegal
                action for WAIT and counts it
    penalized   unmasked, and an illegal action costs points (not counted in returns)

Every arm is checked before it is trained: what is stored is what was drawn from, the ratio of probabilities before the
first optimizer step is 1, and the environment counts exactly the actions that its masks do not permit.

``python -m benchmarks.learning -o FILE --plot PICTURE``, twelve minutes on one core; ``--steps 100000`` for a look, and
``--from FILE --plot PICTURE`` to draw what is saved. Ctrl-C keeps the rows that are there.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.bench.suite import BenchError, CheckError, machine, take
from esper_masks.cli.bench import beside, check_files
from esper_masks.cli.common import INTERRUPTED, output, positive, reason_of, tell
from esper_masks.files import write_file
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, PPOConfig, StepInfo
from esper_masks.rollout.env.baselines import BASELINES
from esper_masks.rollout.training.train import TrainSettings
from esper_masks.rollout.training.trained import learned, returns_of
from esper_masks.viz.style import save

PROGRAM = "python -m benchmarks.learning"
ARMS = ("masked", "unmasked", "penalized")
STEPS = 2_000_000  # of all environments, in a training
SEEDS = 5  # trainings of an arm
EVALUATED = 8192  # episodes behind the return of a policy at the end, and of a baseline
NEAR = 1e-4  # most that a ratio in a minibatch may be off by rounding, since its layers run over other rows at once
PENALTY = 0.1  # points


@dataclass(frozen=True)
class Case:
    """A row: an arm, or a policy that nobody trained.

    Args:
        way: one of ``ARMS`` or of ``BASELINES``.
        slots: how many.
        rules: a rule set.
        batch: environments of a training.
    """

    way: str
    slots: int = 3
    rules: str = "esper-2025-12"
    batch: int = 1024

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """Names of the slots."""
        return tuple(f"slot{i}" for i in range(self.slots))


CASES = [Case(way, slots) for slots in (3, 16) for way in (*ARMS, *BASELINES)]


class AllLegal(em.MaskEngine):
    """An engine that masks nothing: every op that some state allows is legal in every slot."""

    def forward(self, states: Tensor, *_: Any, **__: Any) -> em.ActionMasks:
        """Masks of the shape of those that the states would have."""
        words = torch.full_like(states[..., 0], self.layout.possible)
        return em.ActionMasks(self.layout, words, torch.full_like(words[..., 0], self.layout.possible))


class PenalizedEnv(LifecycleEnv):
    """An environment that charges for illegal actions; the returns in ``info`` are as without."""

    def step(self, actions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, StepInfo]:
        """See ``LifecycleEnv.step``."""
        before = self.illegal_actions
        obs, reward, terminated, truncated, info = super().step(actions, noise)
        return obs, reward - PENALTY * (self.illegal_actions - before), terminated, truncated, info


def learn(case: Case, steps: int) -> dict[str, Any]:
    """What the trainings of an arm came to, or the return of a baseline.

    Args:
        case: the row.
        steps: of all environments, in a training.

    Returns: ``return_mean`` and ``standard_error`` of a baseline; of an arm ``steps``, ``ratio_off``, how far ratios
        were from 1 at most before the first optimizer step, and ``runs``: of each seed ``curve`` (of each iteration
        ``env_steps``, ``return_mean`` and ``illegal_share``), ``return_mean`` and ``standard_error`` at the end.
    Raises:
        AssertionError: an arm that is not what it should be.
    """
    torch.manual_seed(0)
    like = LifecycleEnv(em.ruleset(case.rules), EVALUATED, case.slot_ids)
    if case.way in BASELINES:
        return _returns(BASELINES[case.way], like, 1)
    off, runs = check(build(case, 0, steps), case.way == "masked"), []
    for seed in range(SEEDS):
        ppo = build(case, seed, steps)
        curve = train(ppo, steps)
        runs.append({"seed": seed, "curve": curve, **_returns(learned(ppo), like, 10_000 + seed)})
    return {"steps": steps, "ratio_off": off, "runs": runs}


def build(case: Case, seed: int, steps: int) -> PPO:
    """A training that has not begun; arms of one seed begin with the same weights. Seeds torch's own generator."""
    torch.manual_seed(seed)
    rules = em.ruleset(case.rules)
    env = (PenalizedEnv if case.way == "penalized" else LifecycleEnv)(rules, case.batch, case.slot_ids, seed=seed)
    engine = env.engine if case.way == "masked" else AllLegal(rules, case.slot_ids)
    policy = FactoredActorCritic(em.DecisionStep(engine, mode="eager"), env.obs_size, TrainSettings().width)
    return PPO(env, policy, PPOConfig(horizon=steps))


def _returns(policy: Any, like: LifecycleEnv, seed: int) -> dict[str, float]:
    mean, error, _ = returns_of(policy, like, seed=seed)
    return {"return_mean": mean, "standard_error": error}


def check(ppo: PPO, masked: bool) -> float:
    """Whether rows are what they should be, after an iteration; returns how far ratios are from 1 at most.

    Raises:
        AssertionError: a row that is not.
    """
    ppo.iterate()
    ppo.rollout()
    buffer, env, layout = ppo.buffer, ppo.env, ppo.env.engine.layout
    assert masked or (buffer.slot_words == layout.possible).all(), "stored masks are not those that were drawn from"
    rows = buffer.minibatch(torch.arange(buffer.steps * buffer.batch))
    assert rows.active.all(), "a row that did not act"
    assert rows.masks.permits(rows.actions).all(), "an action that its own masks do not permit"
    with torch.no_grad():
        obs = ppo.obs_moments(rows.fields["obs"])
        scored = ppo.policy.evaluate_actions(obs, rows.masks, rows.actions, active=rows.active)
        off = float(((scored.evaluation.log_prob - rows.log_prob).exp() - 1).abs().max())
    assert off < NEAR, f"a ratio is off by {off} before the first optimizer step"
    env.reset()
    before, counted = env.illegal_actions, torch.zeros_like(env.illegal_actions)
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


def train(ppo: PPO, steps: int) -> dict[str, list[float]]:
    """A training to its end: what each iteration gave."""
    curve: dict[str, list[float]] = {"env_steps": [], "return_mean": [], "illegal_share": []}
    while ppo.env_steps < steps:
        before = ppo.env.illegal_actions.sum(), ppo.env_steps
        figures = ppo.iterate()
        illegal = int(ppo.env.illegal_actions.sum() - before[0]) / (ppo.env_steps - before[1])
        for name, value in zip(curve, (ppo.env_steps, round(figures["return_mean"], 4), round(illegal, 6))):
            curve[name].append(value)
    return curve


def summary(row: Mapping[str, Any], heuristic: float) -> dict[str, float | None]:
    """An arm in a line.

    Args:
        row: of the arm, see ``learn``.
        heuristic: the return of that baseline.

    Returns: ``mean``, ``least`` and ``most`` of the seeds' returns at the end; ``reached``, the environment steps until
        the return of a training was nine tenths of the heuristic's, for the slowest seed, None where one never was;
        ``first`` and ``last``, the share of illegal actions in these iterations.
    """
    ends = [run["return_mean"] for run in row["runs"]]
    curves = [run["curve"] for run in row["runs"]]
    reached = [
        next((n for n, mean in zip(curve["env_steps"], curve["return_mean"]) if mean >= 0.9 * heuristic), None)
        for curve in curves
    ]
    first, last = (sum(curve["illegal_share"][at] for curve in curves) / len(curves) for at in (0, -1))
    slowest = None if None in reached else max(filter(None, reached))
    ends_at = {"mean": sum(ends) / len(ends), "least": min(ends), "most": max(ends)}
    return {**ends_at, "reached": slowest, "first": first, "last": last}


def picture(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The curves of all seeds beside the heuristic's return, a column for each number of slots: a ``Figure``."""
    trained = [row for row in rows if "runs" in row]
    curves: dict[str, dict[str, Any]] = {}
    for row in trained:
        curves.setdefault(f"{row['slots']} slots", {})[row["way"]] = [run["curve"] for run in row["runs"]]
    heuristics = {f"{row['slots']} slots": row["return_mean"] for row in rows if row["way"] == "heuristic"}
    figure = em.viz.compare_trainings(curves, heuristics)
    rules, seeds = trained[0]["rules"], len(trained[0]["runs"])
    figure.suptitle(f"{rules}, seeds: {seeds} (line: mean, band: least to most)", fontsize=10)
    return figure


def picture_of(path: str) -> Any:
    """The ``picture`` of a saved result.

    Raises:
        BenchError: a file that is none, or one without a training.
        OSError: a file that cannot be read.
    """
    try:
        return picture(json.loads(Path(path).read_text(encoding="utf-8"))["rows"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise BenchError(f"{path} is no result of {PROGRAM}, or has no training to draw") from None


def run(cases: Sequence[Case], steps: int, live: Callable[[str], None] = print) -> dict[str, Any]:
    """All rows, one after another; a line of each is told when it is there.

    Ctrl-C keeps the rows that are there, and ``"interrupted"`` in the result is True.

    Raises:
        CheckError: an arm that is not what it should be.
    """
    about = machine("cpu", scripts=[__file__])  # before the run: files may change under it

    def row_of(case: Case) -> dict[str, Any]:
        try:
            return {**asdict(case), **learn(case, steps)}
        except AssertionError as error:
            raise CheckError(f"{_name(asdict(case))}: {' '.join(str(error).split())}") from error

    def line(row: Mapping[str, Any]) -> None:
        ends = [run["return_mean"] for run in row.get("runs", [row])]
        live(f"{_name(row)}: return {min(ends):.2f} to {max(ends):.2f}")

    return {"group": "learning", "device": "cpu", **about, **take(map(row_of, cases), line)}


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['way']}, {row['slots']} slots"


def main(arguments: Sequence[str], cases: Sequence[Case] = CASES) -> int:
    """Train, or draw what was learned before.

    Args:
        arguments: of the command line.
        cases: the rows.

    Returns: the exit code: 0 done, 1 an arm that is not what it should be, 2 arguments that cannot be used,
        130 interrupted.
    """
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition("\n")[0])
    where = "write the result as JSON; - is standard output"
    parser.add_argument("-o", "--output", type=output, metavar="FILE", help=where)
    parser.add_argument("--plot", type=output, metavar="FILE", help="draw what was learned: .png, .svg or .pdf")
    parser.add_argument("--from", dest="source", metavar="FILE", help="draw a saved result instead of training")
    parser.add_argument("--steps", type=positive, metavar="N", help=f"of a training (default: {STEPS})")
    options = parser.parse_args(arguments)
    if options.source is None and options.output is None:
        parser.error("wanted -o FILE for the result of trainings, or --from FILE to draw one that is saved")
    if options.source is not None and (options.plot is None or options.output or options.steps):
        parser.error("--from draws and trains nothing: it needs --plot, and -o and --steps would be ignored")
    try:
        check_files(options)
        if options.source is None:
            return _train_and_keep(options, cases)
        save(picture_of(options.source), options.plot)
    except (OSError, BenchError) as error:
        tell(PROGRAM, reason_of(error))
        return 2
    except CheckError as error:
        tell(PROGRAM, str(error))
        return 1
    return 0


def _train_and_keep(options: argparse.Namespace, cases: Sequence[Case]) -> int:
    """All rows, to the files of the options; those of an interrupted run go beside files that are there."""
    if not __debug__:
        raise BenchError("Python runs without assertions, which the checks are; run it without -O and PYTHONOPTIMIZE")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = run(cases, options.steps or STEPS, live=partial(tell, PROGRAM))
    finally:
        torch.set_num_threads(threads)
    rows, interrupted = result["rows"], result["interrupted"]
    if rows:
        path = beside(options.output, PROGRAM) if interrupted else options.output
        write_file(path, f"{json.dumps(result, indent=1)}\n".encode())
    if options.plot and any("runs" in row for row in rows):
        save(picture(rows), beside(options.plot, PROGRAM) if interrupted else options.plot)
    return INTERRUPTED if interrupted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
