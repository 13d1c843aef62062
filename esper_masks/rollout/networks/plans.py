"""Plans that no look at the network changes: the marks that a learned policy has to pass."""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from esper_masks.rollout.env.dynamics import BLUEPRINT, whole_actions
from esper_masks.rollout.env.env import LifecycleEnv
from esper_masks.rollout.networks.dynamics import NetworkDynamics
from esper_masks.rules.names import OP, SLOT

Player = Callable[[LifecycleEnv], Tensor]  # environments to actions

PLANS = 36  # at most so many are tried
BIRTHS = (0, 2, 5)  # epochs in which they plant a seed


class Plan(NamedTuple):
    """A seed of a blueprint in a slot at an epoch, advanced and kept as soon as that is legal."""

    blueprint: int  # a choice of the head
    slot: int
    epoch: int


class Found(NamedTuple):
    """The best of some plans."""

    fixed: Plan | None  # over all hosts; None is to do nothing
    by_task: tuple[Plan | None, ...]  # over the hosts of each task
    tried: tuple[tuple[Plan, tuple[float, ...]], ...]  # each plan, and its mean score by task


def plans_for(dynamics: NetworkDynamics) -> list[Plan]:
    """At most ``PLANS``: all blueprints, in slots spread over the network, at ``BIRTHS``; one of each module.

    Where these are too many, each blueprint is tried with some pairs of slot and birth, as evenly as may be.
    """
    modules = [int(dynamics.number[blueprint]) for blueprint in dynamics.blueprints]
    blueprints = [each for at, each in enumerate(dynamics.blueprints) if modules[at] not in modules[:at]]
    births, most = len(BIRTHS), max(PLANS // len(blueprints), 1)
    slots = range(0, dynamics.slots, -(-dynamics.slots // max(most // births, births)))
    # slots in turn, and each time through them with other births: a few that follow each other differ in both
    pairs = [(at % len(slots), (at % len(slots) - at // len(slots)) % births) for at in range(len(slots) * births)]
    plans = []
    for number, blueprint in enumerate(blueprints):
        chosen = {pairs[at % len(pairs)] for at in range(number * most, (number + 1) * most)}
        plans += [Plan(blueprint, slots[slot], BIRTHS[birth]) for slot, birth in sorted(chosen)]
    return plans[:PLANS]


def playing(plans: Sequence[Plan | None]) -> Player:
    """A policy that follows a plan on the hosts of each task.

    Args:
        plans: one for each task of the environments, or one for all.
    """

    def act(env: LifecycleEnv) -> Tensor:
        dynamics, state = env.dynamics, env.state
        assert isinstance(dynamics, NetworkDynamics)
        rows = [(-1, 0, -1) if plan is None else plan for plan in plans]
        table = torch.tensor(rows, device=env.device)  # [plans, 3]
        blueprint, slot, epoch = table[dynamics.samples.tasks_of(state.key) % len(plans)].unbind(1)
        onward = dynamics.lifecycle.onward(state).gather(0, slot.unsqueeze(0)).squeeze(0)
        born = state.epoch == epoch
        op = torch.where(onward >= 0, onward, dynamics.wait)
        op = torch.where(born, dynamics.lifecycle.op("fill"), op)
        values = {OP: op, SLOT: slot, BLUEPRINT: torch.where(born, blueprint, 0)}
        return whole_actions(dynamics.engine.layout, values)

    return act


def find_plans(env: LifecycleEnv, plans: Iterable[Plan]) -> Found:
    """The plans with the best scores on validation, over all hosts and over those of each task; none at all scores 0.

    Args:
        env: environments by ``NetworkDynamics`` with one round, which play an episode for each plan.
        plans: those to try.
    """
    dynamics, tried = env.dynamics, []
    assert isinstance(dynamics, NetworkDynamics)
    tasks = dynamics.samples.tasks_of(env.state.key)
    for plan in plans:
        env.reset()
        play = playing([plan])
        for _ in range(dynamics.episode_length):
            *_, info = env.step(play(env))
        tried.append(
            (plan, tuple(float(info["returns"][tasks == at].mean()) for at in range(len(dynamics.samples.tasks))))
        )

    def best(worth: Callable[[tuple[float, ...]], float]) -> Plan | None:
        plan, scores = max(tried, key=lambda each: worth(each[1]))
        return plan if worth(scores) > 0 else None

    by_task = tuple(best(itemgetter(at)) for at in range(len(dynamics.samples.tasks)))
    return Found(best(fmean), by_task, tuple(tried))


def baselines_for(env: LifecycleEnv, hosts: int) -> tuple[dict[str, Player], Found]:
    """What a policy should be better than, and the mark it may hope to reach, ``known_task``.

    Args:
        env: environments like those of the training, from whose pool plans are found.
        hosts: on how many hosts each plan is tried.
    """
    dynamics = env.dynamics
    assert isinstance(dynamics, NetworkDynamics)
    found = find_plans(env.another(hosts, 0, dynamics=dynamics.of_pool("train")), plans_for(dynamics))
    players = {"no_op": always_wait, "random": random_legal, "heuristic": heuristic}
    return {**players, "fixed_plan": playing([found.fixed]), "known_task": playing(found.by_task)}, found
