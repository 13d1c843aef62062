"""Populations of networks: an epoch of each host, with or without its validation.

    population          all hosts at once
    one after another   plain modules and ``torch.optim.SGD``
    products alone      the matrix products and convolutions of the population's epoch, in its chunks, and nothing else

Three slots have a seed in 60 % of the hosts, of any blueprint, a third of them each in training, half blended in, and
with their whole share. Before any timing a population in float64 is compared with hosts trained one after another.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.bench.cases import PRODUCTS, SEQUENTIAL, Case, Run, Verify
from esper_masks.bench.sequential import alone
from esper_masks.rollout.networks.compact import listed
from esper_masks.rollout.networks.hosts import CNNHost, Host, MLPHost
from esper_masks.rollout.networks.layers import convolution, convolution_backward
from esper_masks.rollout.networks.population import Networks, Population, TrainStats, batches_of

HOSTS: dict[str, Host] = {
    "MLP of width 16": MLPHost(64, 16),
    "MLP of width 8": MLPHost(16, 8),
    "CNN of 8 channels": CNNHost((1, 8, 8), 8),
}
STEPS, ROWS, VALIDATION, SPLITS = 10, 32, 360, 3  # of an epoch; samples of a step and of a split, and how many splits
RATES = {"lr": 0.05, "seed_lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "clip": 1.0, "isolated": False}
OCCUPIED, CHECKED = 0.6, 4  # share of slots with a seed; hosts that are compared

Seeds = tuple[Tensor, Tensor, Tensor]  # blueprint, alpha and ste, [slots, batch]


def prepare(case: Case, device: str) -> tuple[Run, Verify]:
    """An epoch of a batch of hosts; the check is that hosts trained one after another become the same."""
    host = next(host for name, host in HOSTS.items() if name in case.work)
    population, networks, seeds = populated(host, case.slots, case.batch, device)
    x, y = samples(host, case.batch, device)
    splits = samples(host, SPLITS, device, VALIDATION)
    of_host = torch.arange(case.batch, device=device) % SPLITS

    def split(_: int, hosts: slice) -> tuple[Tensor, Tensor]:
        return splits[0][0, of_host[hosts]], splits[1][0, of_host[hosts]]

    def together() -> TrainStats:
        made, stats = population.train(networks, *seeds, batches_of(x, y), STEPS)
        if case.validates:
            population.evaluate(made, *seeds[:2], split)
        return stats

    if case.way == PRODUCTS:
        return products(population, networks, seeds, case), lambda _: None
    if case.way == SEQUENTIAL:
        return one_by_one(case, population, networks, seeds, (x, y), splits), lambda _: check(host, case.slots, device)

    def verify(stats: TrainStats) -> None:
        assert not stats.diverged.any(), "a host diverged"
        check(host, case.slots, device)

    return together, verify


def rates_of(host: Host) -> dict[str, Any]:
    """Those of a row: the usual ones."""
    return RATES | {"isolated": host.dims > 0}


def populated(
    host: Host, slots: int, batch: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[Population, Networks, Seeds]:
    """A population in the middle of its lifecycles."""
    names = ["norm", "gate", "low_rank", "light", *(["conv"] if host.dims else [])]
    population = Population(host, slots, names, dtype=dtype, device=device, **rates_of(host))
    generator = torch.Generator(device).manual_seed(0)
    chances = torch.rand(3, slots, batch, generator=generator, device=device)
    blueprint = torch.where(chances[0] < OCCUPIED, (chances[1] * len(names)).long(), -1)
    ste = chances[2] < 1 / 3
    alpha = torch.where(ste, 0, torch.where(chances[2] < 2 / 3, 0.5, 1.0)).to(dtype)
    keys = torch.arange(batch, device=device)
    networks = population.germinate(population.fresh(keys), blueprint >= 0, blueprint, keys)
    return population, networks, (blueprint, alpha, ste)


def samples(host: Host, batch: int, device: str, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Samples ``[steps, batch, rows, *shape]`` and classes of an epoch."""
    generator = torch.Generator(device).manual_seed(1)
    x = torch.randn(STEPS, batch, rows, *host.shape, generator=generator, device=device)
    return x, torch.randint(host.classes, (STEPS, batch, rows), generator=generator, device=device)


def one_by_one(
    case: Case,
    population: Population,
    networks: Networks,
    seeds: Seeds,
    batches: tuple[Tensor, Tensor],
    splits: tuple[Tensor, Tensor],
) -> Callable[[], None]:
    """The same by hosts that are trained one after another."""
    hosts = alone(population, networks, rates_of(population.host), seeds)

    def run() -> None:
        for at, host in enumerate(hosts):
            host.train(batches[0][:, at], batches[1][:, at])
            if case.validates:
                host.evaluate(splits[0][0, at % SPLITS], splits[1][0, at % SPLITS])

    return run


def check(host: Host, slots: int, device: str) -> None:
    """Some hosts in float64: together and one after another on a CPU they become the same, with their seeds."""
    population, networks, seeds = populated(host, slots, CHECKED, device, torch.float64)
    x, y = (part.to(device) for part in samples(host, CHECKED, "cpu"))
    made, _ = population.train(networks, *seeds, batches_of(x.double(), y), STEPS)
    made, networks = (Networks(*(part.cpu() for part in whole)) for whole in (made, networks))
    for at, one in enumerate(alone(population, networks, rates_of(host), seeds)):
        one.train(x[:, at].cpu().double(), y[:, at].cpu())
        modules: list[tuple[nn.Module, Tensor]] = [(one.net, made.host[:, at])]
        modules += [(seed.module, made.seeds[slot, :, at]) for slot, seed in one.seeds.items()]
        for module, vector in modules:
            wanted = torch.cat([parameter.flatten() for parameter in module.parameters()])
            torch.testing.assert_close(vector[: len(wanted)], wanted.detach(), rtol=0, atol=1e-9)


def products(population: Population, networks: Networks, seeds: Seeds, case: Case) -> Run:
    """What no way of training the population does without, on numbers of its sizes."""
    host, chunk = population.host, population.chunk
    parts: list[Run] = []
    for begin in range(0, case.batch, chunk):
        count = min(chunk, case.batch - begin)
        whole = [(count, shape, name.startswith("head")) for name, shape in host.shapes.items() if len(shape) > 1]
        for _, number, members in listed(seeds[0][:, begin : begin + count], len(population.names)):
            shapes = population.shapes[number].values()
            whole += [(len(members), shape, False) for shape in shapes if len(shape) > 1]
        parts += [product(host, *part, networks.host) for part in whole]

    def run() -> None:
        for _ in range(STEPS):
            for part in parts:
                part()

    return run


def product(host: Host, count: int, shape: tuple[int, ...], is_head: bool, like: Tensor) -> Run:
    """One layer of some hosts: what it gives, and both gradients."""
    to, of, *places = shape
    space = () if is_head else host.shape[1:]
    h, gradient = (like.new_ones(count, features, ROWS, *space) for features in (of, to))
    weight = like.new_ones(count, *shape)
    if places:
        bias, of_weight = like.new_ones(count, to), torch.empty_like(weight)

        def convolve() -> None:
            convolution(h, weight, bias)
            convolution_backward(h, gradient, weight, 1, of_weight, torch.empty_like(bias), True)

        return convolve
    flat, back = h.flatten(2), gradient.flatten(2)

    def multiply() -> None:
        torch.bmm(weight, flat)
        torch.bmm(back, flat.transpose(1, 2))
        torch.bmm(weight.transpose(1, 2), back)

    return multiply
