"""What ``NetworkDynamics`` does to networks, beside hosts trained alone whose seeds move by plain loops."""

from typing import Any

import pytest
import torch

from esper_masks.bench.sequential import Alone, saved
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.networks.samples import births_of
from tests.rollout.networks.worlds import (
    ATTENTION,
    CONV_LIGHT,
    CULL,
    DEPTHWISE,
    FOSSILIZE,
    GERMINATE,
    NORM,
    RULES,
    WAIT,
    bumps,
    small,
)

RATES: dict[str, Any] = {"lr": 0.05, "seed_lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "clip": 1.0}
NEXT = {"GERMINATED": ("TRAINING", 1), "TRAINING": ("BLENDING", 2), "BLENDING": ("PROBATIONARY", 3)}  # after epochs
NEXT |= {"CULLED": ("EMBARGOED", 1), "EMBARGOED": ("RESETTING", 1), "RESETTING": ("DORMANT", 1)}
OPS = {"GERMINATE": "GERMINATED", "CULL": "CULLED", "FOSSILIZE": "FOSSILIZED"}
EPOCHS = 9
PLANS: list[dict[int, tuple[int, int, int]]] = [  # epoch -> op, slot, blueprint
    {0: (GERMINATE, 0, CONV_LIGHT), 3: (GERMINATE, 1, NORM), 7: (FOSSILIZE, 0, 0)},
    {0: (GERMINATE, 1, ATTENTION), 2: (CULL, 1, 0), 6: (GERMINATE, 1, DEPTHWISE)},
    {1: (GERMINATE, 2, CONV_LIGHT), 5: (CULL, 2, 0)},
    {},
    {0: (GERMINATE, 0, NORM), 1: (GERMINATE, 1, CONV_LIGHT), 2: (GERMINATE, 2, DEPTHWISE), 8: (FOSSILIZE, 1, 0)},
]
# hosts, and the parameters of the seed in units of which rent is paid
HOSTS: dict[str, tuple[dict[str, Any], int]] = {
    "mlp": ({}, 4 * 8 + 8 + 8 * 4 + 4),
    "mlp isolated": ({"isolated": True}, 4 * 8 + 8 + 8 * 4 + 4),
    "sequences": ({"task": bumps(9), "depth": 2, "width": 3}, 3 * 3 * 3 + 3 + 3 * 3 + 3),
    "images": ({"task": bumps(5, 4), "depth": 2, "width": 4}, 4 * 4 * 9 + 4 + 4 * 4 + 4),
    "images co-adapting": ({"task": bumps(4, 4), "width": 3, "isolated": False}, 3 * 3 * 9 + 3 + 3 * 3 + 3),
}


class Life:
    """One host, its seeds' stages, and how long they last."""

    def __init__(self, host: Alone):
        self.host, self.slots = host, [("DORMANT", 0)] * host.slots

    def act(self, op: str, slot: int) -> None:
        self.slots = [(stage, epochs + 1) for stage, epochs in self.slots]
        if op != "WAIT":
            self.slots[slot] = OPS[op], 1
        if op == "CULL":
            del self.host.seeds[slot]

    def share(self, last: bool = False) -> None:
        """Seeds take part as their stages say; at the end those that are kept alone."""
        for at, seed in self.host.seeds.items():
            stage, epochs = self.slots[at]
            seed.alpha = {"BLENDING": min(epochs / 3, 1.0), "PROBATIONARY": 1.0, "FOSSILIZED": 1.0}.get(stage, 0.0)
            seed.ste = seed.alpha == 0
            if last and stage != "FOSSILIZED":
                seed.alpha = 0.0

    def move_on(self) -> None:
        for at, (stage, epochs) in enumerate(self.slots):
            following, after = NEXT.get(stage, (stage, epochs + 1))
            if epochs >= after:
                self.slots[at] = following, 0


def act(env: LifecycleEnv, lives: list[Life], epoch: int) -> torch.Tensor:
    """What the plans say, done to the hosts alone, too."""
    dynamics, state = env.dynamics, env.state
    rows, keys = [], births_of(state.key, state.epoch)
    for at, (life, plan) in enumerate(zip(lives, PLANS)):
        op, slot, blueprint = plan.get(epoch, (WAIT, 0, 0))
        rows.append([slot, blueprint, 0, op])
        life.act(RULES.op_rules[op].id.name, slot)
        if op == GERMINATE:
            number, where = dynamics.number[blueprint], torch.zeros(dynamics.slots, env.num_envs) > 0
            where[slot, at] = True
            born = dynamics.population.germinate(state.networks, where, number.expand(where.shape), keys)
            life.host.germinate(slot, dynamics.population.names[int(number)], born.seeds[slot, :, at])
    return torch.tensor(rows)


@pytest.mark.parametrize(("changes", "light"), HOSTS.values(), ids=HOSTS)
def test_networks_live_as_hosts_alone(changes: dict[str, Any], light: int) -> None:
    """Parameters of hosts and seeds, losses and what they are ahead of their twins by, epoch by epoch."""
    env = small(len(PLANS), episode_length=EPOCHS, **{"steps": 2, **changes})
    dynamics = env.dynamics
    rates = {**RATES, "isolated": changes.get("isolated", "task" in changes)}  # CNN hosts are where nobody says
    state = env.state
    lives = [Life(Alone(dynamics.population.host, 3, host, rates)) for host in state.host.t()]
    inputs, labels = dynamics.samples.whole(state.key, "validation")(0, slice(0, env.num_envs))
    seen = set()
    for epoch in range(EPOCHS):
        last = epoch == EPOCHS - 1
        batches = dynamics.samples.drawn(state.key, state.epoch, 2, 8)
        actions = act(env, lives, epoch)
        drawn = [batches(step, slice(0, env.num_envs)) for step in range(2)]
        for at, life in enumerate(lives):
            life.share()
            life.host.train(torch.stack([x[at] for x, _ in drawn]), torch.stack([y[at] for _, y in drawn]))
            life.share(last)
        state, outcome = dynamics.advance(state, actions, torch.empty(env.num_envs, 0))
        twin = dynamics.twins.losses(state.key, state.epoch + 1)
        for at, life in enumerate(lives):
            where = f"epoch {epoch} host {at}: {life.slots}"
            wanted, _ = life.host.evaluate(inputs[at], labels[at])
            assert abs(float(state.loss[0, at]) - wanted) < 1e-4, where
            host = saved(list(life.host.net.parameters()), len(state.host))
            torch.testing.assert_close(state.host[:, at], host, rtol=0, atol=1e-4, msg=where)
            for slot in range(3):
                seed = life.host.seeds.get(slot)
                parameters = [] if seed is None else list(seed.module.parameters())
                vector = saved([torch.zeros(0), *parameters], state.seeds.shape[1])
                torch.testing.assert_close(state.seeds[slot, :, at], vector, rtol=0, atol=1e-4, msg=where)
                seen.add(life.slots[slot][0])
            life.move_on()
            kept = [seed for slot, seed in life.host.seeds.items() if life.slots[slot][0] == "FOSSILIZED"]
            sizes = [sum(p.numel() for p in seed.module.parameters()) for seed in kept]
            ahead = float(twin[at]) - wanted - sum(0.01 + 0.04 * size / light for size in sizes)
            assert abs(float(state.potential[at]) - ahead) < 2e-4, where
        assert bool(outcome.terminated.all()) == last
        assert not outcome.illegal.any()
        env.state = state = state._replace(epoch=state.epoch + 1)
    assert seen >= {"GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED", "CULLED"}, seen
