"""A training from beginning to end: built, gone on with, saved, and compared with what it is to be better than."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from esper_masks.decision.step import DecisionStep, Mode
from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.training.checkpoint import CheckpointError, clean, found, read_any, save
from esper_masks.rollout.training.config import PPOConfig
from esper_masks.rollout.training.moments import RunningMoments
from esper_masks.rollout.training.policy import FactoredActorCritic, FactoredRecurrentActorCritic, Hidden
from esper_masks.rollout.training.ppo import PPO
from esper_masks.rollout.training.processes import World
from esper_masks.rollout.training.stopping import Stopping
from esper_masks.rollout.training.trained import TrainedPolicy
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset, rulesets

POLICIES = {"mlp": FactoredActorCritic, "lstm": FactoredRecurrentActorCritic}
WORK_OF_A_THREAD = 1 << 16  # less gains less by a second thread than it loses where others want the cores, too
BASELINES = {"random": random_legal, "wait": always_wait, "heuristic": heuristic}


@dataclass(frozen=True)
class TrainSettings:
    """What a training is built from, beside the rules and the device.

    Args:
        envs: number of environments, of all processes.
        slots: of each; 0 for those of the rules.
        policy: a name in ``POLICIES``.
        width: of its layers.
        seed: of the weights, the actions and the environment.
        compile: whether steps are compiled.
        threads: of a CPU, of each process, which the command sets; 0 where nobody has chosen.
        calibration: as JSON; by default the package's.
        max_seeds: of an episode; 0 for any number.

    Raises:
        ValueError: no such policy or seed.
    """

    envs: int = 1024
    slots: int = 0
    policy: str = "mlp"
    width: int = 64
    seed: int = 0
    compile: bool = False
    threads: int = 0
    calibration: str = ""
    max_seeds: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r} is not one of {', '.join(POLICIES)}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be from 0 to {(1 << 32) - 1}, got {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build(
    rules: MaskRules, settings: TrainSettings, config: PPOConfig, device: str = "cpu", world: World | None = None
) -> PPO:
    """A training that has not begun. Seeds torch's own generator.

    Args:
        rules: a rule set.
        settings: what else it is of.
        config: hyper-parameters.
        device: where it is.
        world: the processes; each has an equal part of the environments, and noise of its own.

    Raises:
        RulesError, ValueError, RuntimeError: rules, settings or a device that no training can have.
    """
    world = World() if world is None else world
    torch.manual_seed(settings.seed)
    mode: Mode = "compiled" if settings.compile else "eager"
    envs, seed = world.share(settings.envs, "environments"), world.seed(settings.seed, "environment")
    env = _environment(rules, settings, envs, seed, device, mode)
    ppo = PPO(env, _network(env, settings, mode), config, world)
    if world.rank:  # the weights are the same everywhere, the actions are not
        torch.manual_seed(world.seed(settings.seed, "actions"))
    return ppo


def threads_for(envs: int, width: int) -> int:
    """Threads of a process: one for every ``WORK_OF_A_THREAD`` numbers of a layer, at most as many as torch has.

    By the work alone, not by what else the machine does: a training has the same bits whatever runs beside it.
    """
    return max(1, min(envs * width // WORK_OF_A_THREAD, torch.get_num_threads()))


def _environment(
    rules: MaskRules, settings: TrainSettings, num_envs: int, seed: int, device: str, mode: Mode
) -> LifecycleEnv:
    return LifecycleEnv(
        rules,
        num_envs,
        [f"slot{i}" for i in range(settings.slots)] if settings.slots else None,
        max_seeds=settings.max_seeds,
        calibration=Calibration.from_json(settings.calibration) if settings.calibration else None,
        seed=seed,
        device=device,
        mode=mode,
    )


def _network(env: LifecycleEnv, settings: TrainSettings, mode: Mode) -> FactoredActorCritic:
    step = DecisionStep(env.engine, mode=mode)
    kind, autocast = POLICIES[settings.policy], env.device.type == "cuda"
    return kind(step, env.obs_size, settings.width, autocast=autocast).to(env.device)


def train(
    ppo: PPO,
    steps: int,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    report: Callable[[dict[str, float]], None],
    save_every: int = 20,
    keep: int = 3,
    resumed: bool = False,
    stopping: Stopping | None = None,
) -> Path:
    """Go on until there were so many environment steps, or until a signal to any process ends it after an update.

    Args:
        ppo: what to go on with.
        steps: of all environments together, counted from the beginning of the training.
        settings: as of ``save``.
        folder: for checkpoints.
        report: is given the figures of every iteration.
        save_every: iterations between checkpoints; there is one at the end in any case.
        keep: as of ``save``.
        resumed: the newest checkpoint of the folder is what is gone on from.
        stopping: has the signal afterwards, if it is one that ended the training early.

    Returns: the last checkpoint.
    Raises:
        OSError, CheckpointError: as of ``save``.
        InvalidStateMachineError: as of ``PPO.iterate``.
    """
    if ppo.world.rank == 0:
        clean(folder)  # what a process that was killed has left
    ppo.world.wait()
    there = [parts[ppo.world.rank % len(parts)] for parts in found(folder)[-1:]] if resumed else []
    # a folder that cannot be written to ends it here; what a training goes on from is left as it is
    iterations, path = 0, there[0] if there else save(ppo, settings, folder, keep)
    with Stopping() if stopping is None else stopping as stop:
        ended = ppo.env_steps >= steps
        while not ended:
            figures = ppo.iterate()
            iterations += 1
            report({"env_steps": ppo.env_steps, **figures})
            ended = ppo.env_steps >= steps
            if not ended:  # one decision of all processes: a signal reaches them at different times
                stop.number = ppo.world.most(stop.caught, ppo.env.device)
                ended = stop.number > 0
            if iterations % save_every == 0 or ended:
                path = save(ppo, settings, folder, keep)
    return path


def returns_of(
    policy: Callable[[LifecycleEnv], torch.Tensor], like: LifecycleEnv, seed: int, envs: int = 8192
) -> tuple[float, float, int]:
    """Mean return of an episode of fresh environments, its standard error, and how many actions were illegal."""
    env = like.another(envs, seed)
    env.reset()
    for _ in range(env.dynamics.episode_length):
        *_, info = env.step(policy(env))
    returns = info["returns"]
    return float(returns.mean()), float(returns.std()) / envs**0.5, int(env.illegal_actions.sum())


def learned(of: PPO | TrainedPolicy) -> Callable[[LifecycleEnv], torch.Tensor]:
    """The policy as a function of environments, step by step the same ones, that draws its actions."""
    policy = of if isinstance(of, TrainedPolicy) else TrainedPolicy(of.policy, of.obs_moments, of.env)
    hidden: Hidden | None = None

    def act(env: LifecycleEnv) -> torch.Tensor:
        nonlocal hidden
        acted = policy.act_in(env, hidden)
        hidden = acted.hidden
        return acted.decision.actions

    return act


def load_policy(
    path: str | os.PathLike[str], *, rules: MaskRules | None = None, device: str = "cpu", mode: Mode = "eager"
) -> TrainedPolicy:
    """The policy of a checkpoint of ``esper-masks train``, for any number of environments. No code in it is run.

    Examples are in ``docs/using-a-policy.md``.

    Args:
        path: a checkpoint, of several processes any part of it, or a log folder for its newest.
        rules: of the training; needed for those that do not ship with the package.
        device: where the policy and the environments it makes are; not necessarily the one of the training.
        mode: how decisions run, as of ``DecisionStep``.

    Raises:
        OSError: it cannot be read.
        CheckpointError: it is damaged, no checkpoint of that command, or of other rules; a ``ValueError``.
        RulesError, ValueError, RuntimeError: rules, settings or a device that no environment can have.
    """
    content = read_any(path)
    told = dict(content["settings"])
    name = told.pop("rules", None)
    if rules is None:
        if name not in rulesets():
            reason = f"of rules that do not ship with the package, {name!r:.80}: give rules, too"
            raise CheckpointError(f"{path}: {reason} (rules=, or --rules)")
        rules = ruleset(name)
    try:
        settings = TrainSettings(**told)
    except TypeError:
        raise CheckpointError(f"{path}: its settings are not those of esper-masks train: {told!r:.120}") from None
    task, state = _environment(rules, settings, 1, settings.seed, device, "eager"), content["training"]
    if content["rules"] != task.engine.fingerprint:
        raise CheckpointError(f"{path}: of other rules than {rules.name}, or of other settings of their switches")
    if state["env"]["task"] != task.dynamics.task:
        raise CheckpointError(f"{path}: of an environment that its settings do not describe, {settings}")
    with torch.random.fork_rng(devices=()):  # first weights, which are replaced, take no noise from the caller
        network = _network(task, settings, mode)
    moments = RunningMoments(task.obs_size, task.device)
    try:
        network.load_state_dict(state["policy"])
        moments.load_state_dict(state["obs_moments"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit: {reason[:300]}") from None
    return TrainedPolicy(network, moments, task, content["settings"], content["env_steps"])
