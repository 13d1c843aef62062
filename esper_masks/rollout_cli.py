"""The commands about environments: ``esper-masks calibrate`` and ``train``."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from rich import box
from rich.table import Table

from esper_masks.rules_cli import DEFAULT_RULES, RULES_HELP, console, find_rules


def add_commands(commands: Any) -> None:
    """Add the commands to a parser's."""
    _add_train(commands.add_parser("train", help="train a policy in the environment, and compare it with baselines"))
    _add_calibrate(commands.add_parser("calibrate", help="measure from logs what environments to train in are made of"))


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure from event logs, for each blueprint, how many accuracy points its seeds won, how they ended and how "
        "many parameters they add; and how many epochs seeds spend in each stage. The file sets the distributions of "
        "an environment; without one it has those that ship with the package."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a log, one JSON object a line")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write the statistics")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    from esper_masks.rollout.measure import Measurement  # no other command needs it

    measurement = Measurement()
    for path in options.files:
        with open(path, "rb") as stream:
            measurement.read(stream)
    made = measurement.calibration()
    if not any(entry.improvement.seeds for entry in made.blueprints.values()):
        reason = f"no seed ended in these logs ({measurement.lines} lines), so there is nothing to measure"
        print(f"esper-masks calibrate: {reason}", file=sys.stderr)
        return 2
    made.save(options.output)
    if options.json:
        counts = {"files": len(options.files), "lines": measurement.lines, "malformed": measurement.malformed}
        print(json.dumps(json.loads(made.to_json()) | counts))
        return 0
    outcomes = sorted({outcome for entry in made.blueprints.values() for outcome in entry.by_outcome})
    table = Table(box=box.SIMPLE, title="improvement in accuracy points, mean ± spread (seeds)", title_justify="left")
    for name in ("blueprint", "seeds", "parameters", "all", *outcomes):
        table.add_column(name, justify="left" if name == "blueprint" else "right")
    for name, entry in sorted(made.blueprints.items(), key=lambda item: -item[1].improvement.mean):
        parts = [entry.improvement, *(entry.by_outcome.get(outcome) for outcome in outcomes)]
        points = [f"{part.mean:.2f} ± {part.spread:.2f} ({part.seeds})" if part else "" for part in parts]
        table.add_row(name, str(entry.seeds), f"{entry.params:,}", *points)
    stages = Table(
        box=box.SIMPLE, title="epochs in a stage, and how many seeds", title_justify="left", show_header=False
    )
    for stage, seeds in sorted(made.dwell.items()):
        stages.add_row(stage, ", ".join(f"{epochs}: {number}" for epochs, number in sorted(seeds.items())))
    out = console()
    out.print(table)
    out.print(stages)
    if measurement.malformed or measurement.unusable:
        print(f"{measurement.malformed} lines are malformed, {measurement.unusable} germinations lack data")
    print(f"{len(measurement.seeds)} seeds of {len(options.files)} logs: {options.output}")
    return 0


# -- train ------------------------------------------------------------------------------------------------------------

