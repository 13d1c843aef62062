"""Proximal policy optimization, read from top to bottom: rollout, advantages, update.

Source: Schulman et al., "Proximal policy optimization algorithms", 2017.
"""

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from esper_masks.errors import InvalidStateMachineError
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.training.config import PPOConfig
from esper_masks.rollout.training.gae import gae
from esper_masks.rollout.training.learner import Learned, Learner
from esper_masks.rollout.training.moments import RunningMoments
from esper_masks.rollout.training.policy import FactoredActorCritic, FactoredRecurrentActorCritic
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.rollouts import Collector, RolloutState

LEARNED = ("policy", "optimizer", "obs_moments", "return_moments")  # parts that have a state, beside ``env``


class PPO:
    """A training: a policy that acts in environments, and learns from what it did there.

    >>> import esper_masks as em
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 64)
    >>> policy = em.rollout.FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size)
    >>> ppo = PPO(env, policy)
    >>> sorted(ppo.iterate())[:3]
    ['clip_fraction', 'entropy_blend', 'entropy_blueprint']

    Args:
        env: the environments; they are reset.
        policy: what learns.
        config: hyper-parameters.
        processes: the processes of the training, each of which has its share of the environments; by default one.

    Raises:
        ValueError: more minibatches than there are rows of a rollout, or sequences for a recurrent policy.
    """

    def __init__(
        self,
        env: LifecycleEnv,
        policy: FactoredActorCritic,
        config: PPOConfig | None = None,
        processes: Processes | None = None,
    ):
        recurrent = isinstance(policy, FactoredRecurrentActorCritic)
        self.env, self.policy, self.config = env, policy, PPOConfig() if config is None else config
        self.processes = Processes() if processes is None else processes
        self.rows = env.num_envs * (1 if recurrent else self.config.steps)  # or whole sequences
        if self.config.minibatches > self.rows:
            of = "environments, whose sequences a recurrent policy learns from" if recurrent else "steps of a rollout"
            raise ValueError(f"{self.config.minibatches} minibatches cannot be made of {self.rows} {of}")
        device = env.device
        self.optimizer = torch.optim.Adam(policy.parameters(), self.config.learning_rate, eps=1e-5, fused=True)
        self.obs_moments = RunningMoments(env.obs_size, device, self.processes)
        self.return_moments = RunningMoments(1, device, self.processes)  # values are fitted to unit spread
        self.collector = Collector(env, policy, self.obs_moments, self.config.steps)
        self.buffer = self.collector.buffer
        starts = torch.ones(env.num_envs, dtype=torch.bool, device=device)
        self.state = RolloutState(env.reset(), policy.initial(env.num_envs), starts)
        self.first_hidden = self.state.hidden  # with which the rollout in the buffer began
        self.env_steps = 0  # of all processes
        self.learner = Learner(
            policy, self.buffer, self.optimizer, self.config, self.processes, self.collector.graph is not None
        )

    def iterate(self) -> dict[str, float]:
        """One rollout and one update.

        Returns: figures to log, of all processes; times in seconds.
        Raises:
            InvalidStateMachineError: a row without an action, since none was legal or logits are not finite; or a
                gradient that is not finite. Nothing is learned from such a row or gradient.
        """
        began = perf_counter()
        figures = self.rollout()
        acted = perf_counter()
        figures |= self.update()
        ended = perf_counter()
        figures |= {"rollout_seconds": acted - began, "update_seconds": ended - acted}
        names = sorted(figures)
        values = torch.tensor([figures[name] for name in names], dtype=torch.float64, device=self.env.device)
        figures = dict(zip(names, self.processes.mean(values).tolist()))
        figures["illegal_actions"] *= self.processes.size
        figures["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        figures["env_steps_per_s"] = self.processes.size * self.env.num_envs * self.config.steps / (ended - began)
        return figures

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        first, last, horizon = self.config.learning_rate, self.config.final_learning_rate, self.config.horizon
        return first + (last - first) * min(self.env_steps / horizon, 1.0) if horizon else first

    def state_dict(self) -> dict[str, Any]:
        """All that an iteration depends on, torch's own generators too. To be called between two iterations."""
        obs, hidden, starts = self.state
        generators = {"cpu": torch.get_rng_state()}
        if self.env.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.env.device)
        return {
            **{name: getattr(self, name).state_dict() for name in ("env", *LEARNED)},
            "obs": obs.clone(),
            "starts": starts.clone(),
            "hidden": () if hidden is None else tuple(part.clone() for part in hidden),
            "env_steps": self.env_steps,
            "generators": generators,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, environments: bool = True) -> None:
        """Resume from a ``state_dict``: on a CPU, with as many threads, to the last bit.

        Args:
            state: of a training with the same policy.
            environments: True: resume in the environments of the state, too, with the noise that they and the policy
                were about to draw. False: take only what was learned, which is policy, optimizer, moments and the
                number of steps. The environments of this training stay as they are then, and may be any number.

        Raises:
            ValueError, RuntimeError, KeyError: the state of another environment or policy.
        """
        there, here, device = len(state["starts"]), self.env.num_envs, self.env.device
        if environments and there != here:
            raise ValueError(
                f"the state is of {there} environments, and there are {here} here: make as many, or load it with "
                "environments=False, which takes what was learned and leaves these environments as they are"
            )
        groups = [{**group, "fused": True} for group in state["optimizer"]["param_groups"]]  # what else 0.1.0 has saved
        state = {**state, "optimizer": {**state["optimizer"], "param_groups": groups}}
        for name in ("env", *LEARNED) if environments else LEARNED:
            getattr(self, name).load_state_dict(state[name])
        self.env_steps = state["env_steps"]
        if not environments:
            return
        obs = torch.empty_like(self.state.obs).copy_(state["obs"])  # in memory as it was
        hidden = [part.to(device) for part in state["hidden"]]
        self.state = RolloutState(obs, (hidden[0], hidden[1]) if hidden else None, state["starts"].to(device))
        torch.set_rng_state(state["generators"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"], device)

    # -- rollout ------------------------------------------------------------------------------------------------------

    def rollout(self) -> dict[str, float]:
        """Fill the buffer.

        Returns: figures to log. On a GPU ``env_seconds`` is the time of the environment's launches; where compiled
            code is one graph for environment and policy, it is 0.
        """
        env, buffer, env_seconds = self.env, self.buffer, self.collector.env_seconds
        illegal = env.illegal_actions.sum()
        self.first_hidden = self.state.hidden
        self.state = self.collector.rollout(self.state)
        self.env_steps += self.processes.size * env.num_envs * self.config.steps
        ended = buffer.fields["terminated"]
        faulty = int((buffer.actions[..., 0] < 0).sum())
        if self.processes.most(faulty, env.device):
            rows = f"{faulty} of {ended.numel()} rows" if faulty else "rows of another process, but none here,"
            raise InvalidStateMachineError(
                f"{rows} of the rollout have no action: none is legal, or logits are not finite"
            )
        returns = buffer.fields["returns"].masked_fill(~ended, 0).sum()
        masks = buffer.masks()
        return {
            "env_seconds": self.collector.env_seconds - env_seconds,
            "return_mean": float(returns / ended.sum()),  # nan if no episode ended
            "forced_share": float(masks.forced.float().mean()),
            "legal_ops": float(masks["op"].float().sum(-1).mean()),
            "illegal_actions": float(env.illegal_actions.sum() - illegal),
        }

    # -- update -------------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """Improve the policy by what is in the buffer.

        Returns: figures to log, means over the minibatches.
        Raises:
            InvalidStateMachineError: a fault in scored rows, or a gradient that is not finite.
        """
        fields, config = self.buffer.fields, self.config
        with torch.no_grad():
            _, last_value, _ = self.policy(self.obs_moments(self.state.obs), self.state.hidden, self.state.starts)
            seen = self.obs_moments.measure(fields["obs"])
            self.obs_moments.scale_(fields["obs"])  # as the policy saw them
            scale = self.return_moments.spread
            values, last = fields["value"] * scale, last_value * scale
            advantages, returns = gae(
                fields["reward"], values, fields["terminated"], last, config.gamma, config.gae_lambda
            )
            unexplained = (returns - values).var() / returns.var().clamp_min(1e-8)
            self.return_moments.update(returns.unsqueeze(-1))
            returns = returns / self.return_moments.spread
            advantages = advantages - self.processes.mean(advantages.mean())
            advantages = advantages / self.processes.mean(advantages.square().mean()).sqrt().clamp_min(1e-8)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        learned: list[Learned] = []
        for index in self._order():
            learned.append(self.learner.step(index, self.first_hidden, advantages, returns))
            if not learned[-1].near:
                break
        self.obs_moments.merge(*seen)
        total = torch.stack([each.figures for each in learned]).sum(0)
        mean = {name: value / len(learned) for name, value in zip(self.learner.names, total.tolist())}
        steps = float(sum(each.near for each in learned))
        return {**mean, "explained_variance": float(1 - unexplained), "optimizer_steps": steps}

    def _order(self) -> Iterator[Tensor]:
        """Rows of the buffer in parts, in another order in each epoch; for a recurrent policy environments."""
        for _ in range(self.config.epochs):
            yield from torch.randperm(self.rows, device=self.env.device).chunk(self.config.minibatches)
