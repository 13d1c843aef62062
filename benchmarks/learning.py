"""Training with masks against training without, at equal environment steps.

    masked      the library's actor-critic as it is
    unmasked    the same network and the same update, drawing from all that exists: every op, every slot given an op
                that uses one, whatever the rules leave to the other heads at all. The environment takes an illegal
                action for WAIT and counts it
    penalized   unmasked, and an illegal action costs points (not counted in returns)

Every arm is checked before it is trained: what is stored is what was drawn from, the ratio of probabilities before the
first optimizer step is 1, and the environment counts exactly the actions that its masks do not permit.

``python -m benchmarks.learning -o FILE --plot PICTURE``, twelve minutes on one core; ``--steps 100000`` for a look, and
``--from FILE --plot PICTURE`` to draw what is saved. Ctrl-C keeps the rows that are there. ``--rules module:NAME
--dynamics module:NAME`` trains in an environment of one's own, with the slots of its rules, and ``--envs`` and
``--ppo`` say how.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.bench.suite import BenchError, CheckError, machine, take
from esper_masks.cli.bench import beside, check_files
from esper_masks.cli.common import INTERRUPTED, find_rules, output, positive, reason_of, tell
from esper_masks.cli.train import find_dynamics
from esper_masks.files import write_file
from esper_masks.rollout import PPO, FactoredActorCritic, LifecycleEnv, PPOConfig, StepInfo
from esper_masks.rollout.env.baselines import BASELINES, baselines_of
from esper_masks.rollout.training.train import TrainSettings
from esper_masks.rollout.training.trained import learned, returns_of
from esper_masks.starting import keep_freed_memory
from esper_masks.viz.style import save

PROGRAM = "python -m benchmarks.learning"
ARMS = ("masked", "unmasked", "penalized")
STEPS = 2_000_000  # of all environments, in a training
ENVS = 1024
SEEDS = 5  # trainings of an arm
EVALUATED = 8192  # episodes behind the return of a policy at the end, and of a baseline
NEAR = 1e-4  # most that a ratio in a minibatch may be off by rounding, since its layers run over other rows at once
PENALTY = 0.1  # points


@dataclass(frozen=True)
class Case:
    """A row: an arm, or a policy that nobody trained.

    Args:
        way: one of ``ARMS`` or of ``BASELINES``.
        slots: how many; 0 for those of the rules.
        rules: a rule set, or the name of one in Python code.
        batch: environments of a training.
        dynamics: the name of dynamics in Python code; empty for those of growing networks.
        config: hyper-parameters that are not at their default, with their values.
    """

    way: str
    slots: int = 3
    rules: str = "esper-2025-12"
    batch: int = ENVS
    dynamics: str = ""
    config: tuple[tuple[str, float], ...] = ()

    def env(self, batch: int, seed: int = 0, kind: type[LifecycleEnv] = LifecycleEnv) -> LifecycleEnv:
        """Environments of the case."""
        slot_ids = [f"slot{i}" for i in range(self.slots)] or None
        return kind(find_rules(self.rules), batch, slot_ids, seed=seed, dynamics=find_dynamics(self.dynamics or None))

    def row(self) -> dict[str, Any]:
        """What a result has of the case: its fields, the rules under their own name."""
        return {**asdict(self), "rules": find_rules(self.rules).name}


CASES = [Case(way, slots) for slots in (3, 16) for way in (*ARMS, *BASELINES)]


class AllLegal(em.MaskEngine):
    """An engine that masks nothing: every op that some state allows is legal in every slot."""

    def forward(self, states: Tensor, *_: Any, **__: Any) -> em.ActionMasks:
        """Masks of the shape of those that the states would have."""
        words = torch.full_like(states[..., 0], self.layout.possible)
        return em.ActionMasks(self.layout, words, torch.full_like(words[..., 0], self.layout.possible))


class PenalizedEnv(LifecycleEnv):
    """An environment that charges for illegal actions; the returns in ``info`` are as without."""

    penalty = PENALTY

    def step(self, actions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, StepInfo]:
        """See ``LifecycleEnv.step``."""
        before = self.illegal_actions
        obs, reward, terminated, truncated, info = super().step(actions, noise)
        return obs, reward - self.penalty * (self.illegal_actions - before), terminated, truncated, info


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
    like = case.env(EVALUATED)
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
    env = case.env(case.batch, seed, PenalizedEnv if case.way == "penalized" else LifecycleEnv)
    engine = env.engine if case.way == "masked" else AllLegal(find_rules(case.rules), env.engine.slot_ids)
    policy = FactoredActorCritic(em.DecisionStep(engine, mode="eager"), env.obs_size, TrainSettings().width)
    return PPO(env, policy, PPOConfig(**{"horizon": steps, **dict(case.config)}))


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
    rows = buffer.minibatch(torch.arange(buffer.steps * buffer.batch))
    assert masked or (rows.masks.slot_words == layout.possible).all(), "stored masks are not those that were drawn from"
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
        acted = ppo.policy.act(ppo.obs_moments(env.obs), env.states, env.total_seeds, **env.given)
        assert torch.equal(_score(ppo, acted.decision), acted.decision.log_prob), "a ratio of one step is not 1"
        counted = counted + ~env.masks().permits(acted.decision.actions)
        env.step(acted.decision.actions)
    assert torch.equal(env.illegal_actions - before, counted), "the environment counts other actions as illegal"
    assert bool(counted.any()) != masked, f"{int(counted.sum())} actions were illegal"
    return off


def _score(ppo: PPO, decision: Any) -> Tensor:
    """What the update makes of the decision that was taken last."""
    engine, layout, packed = ppo.policy.step.engine, ppo.env.engine.layout, decision.packed
    if isinstance(engine, AllLegal):
        masks = engine(ppo.env.states)
    elif packed is None:
        masks = em.ActionMasks.from_words(layout, decision.slot_words)
    else:
        masks = em.ActionMasks.from_packed(layout, packed)
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
    reached = [reached_at(curve, 0.9 * heuristic) for curve in curves]
    first, last = illegal_shares(curves)
    slowest = None if None in reached else max(filter(None, reached))
    ends_at = {"mean": sum(ends) / len(ends), "least": min(ends), "most": max(ends)}
    return {**ends_at, "reached": slowest, "first": first, "last": last}


def reached_at(curve: Mapping[str, Sequence[float]], wanted: float) -> float | None:
    """The environment steps until the return of an iteration was so high; None where none was."""
    return next((n for n, mean in zip(curve["env_steps"], curve["return_mean"]) if mean >= wanted), None)


def illegal_shares(curves: Sequence[Mapping[str, Sequence[float]]]) -> tuple[float, float]:
    """The share of illegal actions in the first and in the last iteration, a mean over curves."""
    first, last = (sum(curve["illegal_share"][at] for curve in curves) / len(curves) for at in (0, -1))
    return first, last


def picture(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The curves of all seeds beside the heuristic's return, a column for each number of slots: a ``Figure``."""
    trained = [row for row in rows if "runs" in row]
    curves: dict[str, dict[str, Any]] = {}
    for row in trained:
        curves.setdefault(_where(row), {})[row["way"]] = [run["curve"] for run in row["runs"]]
    heuristics = {_where(row): row["return_mean"] for row in rows if row["way"] == "heuristic"}
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
        row = case.row()
        try:
            return {**row, **learn(case, steps)}
        except AssertionError as error:
            raise CheckError(f"{_name(row)}: {' '.join(str(error).split())}") from error

    def line(row: Mapping[str, Any]) -> None:
        ends = [run["return_mean"] for run in row.get("runs", [row])]
        live(f"{_name(row)}: return {min(ends):.2f} to {max(ends):.2f}")

    return {"group": "learning", "device": "cpu", **about, **take(map(row_of, cases), line)}


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['way']}, {_where(row)}"


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['slots']} slots" if row["slots"] else str(row["rules"])


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
    parser.add_argument("--rules", metavar="NAME", help="rules of your own, module:NAME or path/to/file.py:NAME")
    parser.add_argument("--dynamics", metavar="NAME", help="what happens in a step under them, in the same way")
    parser.add_argument("--envs", type=positive, metavar="N", help=f"environments of a training (default: {ENVS})")
    what = "a hyper-parameter of PPOConfig; may be given again for another"
    parser.add_argument("--ppo", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=what)
    options = parser.parse_args(arguments)
    if options.source is None and options.output is None:
        parser.error("wanted -o FILE for the result of trainings, or --from FILE to draw one that is saved")
    given = {name for name, value in vars(options).items() if value not in (None, [])}
    if options.source is not None and given != {"source", "plot"}:
        parser.error("--from draws and trains nothing: it needs --plot, and all else would be ignored")
    if (options.rules is None) != (options.dynamics is None):
        parser.error("--rules and --dynamics go together")
    try:
        check_files(options)
        if options.source is None:
            if options.rules is not None:
                cases = own_cases(options.rules, options.dynamics)
            cases = [replace(case, batch=options.envs or case.batch, config=tuple(options.ppo)) for case in cases]
            return _train_and_keep(options, cases)
        save(picture_of(options.source), options.plot)
    except CheckError as error:
        tell(PROGRAM, str(error))
        return 1
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # of files, rules, dynamics
        tell(PROGRAM, reason_of(error).split("\n", 1)[0])
        return 2
    return 0


def _setting(text: str) -> tuple[str, float]:
    """The value of ``--ppo``."""
    name, _, value = text.partition("=")
    try:
        PPOConfig(**{name: (number := int(value) if value.isdecimal() else float(value))})
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return name, number


def own_cases(rules: str, dynamics: str) -> list[Case]:
    """The rows of rules and dynamics in Python code: all arms, and the baselines that there are.

    Raises:
        RulesError: names of nothing.
        ValueError: dynamics with which no environment can be made.
    """
    arms = [Case(way, 0, rules, dynamics=dynamics) for way in ARMS]
    return [*arms, *(replace(arms[0], way=way) for way in baselines_of(arms[0].env(1)))]


def _train_and_keep(options: argparse.Namespace, cases: Sequence[Case]) -> int:
    """All rows, to the files of the options; those of an interrupted run go beside files that are there."""
    if not __debug__:
        raise BenchError("Python runs without assertions, which the checks are; run it without -O and PYTHONOPTIMIZE")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
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
