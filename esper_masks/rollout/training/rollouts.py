"""A policy acts in an environment, and every step is kept in a buffer."""

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
from esper_masks.rollout.training.moments import RunningMoments
from esper_masks.rollout.training.policy import FactoredActorCritic, Hidden


class RolloutState(NamedTuple):
    """What passes from one step of a rollout to the next, and from one rollout to the next."""

    obs: Tensor  # float32 [batch, obs_size], as the environment gave it
    hidden: Hidden | None  # of a recurrent policy
    starts: Tensor  # bool [batch]: an episode begins with the observation


class Collector(nn.Module):
    """Normalize an observation, decide, step, store. Where policy and environment are compiled, all of it is one graph.

    Args:
        env: the environments.
        policy: the policy that acts in them.
        moments: of observations.
        steps: length of a rollout.

    Attributes:
        buffer: what the last rollout did.
        env_seconds: seconds spent in the environment so far; 0 where one graph does all.
        graph: that graph, or None.
    """

    FIELDS = ("obs", "value", "start", "reward", "terminated", "returns")

    def __init__(self, env: LifecycleEnv, policy: FactoredActorCritic, moments: RunningMoments, steps: int):
        super().__init__()
        self.env, self.policy, self.moments = env, policy, moments
        real, obs = (torch.zeros(size, dtype=torch.float32, device=env.device) for size in ((), env.obs_size))
        examples = (obs, real, real.bool(), real, real.bool(), real)
        fields = dict(zip(self.FIELDS, examples))
        given = env.given
        held = given.get("head_masks") or {}
        by_slot = [name for name, mask in held.items() if mask.ndim == 3]
        self.buffer = RolloutBuffer(
            env.engine,
            steps,
            env.num_envs,
            fields=fields,
            head_masks=by_slot,
            restrict=[*(given.get("restrict") or ()), *(name for name in held if name not in by_slot)],
            dtype=torch.float32,  # logits are float32 whatever the default dtype is
        )
        self.env_seconds = 0.0
        # of its many small tensors C++ takes less time to allocate than Python: a sixth less at 8 and 64 environments
        options = {"cpp_wrapper": True}
        self.graph = CompiledMethod(self._whole, options) if env.mode == policy.step.mode == "compiled" else None
        self._entry: Entry
        if self.graph is not None:  # places of each step, which take as long to look up as some of what is computed
            if given or self.buffer.packed is not None:  # lookup tables that no trace can make
                logits = torch.zeros(env.num_envs, env.engine.layout.logit_size, dtype=torch.float32, device=env.device)
                limit = env.engine.max_seeds
                policy.step.decide(DecisionInputs(env.states, logits, env.total_seeds, limit, given=given))
            fields = self.buffer.fields
            self._rows = [[*self.buffer.at(i), *[fields[name][i] for name in self.FIELDS]] for i in range(steps)]

    def rollout(self, state: RolloutState) -> RolloutState:
        """Fill the buffer with decisions and ``FIELDS``; returns are those of the episode so far."""
        buffer, scale = self.buffer, (self.moments.mean.float(), self.moments.spread)
        buffer.clear()
        if self.graph is None or intercepted():
            for step in range(buffer.steps):
                state = self._eager(step, state, scale)
            return state
        with torch.inference_mode(False), torch.no_grad():
            for step in range(buffer.steps):
                state = self._compiled(step, state, scale)
        return state

    def _eager(self, step: int, state: RolloutState, scale: tuple[Tensor, Tensor]) -> RolloutState:
        env, place = self.env, self.buffer.at(step)
        seen = self.moments.scale(state.obs, *scale)
        self.buffer.write(step, obs=state.obs, start=state.starts)  # a CUDA graph of the environment overwrites them
        past: dict[str, Any] = {"hidden": state.hidden, "starts": state.starts}
        acted = self.policy.act(seen, env.states, env.total_seeds, **past, out=place, **env.given)
        began = perf_counter()
        obs, reward, terminated, _, info = env.step(place.actions)
        self.env_seconds += perf_counter() - began
        after = {"reward": reward, "terminated": terminated, "returns": info["returns"]}
        self.buffer.write(step, value=acted.values, **after)
        return RolloutState(obs, acted.hidden, terminated)

    def _compiled(self, step: int, state: RolloutState, scale: tuple[Tensor, Tensor]) -> RolloutState:
        assert self.graph is not None
        env, out = self.env, self._rows[step]
        noise = NoiseKey.draw() if env.device.type == "cpu" else None
        first, second = (None, None) if state.hidden is None else state.hidden
        given = state.obs, *scale, first, second, state.starts, noise, env.illegal_actions, *env.state, env.draw()
        if step < 2:  # the arguments of all later steps are made as those of the second
            self._entry = self.graph.find(given, out)
        first, second, obs, ended, env.illegal_actions, *following = self._entry(given, out)
        env.carry(following, None)
        return RolloutState(obs, None if first is None else (first, second), ended)

    def _whole(self, given: Sequence[Any], out: Sequence[Tensor | None]) -> tuple[Any, ...]:
        obs, mean, spread, first, second, starts, noise, illegal, *fields, env_noise = given
        env, step = self.env, self.policy.step
        state = env.kind(*fields)
        hidden = None if first is None else (first, second)
        seen = self.moments.scale(obs, mean, spread)
        logits, values, hidden = self.policy(seen, hidden, starts)
        limit = step.engine.max_seeds
        packed = self.buffer.packed
        inputs = DecisionInputs(
            state.states,
            logits,
            state.total_seeds,
            limit,
            noise=noise,
            entropy=False,
            given=env.dynamics.given(state),
            words=None if packed is None else packed.shape[-1],
        )
        decision = step.decide(inputs, categorical=CompiledCategorical)
        assert decision is not None  # since it was given no place
        made = env.epoch(state, decision.actions, env_noise)
        outcome = made.outcome
        kept = obs, values, starts, outcome.reward, outcome.terminated, made.returns
        copy_into(out, (*decision, *kept))
        kept_hidden = (None, None) if hidden is None else hidden
        return (*kept_hidden, made.obs, outcome.terminated, illegal + outcome.illegal, *made.following)