EVERY_S = 2.0  # seconds between lines of progress


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train an actor-critic by proximal policy optimization in thousands of environments, which act by the joint "
        "distribution under masks. Checkpoints go to the log folder; Ctrl-C ends it after an update and saves. At the "
        "end the policy is compared with three baselines in environments of their own."
    )
    parser.add_argument("--envs", type=_count, default=1024, metavar="N", help="environments (default: 1024)")
    parser.add_argument(
        "--steps", type=_count, default=3_000_000, metavar="N", help="environment steps in all (default: 3000000)"
    )
    parser.add_argument("--slots", type=_count, metavar="N", help="slots of each (default: those of the rules)")
    parser.add_argument("--policy", choices=("mlp", "lstm"), default="mlp", help="the network (default: mlp)")
    parser.add_argument("--rules", default=DEFAULT_RULES, metavar="NAME", help=RULES_HELP)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, actions and environments")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    parser.add_argument("--compile", action="store_true", help="compile the steps first, which takes a minute")
    parser.add_argument("--logdir", default="runs", metavar="DIR", help="where checkpoints go (default: runs)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on from a checkpoint, by default the newest in the log folder, with its settings",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of progress")
    parser.set_defaults(run=_train)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _train(options: argparse.Namespace) -> int:
    import torch

    from esper_masks.rollout import PPOConfig, checkpoint
    from esper_masks.rollout.train import BASELINES, TrainSettings, build, learned, returns_of, train

    rules, folder = find_rules(options.rules), Path(options.logdir)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        return _refuse("there is no CUDA device here; --device cpu trains without one")
    settings, config, content = TrainSettings(), PPOConfig(), None
    try:
        if options.resume is not None:
            content = checkpoint.load(options.resume or folder)
            settings, config = TrainSettings(**content["settings"]), PPOConfig(**content["config"])
        else:
            settings = replace(settings, envs=options.envs, slots=options.slots or 0, policy=options.policy)
            settings = replace(settings, seed=options.seed, compile=options.compile)
            if folder.is_dir() and checkpoint.found(folder):
                return _refuse(f"{folder} has checkpoints: --resume goes on from them, --logdir names another folder")
        ppo = build(rules, settings, config, options.device)
        if content is not None:
            checkpoint.restore(ppo, content)
            print(f"going on from {ppo.env_steps:,} steps", file=sys.stderr)
    except (ValueError, TypeError, RuntimeError) as error:  # of flags, of what a checkpoint holds, and of a device
        return _refuse(str(error).split("\n", 1)[0])
    progress = _Progress(options.steps, quiet=options.json)
    path = train(ppo, options.steps, settings.to_dict(), folder, report=progress)
    results = {"learned": returns_of(learned(ppo), ppo.env, seed=options.seed + 1)}
    results |= {name: returns_of(policy, ppo.env, seed=options.seed + 1) for name, policy in BASELINES.items()}
    summary = {
        "env_steps": ppo.env_steps,
        "env_steps_per_s": progress.steps_per_s,
        "return_mean": results["learned"][0],
        "baselines": {name: results[name][0] for name in BASELINES},
        "illegal_actions": int(ppo.env.illegal_actions.sum()),
        "faults": 0,  # one would have ended the training
        "checkpoint": str(path),
    }
    if options.json:
        print(json.dumps(summary))
        return 0
    table = Table(box=box.SIMPLE)
    table.add_column("policy")
    table.add_column("return of an episode, mean ± standard error", justify="right")
    for name, (mean, spread) in sorted(results.items(), key=lambda item: -item[1][0]):
        table.add_row(name, f"{mean:.2f} ± {spread:.2f}")
    console().print(table)
    illegal = summary["illegal_actions"]
    print(f"{ppo.env_steps:,} environment steps, {progress.steps_per_s:,.0f} a second; {illegal} actions were illegal")
    print(f"checkpoint: {path}")
    return 0


class _Progress:
    """A line every few seconds."""

    def __init__(self, steps: int, quiet: bool):
        self.steps, self.quiet, self.last, self.steps_per_s = steps, quiet, 0.0, 0.0
        self.first: tuple[float, float] | None = None  # when there were how many steps

    def __call__(self, figures: dict[str, float]) -> None:
        now, done = monotonic(), figures["env_steps"]
        if self.first is None:  # the first iteration compiles
            self.first, self.steps_per_s = (now, done), figures["env_steps_per_s"]
        else:
            self.steps_per_s = (done - self.first[1]) / (now - self.first[0])
        if self.quiet or (now - self.last < EVERY_S and done < self.steps):
            return
        self.last = now
        parts = {name: figures[name] for name in ("kl", "clip_fraction", "explained_variance", "entropy_op")}
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in parts.items())
        print(f"{done:>12,.0f} steps  return {figures['return_mean']:6.2f}  {shown}", flush=True)


def _refuse(reason: str) -> int:
    print(f"esper-masks train: {reason}", file=sys.stderr)
    return 2
