"""A population and hosts trained alone, through the same lifecycles; and where they differ."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from esper_masks.bench.sequential import Alone, alone, saved
from esper_masks.rollout.networks.population import Networks, Population, batches_of

NONE, TRAINING, BLENDING, FULL = range(4)  # what stages mean for gradients
RATES = {"lr": 0.05, "seed_lr": None, "momentum": 0.9, "weight_decay": 0.0, "clip": 1.0}  # where nobody says
RATE = 0.25  # that alpha gains in an epoch of blending


@dataclass
class Lifecycles:
    """Stages of a batch's seeds, moved at random: germinations, culls at any stage, seeds kept at full alpha."""

    slots: int
    batch: int
    kinds: int
    generator: torch.Generator
    stage: Tensor = field(init=False)  # [slots, batch]
    blueprint: Tensor = field(init=False)
    alpha: Tensor = field(init=False)
    frozen: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.stage = torch.full((self.slots, self.batch), NONE)
        self.blueprint = torch.full((self.slots, self.batch), -1)
        self.alpha = torch.zeros(self.slots, self.batch, dtype=torch.float64)
        self.frozen = self.stage != NONE

    def move(self) -> tuple[Tensor, Tensor]:
        """One epoch on: where seeds are culled, and where others germinate."""
        chance = torch.rand(self.stage.shape, generator=self.generator)
        kind = torch.randint(self.kinds, self.stage.shape, generator=self.generator)
        culled = (self.stage != NONE) & (chance < 0.15)
        born = (self.stage == NONE) & (chance < 0.4)
        on = (self.stage == TRAINING) & (chance > 0.5) | (self.stage == BLENDING) & (self.alpha >= 1)
        stage = torch.where(culled, NONE, torch.where(born, TRAINING, self.stage + on.long()))
        alpha = torch.where(stage == BLENDING, (self.alpha + RATE).clamp(max=1), (stage == FULL).double())
        blueprint = torch.where(born, kind, self.blueprint)
        self.frozen = (stage >= BLENDING) & (chance * 100 % 1 < 0.3)
        self.stage, self.alpha, self.blueprint = stage, alpha, torch.where(stage == NONE, -1, blueprint)
        return culled, born

    @property
    def seeds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Blueprint, alpha and ste."""
        return self.blueprint, self.alpha, self.stage == TRAINING


@dataclass
class Control:
    """Something wrong on the population's side, or on that of the hosts alone."""

    alpha: float = 1.0
    isolated: bool | None = None
    keep_momentum: bool = False
    together: bool = False
    thawed: bool = False


def samples(
    population: Population, steps: int, batch: int, rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    shape, classes = population.host.shape, population.host.classes
    x = torch.randn(steps, batch, rows, *shape, generator=generator, dtype=torch.float64).to(population.dtype)
    return x, torch.randint(classes, (steps, batch, rows), generator=generator)


def lockstep(
    population: Population,
    rates: Mapping[str, Any] | None = None,
    *,
    batch: int = 5,
    epochs: int = 10,
    steps: int = 2,
    rows: int = 6,
    seed: int = 0,
    tolerance: float = 1e-10,
    control: Control | None = None,
    stress: Callable[[int, Tensor], Tensor] = lambda epoch, x: x,
) -> dict[str, int]:
    """Whole lifecycles in a population, and in hosts trained one after another; how often what happened.

    The hosts' rates are those given, not what the population made of them.

    Raises:
        AssertionError: parameters, momenta or what is told of them differ by more than the tolerance.
    """
    wrong = control or Control()
    generator = torch.Generator().manual_seed(seed)
    cycles = Lifecycles(population.slots, batch, len(population.names), generator)
    networks = population.fresh(torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator))
    usual = {"isolated": population.host.dims > 0, **RATES, **(rates or {})}
    usual["seed_lr"] = usual["lr"] if usual["seed_lr"] is None else usual["seed_lr"]
    if wrong.isolated is not None:
        usual["isolated"] = wrong.isolated
    hosts = alone(population, networks, usual, cycles.seeds)
    count = {"germinations": 0, "culls": 0, "blended": 0, "full": 0, "frozen": 0}
    for epoch in range(epochs):
        culled, born = cycles.move()
        networks = population.clear(networks, culled)
        keys = torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator)
        networks = population.germinate(networks, born, cycles.blueprint, keys)
        if wrong.keep_momentum:
            left = torch.where(born[:, None], 0.01, networks.seed_momentum)
            networks = networks._replace(seed_momentum=torch.where(networks.seeds == 0, networks.seed_momentum, left))
        count["germinations"] += int(born.sum())
        count["culls"] += int(culled.sum())
        count["blended"] += int((cycles.stage == BLENDING).sum())
        count["full"] += int((cycles.stage == FULL).sum())
        count["frozen"] += int(cycles.frozen.sum())
        for at, host in enumerate(hosts):
            for slot in range(population.slots):
                if culled[slot, at]:
                    del host.seeds[slot]
                if born[slot, at]:
                    name = population.names[int(cycles.blueprint[slot, at])]
                    host.germinate(slot, name, networks.seeds[slot, :, at])
                if slot in host.seeds:
                    host.seeds[slot].alpha = float(cycles.alpha[slot, at])
                    host.seeds[slot].ste = bool(cycles.stage[slot, at] == TRAINING)
                    host.seeds[slot].freeze(bool(cycles.frozen[slot, at]))
        blueprint, alpha, ste = cycles.seeds
        x, y = samples(population, steps, batch, rows, generator)
        x = stress(epoch, x)
        frozen = None if wrong.thawed else cycles.frozen
        drawn = batches_of(x, y)
        networks, stats = population.train(networks, blueprint, alpha * wrong.alpha, ste, drawn, steps, frozen)
        told = train(hosts, x, y, together=wrong.together)
        assert_same(population, networks, stats, hosts, told, f"epoch {epoch}", tolerance)
        loss, accuracy = population.evaluate(networks, blueprint, alpha * wrong.alpha, batches_of(x, y))
        for at, host in enumerate(hosts):
            near((loss[at], accuracy[at]), host.evaluate(x[0, at], y[0, at]), f"epoch {epoch} host {at}", tolerance)
    return count


