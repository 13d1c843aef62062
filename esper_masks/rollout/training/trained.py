"""A policy that was trained, with all that it needs to act, in any number of environments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from esper_masks.decision.step import Mode
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.training.moments import RunningMoments
from esper_masks.rollout.training.policy import Acted, FactoredActorCritic, Hidden


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
        task: an environment as those of the training, from which ``env`` makes others.
        settings: of the training, as of ``esper-masks train``; ``"rules"`` is the name of the rule set.
        env_steps: environment steps of the training.
    """

    network: FactoredActorCritic
    moments: RunningMoments
    task: LifecycleEnv
    settings: Mapping[str, Any] = field(default_factory=dict)
    env_steps: int = 0

    @property
    def engine(self) -> MaskEngine:
        """Of the masks that the policy decides under."""
        return self.network.step.engine

    def env(self, num_envs: int, seed: int = 0, mode: Mode = "eager") -> LifecycleEnv:
        """Environments as those of the training, each at the beginning of an episode.

        Args:
            num_envs: how many, which need not be as many as in the training.
            seed: of their noise.
            mode: as of ``LifecycleEnv``.
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
    ) -> Acted:
        """Draw legal actions, without gradients.

        Args:
            obs: float32 ``[batch, obs_size]``.
            states: integer ``[batch, slots, features]``, as of the engine.
            total_seeds: integer ``[batch]``, as of the engine; not needed without a seed limit.
            hidden: of a recurrent policy, as the step before gave it.
            starts: bool ``[batch]``: an episode begins, so that what ``hidden`` has is forgotten.
            noise: uniform ``[batch, heads]``; by default from torch's own generator.

        Returns: ``decision``, of which ``actions`` are int64 ``[batch, heads]`` and ``log_prob`` float32 ``[batch]``;
            ``values`` float32 ``[batch]``; ``hidden``.
        Raises:
            ValueError: observations of another size, or what does not fit as of ``DecisionStep``.
        """
        seen = self._normalized(obs)
        return self.network.act(seen, states, total_seeds, hidden=hidden, starts=starts, noise=noise)

    def act_in(self, env: LifecycleEnv, hidden: Hidden | None = None, noise: Tensor | None = None) -> Acted:
        """Draw legal actions in the states in which environments are.

        Args:
            env: of the same rules, slots, episode length and seed limit; ``env`` makes such.
            hidden: of a recurrent policy, as the step before gave it; forgotten where an episode begins.
            noise: as of ``act``.

        Raises:
            ValueError: other environments.
        """
        for name, mine, its in (
            ("rules", self.engine.fingerprint, env.engine.fingerprint),
            ("slots", len(self.engine.slot_ids), len(env.engine.slot_ids)),
            ("episode_length", self.task.dynamics.episode_length, env.dynamics.episode_length),
            ("max_seeds", self.task.dynamics.max_seeds, env.dynamics.max_seeds),
        ):
            if mine != its:
                raise ValueError(
                    f"{name} of the environments: {its}; the policy was trained with {mine}, policy.env(n) makes such"
                )
        starts = env.state.epoch == 0
        return self.act(env.obs, env.states, env.total_seeds, hidden=hidden, starts=starts, noise=noise)

    def _normalized(self, obs: Tensor) -> Tensor:
        if obs.shape[-1:] != self.moments.mean.shape:
            raise ValueError(
                f"obs have shape {tuple(obs.shape)}; the policy was trained on [..., {len(self.moments.mean)}]"
            )
        return self.moments(obs)  # type: ignore[no-any-return]
