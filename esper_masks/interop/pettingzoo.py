"""``LifecycleEnv`` for PettingZoo, https://pettingzoo.farama.org, and masks beside any observation in its form."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from esper_masks.extras import needs
from esper_masks.interop.action_forms import Form, rows_of
from esper_masks.interop.arrays import ArrayEnv
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout import LifecycleEnv

with needs("interop.pettingzoo"):
    import numpy as np
    from gymnasium import spaces
    from pettingzoo import ParallelEnv


def observations(
    masks: ActionMasks, observation: Tensor | Any, agents: Sequence[str], *, action: Form = "joint"
) -> dict[str, dict[str, Any]]:
    """What a parallel environment gives its agents, who are the rows of a batch.

        made[agents[i]]["observation"]  row i of the observation
        made[agents[i]]["action_mask"]  int8 [n], 1 is legal, for Discrete(n); factored, a tuple, one per head, as
                                        the sampler of MultiDiscrete takes

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> masks = engine(engine.empty_slots(2))
    >>> made = em.interop.pettingzoo.observations(masks, torch.zeros(2, 6), ["one", "two"])
    >>> made["two"]["action_mask"].shape, made["two"]["action_mask"].sum()
    ((43,), np.int64(37))

    Args:
        masks: masks of the agents, ``[batch]``.
        observation: ``[batch, ...]``, a tensor or an array.
        agents: their names.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.

    Raises:
        ValueError: another number of rows than agents, names that repeat, arguments of another kind, or no such form.
        ImportError: numpy is not installed.
    """
    seen = rows_of(masks, observation, action).numpy()
    if len(agents) != len(seen) or len(set(agents)) != len(agents):
        raise ValueError(f"{len(set(agents))} agents, and masks of {len(seen)} rows; wanted a row for each agent")
    heads = [masks.joint()] if action == "joint" else list(masks.values())
    rows = list(zip(*(head.cpu().numpy().astype(np.int8) for head in heads)))
    return {
        agent: {"observation": seen[at], "action_mask": rows[at][0] if action == "joint" else rows[at]}
        for at, agent in enumerate(agents)
    }


class LifecycleParallelEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo has no types
    """``rollout.LifecycleEnv`` as a ``ParallelEnv``: every environment of the batch is an agent of its own.

    Agents do not meet: each has its own slots, its own reward and its own end. An agent whose episode has ended is no
    longer among ``agents``. Its last observation and mask are those of its final state. When all have ended, ``reset``
    begins an episode for all of them.

        observation  {"observation": float32 [obs_size], "action_mask": ...}; see ``observations``
        infos        {"illegal_actions": how many of the agent's actions were taken for WAIT since it was made}

    An illegal action is WAIT, and is counted. The factored form has illegal pairs of op and slot however it is masked.

    >>> import esper_masks as em
    >>> env = em.interop.pettingzoo.LifecycleParallelEnv(2)
    >>> seen, infos = env.reset(seed=0)
    >>> env.agents, seen["agent_1"]["action_mask"].sum()
    (['agent_0', 'agent_1'], np.int64(37))

    Args:
        num_envs: number of agents, or a ``rollout.LifecycleEnv``, which takes no settings beside it.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.
        agents: their names; by default ``agent_0``, ``agent_1``, ...
        settings: ``rules``, a rule set or the name of one, by default ``"esper-2025-12"``; and settings of
            ``rollout.LifecycleEnv``, ``slot_ids``, ``seed``, ``mode`` and ``dynamics`` among them. Without a seed here
            or in ``reset``, no two environments have the same noise.

    Attributes:
        lifecycles: the environments themselves, the agents in their order. Those of agents that have ended run on, and
            nobody looks at them.

    Raises:
        TypeError: there is no such setting, or there are some beside a ``rollout.LifecycleEnv``.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``rollout.LifecycleEnv``; or no such form, another
            number of names, or names that repeat.
    """

    metadata: dict[str, Any] = {"name": "lifecycle_v0", "render_modes": []}  # noqa: RUF012  # as there
    render_mode = None

    def __init__(
        self,
        num_envs: int | LifecycleEnv,
        *,
        action: Form = "joint",
        agents: Sequence[str] | None = None,
        **settings: Any,
    ):
        self.arrays = ArrayEnv(num_envs, action, settings, ["agents"])
        self.lifecycles = self.arrays.env
        form, count = self.arrays.form, self.lifecycles.num_envs
        self.possible_agents = [f"agent_{at}" for at in range(count)] if agents is None else list(agents)
        if len(self.possible_agents) != count or len(set(self.possible_agents)) != count:
            raise ValueError(f"{len(set(self.possible_agents))} agents, and {count} environments; wanted one for each")
        self.agents: list[str] = []
        masks = [spaces.Box(0, 1, (size,), np.int8) for size in form.sizes]
        box = spaces.Box(-np.inf, np.inf, (self.lifecycles.obs_size,), np.float32)
        mask: spaces.Space[Any] = spaces.Tuple(masks) if form.row else masks[0]
        seen: dict[str, spaces.Space[Any]] = {"observation": box, "action_mask": mask}
        self.observation_spaces = {agent: spaces.Dict(seen) for agent in self.possible_agents}
        self.action_spaces = {
            agent: spaces.MultiDiscrete(list(form.sizes)) if form.row else spaces.Discrete(form.sizes[0])
            for agent in self.possible_agents
        }

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """``{"observation": ..., "action_mask": ...}``."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """``Discrete``, or ``MultiDiscrete``; ``sample(mask)`` takes the mask of an observation as it is."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        """Start an episode for every agent.

        Args:
            seed: seed of the noise of all agents; by default the noise is not seeded again.
            options: there are none; PettingZoo's own checks give some.

        Returns: observations and infos by agent.
        """
        self.agents = list(self.possible_agents)
        return self._seen(self.arrays.reset(seed), self.arrays.masks()), self._infos()

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """One epoch of every agent that has not ended.

        Args:
            actions: one for each of ``agents``, as in ``action_space``.

        Returns: observations, rewards, terminations, truncations (always False) and infos, by agent.
        Raises:
            ValueError: all have ended, an agent without an action, an action of one that does not act, or an action of
                another dtype or shape or out of range.
        """
        if not self.agents:
            raise ValueError("there is no agent: reset() begins an episode for all of them")
        if missing := [agent for agent in self.agents if agent not in actions]:
            raise ValueError(f"{missing[0]!r} has no action; {len(missing)} of {len(self.agents)} agents have none")
        if others := [agent for agent in actions if agent not in self.agents]:
            raise ValueError(f"{others[0]!r} is not among the agents that act: {', '.join(self.agents)}")
        idle = np.array([agent not in actions for agent in self.possible_agents])
        nothing = np.zeros(self.arrays.form.row, dtype=np.int64)
        given = [actions.get(agent, nothing) for agent in self.possible_agents]
        obs, reward, ended, last = self.arrays.step(given, idle if idle.any() else None)
        masks = self.arrays.masks()
        if last is not None:
            obs, masks = np.where(ended[:, None], last.obs, obs), np.where(ended[:, None], last.masks(), masks)
        seen, rewards, ends = self._seen(obs, masks), self._of_agents(reward.tolist()), self._of_agents(ended.tolist())
        made = seen, rewards, ends, dict.fromkeys(ends, False), self._infos()
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return made

    def _of_agents(self, rows: Iterable[Any]) -> dict[str, Any]:
        """Of rows of all environments, those of the agents that act."""
        acting = set(self.agents)
        return {agent: row for agent, row in zip(self.possible_agents, rows) if agent in acting}

    def _seen(self, obs: Any, masks: Any) -> dict[str, Any]:
        form, heads = self.arrays.form, masks.astype(np.int8)
        rows = zip(*np.split(heads, np.cumsum(form.sizes)[:-1], axis=1)) if form.row else heads
        return self._of_agents({"observation": one, "action_mask": mask} for one, mask in zip(obs, rows))

    def _infos(self) -> dict[str, Any]:
        return self._of_agents({"illegal_actions": count} for count in self.lifecycles.illegal_actions.tolist())