def train(hosts: list[Alone], x: Tensor, y: Tensor, *, together: bool = False) -> list[dict[str, Any]]:
    """An epoch of each host: samples ``[steps, hosts, rows, ...]``; what ``TrainStats`` tells, host by host.

    With ``together`` all hosts are clipped by their common norm, as it may not be.
    """
    told: list[dict[str, Any]] = [{"loss": 0.0, "norm": 0.0, "seeds": dict.fromkeys(host.seeds, 0.0)} for host in hosts]
    for step in range(len(x)):
        for host, line, samples, classes in zip(hosts, told, x[step], y[step]):
            line["loss"] += float(host.backward(samples, classes)) / len(x)
            line["norm"] += norm(host.parameters()) / len(x)
            for slot, seed in host.seeds.items():
                line["seeds"][slot] += norm(seed.module.parameters()) / len(x)
        whole = [host.parameters() for host in hosts]
        for parameters in [list(chain.from_iterable(whole))] if together else whole:
            torch.nn.utils.clip_grad_norm_(parameters, hosts[0].rates["clip"])
        for host in hosts:
            host.step()
    return told


def norm(parameters: Iterable[torch.nn.Parameter]) -> float:
    """Of a gradient."""
    return math.sqrt(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None))


def momenta(module: torch.nn.Module, sgd: torch.optim.SGD) -> list[Tensor]:
    return [sgd.state[p].get("momentum_buffer", torch.zeros_like(p)) for p in module.parameters()]


def assert_same(
    population: Population,
    networks: Networks,
    stats: Any,
    hosts: list[Alone],
    told: list[dict[str, Any]],
    when: str,
    tolerance: float,
) -> None:
    most = networks.seeds.shape[1]
    for at, (host, line) in enumerate(zip(hosts, told)):
        where = f"{when} host {at}"
        size = len(networks.host)
        near(networks.host[:, at], saved(list(host.net.parameters()), size), f"{where} parameters", tolerance)
        if host.rates["momentum"]:  # without, torch keeps none
            wanted = saved(momenta(host.net, host.sgd), size)
            near(networks.host_momentum[:, at], wanted, f"{where} momentum", tolerance)
        near(stats.loss[at], line["loss"], f"{where} loss", tolerance)
        near(stats.grad_norm[at], line["norm"], f"{where} norm", tolerance)
        for slot in range(population.slots):
            seed = host.seeds.get(slot)
            if seed is None:
                assert not networks.seeds[slot, :, at].any(), f"{where}: slot {slot} is not cleared"
                assert not networks.seed_momentum[slot, :, at].any(), f"{where}: slot {slot} is not cleared"
                assert stats.seed_grad_norm[slot, at] == 0
                continue
            here = f"{where} slot {slot}"
            near(networks.seeds[slot, :, at], saved(list(seed.module.parameters()), most), here, tolerance)
            if host.rates["momentum"]:
                wanted = saved(momenta(seed.module, seed.sgd), most)
                near(networks.seed_momentum[slot, :, at], wanted, f"{here} momentum", tolerance)
            near(stats.seed_grad_norm[slot, at], line["seeds"][slot], f"{here} norm", tolerance)
    assert not stats.diverged.any()


def near(ours: Any, theirs: Any, where: str, tolerance: float) -> None:
    ours, theirs = (torch.as_tensor(value, dtype=torch.float64) for value in (ours, theirs))
    apart = float((ours - theirs).abs().max())
    assert apart <= tolerance, f"{where}: {apart:.3g} apart"
