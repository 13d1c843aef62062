"""Proximal policy optimization, read from top to bottom: configuration, rollout, advantages, update.

Source: Schulman et al., "Proximal policy optimization algorithms", 2017.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.buffer import Minibatch, RolloutBuffer
from esper_masks.faults import raise_on_fault
from esper_masks.rollout.env import LifecycleEnv
from esper_masks.rollout.gae import gae
from esper_masks.rollout.normalize import RunningMoments
from esper_masks.rollout.policy import FactoredActorCritic, FactoredRecurrentActorCritic, Hidden


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters.

    Args:
        steps: of every environment in a rollout.
        epochs: passes over a rollout in an update.
        minibatches: optimizer steps of a pass.
        learning_rate: of Adam.
        gamma: discount of a step.
        gae_lambda: weight of a further step in advantages.
        clip: how far the ratio of probabilities may be from 1.
        value_weight: of the value loss, on returns of unit spread.
        entropy_weight: of the mean over heads of their normalized entropies.
        max_grad_norm: gradients are scaled down to it.
        target_kl: an update ends where its policy is further than 1.5 times this from that of the rollout, in nats.
    """

    steps: int = 25
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 2e-3
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.02
    max_grad_norm: float = 0.5
    target_kl: float = 0.02


class PPO:
    """A policy, an environment, and what is between them.

    >>> import esper_masks as em
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 64)
    >>> policy = em.rollout.FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size)
    >>> ppo = PPO(env, policy)
    >>> sorted(ppo.iterate())[:3]
    ['act_seconds', 'clip_fraction', 'entropy_blend']

    Args:
        env: to act in; it is reset.
        policy: to improve.
        config: hyper-parameters.
    """

    def __init__(self, env: LifecycleEnv, policy: FactoredActorCritic, config: PPOConfig | None = None):
        self.env, self.policy, self.config = env, policy, PPOConfig() if config is None else config
        device, batch = env.device, env.num_envs
        real, obs = torch.zeros((), device=device), torch.zeros(env.obs_size, device=device)
        fields = {"obs": obs, "value": real, "reward": real, "start": real.bool(), "terminated": real.bool()}
        self.buffer = RolloutBuffer(env.engine, self.config.steps, batch, fields=fields)
        self.optimizer = torch.optim.Adam(policy.parameters(), self.config.learning_rate, eps=1e-5)
        self.obs_moments = RunningMoments(env.obs_size, device)
        self.return_moments = RunningMoments(1, device)  # of values, so that rewards are of unit spread
        self.obs = env.reset()
        self.starts = torch.ones(batch, dtype=torch.bool, device=device)
        self.hidden = policy.initial(batch)
        self.first: Hidden | None = self.hidden  # of the rollout
        self.env_steps = 0

    def iterate(self) -> dict[str, float]:
        """One rollout and one update.

        Returns: what to log; times in seconds.
        Raises:
            InvalidStateMachineError: a row without a legal action, or a gradient that is not finite; nothing is learned
                from it.
        """
        began = perf_counter()
        figures = self.rollout()
        acted = perf_counter()
        figures |= self.update()
        ended = perf_counter()
        figures |= {"act_seconds": acted - began - figures["env_seconds"], "update_seconds": ended - acted}
        figures["env_steps_per_s"] = self.env.num_envs * self.config.steps / (ended - began)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """All that an iteration depends on, torch's own generators too: between two iterations, not within one."""
        hidden = () if self.hidden is None else tuple(part.clone() for part in self.hidden)
        generators = {"cpu": torch.get_rng_state()}
        if self.env.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.env.device)
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "env": self.env.state_dict(),
            "obs_moments": self.obs_moments.state_dict(),
            "return_moments": self.return_moments.state_dict(),
            "obs": self.obs.clone(),
            "starts": self.starts.clone(),
            "hidden": hidden,
            "env_steps": self.env_steps,
            "generators": generators,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``: on a CPU, with as many threads, to the last bit.

        Raises:
            ValueError, RuntimeError, KeyError: of another environment or policy.
        """
        self.env.load_state_dict(state["env"])
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.obs_moments.load_state_dict(state["obs_moments"])
        self.return_moments.load_state_dict(state["return_moments"])
        device = self.env.device
        self.obs, self.starts = torch.empty_like(self.obs).copy_(state["obs"]), state["starts"].to(device)
        hidden = [part.to(device) for part in state["hidden"]]
        self.hidden = (hidden[0], hidden[1]) if hidden else None
        self.env_steps = state["env_steps"]
        torch.set_rng_state(state["generators"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"], device)

    # -- rollout ------------------------------------------------------------------------------------------------------

    def rollout(self) -> dict[str, float]:
        """Fill the buffer. The time of the environment is its own on a CPU, and that of its launches on a GPU."""
        env, buffer, env_seconds = self.env, self.buffer, 0.0
        buffer.clear()
        self.first, returns, ended = self.hidden, torch.zeros((), device=env.device), torch.zeros((), device=env.device)
        forced = torch.zeros((), device=env.device)
        illegal = env.illegal_actions.sum()
        for step in range(self.config.steps):
            self.obs_moments.update(self.obs)
            obs, place = self.obs_moments(self.obs), buffer.at(step)
            forced += env.masks().forced.float().mean()
            acted = self.policy.act(obs, env.states, env.total_seeds, hidden=self.hidden, starts=self.starts, out=place)
            began = perf_counter()
            self.obs, reward, terminated, _, info = env.step(place.actions)
            env_seconds += perf_counter() - began
            buffer.write(step, obs=obs, value=acted.values, reward=reward, start=self.starts, terminated=terminated)
            returns += torch.where(terminated, info["returns"], 0).sum()
            ended += terminated.sum()
            self.starts, self.hidden = terminated, acted.hidden
        self.env_steps += env.num_envs * self.config.steps
        return {
            "env_seconds": env_seconds,
            "return_mean": float(returns / ended) if ended else float("nan"),
            "forced_share": float(forced / self.config.steps),
            "illegal_actions": float(env.illegal_actions.sum() - illegal),
        }

    # -- update -------------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """Improve the policy by what is in the buffer."""
        fields, config = self.buffer.fields, self.config
        with torch.no_grad():
            *_, last_value, _ = self.policy(self.obs_moments(self.obs), self.hidden, self.starts)
            scale = self.return_moments.spread
            values, last = fields["value"] * scale, last_value * scale
            advantages, returns = gae(
                fields["reward"], values, fields["terminated"], last, config.gamma, config.gae_lambda
            )
            self.return_moments.update(returns.unsqueeze(-1))
            returns = returns / self.return_moments.spread
            unexplained = (returns - fields["value"]).var() / returns.var().clamp_min(1e-8)
            advantages = (advantages - advantages.mean()) / advantages.std().clamp_min(1e-8)
        sums: dict[str, Tensor] = {}
        number, stopped = 0, False
        for _ in range(config.epochs):
            for rows, hidden, (gained, target) in self._minibatches(advantages, returns):
                figures, kl = self._learn(rows, hidden, gained, target)
                number += 1
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0) + value
                stopped = kl > 1.5 * config.target_kl
                if stopped:
                    break
            if stopped:
                break
        mean = {name: float(value) / number for name, value in sums.items()}
        return {**mean, "explained_variance": float(1 - unexplained), "optimizer_steps": float(number)}

    def _minibatches(self, *values: Tensor) -> Iterator[tuple[Minibatch, Hidden | None, list[Tensor]]]:
        """Rows in any order, and of ``values`` the same; of a recurrent policy whole sequences."""
        recurrent = isinstance(self.policy, FactoredRecurrentActorCritic)
        number = self.env.num_envs * (1 if recurrent else self.config.steps)
        for index in torch.randperm(number, device=self.env.device).chunk(self.config.minibatches):
            if recurrent:
                assert self.first is not None
                hidden = self.first[0][index], self.first[1][index]
                yield self.buffer.sequences(index), hidden, [value[:, index] for value in values]
            else:
                yield self.buffer.minibatch(index), None, [value.flatten()[index] for value in values]

    def _learn(
        self, rows: Minibatch, hidden: Hidden | None, advantages: Tensor, returns: Tensor
    ) -> tuple[dict[str, Tensor], float]:
        config, policy = self.config, self.policy
        starts = None if hidden is None else rows.fields["start"]
        scored = policy.evaluate_actions(
            rows.fields["obs"], rows.masks, rows.actions, active=rows.active, hidden=hidden, starts=starts
        )
        log_ratio = scored.evaluation.log_prob - rows.log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = 0.5 * (scored.values - returns).square().mean()
        heads = scored.evaluation.head_entropies
        assert heads is not None
        entropies = heads.flatten(0, -2).mean(0)
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropies.mean()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        with torch.no_grad():
            kl = (ratio - 1 - log_ratio).mean()
        # one read of the device for what an optimizer step must not be taken with
        raise_on_fault(heads=self.env.engine.layout.head_names, faults=scored.evaluation.faults, gradient_norm=norm)
        self.optimizer.step()
        with torch.no_grad():
            figures = {"policy_loss": policy_loss, "value_loss": value_loss, "kl": kl, "gradient_norm": norm}
            figures["clip_fraction"] = (ratio != clipped).float().mean()
            names = self.env.engine.layout.head_names
            figures |= {f"entropy_{name}": value for name, value in zip(names, entropies)}
        return {name: value.detach() for name, value in figures.items()}, float(kl)
