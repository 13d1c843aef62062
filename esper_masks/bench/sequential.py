"""Hosts trained one after another: plain modules and ``torch.optim.SGD``, what a population is compared with.

A host's parameters come as the vector that ``Population`` has for it; what is done with them is written here again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.rollout.networks.hosts import Host, MLPHost
from esper_masks.rollout.networks.population import Networks, Population

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}

After = Callable[[int, Tensor], Tensor]  # what the seeds behind a layer make of what it gives


class Gate(nn.Module):
    """Each feature times twice a share."""

    def __init__(self, features: int, dims: int):
        super().__init__()
        self.dims, self.linear = dims, nn.Linear(features, features)

    def forward(self, h: Tensor) -> Tensor:
        mean = h.mean(list(range(2, 2 + self.dims))) if self.dims else h
        share = torch.sigmoid(self.linear(mean))
        return 2 * h * share[(..., *[None] * self.dims)]


class Residual(nn.Module):
    """Modules whose output is added."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, h: Tensor) -> Tensor:
        made: Tensor = h + self.parts(h)
        return made


def pointwise(of: int, to: int, dims: int, bias: bool = True) -> nn.Module:
    """A linear map of the features at every place."""
    return CONVOLUTIONS[dims](of, to, 1, bias=bias) if dims else nn.Linear(of, to, bias=bias)


def norm(features: int, dims: int) -> nn.Module:
    return nn.GroupNorm(1, features) if dims else nn.LayerNorm(features)


