"""What a seed can be: modules that give back what they are given, changed; and one's own, in a few lines.

Many seeds are computed at once: every parameter has the hosts as its first axis. What they are given is ``h``,
``[hosts, width, rows]`` in an MLP host and ``[hosts, channels, rows, *space]`` in a CNN host.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from esper_masks.rollout.networks.layers import Shapes, convolution, linear

EPSILON = 1e-5  # beside a variance


class Blueprint:
    """A kind of seed: its parameters, how they begin, and what it computes.

    A parameter begins uniformly in ±sqrt(6 / fan-in) where it is a matrix or a kernel; a vector begins at 0. The
    parameters named in ``zeros`` begin at 0, those in ``ones`` at 1: a seed that gives back what it is given is a
    beginning that hurts no host.
    """

    zeros: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    dims: tuple[int, ...] = (0, 1, 2)  # axes of space in the hosts that it fits in; 0 is an MLP host

    def shapes(self, features: int, dims: int) -> Shapes:
        """Shape of each parameter of one seed.

        Args:
            features: width of an MLP host, channels of a CNN host.
            dims: axes of space.
        """
        raise NotImplementedError

    def apply(self, h: Tensor, **parameters: Tensor) -> Tensor:
        """The seeds' output, of the shape of ``h``; hosts may not see each other.

        Args:
            h: what the layer gives, ``[hosts, features, rows, *space]``.
            parameters: each ``[hosts, *shape]``.
        """
        raise NotImplementedError

    def init(self, uniform: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How parameters begin, given as many uniforms in [0, 1) as there are numbers."""
        made = initial(uniform)
        made |= {name: torch.zeros_like(made[name]) for name in self.zeros}
        return made | {name: torch.ones_like(made[name]) for name in self.ones}


class Norm(Blueprint):
    """Each row over its mean and standard deviation, then a scale and a shift for each feature."""

    ones = ("scale",)

    def shapes(self, features: int, dims: int) -> Shapes:
        return {"scale": (features,), "shift": (features,)}

    def apply(self, h: Tensor, **parameters: Tensor) -> Tensor:
        scale, shift = (parameters[name][..., *[None] * (h.ndim - 2)] for name in ("scale", "shift"))
        axes = [1, *range(3, h.ndim)]
        centred = h - h.mean(axes, keepdim=True)
        deviation = (centred.square().mean(axes, keepdim=True) + EPSILON).sqrt()
        return torch.addcmul(shift, centred / deviation, scale)


class Gate(Blueprint):
    """Each feature times a share of two that all features decide, at first one; those of a CNN by their means."""

    zeros = ("weight",)

    def shapes(self, features: int, dims: int) -> Shapes:
        return {"weight": (features, features), "bias": (features,)}

    def apply(self, h: Tensor, **parameters: Tensor) -> Tensor:
        mean = h.flatten(3).mean(-1) if h.ndim > 3 else h
        share = linear(mean, parameters["weight"], parameters["bias"]).sigmoid()
        return h * (2 * share)[..., *[None] * (h.ndim - 3)]


class LowRank(Blueprint):
    """A linear map of a smaller rank, added.

    Args:
        part: of the features, the rank.
    """

    zeros = ("up",)

    def __init__(self, part: float = 1 / 4):
        self.part = part

    def shapes(self, features: int, dims: int) -> Shapes:
        rank = max(int(features * self.part), 1)
        return {"down": (rank, features), "up": (features, rank)}

    def apply(self, h: Tensor, **parameters: Tensor) -> Tensor:
        return h + linear(linear(h, parameters["down"]), parameters["up"])


class Light(Blueprint):
    """An MLP, added.

    Args:
        times: hidden features for each that it is given.
    """

    def __init__(self, times: float = 2):
        self.times = times

    def shapes(self, features: int, dims: int) -> Shapes:
        inner = max(int(features * self.times), 1)
        return {"into": (inner, features), "bias": (inner,), "out": (features, inner), "shift": (features,)}

    def init(self, uniform: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = super().init(uniform)
        features = made["shift"].shape[1]
        return made | {"out": made["out"] / 6**0.5, "bias": (2 * uniform["bias"] - 1) / features**0.5}

    def apply(self, h: Tensor, **parameters: Tensor) -> Tensor:
        inner = linear(h, parameters["into"], parameters["bias"]).tanh()
        return h + linear(inner, parameters["out"], parameters["shift"])


class Conv(Blueprint):
    """A convolution over three places of each axis, its positive part mixed linearly, added.

    Args:
        times: channels in between for each that it is given.
    """

    zeros = ("out",)
    dims = (1, 2)

    def __init__(self, times: float = 1):
        self.times = times

    def shapes(self, features: int, dims: int) -> Shapes:
        inner = max(int(features * self.times), 1)
        kernel = inner, features, *[3] * dims
        return {"kernel": kernel, "bias": (inner,), "out": (features, inner), "shift": (features,)}

    def apply(self, h: Tensor, **parameters: Tensor) -> Tensor:
        inner = convolution(h, parameters["kernel"], parameters["bias"]).relu()
        return h + linear(inner, parameters["out"], parameters["shift"])


BLUEPRINTS: dict[str, Blueprint] = {  # one's own belongs here, too
    "norm": Norm(),
    "gate": Gate(),
    "low_rank": LowRank(),
    "half_rank": LowRank(1 / 2),
    "narrow": Light(1 / 2),
    "small": Light(1),
    "light": Light(),
    "heavy": Light(4),
    "conv_narrow": Conv(1 / 2),
    "conv": Conv(),
    "conv_wide": Conv(2),
}


def initial(uniform: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters ``[hosts, *shape]`` of uniforms: matrices and kernels ``[out, in, ...]`` in ±sqrt(6 / fan-in), as
    suits positive parts, and vectors 0.
    """
    made = {}
    for name, values in uniform.items():
        bound = (6 / math.prod(values.shape[2:])) ** 0.5
        made[name] = (2 * values - 1) * bound if values.ndim > 2 else torch.zeros_like(values)
    return made
