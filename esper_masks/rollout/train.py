"""A training from beginning to end: built, gone on with, saved, and compared with what it is to be better than."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from esper_masks.decision import DecisionStep
from esper_masks.rollout.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.checkpoint import save
from esper_masks.rollout.env import LifecycleEnv
from esper_masks.rollout.policy import FactoredActorCritic, FactoredRecurrentActorCritic
from esper_masks.rollout.ppo import PPO, PPOConfig
from esper_masks.rules import MaskRules

POLICIES = {"mlp": FactoredActorCritic, "lstm": FactoredRecurrentActorCritic}
BASELINES = {"random": random_legal, "wait": always_wait, "heuristic": heuristic}


@dataclass(frozen=True)
class TrainSettings:
    """What a training is built from, beside the rules and the device.

    Args:
        envs: number of environments.
        slots: of each; 0 for those of the rules.
        policy: a name in ``POLICIES``.
        width: of its layers.
        seed: of the weights, the actions and the environment.
        compile: whether steps are compiled.
    """

    envs: int = 1024
    slots: int = 0
    policy: str = "mlp"
    width: int = 64
    seed: int = 0
    compile: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build(rules: MaskRules, settings: TrainSettings, config: PPOConfig, device: str = "cpu") -> PPO:
    """A training that has not begun. Seeds torch's own generator.

    Raises:
        RulesError, ValueError, RuntimeError: rules, settings or a device that no training can have.
    """
    if settings.policy not in POLICIES:
        raise ValueError(f"policy={settings.policy!r} is not one of {', '.join(POLICIES)}")
    torch.manual_seed(settings.seed)
    ids = [f"slot{i}" for i in range(settings.slots)] if settings.slots else None
    mode: Any = "compiled" if settings.compile else "eager"
    env = LifecycleEnv(rules, settings.envs, ids, seed=settings.seed, device=device, mode=mode)
    step = DecisionStep(env.engine, mode=mode)
    policy = POLICIES[settings.policy](step, env.obs_size, settings.width, autocast=device.startswith("cuda"))
    return PPO(env, policy.to(env.device), config)


def train(
    ppo: PPO,
    steps: int,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    report: Callable[[dict[str, float]], None],
    save_every: int = 20,
    keep: int = 3,
) -> Path:
    """Go on until there were so many environment steps, or until SIGINT or SIGTERM, which ends it after an update.

    Args:
        ppo: what to go on with.
        steps: of all environments together, counted from the beginning of the training.
        settings: as of ``save``.
        folder: for checkpoints.
        report: is given the figures of every iteration.
        save_every: iterations between checkpoints; there is one at the end in any case.
        keep: as of ``save``.

    Returns: the last checkpoint.
    Raises:
        OSError: a checkpoint cannot be written.
        InvalidStateMachineError: as of ``PPO.iterate``.
    """
    iterations, path = 0, save(ppo, settings, folder, keep)  # a folder that cannot be written to ends it here
    with _signals() as caught:
        while ppo.env_steps < steps and not caught:
            figures = ppo.iterate()
            iterations += 1
            report({"env_steps": ppo.env_steps, **figures})
            if iterations % save_every == 0 or ppo.env_steps >= steps or caught:
                path = save(ppo, settings, folder, keep)
    return path


def returns_of(policy: Callable[[LifecycleEnv], torch.Tensor], like: LifecycleEnv, seed: int) -> tuple[float, float]:
    """Mean return of episodes of fresh environments, and its standard error."""
    env = LifecycleEnv(
        like.engine.rules,
        like.num_envs,
        like.engine.slot_ids,
        seed=seed,
        device=like.device,
        max_seeds=like.dynamics.max_seeds,
        episode_length=like.dynamics.episode_length,
    )
    env.reset()
    for _ in range(like.dynamics.episode_length):
        *_, info = env.step(policy(env))
    return float(info["returns"].mean()), float(info["returns"].std()) / like.num_envs**0.5


def learned(ppo: PPO) -> Callable[[LifecycleEnv], torch.Tensor]:
    """The policy as a function of an environment at the beginning of an episode, one that draws its actions."""
    hidden = ppo.policy.initial(ppo.env.num_envs)

    def act(env: LifecycleEnv) -> torch.Tensor:
        nonlocal hidden
        acted = ppo.policy.act(ppo.obs_moments(env.obs), env.states, env.total_seeds, hidden=hidden)
        hidden = acted.hidden
        return acted.decision.actions

    return act


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that asked for an end; a second one is as without this."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
