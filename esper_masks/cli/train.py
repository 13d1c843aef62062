"""The command ``esper-masks train``."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from inspect import isabstract
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from rich.table import Table

from esper_masks.cli import networks
from esper_masks.cli.common import (
    DEFAULT_RULES,
    INTERRUPTED,
    RULES_HELP,
    CommandError,
    console,
    count,
    discard,
    find_in_code,
    find_rules,
    positive,
    print_wrapped,
    reason_of,
    tell,
)
from esper_masks.cli.tables import policy_table
from esper_masks.errors import InvalidStateMachineError
from esper_masks.masks.engine import MaskEngine
from esper_masks.progress import Live, how_far
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.dynamics import Dynamics
from esper_masks.rollout.env.rule_dynamics import RuleDynamics
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.tasks import TASKS
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.config import PPOConfig
from esper_masks.rollout.training.logs import FolderLock, TrainingLog, draw_curve, read_metrics, sparklines
from esper_masks.rollout.training.ppo import PPO
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.train import POLICIES, WORLDS, Stopping, TrainSettings, build, threads_for, train
from esper_masks.rollout.training.trained import learned, players, returns_of

EVERY_S = 2.0  # seconds between lines of progress
LIVE_S = 0.1  # seconds between texts of a live line
SHOWN = ("kl", "clip_fraction", "explained_variance", "entropy_op")
EVALUATION_SEED = 0xE7A1_5EED  # the same for all trainings, of environments that none of them has seen
STEPS = 5_000_000
FREE = ("compile", "threads")  # settings that may be others when a training is resumed
CODE = ("rules", "dynamics")  # what may be Python code, which a checkpoint names and does not hold
SETTINGS = ("envs", "slots", "policy", "width", "seed", "max_seeds", "world", "task")
TUNED = ("learning_rate", "final_learning_rate", "gamma", "gae_lambda", "entropy_weight", "clip", "target_kl")
COUNTED = ("epochs", "minibatches")
DYNAMICS_HELP = "what a step does, module:NAME or path/to/file.py:NAME (default: the networks that grow, if known)"

_tell = partial(tell, "esper-masks train")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    envs = f"number of environments, of all processes (default: {TrainSettings.envs})"
    add("--envs", type=positive, metavar="N", help=envs)
    steps = f"environment steps in all, over which the learning rate falls (default: {STEPS}, or as the run was begun)"
    add("--steps", type=positive, metavar="N", help=steps)
    world = "networks: real ones, which are trained side by side (default: the environment of the rules)"
    add("--world", choices=WORLDS, help=world)
    task = f"what networks are trained on: {', '.join(TASKS)} (default: {next(iter(TASKS))})"
    add("--task", choices=tuple(TASKS), metavar="NAME", help=task)
    hosts = f"how many networks, another name of --envs (default: {networks.HOSTS})"
    add("--hosts", type=positive, metavar="N", help=hosts)
    add("--slots", type=positive, metavar="N", help="slots of each environment (default: those of the rules)")
    seeds = "seeds that may germinate in an episode, under esper-2026-06 be in slots; 0 for any number (default: 0)"
    add("--max-seeds", type=count, metavar="N", help=seeds)
    add("--policy", choices=tuple(POLICIES), help=f"the network (default: {TrainSettings.policy})")
    add("--width", type=positive, metavar="N", help=f"width of its layers (default: {TrainSettings.width})")
    add("--rules", type=_named, metavar="NAME", help=RULES_HELP)
    add("--dynamics", type=_named, metavar="NAME", help=DYNAMICS_HELP)
    calibration = "statistics by `esper-masks calibrate` (default: the package's)"
    add("--calibration", type=_named, metavar="FILE", help=calibration)
    add("--seed", type=int, metavar="N", help="seed of weights, actions and environments (default: 0)")
    where = "cpu or cuda, under torchrun one for each process (default: %(default)s)"
    add("--device", default="cpu", metavar="NAME", help=where)
    compiled = "compile the steps first, which takes a minute (default: no)"
    add("--compile", action=argparse.BooleanOptionalAction, help=compiled)
    threads = "threads of the CPU, of each process (default: one for every 1,024 of its environments at a width of 64, "
    threads += "in proportion at others, at most all cores)"
    add("--threads", type=positive, metavar="N", help=threads)
    where = "where checkpoints, figures and the curve go, for one training at a time (default: runs)"
    add("--logdir", type=_named, default="runs", metavar="DIR", help=where)
    resume = "resume from a checkpoint, by default the newest in the log folder, with its settings; --compile, "
    resume += "--threads and the number of processes may be others"
    add("--resume", nargs="?", const=False, type=_named, metavar="PATH", help=resume)  # an empty one is not the default
    add("--save-every", type=positive, default=20, metavar="N", help="iterations between checkpoints (default: 20)")
    add("--json", action="store_true", help="print one JSON object at the end instead of progress")
    tuned = parser.add_argument_group("hyper-parameters", "rollout.PPOConfig says what they are")
    for name in TUNED:
        tuned.add_argument(_flag(name), type=float, metavar="X")
    for name in COUNTED:
        tuned.add_argument(_flag(name), type=positive, metavar="N")


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a name, or leave the flag out")
    return text


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def find_dynamics(name: str | None) -> Callable[[MaskEngine], Dynamics] | None:
    """Dynamics as ``LifecycleEnv`` takes them, by ``module:NAME`` or ``path/to/file.py:NAME``; None for None.

    Raises:
        RulesError: a module or file that does not import, or one that has nothing of this name.
    """

    def is_one(value: Any) -> bool:
        is_class = isinstance(value, type) and issubclass(value, Dynamics) and not isabstract(value)
        return is_class or isinstance(value, RuleDynamics)

    return None if name is None else find_in_code(name, "dynamics", is_one)


# -- the command ------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Train an actor-critic by proximal policy optimization in thousands of environments, which act by the joint
    distribution under masks. Checkpoints, figures and a learning curve go to the log folder. Ctrl-C ends it after an
    update and saves; a second one ends it at once. At the end the policy is compared with three baselines in
    environments of their own. Under torchrun the environments are divided among its processes.
    """
    processes, threads = Processes(), torch.get_num_threads()
    try:
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here; --device cpu trains without one")
        processes = Processes.from_env()
        options.device = processes.device(options.device)
        if processes.size > 1 and options.device.startswith("cuda"):
            torch.cuda.set_device(options.device)
        with processes.joined(options.device):
            return _train(processes, options)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:  # of flags, a checkpoint, a device
        _tell(reason_of(error).split("\n", 1)[0])
        return _leave(processes, 2)
    finally:
        torch.set_num_threads(threads)


