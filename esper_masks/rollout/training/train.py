"""A training from its settings to its end: what it is built from, the loop, and the signals that stop it early."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from esper_masks.decision.step import DecisionStep, Mode
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.dynamics import Dynamics
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rollout.networks.tasks import TASKS
from esper_masks.rollout.training.checkpoint import clean, found, save
from esper_masks.rollout.training.config import PPOConfig
from esper_masks.rollout.training.policy import FactoredActorCritic, FactoredRecurrentActorCritic
from esper_masks.rollout.training.ppo import PPO
from esper_masks.rollout.training.processes import Processes
from esper_masks.rules import MaskRules

POLICIES = {"mlp": FactoredActorCritic, "lstm": FactoredRecurrentActorCritic}
NUMBERED, HOSTS_OF_A_SEED = 1 << 12, 1 << 20
WORLDS = ("networks",)  # beside that of the rules
WORK_OF_A_THREAD = 1 << 16  # less gains less by a second thread than it loses where others want the cores, too
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAID = "stopping after this update; again to quit without saving"


@dataclass(frozen=True)
class TrainSettings:
    """What a training is built from, beside the rules, the dynamics and the device.

    Args:
        envs: number of environments, of all processes.
        slots: slots of each environment; 0 for those of the rules.
        policy: a name in ``POLICIES``.
        width: width of the policy's layers.
        seed: seed of the weights, the actions and the environments.
        compile: whether steps are compiled.
        threads: CPU threads of each process, which the command sets; 0 where nobody has chosen.
        calibration: as JSON; by default the package's.
        max_seeds: how many seeds may germinate in an episode, under ``esper-2026-06`` be in slots; 0 for any number.
        world: ``"networks"`` for real ones, by ``NetworkDynamics``; by default the environment of the rules.
        task: what these are trained on, a name in ``TASKS``; by default the first one.

    Raises:
        ValueError: no such policy, seed, world or task.
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
    world: str = ""
    task: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (("world", self.world, WORLDS), ("task", self.task, tuple(TASKS))):
            if value and value not in known:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")
        if self.task and not self.world:
            raise ValueError(f"task={self.task!r} is of the world 'networks': name that, too")
        if self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r} is not one of {', '.join(POLICIES)}")
        if self.world and not self.task:
            object.__setattr__(self, "task", next(iter(TASKS)))
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be from 0 to {(1 << 32) - 1}, got {self.seed}")

    def first(self, at: int) -> int:
        """Number of a host of real networks: hosts of trainings with other seeds are others, up to ``NUMBERED``."""
        return self.seed % NUMBERED * HOSTS_OF_A_SEED + at

    def to_dict(self) -> dict[str, Any]:
        """As checkpoints have it; without what is of real networks where there are none."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("world", "task")}

    def environment(
        self,
        rules: MaskRules,
        num_envs: int,
        seed: int,
        device: str,
        mode: Mode,
        dynamics: Callable[[MaskEngine], Dynamics] | None = None,
        first: int = 0,
    ) -> LifecycleEnv:
        """Environments with these settings, by dynamics as ``LifecycleEnv`` takes them.

        Raises:
            ValueError: dynamics together with a world; or what the environment raises.
        """
        if self.world:
            if dynamics is not None or self.calibration:
                raise ValueError(f"world={self.world!r} has dynamics of its own: leave dynamics and calibration out")
            dynamics = partial(NetworkDynamics, task=self.task, first=first)
        return LifecycleEnv(
            rules,
            num_envs,
            [f"slot{i}" for i in range(self.slots)] if self.slots else None,
            max_seeds=self.max_seeds,
            calibration=Calibration.from_json(self.calibration) if self.calibration else None,
            seed=seed,
            device=device,
            mode=mode,
            dynamics=dynamics,
        )

    def network(self, env: LifecycleEnv, mode: Mode) -> FactoredActorCritic:
        """A policy with these settings, whose weights torch's own generator draws."""
        step = DecisionStep(env.engine, mode=mode)
        kind, autocast = POLICIES[self.policy], env.device.type == "cuda"
        return kind(step, env.obs_size, self.width, autocast=autocast).to(env.device)


