"""A policy after its training: loaded from a checkpoint, in use, and compared with baselines."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from esper_masks.decision.given import Given
from esper_masks.decision.step import Mode
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.baselines import baselines_of
from esper_masks.rollout.env.dynamics import Dynamics
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.training.checkpoint import CheckpointError, read_any
from esper_masks.rollout.training.moments import RunningMoments
from esper_masks.rollout.training.policy import Acted, FactoredActorCritic, Hidden
from esper_masks.rollout.training.ppo import PPO
from esper_masks.rollout.training.train import TrainSettings
from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset, rulesets

Player = Callable[[LifecycleEnv], Tensor]  # environments to actions


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """What ``load_policy`` gives. It takes observations as environments give them, and normalizes them.

    A recurrent policy gives ``hidden`` beside each decision, and is given it back at the next; others give None.

    >>> import esper_masks as em
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 64)
    >>> network = em.rollout.FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size)
    >>> ppo = em.rollout.PPO(env, network)
    >>> policy = em.rollout.TrainedPolicy(ppo.policy, ppo.obs_moments, env)  # of a training in code, without a file
    >>> policy.act_in(policy.env(1000, seed=2)).decision.actions.shape
    torch.Size([1000, 4])

    Args:
        network: the actor-critic, whose own methods take normalized observations; ``network.step`` decides.
        moments: mean and spread of observations in the training.
        task: an environment like those of the training, from which ``env`` makes others.
        settings: settings of the training by ``esper-masks train``; ``"rules"`` is the name of the rule set.
        env_steps: environment steps of the training.
    """

    network: FactoredActorCritic
    moments: RunningMoments
    task: LifecycleEnv
    settings: Mapping[str, Any] = field(default_factory=dict)
    env_steps: int = 0

    @property
    def engine(self) -> MaskEngine:
        """The engine that makes the policy's masks."""
        return self.network.step.engine

    def env(self, num_envs: int, seed: int = 0, mode: Mode = "eager") -> LifecycleEnv:
        """Environments like those of the training, each at the beginning of an episode.

        Args:
            num_envs: how many; not necessarily as many as in the training.
            seed: seed of their noise.
            mode: see ``LifecycleEnv``.
        """
        return self.task.another(num_envs, seed, mode)

    def __call__(
        self, obs: Tensor, hidden: Hidden | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Hidden | None]:
        """Logits and values, to make a distribution of: ``FactoredCategorical(logits, env.masks()).mode``, for one.

        Args:
            obs: float32 ``[..., obs_size]``; of a recurrent policy ``[batch, obs_size]`` or
                ``[steps, batch, obs_size]``.
            hidden: of a recurrent policy, as the step before gave it; by default that of an episode that begins.
            starts: bool ``[..., batch]``: an episode begins with the observation.

        Returns: logits float32 ``[..., columns]``, all heads in order; values float32 ``[...]``, in returns over their
            spread in the training; ``hidden``.
        Raises:
            ValueError: observations of another size.
        """
        return self.network(self._normalized(obs), hidden, starts)  # type: ignore[no-any-return]

    def act(
        self,
        obs: Tensor,
        states: Tensor,
        total_seeds: Tensor | None = None,
        *,
        hidden: Hidden | None = None,
        starts: Tensor | None = None,
        noise: Tensor | None = None,
        **given: Unpack[Given],
    ) -> Acted:
        """Draw legal actions, without gradients.

        Args:
            obs: float32 ``[batch, obs_size]``.
            states: integer ``[batch, slots, features]``; see ``MaskEngine``.
            total_seeds: integer ``[batch]``; see ``MaskEngine``. Not needed without a seed limit.
            hidden: of a recurrent policy, as the step before gave it.
            starts: bool ``[batch]``: an episode begins, so that ``hidden`` is forgotten.
            noise: uniform ``[batch, heads]``; by default from torch's own generator.
            given: ``row``, ``head_masks`` and ``restrict``; see ``DecisionStep``.

        Returns: ``decision``, whose ``actions`` are int64 ``[batch, heads]`` and ``log_prob`` float32 ``[batch]``;
            ``values`` float32 ``[batch]``; ``hidden``.
        Raises:
            ValueError: observations of another size, or whatever else ``DecisionStep`` refuses.
        """
        seen = self._normalized(obs)
        return self.network.act(seen, states, total_seeds, hidden=hidden, starts=starts, noise=noise, **given)

    def act_in(self, env: LifecycleEnv, hidden: Hidden | None = None, noise: Tensor | None = None) -> Acted:
        """Draw legal actions in the current states of environments.

        Args:
            env: with the same rules, slots, episode length, seed limit and observations; ``env`` makes such
                environments.
            hidden: of a recurrent policy, as the step before gave it; forgotten where an episode begins.
            noise: see ``act``.

        Raises:
            ValueError: other environments.
        """
        for name, mine, its in (
            ("rules", self.engine.fingerprint, env.engine.fingerprint),
            ("slots", len(self.engine.slot_ids), len(env.engine.slot_ids)),
            ("episode_length", self.task.dynamics.episode_length, env.dynamics.episode_length),
            ("max_seeds", self.task.engine.max_seeds, env.engine.max_seeds),
        ):
            if mine != its:
                raise ValueError(
                    f"{name} of the environments: {its}; the policy was trained with {mine}, policy.env(n) makes such"
                )
        if env.engine.slot_ids == self.task.engine.slot_ids:  # which stand in names, and mean nothing to a policy
            for mine, its in zip(self.task.obs_names, env.obs_names):
                if mine != its:
                    raise ValueError(f"the environments observe {its!r} where those of the training had {mine!r}")
        starts = env.state.epoch == 0
        past: dict[str, Any] = {"hidden": hidden, "starts": starts}
        return self.act(env.obs, env.states, env.total_seeds, **past, noise=noise, **env.given)

    def _normalized(self, obs: Tensor) -> Tensor:
        wanted = len(self.moments.mean)
        if obs.shape[-1:] != (wanted,):
            raise ValueError(f"obs have shape {tuple(obs.shape)}; the policy was trained on [..., {wanted}]")
        return self.moments(obs)  # type: ignore[no-any-return]