def _leave(processes: Processes, code: int) -> int:
    """End this process if there are others, which may be waiting for it. Returns: the exit code."""
    if processes.size > 1:
        os._exit(code)  # not to wait for what the other processes are waiting for
    return code


def _train(processes: Processes, options: argparse.Namespace) -> int:
    folder, first = Path(options.logdir), processes.rank == 0
    with FolderLock(folder) if first else nullcontext() as lock:
        if lock is not None and folder.is_dir():
            lock.take()
        ppo, settings = (_new if options.resume is None else _resumed)(processes, options)
        if lock is not None:
            lock.take()  # of a folder that is made for a training, not for flags that none can have
            if options.resume is None:
                _check_new(folder)  # another may have begun there, and ended, since
        steps, stopping, path, code = options.steps or ppo.config.horizon, Stopping(say=first), None, 0
        log = TrainingLog(folder, ppo.env_steps) if first else None
        progress = _Progress(steps, log, quiet=options.json or not first)
        try:
            path = _run(ppo, settings, options, progress, stopping)
            illegal = int(processes.sum(ppo.env.illegal_actions.sum()))
            if first and stopping.number:
                stopped = f"stopped after {ppo.env_steps:,} of {steps:,} steps"
                _tell(f"{stopped}; {resume_command(ppo, steps, settings, options)}")
            if first:
                _summarize(ppo, options, progress, illegal, path, stopping.number > 0)
        except KeyboardInterrupt:
            progress.live.end()
            if first:
                compared = f"not compared with baselines; all is saved: {path}"
                _tell(compared if path is not None else f"quit without saving{_last(folder)}")
            return _leave(processes, INTERRUPTED)
        except OSError as failure:
            if path is None:
                raise
            discard(sys.stdout)  # all else is of the summary: the training is done, and saved
            if not isinstance(failure, BrokenPipeError):  # whose reader wants no more
                _tell(f"the summary cannot be printed ({reason_of(failure)}); all is saved: {path}")
                code = 2
        processes.wait()
        return 128 + stopping.number if stopping.number else code


