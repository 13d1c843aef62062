"""The command ``esper-masks train``."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from esper_masks.rules_cli import DEFAULT_RULES, RULES_HELP, console, find_rules, positive, reason_of

if TYPE_CHECKING:  # no other command needs it
    from esper_masks.rollout import PPO
    from esper_masks.rollout.logs import TrainingLog
    from esper_masks.rollout.world import World

EVERY_S = 2.0  # seconds between lines of progress
EVALUATION_SEED = 0xE7A1_5EED  # the same for all trainings, of environments in which none has been
STEPS = 5_000_000
SETTINGS = ("envs", "slots", "policy", "width", "seed", "compile", "max_seeds")
TUNED = ("learning_rate", "final_learning_rate", "gamma", "gae_lambda", "entropy_weight", "clip", "target_kl")
COUNTED = ("epochs", "minibatches")


def add_command(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("train", help="train a policy in the environment, and compare it with baselines")
    parser.description = (
        "Train an actor-critic by proximal policy optimization in thousands of environments, which act by the joint "
        "distribution under masks. Checkpoints, figures and a learning curve go to the log folder; Ctrl-C ends it "
        "after an update and saves. At the end the policy is compared with three baselines in environments of their "
        "own. Under torchrun the environments are divided among its processes."
    )
    add = parser.add_argument
    add("--envs", type=positive, metavar="N", help="environments, of all processes (default: 1024)")
    steps = "environment steps in all, over which the learning rate falls (default: 5000000, or as the run was begun)"
    add("--steps", type=positive, metavar="N", help=steps)
    add("--slots", type=positive, metavar="N", help="slots of each (default: those of the rules)")
    add("--max-seeds", type=positive, metavar="N", help="seeds that may germinate in an episode (default: any number)")
    add("--policy", choices=("mlp", "lstm"), help="the network (default: mlp)")
    add("--width", type=positive, metavar="N", help="of its layers (default: 64)")
    add("--rules", metavar="NAME", help=f"{RULES_HELP} (default: {DEFAULT_RULES})")
    add("--calibration", metavar="FILE", help="statistics by `esper-masks calibrate` (default: the package's)")
    add("--seed", type=int, metavar="N", help="of weights, actions and environments (default: 0)")
    add("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda, under torchrun one for each process")
    add("--compile", action="store_const", const=True, help="compile the steps first, which takes a minute")
    add("--logdir", default="runs", metavar="DIR", help="where checkpoints, figures and the curve go (default: runs)")
    resume = "go on from a checkpoint, by default the newest in the log folder, with its settings"
    add("--resume", nargs="?", const="", metavar="PATH", help=resume)
    add("--save-every", type=positive, default=20, metavar="N", help="iterations between checkpoints (default: 20)")
    add("--json", action="store_true", help="print one JSON object at the end instead of progress")
    tuned = parser.add_argument_group("hyper-parameters", "as of rollout.PPOConfig, which says what they are")
    for name in TUNED:
        tuned.add_argument(_flag(name), type=float, metavar="X")
    for name in COUNTED:
        tuned.add_argument(_flag(name), type=positive, metavar="N")
    parser.set_defaults(run=_train)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _train(options: argparse.Namespace) -> int:
    import torch

    from esper_masks.rollout.world import World

    world = World()
    try:
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here; --device cpu trains without one")
        world = World.told()
        options.device = world.device(options.device)
        if world.size > 1 and options.device.startswith("cuda"):
            torch.cuda.set_device(options.device)
        with world.joined(options.device):
            return _train_in(world, options)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # of flags, a checkpoint, a device, another process
        reason = reason_of(error).split("\n", 1)[0]
    print(f"esper-masks train: {reason}", file=sys.stderr, flush=True)
    if world.size > 1:
        os._exit(2)  # not to wait for what the other processes are waiting for
    return 2


def _train_in(world: "World", options: argparse.Namespace) -> int:
    from esper_masks.rollout.logs import TrainingLog
    from esper_masks.rollout.train import train

    folder = Path(options.logdir)
    ppo, settings = _begin(world, options, folder)
    steps, first = options.steps or ppo.config.horizon, world.rank == 0
    log = TrainingLog(folder, ppo.env_steps) if first else None
    progress = _Progress(steps, log, quiet=options.json or not first)
    try:
        resumed = options.resume is not None
        path = train(ppo, steps, settings, folder, report=progress, save_every=options.save_every, resumed=resumed)
    finally:
        if log is not None:
            log.close()
    illegal = int(world.sum(ppo.env.illegal_actions.sum()))
    if first:
        with suppress(BrokenPipeError, SystemExit):  # the latter is rich's way; the training is done, and saved
            _summarize(ppo, options, progress.steps_per_s, illegal, path)
    world.wait()
    return 0


def _begin(world: "World", options: argparse.Namespace, folder: Path) -> "tuple[PPO, dict[str, Any]]":
    """A new training, or one that goes on, and the settings that its checkpoints have.

    Raises:
        RulesError, ValueError, TypeError, RuntimeError: flags or a checkpoint that no training can have.
    """
    from esper_masks.rollout import Calibration, PPOConfig, checkpoint
    from esper_masks.rollout.train import TrainSettings, build

    if options.resume is None:
        if checkpoint.found(folder):
            raise ValueError(f"{folder} has checkpoints: --resume goes on from them, --logdir names another folder")
        world.wait()  # whoever is first will have made one
        settings = replace(TrainSettings(), **_given(options, SETTINGS))
        if options.calibration:
            settings = replace(settings, calibration=Calibration.load(options.calibration).to_json())
        name = options.rules or DEFAULT_RULES
        config = replace(PPOConfig(horizon=options.steps or STEPS), **_given(options, TUNED + COUNTED))
        return build(find_rules(name), settings, config, options.device, world), {"rules": name, **settings.to_dict()}
    content = checkpoint.load(options.resume or folder, world)
    if there := checkpoint.found(folder):
        given = Path(options.resume or folder).resolve()
        if given not in [folder.resolve(), *[path.resolve() for path in there[-1]]]:
            reason = f"{folder} has another checkpoint as its newest, {there[-1][0].name}"
            raise ValueError(f"{reason}: --logdir names another folder for what begins at {options.resume}")
    world.wait()
    told = dict(content["settings"])
    if (name := told.pop("rules", None)) is None:
        raise ValueError("the checkpoint does not say its rules, so it is not one that this command saved")
    if ":" in name and options.rules != name:
        raise ValueError(f"the checkpoint is of rules in Python code, {name!r:.80}: give --rules too, to have it run")
    settings, config = TrainSettings(**told), PPOConfig(**content["config"])
    _check_same(options, {"rules": name, **told, **content["config"]})
    ppo = build(find_rules(name), settings, config, options.device, world)
    checkpoint.restore(ppo, content)
    if world.rank == 0:
        print(f"going on from {ppo.env_steps:,} steps", file=sys.stderr)
        if ppo.env_steps >= (options.steps or config.horizon):
            what = f"--steps {options.steps}" if options.steps else f"the {config.horizon:,} that it was begun for"
            print(f"which is no less than {what}: nothing is trained; a larger --steps goes on", file=sys.stderr)
        elif options.steps is not None and options.steps > config.horizon:
            rate = f"the final learning rate, {config.final_learning_rate:g}"
            print(f"beyond {config.horizon:,} steps, which it was begun for, at {rate}", file=sys.stderr)
    return ppo, content["settings"]


def _given(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _check_same(options: argparse.Namespace, begun: Mapping[str, Any]) -> None:
    """Raises: ValueError: a flag says other than what the checkpoint was begun with."""
    for name, value in _given(options, ("rules", *SETTINGS, *TUNED, *COUNTED)).items():
        if value != begun[name]:
            raise ValueError(f"{_flag(name)} {value}: the checkpoint was begun with {begun[name]}; leave it out")
    if options.calibration:
        raise ValueError("--calibration: a checkpoint has its own; leave it out")


def _summarize(ppo: "PPO", options: argparse.Namespace, steps_per_s: float, illegal: int, path: Path) -> None:
    from esper_masks.rollout.logs import draw_curve, read_metrics, sparklines
    from esper_masks.rollout.train import BASELINES, learned, returns_of

    policies = {"learned": learned(ppo), **BASELINES}
    results = {name: returns_of(policy, ppo.env, EVALUATION_SEED) for name, policy in policies.items()}
    baselines = {name: results[name][0] for name in BASELINES}
    illegal += sum(each for _, _, each in results.values())
    try:
        curve = draw_curve(path.parent, baselines)
    except OSError as failure:  # the training is done, and saved
        curve = None
        print(f"esper-masks train: no learning curve: {reason_of(failure)}", file=sys.stderr)
    summary = {
        "env_steps": ppo.env_steps,
        "env_steps_per_s": steps_per_s,
        "return_mean": results["learned"][0],
        "baselines": baselines,
        "illegal_actions": illegal,
        "faults": 0,  # one would have ended the training
        "checkpoint": str(path),
    }
    if options.json:
        print(json.dumps(summary))
        return
    table = Table(box=box.SIMPLE)
    table.add_column("policy")
    table.add_column("return of an episode, mean ± standard error", justify="right")
    for name, (mean, error, _) in sorted(results.items(), key=lambda item: -item[1][0]):
        table.add_row(name, f"{mean:.2f} ± {error:.2f}")
    console().print(table)
    for line in sparklines(read_metrics(path.parent)):  # from the beginning of the training to its end
        print(line)
    print(f"{ppo.env_steps:,} environment steps, {steps_per_s:,.0f} a second; {illegal} actions were illegal")
    if curve is not None:
        print(f"learning curve: {curve}")
    print(f"checkpoint: {path}")


class _Progress:
    """Figures of iterations to the log, and a line every few seconds."""

    def __init__(self, steps: int, log: "TrainingLog | None", quiet: bool):
        self.steps, self.log, self.quiet, self.last, self.steps_per_s = steps, log, quiet, 0.0, 0.0
        self.first: tuple[float, float] | None = None  # when there were how many steps

    def __call__(self, figures: Mapping[str, float]) -> None:
        if self.log is not None:
            self.log(figures)
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
        speed = f"{figures['env_steps_per_s']:,.0f}/s"
        try:
            print(f"{done:>12,.0f} steps  {speed:>10}  return {figures['return_mean']:6.2f}  {shown}", flush=True)
        except BrokenPipeError:  # the reader went away, as in `| head`, which is no reason to end a training
            self.quiet = True