def load_policy(
    path: str | os.PathLike[str],
    *,
    rules: MaskRules | None = None,
    dynamics: Callable[[MaskEngine], Dynamics] | None = None,
    device: str = "cpu",
    mode: Mode = "eager",
) -> TrainedPolicy:
    """The policy of a checkpoint of ``esper-masks train``, for any number of environments. No code in it is run.

    Examples are in ``docs/using-a-policy.md``.

    Args:
        path: a checkpoint, of several processes any part of it, or a log folder for its newest checkpoint.
        rules: rules of the training; needed if they do not ship with the package.
        dynamics: dynamics of the training, as ``LifecycleEnv`` takes them; needed if it was given any.
        device: where the policy and the environments it makes are; not necessarily the one of the training.
        mode: how decisions run; see ``DecisionStep``.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: the file is damaged, no checkpoint of that command, or of other rules or dynamics, or no
            environment can have its settings; a ``ValueError``.
        RuntimeError: a device that is not there.
    """
    content = read_any(path)
    given = dict(content["settings"])
    name, named = given.pop("rules", None), given.pop("dynamics", None)
    if named is not None and dynamics is None:
        reason = f"of dynamics in Python code, {named!r:.300}: give dynamics, too"
        raise CheckpointError(f"{path}: {reason} (dynamics=, or --dynamics)")
    if rules is None:
        if name not in rulesets():
            reason = f"of rules that do not ship with the package, {name!r:.80}: give rules, too"
            raise CheckpointError(f"{path}: {reason} (rules=, or --rules)")
        rules = ruleset(name)
    try:
        settings = TrainSettings(**given)
    except TypeError:
        raise CheckpointError(f"{path}: its settings are not those of esper-masks train: {given!r:.120}") from None
    try:
        task = settings.environment(rules, 1, settings.seed, device, "eager", dynamics)
    except ValueError as error:
        raise CheckpointError(f"{path}: no environment can be made by its settings: {error}") from error
    state = content["training"]
    if content["rules"] != task.engine.fingerprint:
        raise CheckpointError(f"{path}: of other rules than {rules.name}, or of other settings of their switches")
    if state["env"]["task"] != task.dynamics.fingerprint:
        others = "of other dynamics, or " if dynamics is not None else ""
        raise CheckpointError(f"{path}: {others}of an environment that its settings do not describe, {settings}")
    with torch.random.fork_rng(devices=()):  # first weights, which are replaced, take no noise from the caller
        network = settings.network(task, mode)
    moments = RunningMoments(task.obs_size, task.device)
    try:
        network.load_state_dict(state["policy"])
        moments.load_state_dict(state["obs_moments"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit: {reason[:300]}") from None
    return TrainedPolicy(network, moments, task, content["settings"], content["env_steps"])


# -- how good it is ---------------------------------------------------------------------------------------------------


class Returns(NamedTuple):
    """What a policy earned in episodes of environments that begin together."""

    mean: float
    standard_error: float
    illegal_actions: int


def learned(of: PPO | TrainedPolicy) -> Player:
    """What was learned, as a function like ``BASELINES`` that draws its actions; of the same environments each time."""
    policy = of if isinstance(of, TrainedPolicy) else TrainedPolicy(of.policy, of.obs_moments, of.env)
    hidden: Hidden | None = None

    def act(env: LifecycleEnv) -> Tensor:
        nonlocal hidden
        decision, _, hidden = policy.act_in(env, hidden)
        return decision.actions

    return act


def players(of: PPO | TrainedPolicy) -> dict[str, Player]:
    """What was learned, as ``"learned"``, and the baselines that it should be better than."""
    return {"learned": learned(of), **baselines_of(of.task if isinstance(of, TrainedPolicy) else of.env)}


def returns_of(policy: Player, like: LifecycleEnv, seed: int, envs: int = 8192) -> Returns:
    """Returns of one episode in each of some new environments.

    Args:
        policy: a function of environments to actions.
        like: environments of the same task.
        seed: seed of the noise of the new environments.
        envs: how many there are.

    Raises:
        ValueError: an episode that has not ended after the ``episode_length`` of the dynamics.
    """
    env = like.another(envs, seed)
    obs = env.reset()
    returns, over = obs.new_zeros(envs), torch.zeros(envs, dtype=torch.bool, device=obs.device)
    for _ in range(env.dynamics.episode_length):
        _, _, terminated, _, info = env.step(policy(env))
        returns = torch.where(terminated & ~over, info["returns"], returns)
        over = over | terminated
    if not over.all():
        kind = type(env.dynamics).__name__
        raise ValueError(
            f"{int((~over).sum())} of {envs} episodes have not ended after {env.dynamics.episode_length} steps, the "
            f"episode_length of {kind}: its advance must end them"
        )
    return Returns(float(returns.mean()), float(returns.std()) / envs**0.5, int(env.illegal_actions.sum()))