def build(
    rules: MaskRules,
    settings: TrainSettings,
    config: PPOConfig,
    device: str = "cpu",
    processes: Processes | None = None,
    dynamics: Callable[[MaskEngine], Dynamics] | None = None,
) -> PPO:
    """A training that has not begun. Seeds torch's own generator.

    Where steps are to be compiled and the dynamics may not be, decisions alone are.

    Args:
        rules: a rule set.
        settings: what else the training is built from.
        config: hyper-parameters.
        device: where everything lives.
        processes: the processes; each has an equal share of the environments, and noise of its own.
        dynamics: as ``LifecycleEnv`` takes them.

    Raises:
        RulesError, ValueError, RuntimeError: rules, settings or a device that no training can have.
    """
    processes = Processes() if processes is None else processes
    torch.manual_seed(settings.seed)
    mode: Mode = "compiled" if settings.compile else "eager"
    envs, seed = processes.share(settings.envs, "environments"), processes.seed(settings.seed, "environment")
    env = settings.environment(
        rules, envs, seed, device, "eager", dynamics, first=settings.first(processes.rank * envs)
    )
    if mode != "eager" and mode in env.dynamics.modes:
        env = env.another(envs, seed, mode)
    ppo = PPO(env, settings.network(env, mode), config, processes)
    if processes.rank:  # the weights are the same everywhere, the actions are not
        torch.manual_seed(processes.seed(settings.seed, "actions"))
    return ppo


def threads_for(envs: int, width: int) -> int:
    """Threads of a process: one for every ``WORK_OF_A_THREAD`` numbers of a layer, at most as many as torch has.

    By the work alone, not by what else the machine does: a training has the same bits whatever runs beside it.
    """
    return max(1, min(envs * width // WORK_OF_A_THREAD, torch.get_num_threads()))


class Stopping:
    """A context in which SIGINT, SIGTERM and SIGHUP only ask for an end; a second one acts as if there were no context.

    A signal that the process ignores, as under ``nohup``, is still ignored. Off the main thread nothing is caught.

    Attributes:
        caught: the signal that this process was sent, or 0.
        number: the signal by which the training ended, whichever process was sent it, or 0.

    Args:
        say: whether to say on standard error that the signal was understood.
    """

    def __init__(self, say: bool = False):
        self.say, self.caught, self.number = say, 0, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        here = threading.current_thread() is threading.main_thread()  # no other may have handlers
        for number in SIGNALS if here else ():
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.__exit__()
        self.caught = number
        if self.say and sys.stderr is not None:
            # past Python's streams, in the middle of whose work this may be; a terminal shows ^C and the live line
            with suppress(OSError, ValueError):
                start = "\n" if sys.stderr.isatty() else ""
                os.write(sys.stderr.fileno(), f"{start}{SAID}\n".encode())


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
    """Iterate until there were so many environment steps, or until a signal to any process ends it after an update.

    Args:
        ppo: the training.
        steps: of all environments together, counted from the beginning of the training.
        settings: see ``checkpoint.save``.
        folder: where checkpoints go.
        report: is given the figures of every iteration.
        save_every: iterations between checkpoints; there is one at the end in any case.
        keep: see ``checkpoint.save``.
        resumed: whether ``ppo`` was restored from the newest checkpoint of the folder.
        stopping: has the signal afterwards, if a signal ended the training early.

    Returns: the last checkpoint.
    Raises:
        OSError, CheckpointError: see ``checkpoint.save``.
        InvalidStateMachineError: see ``PPO.iterate``.
    """
    processes = ppo.processes
    if processes.rank == 0:
        clean(folder)  # what a process that was killed has left
    processes.wait()
    there = [parts[processes.rank % len(parts)] for parts in found(folder)[-1:]] if resumed else []
    # a folder that cannot be written to ends it here; the checkpoint of a resumed training is left as it is
    iterations, path = 0, there[0] if there else save(ppo, settings, folder, keep)
    with Stopping() if stopping is None else stopping as stop:
        ended = ppo.env_steps >= steps
        while not ended:
            figures = ppo.iterate()
            iterations += 1
            report({"env_steps": ppo.env_steps, **figures})
            ended = ppo.env_steps >= steps
            if not ended:  # one decision of all processes: a signal reaches them at different times
                stop.number = processes.most(stop.caught, ppo.env.device)
                ended = stop.number > 0
            if iterations % save_every == 0 or ended:
                path = save(ppo, settings, folder, keep)
    return path
