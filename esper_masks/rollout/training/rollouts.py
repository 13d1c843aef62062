"""A policy in an environment: one step of both, kept in a buffer."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esper_masks.compiled.methods import CompiledMethod, Entry, copy_into
from esper_masks.compiled.torch_private import intercepted
from esper_masks.decision.buffer import RolloutBuffer
from esper_masks.decision.step import CompiledCategorical, DecisionInputs
from esper_masks.distributions.noise import NoiseKey
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.env.state import Outcome, State
from esper_masks.rollout.training.moments import RunningMoments
from esper_masks.rollout.training.policy import FactoredActorCritic, Hidden


class Situation(NamedTuple):
    """Where the next step begins."""

    obs: Tensor  # float32 [batch, obs_size], as the environment gave it
    hidden: Hidden | None  # of a recurrent policy
    starts: Tensor  # bool [batch]: an episode begins with it


class Acting(nn.Module):
    """Normalize what is observed, decide, step, and store. Where policy and environment are compiled, it is one graph.

    Args:
        env: to act in.
        policy: to decide.
        moments: of observations.
        steps: of a rollout.
    """

    FIELDS = ("obs", "value", "start", "reward", "terminated", "returns")

    def __init__(self, env: LifecycleEnv, policy: FactoredActorCritic, moments: RunningMoments, steps: int):
        super().__init__()
        self.env, self.policy, self.moments = env, policy, moments
        real, obs = (torch.zeros(size, dtype=torch.float32, device=env.device) for size in ((), env.obs_size))
        examples = (obs, real, real.bool(), real, real.bool(), real)
        fields = dict(zip(self.FIELDS, examples))
        # logits are float32 whatever the default dtype is
        self.buffer = RolloutBuffer(env.engine, steps, env.num_envs, fields=fields, dtype=torch.float32)
        self.env_seconds = 0.0  # spent in the environment so far; of one graph for all, nobody knows
        # of its many small tensors C++ takes less time to allocate than Python: a sixth less at 8 and 64 environments
        options = {"cpp_wrapper": True}
        self._graph = CompiledMethod(self._whole, options) if env.mode == policy.step.mode == "compiled" else None
        self._entry: Entry
        if self._graph is not None:  # places of each step, which take as long to look up as some of what is computed
            fields = self.buffer.fields
            self._rows = [[*self.buffer.at(i)[:3], *[fields[name][i] for name in self.FIELDS]] for i in range(steps)]

    def rollout(self, at: Situation) -> Situation:
        """Fill the buffer: decisions, and ``FIELDS``, of which returns are those of the episode so far."""
        buffer, scale = self.buffer, (self.moments.mean.float(), self.moments.spread)
        buffer.clear()
        if self._graph is None or intercepted():
            for step in range(buffer.steps):
                at = self._eager(step, at, scale)
            return at
        with torch.inference_mode(False), torch.no_grad():
            for step in range(buffer.steps):
                at = self._compiled(step, at, scale)
        return at

    def _eager(self, step: int, at: Situation, scale: tuple[Tensor, Tensor]) -> Situation:
        env, place = self.env, self.buffer.at(step)
        seen = self.moments.scale(at.obs, *scale)
        self.buffer.write(step, obs=at.obs, start=at.starts)  # a CUDA graph of the environment overwrites them
        acted = self.policy.act(seen, env.states, env.total_seeds, hidden=at.hidden, starts=at.starts, out=place)
        began = perf_counter()
        obs, reward, terminated, _, info = env.step(place.actions)
        self.env_seconds += perf_counter() - began
        after = {"reward": reward, "terminated": terminated, "returns": info["returns"]}
        self.buffer.write(step, value=acted.values, **after)
        return Situation(obs, acted.hidden, terminated)

    def _compiled(self, step: int, at: Situation, scale: tuple[Tensor, Tensor]) -> Situation:
        assert self._graph is not None
        env, out = self.env, self._rows[step]
        noise = NoiseKey.draw() if env.device.type == "cpu" else None
        first, second = (None, None) if at.hidden is None else at.hidden
        given = at.obs, *scale, first, second, at.starts, noise, *env.state, env.draw(), env.illegal_actions
        if step < 2:  # what is given to those that follow was made as what is given to the second
            self._entry = self._graph.find(given, out)
        first, second, obs, ended, env.illegal_actions, *after = self._entry(given, out)
        env.state = State(*after)
        return Situation(obs, None if first is None else (first, second), ended)

    def _whole(self, given: Sequence[Any], out: Sequence[Tensor]) -> tuple[Any, ...]:
        obs, mean, spread, first, second, starts, noise, *before, env_noise, illegal = given
        state, step = State(*before), self.policy.step
        hidden = None if first is None else (first, second)
        seen = self.moments.scale(obs, mean, spread)
        logits, values, hidden = self.policy(seen, hidden, starts)
        limit = step.engine.max_seeds
        inputs = DecisionInputs(state.states, logits, state.total_seeds, limit, noise=noise, entropy=False)
        decision = step.decide(inputs, categorical=CompiledCategorical)
        assert decision is not None  # since it was given no place
        *made, following = self.env.dynamics.step((*before, decision.actions, env_noise))
        after, outcome = made[: len(State._fields)], Outcome(*made[len(State._fields) :])
        kept = obs, values, starts, outcome.reward, outcome.terminated, outcome.returns
        copy_into(out, (*decision[:3], *kept))
        kept_hidden = (None, None) if hidden is None else hidden
        return (*kept_hidden, following, outcome.terminated, illegal + outcome.illegal, *after)