def low_rank(features: int, dims: int, part: int = 4) -> nn.Module:
    rank = max(1, features // part)
    return Residual(pointwise(features, rank, dims, bias=False), pointwise(rank, features, dims, bias=False))


def light(features: int, dims: int, inner: int) -> nn.Module:
    return Residual(pointwise(features, inner, dims), nn.Tanh(), pointwise(inner, features, dims))


def conv(features: int, dims: int, inner: int) -> nn.Module:
    wide = CONVOLUTIONS[dims](features, inner, 3, padding=1)
    return Residual(wide, nn.ReLU(), pointwise(inner, features, dims))


SEEDS: dict[str, Callable[[int, int], nn.Module]] = {  # by features and axes of space
    "norm": norm,
    "gate": Gate,
    "low_rank": low_rank,
    "half_rank": lambda features, dims: low_rank(features, dims, 2),
    "narrow": lambda features, dims: light(features, dims, max(1, features // 2)),
    "small": lambda features, dims: light(features, dims, features),
    "light": lambda features, dims: light(features, dims, 2 * features),
    "heavy": lambda features, dims: light(features, dims, 4 * features),
    "conv_narrow": lambda features, dims: conv(features, dims, max(1, features // 2)),
    "conv": lambda features, dims: conv(features, dims, features),
    "conv_wide": lambda features, dims: conv(features, dims, 2 * features),
}


class Net(nn.Module):
    """A host: layers, each with its positive part, and a head."""

    def __init__(self, of: Host):
        super().__init__()
        self.pooled = not isinstance(of, MLPHost) and of.pooled
        if isinstance(of, MLPHost):
            widths = [of.inputs, *[of.width] * of.depth]
            layers: list[nn.Module] = [nn.Linear(a, b) for a, b in pairwise(widths)]
            wide = of.width
        else:
            kind, channels = CONVOLUTIONS[len(of.shape) - 1], [of.shape[0], *[of.channels] * of.depth]
            layers = [kind(a, b, of.kernel, of.stride, padding=of.kernel // 2) for a, b in pairwise(channels)]
            places = [math.ceil(size / of.stride**of.depth) for size in of.shape[1:]]
            wide = of.channels * (1 if of.pooled else math.prod(places))
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(wide, of.classes)

    def forward(self, h: Tensor, after: After) -> Tensor:
        for number, layer in enumerate(self.layers):
            h = after(number, torch.relu(layer(h)))
        logits: Tensor = self.head(h.mean(list(range(2, h.ndim))) if self.pooled else h.flatten(1))
        return logits


def load(module: nn.Module, vector: Tensor) -> None:
    """Numbers of a population into a module, parameter by parameter."""
    with torch.no_grad():
        for parameter in module.parameters():
            part, vector = vector[: parameter.numel()], vector[parameter.numel() :]
            parameter.copy_(part.view(parameter.shape))
    assert not vector.any(), "there are more numbers than parameters"


def saved(tensors: Sequence[Tensor], size: int) -> Tensor:
    """What ``load`` takes: of a module's parameters, or of anything that has their shapes; zeros fill it up."""
    vector = torch.cat([tensor.flatten() for tensor in tensors]).detach()
    return torch.cat([vector, vector.new_zeros(size - len(vector))])


@dataclass
class Seed:
    """A module with an optimizer of its own, which is dropped with it."""

    module: nn.Module
    sgd: torch.optim.SGD
    alpha: float = 0.0
    ste: bool = True

    def freeze(self, frozen: bool) -> None:
        """Switch its gradients off, or on again."""
        self.module.requires_grad_(not frozen)


@dataclass
class Alone:
    """One host with its seeds, trained alone.

    Args:
        of: the architecture.
        slots: how many.
        vector: the host's parameters.
        rates: lr, seed_lr, momentum, weight_decay, clip and isolated, as ``Population`` takes them.
    """

    of: Host
    slots: int
    vector: Tensor
    rates: Mapping[str, Any]
    seeds: dict[int, Seed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.net = Net(self.of).to(self.vector.dtype)
        load(self.net, self.vector)
        usual = {name: self.rates[name] for name in ("lr", "momentum", "weight_decay")}
        self.sgd = torch.optim.SGD(self.net.parameters(), **usual)

    def germinate(self, slot: int, name: str, vector: Tensor) -> Seed:
        """A new seed, of a population's parameters, which zeros fill up."""
        module = SEEDS[name](self.of.features, self.of.dims).to(vector.dtype)
        load(module, vector)
        sgd = torch.optim.SGD(module.parameters(), lr=self.rates["seed_lr"], momentum=self.rates["momentum"])
        self.seeds[slot] = Seed(module, sgd)
        return self.seeds[slot]

    def after(self, layer: int, h: Tensor) -> Tensor:
        """What the seeds behind a layer make of what it gives."""
        for slot, seed in sorted(self.seeds.items()):
            if slot * self.of.depth // self.slots != layer:
                continue
            s = seed.module(h.detach() if seed.ste or self.rates["isolated"] else h)
            h = h + (s - s.detach()) if seed.ste else torch.lerp(h, s, seed.alpha)
        return h

    @property
    def optimizers(self) -> list[torch.optim.SGD]:
        """Of the host and of its seeds."""
        return [self.sgd, *(seed.sgd for seed in self.seeds.values())]

    def parameters(self) -> list[nn.Parameter]:
        """Of the host and of its seeds."""
        return [*self.net.parameters(), *(p for seed in self.seeds.values() for p in seed.module.parameters())]

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients of a batch of samples, and its loss."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.net(x, self.after), y)
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        """Along the gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    def train(self, x: Tensor, y: Tensor) -> None:
        """Some steps, on samples ``[steps, rows, *shape]`` and classes ``[steps, rows]``."""
        parameters = self.parameters()
        for samples, classes in zip(x, y):
            self.backward(samples, classes)
            nn.utils.clip_grad_norm_(parameters, self.rates["clip"])
            self.step()

    def evaluate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Loss and accuracy of samples ``[rows, *shape]``."""
        with torch.no_grad():
            logits = self.net(x, self.after)
            return float(nn.functional.cross_entropy(logits, y)), float((logits.argmax(-1) == y).double().mean())


def alone(population: Population, networks: Networks, rates: Mapping[str, Any], seeds: Sequence[Tensor]) -> list[Alone]:
    """The hosts of a population, each by itself.

    Args:
        population: their architecture.
        networks: their parameters.
        rates: see ``Alone``.
        seeds: blueprint, alpha and ste, each ``[slots, batch]``.
    """
    hosts = [Alone(population.host, population.slots, vector, rates) for vector in networks.host.t()]
    for at, host in enumerate(hosts):
        blueprint, alpha, ste = (part[:, at].tolist() for part in seeds)
        for slot, number in enumerate(blueprint):
            if number >= 0:
                made = host.germinate(slot, population.names[number], networks.seeds[slot, :, at])
                made.alpha, made.ste = alpha[slot], ste[slot]
    return hosts
