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
from esper_masks.errors import InvalidStateMachineError
from esper_masks.faults import raise_on_fault
from esper_masks.rollout.env import LifecycleEnv
from esper_masks.rollout.gae import gae
from esper_masks.rollout.normalize import RunningMoments
from esper_masks.rollout.policy import FactoredActorCritic, FactoredRecurrentActorCritic, Hidden, Scored
from esper_masks.rollout.world import World


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters.

    Args:
        steps: of every environment in a rollout.
        epochs: passes over a rollout in an update.
        minibatches: optimizer steps of a pass.
        learning_rate: of Adam, at first.
        final_learning_rate: to which it falls, a straight line over ``horizon``.
        horizon: environment steps of all environments; later ones have the final learning rate. 0: it does not fall.
        gamma: discount of a step.
        gae_lambda: weight of a further step in advantages.
        clip: how far the ratio of probabilities may be from 1.
        value_weight: of the value loss, on returns of unit spread.
        entropy_weight: of the mean over heads of their normalized entropies.
        max_grad_norm: gradients are scaled down to it.
        target_kl: an update ends before a step at which its policy is further than 1.5 times this from that of the
            rollout, in nats.
    """

    steps: int = 25
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 4e-3
    final_learning_rate: float = 2e-4
    horizon: int = 0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.02
    max_grad_norm: float = 0.5
    target_kl: float = 0.02


class Scoring(nn.Module):
    """``evaluate_actions`` as a forward pass, which is what ``DistributedDataParallel`` averages gradients of."""

    def __init__(self, policy: FactoredActorCritic):
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor, rows: Minibatch, hidden: Hidden | None, starts: Tensor | None) -> Scored:
        masks, actions = rows.masks, rows.actions
        return self.policy.evaluate_actions(obs, masks, actions, active=rows.active, hidden=hidden, starts=starts)


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
        world: the processes, each of which has a part of the environments; by default one.
    """

    def __init__(
        self,
        env: LifecycleEnv,
        policy: FactoredActorCritic,
        config: PPOConfig | None = None,
        world: World | None = None,
    ):
        self.env, self.policy, self.config = env, policy, PPOConfig() if config is None else config
        self.world = World() if world is None else world
        device, batch = env.device, env.num_envs
        real, obs = torch.zeros((), device=device), torch.zeros(env.obs_size, device=device)
        fields = {"obs": obs, "value": real, "reward": real, "start": real.bool(), "terminated": real.bool()}
        self.buffer = RolloutBuffer(env.engine, self.config.steps, batch, fields=fields)
        self.optimizer = torch.optim.Adam(policy.parameters(), self.config.learning_rate, eps=1e-5)
        self.obs_moments = RunningMoments(env.obs_size, device, self.world)
        self.return_moments = RunningMoments(1, device, self.world)  # so that what values are fitted to has unit spread
        self.obs = env.reset()
        self.starts = torch.ones(batch, dtype=torch.bool, device=device)
        self.hidden = policy.initial(batch)
        self.first: Hidden | None = self.hidden  # of the rollout
        self.env_steps = 0  # of all processes
        self.scoring: nn.Module = Scoring(policy)
        if self.world.size > 1:
            self.scoring = self.world.averaged(self.scoring, device)

    def iterate(self) -> dict[str, float]:
        """One rollout and one update.

        Returns: what to log, of all processes; times in seconds.
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
        names = sorted(figures)
        told = self.world.mean(torch.tensor([figures[name] for name in names], device=self.env.device)).tolist()
        figures = dict(zip(names, told))
        figures["illegal_actions"] *= self.world.size
        figures["env_steps_per_s"] = self.world.size * self.env.num_envs * self.config.steps / (ended - began)
        return figures

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        first, last, horizon = self.config.learning_rate, self.config.final_learning_rate, self.config.horizon
        return first + (last - first) * min(self.env_steps / horizon, 1.0) if horizon else first

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
        illegal = env.illegal_actions.sum()
        for step in range(self.config.steps):
            obs, place = self.obs, buffer.at(step)
            acted = self.policy.act(
                self.obs_moments(obs), env.states, env.total_seeds, hidden=self.hidden, starts=self.starts, out=place
            )
            began = perf_counter()
            self.obs, reward, terminated, _, info = env.step(place.actions)
            env_seconds += perf_counter() - began
            buffer.write(step, obs=obs, value=acted.values, reward=reward, start=self.starts, terminated=terminated)
            returns += torch.where(terminated, info["returns"], 0).sum()
            ended += terminated.sum()
            self.starts, self.hidden = terminated, acted.hidden
        self.env_steps += self.world.size * env.num_envs * self.config.steps
        masks = buffer.masks()
        return {
            "env_seconds": env_seconds,
            "return_mean": float(returns / ended) if ended else float("nan"),
            "forced_share": float(masks.forced.float().mean()),
            "legal_ops": float(masks["op"].float().sum(-1).mean()),
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
            advantages = advantages - self.world.mean(advantages.mean())
            advantages = advantages / self.world.mean(advantages.square().mean()).sqrt().clamp_min(1e-8)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        sums: dict[str, Tensor] = {}
        seen = steps = 0
        for rows, hidden, (gained, target) in self._minibatches(advantages, returns):
            figures, near = self._learn(rows, hidden, gained, target)
            seen, steps = seen + 1, steps + near
            for name, value in figures.items():
                sums[name] = sums.get(name, 0) + value
            if not near:
                break
        self.obs_moments.update(fields["obs"])
        mean = {name: float(value) / seen for name, value in sums.items()}
        return {**mean, "explained_variance": float(1 - unexplained), "optimizer_steps": float(steps)}

    def _minibatches(self, *values: Tensor) -> Iterator[tuple[Minibatch, Hidden | None, list[Tensor]]]:
        """Rows in any order, in each epoch another, and of ``values`` the same; of a recurrent policy sequences."""
        recurrent = isinstance(self.policy, FactoredRecurrentActorCritic)
        number = self.env.num_envs * (1 if recurrent else self.config.steps)
        for _ in range(self.config.epochs):
            for index in torch.randperm(number, device=self.env.device).chunk(self.config.minibatches):
                if recurrent:
                    assert self.first is not None
                    hidden = self.first[0][index], self.first[1][index]
                    yield self.buffer.sequences(index), hidden, [value[:, index] for value in values]
                else:
                    yield self.buffer.minibatch(index), None, [value.flatten()[index] for value in values]

    def _learn(
        self, rows: Minibatch, hidden: Hidden | None, advantages: Tensor, returns: Tensor
    ) -> tuple[dict[str, Tensor], bool]:
        """One optimizer step, unless the policy has gone too far; whether it was taken."""
        config, policy = self.config, self.policy
        starts = None if hidden is None else rows.fields["start"]
        scored: Scored = self.scoring(self.obs_moments(rows.fields["obs"]), rows, hidden, starts)
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
        names, faults = self.env.engine.layout.head_names, scored.evaluation.faults
        with torch.no_grad():
            kl = (ratio - 1 - log_ratio).mean()
            fault = (faults != 0).any() | ~norm.isfinite()
            # one read of the device for all that decides whether the step is taken, and one decision of all processes
            far, anywhere = self.world.mean(torch.stack([kl, fault.float()])).tolist()
        if anywhere:
            raise_on_fault(heads=names, faults=faults, gradient_norm=norm)
            raise InvalidStateMachineError("another process of the training met a fault, and says which")
        near = far <= 1.5 * config.target_kl
        if near:
            self.optimizer.step()
        with torch.no_grad():
            figures = {"policy_loss": policy_loss, "value_loss": value_loss, "kl": kl, "gradient_norm": norm}
            figures["clip_fraction"] = (ratio != clipped).float().mean()
            figures |= {f"entropy_{name}": value for name, value in zip(names, entropies)}
        return {name: value.detach() for name, value in figures.items()}, near