def _run(
    ppo: PPO, settings: Mapping[str, Any], options: argparse.Namespace, progress: "_Progress", stopping: Stopping
) -> Path:
    """Train; an error that ends the training says what is left.

    Raises:
        CommandError: the error, in one line.
    """
    folder, every, resumed, steps = Path(options.logdir), options.save_every, options.resume is not None, progress.steps
    try:
        progress.begin(ppo)
        return train(
            ppo, steps, settings, folder, report=progress, save_every=every, resumed=resumed, stopping=stopping
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = reason_of(error).split("\n", 1)[0]
        finite = all(bool(parameter.isfinite().all()) for parameter in ppo.policy.parameters())
        if not finite or isinstance(error, InvalidStateMachineError):
            hint = f"begin again with a smaller --learning-rate than {ppo.config.learning_rate:g} and another --logdir"
            reason = f"after {ppo.env_steps:,} steps the policy has diverged ({reason}): {hint}"
            raise CommandError(f"{reason}{_last(folder, '')}") from error  # --resume would only do it again
        raise CommandError(f"{reason}{_last(folder)}") from error
    finally:
        progress.end()


def _last(folder: Path, use: str = ", from which --resume goes on") -> str:
    there = checkpoint.found(folder)
    return f"; the last checkpoint is {there[-1][0]}{use}" if there else ""


def resume_command(ppo: PPO, steps: int, settings: Mapping[str, Any], options: argparse.Namespace) -> str:
    """How a training that was stopped is resumed, as a line for the user."""
    words, several = ["esper-masks"], ppo.processes.size > 1
    if several:
        words = ["torchrun", "--nproc-per-node", str(ppo.processes.size), "-m", "esper_masks"]
    words += ["train", "--logdir", options.logdir, "--resume"]
    for name in CODE:
        if ":" in settings.get(name, ""):
            words += [_flag(name), settings[name]]
    if steps != ppo.config.horizon:
        words += ["--steps", str(steps)]
    if ppo.env.device.type != "cpu":  # of several each has its own
        words += ["--device", ppo.env.device.type if several else options.device]
    return f"to go on: {shlex.join(words)}"


# -- a new training, or one that is resumed ---------------------------------------------------------------------------


def _new(processes: Processes, options: argparse.Namespace) -> tuple[PPO, dict[str, Any]]:
    """A new training, and the settings that its checkpoints have.

    Raises:
        RulesError, ValueError, TypeError, RuntimeError: flags that no training can have, or a folder with checkpoints.
    """
    _check_new(Path(options.logdir))
    if options.hosts is not None and options.world is None:
        raise ValueError("--hosts is of --world networks: name that, too, or give --envs")
    processes.wait()  # the first process to pass here makes a checkpoint
    name = options.rules or DEFAULT_RULES
    rules, settings, steps, tuned = find_rules(name), TrainSettings(**_given(options, SETTINGS + FREE)), STEPS, {}
    if settings.world:
        settings = replace(settings, envs=options.hosts or options.envs or networks.HOSTS)
        tuned = networks.config_of(rules)
        steps = settings.envs * networks.EPISODES * tuned["steps"]
    if options.calibration is not None:
        if options.dynamics is not None:
            raise ValueError(
                "--calibration is of the networks that grow, and --dynamics of something else: leave one out"
            )
        settings = replace(settings, calibration=Calibration.load(options.calibration).to_json())
    config = PPOConfig(horizon=options.steps or steps, **{**tuned, **_given(options, TUNED + COUNTED)})
    settings = _with_threads(settings, processes)
    code = {"rules": name, **_given(options, ("dynamics",))}
    ppo = build(rules, settings, config, options.device, processes, find_dynamics(options.dynamics))
    return ppo, {**code, **settings.to_dict()}


def _resumed(processes: Processes, options: argparse.Namespace) -> tuple[PPO, dict[str, Any]]:
    """The training of a checkpoint, and the settings that its further checkpoints have.

    Raises:
        RulesError, ValueError, TypeError, RuntimeError: flags or a checkpoint that no training can have.
    """
    folder = Path(options.logdir)
    begun_at = Path(options.resume or folder)
    content = checkpoint.load(begun_at, processes)
    newest = checkpoint.found(folder)[-1:]
    if newest and begun_at.resolve() not in [path.resolve() for path in (folder, *newest[0])]:
        reason = f"{folder} has another checkpoint as its newest, {newest[0][0].name}"
        raise ValueError(f"{reason}: --logdir names another folder for what begins at {options.resume}")
    processes.wait()
    saved = dict(content["settings"])
    code = {name: saved.pop(name) for name in CODE if name in saved}
    if "rules" not in code:
        raise ValueError("the checkpoint does not say its rules, so it is not one that this command saved")
    for name, place in code.items():
        if ":" in place:
            if getattr(options, name) is None:
                reason = f"the checkpoint is of {name} in Python code, {place!r:.300}"
                raise ValueError(f"{reason}: give {_flag(name)} too, to have it run")
            code[name] = getattr(options, name)  # a path has many spellings; whether it is the same, fingerprints say
    begun, config, rules = TrainSettings(**saved), PPOConfig(**content["config"]), find_rules(code["rules"])
    slots = begun.slots or len(rules.slot_ids)
    begun_with = {**asdict(begun), **asdict(config), "dynamics": "those of the rules", **code, "slots": slots}
    _check_same(options, begun_with)
    kept = begun if content["processes"] == processes.size else replace(begun, threads=0)
    settings = _with_threads(replace(kept, **_given(options, FREE)), processes)
    ppo = build(rules, settings, config, options.device, processes, find_dynamics(code.get("dynamics")))
    checkpoint.restore(ppo, content)
    if processes.rank == 0:
        _say_resumed(ppo, options.steps, content["processes"], begun, settings)
    return ppo, {**code, **settings.to_dict()}


def _with_threads(settings: TrainSettings, processes: Processes) -> TrainSettings:
    """The settings with a number of threads, which torch has from here on: by the work, if nobody has chosen one."""
    threads = settings.threads or threads_for(settings.envs // processes.size, settings.width)
    torch.set_num_threads(threads)
    return replace(settings, threads=threads)


def _say_resumed(ppo: PPO, steps: int | None, processes: int, begun: TrainSettings, now: TrainSettings) -> None:
    """Say where the training stood, and what is otherwise than in its checkpoint."""
    config, changes = ppo.config, []
    if ppo.processes.size != processes:
        changes.append(f"{ppo.processes.size} process{'es' * (ppo.processes.size > 1)} instead of {processes}")
    if now.threads != begun.threads:
        before = f"instead of {begun.threads}" if begun.threads else "where the checkpoint does not say how many"
        changes.append(f"{now.threads} thread{'s' * (now.threads > 1)} {before}")
    if now.compile != begun.compile:
        changes.append("compiled" if now.compile else "not compiled")
    otherwise = f", but not to the last bit: {', '.join(changes)}" if changes else ""
    print(f"going on from {ppo.env_steps:,} steps{otherwise}", file=sys.stderr)
    if ppo.env_steps >= (steps or config.horizon):
        what = f"--steps {steps}" if steps else f"the {config.horizon:,} that it was begun for"
        print(f"which is no less than {what}: nothing is trained; a larger --steps goes on", file=sys.stderr)
    elif steps is not None and steps > config.horizon:
        rate = f"the final learning rate, {config.final_learning_rate:g}"
        print(f"beyond {config.horizon:,} steps, which it was begun for, at {rate}", file=sys.stderr)


def _check_new(folder: Path) -> None:
    """Raises: ValueError: a folder has checkpoints, or parts of them."""
    if checkpoint.found(folder):
        raise ValueError(f"{folder} has checkpoints: --resume continues their training, --logdir names another folder")
    if alone := checkpoint.files(folder):
        reason = f"{folder} has a part of a checkpoint, {alone[-1].name}, without the others"
        raise ValueError(f"{reason}: put them beside it and --resume, or name another folder (--logdir)")


def _given(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _check_same(options: argparse.Namespace, begun: Mapping[str, Any]) -> None:
    """Raises: ValueError: a flag is not what the training was begun with."""
    if options.hosts is not None and options.hosts != begun["envs"]:
        raise ValueError(f"--hosts {options.hosts}: the checkpoint was begun with {begun['envs']}; leave it out")
    for name, value in _given(options, (*CODE, *SETTINGS, *TUNED, *COUNTED)).items():
        if value != begun[name]:
            before = "0, no limit" if name == "max_seeds" and not begun[name] else begun[name] or "none"
            raise ValueError(f"{_flag(name)} {value}: the checkpoint was begun with {before}; leave it out")
    if options.calibration is not None:
        raise ValueError("--calibration: a checkpoint has its own; leave it out")


# -- what is said -----------------------------------------------------------------------------------------------------


def _summarize(
    ppo: PPO, options: argparse.Namespace, progress: "_Progress", illegal: int, path: Path, interrupted: bool
) -> None:
    facts: dict[str, Any]
    table: Table | str
    if isinstance(ppo.env.dynamics, NetworkDynamics) and interrupted:
        facts, baselines, table = {"return_mean": None, "baselines": {}}, {}, "not compared with baselines"
        lines = ["esper-masks evaluate compares it"]
    elif isinstance(ppo.env.dynamics, NetworkDynamics):
        scores, found = networks.scores_of(learned(ppo), ppo.env, progress.live.show)
        facts = {"return_mean": scores["learned"].validation.mean, **networks.facts_of(scores, progress.steps_per_s)}
        lines, table = networks.plans_told(found, ppo.env), networks.table_of(scores)
        baselines = {name: each.validation.mean for name, each in scores.items() if name != "learned"}
        illegal += sum(each.illegal_actions for each in scores.values())
    else:
        results = {}
        for name, play in players(ppo).items():
            progress.live.show(f"comparing with baselines: {name}")
            results[name] = returns_of(play, ppo.env, EVALUATION_SEED)
        baselines, lines, table = {name: each.mean for name, each in results.items()}, [], policy_table(results)
        facts = {"return_mean": baselines.pop("learned"), "baselines": baselines}
        illegal += sum(each.illegal_actions for each in results.values())
    progress.live.end()
    try:
        curve = draw_curve(path.parent, baselines)
    except OSError as failure:  # the training is done, and saved
        curve = None
        _tell(f"no learning curve: {reason_of(failure)}")
    summary = {
        "env_steps": ppo.env_steps,
        "env_steps_per_s": progress.steps_per_s,
        **facts,
        "illegal_actions": illegal,
        "threads": torch.get_num_threads(),
        "faults": 0,  # one would have ended the training
        "checkpoint": str(path),
        "interrupted": interrupted,
    }
    if options.json:
        print(json.dumps(summary), flush=True)
        return
    console().print(table)
    for line in lines:
        print_wrapped(line)
    for line in sparklines(read_metrics(path.parent)):  # from the beginning of the training to its end
        print(line)
    print(f"{ppo.env_steps:,} environment steps, {progress.steps_per_s:,.0f} a second; {illegal} actions were illegal")
    if curve is not None:
        print(f"learning curve: {curve}")
    print(f"checkpoint: {path}", flush=True)


class _Progress:
    """Figures of iterations to the log and to standard output, there as a live line or as a line every few seconds."""

    def __init__(self, steps: int, log: TrainingLog | None, quiet: bool):
        self.steps, self.log, self.quiet, self.last, self.steps_per_s = steps, log, quiet, 0.0, 0.0
        self.live = Live(None if quiet else sys.stdout)
        self.first: tuple[float, float] | None = None  # when there were how many steps

    def begin(self, ppo: PPO) -> None:
        """Say something until there are figures."""
        compiles = "compiled" in (ppo.env.mode, ppo.policy.step.mode)
        far = how_far(ppo.env_steps, self.steps, 0, ppo.env_steps)
        self.live.show("compiling, which takes a minute" if compiles else far)

    def end(self) -> None:
        """Take the live line away and close the log."""
        self.live.end()
        if self.log is not None:
            self.log.close()

    def __call__(self, figures: Mapping[str, float]) -> None:
        if self.log is not None:
            self.log(figures)
        now, done = monotonic(), figures["env_steps"]
        if self.first is None:  # the first iteration compiles
            self.first, self.steps_per_s = (now, done), figures["env_steps_per_s"]
        else:
            self.steps_per_s = (done - self.first[1]) / (now - self.first[0])
        every = LIVE_S if self.live.terminal else EVERY_S
        if self.quiet or (now - self.last < every and done < self.steps):
            return
        self.last = now
        shown = "  ".join(f"{name.replace('_', ' ')} {figures[name]:.3f}" for name in SHOWN)
        speed, gain = f"{figures['env_steps_per_s']:,.0f}/s", f"{figures['return_mean']:.2f}"
        gain = "-" if gain == "nan" else gain  # no episode has ended in this iteration
        if self.live.terminal:
            far = how_far(done, self.steps, now - self.first[0], self.first[1])
            self.live.show(f"{far}  return {gain}  {done:,.0f} steps  {speed}  {shown}")
            return
        try:
            print(f"{done:>12,.0f} steps  {speed:>10}  return {gain:>6}  {shown}", flush=True)
        except OSError:  # the reader went away, as in `| head`, or the disk is full: no reason to end a training
            self.quiet = True
