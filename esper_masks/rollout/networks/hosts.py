"""The networks that seeds grow in: many of one architecture, computed at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from esper_masks.rollout.networks.layers import (
    Shapes,
    convolution,
    convolution_backward,
    linear,
    linear_backward,
    relu_backward_,
)

Parameters = Mapping[str, Tensor]  # each ``[hosts, *shape]``


@dataclass(frozen=True)
class MLPHost:
    """Linear layers of one width, each with its positive part, and a linear head.

    Args:
        inputs: numbers that a sample has.
        width: of each hidden layer.
        depth: hidden layers.
        classes: that the head tells apart.
    """

    inputs: int
    width: int
    depth: int = 3
    classes: int = 10

    dims = 0
    isolated = False  # whether a seed's gradient stays out of the layers before it, where nobody says

    def __post_init__(self) -> None:
        check_sizes(self, ("inputs", "width", "depth", "classes"))

    @property
    def chunk(self) -> int:
        """Hosts that are trained at a time, where nobody says: what a layer makes stays in a core's cache."""
        return max(4096 // self.width, 1)

    @property
    def features(self) -> int:
        """What a seed is given for each row."""
        return self.width

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return (self.inputs,)

    @property
    def shapes(self) -> Shapes:
        """Of the parameters of one host."""
        widths = [self.inputs, *[self.width] * self.depth, self.classes]
        names = [*range(self.depth), "head"]
        made: Shapes = {}
        for name, of, to in zip(names, widths, widths[1:]):
            made |= {f"{name} weight": (to, of), f"{name} bias": (to,)}
        return made

    def layer(self, number: int, h: Tensor, parameters: Parameters) -> Tensor:
        """What a hidden layer gives, ``[hosts, width, rows]``, for what the one before gave, or samples."""
        return linear(h, parameters[f"{number} weight"], parameters[f"{number} bias"]).relu_()

    def layer_backward(
        self, number: int, h: Tensor, made: Tensor, gradient: Tensor, parameters: Parameters, gradients: Parameters
    ) -> Tensor | None:
        """The gradient of what a hidden layer was given, where there is a layer before; that of its parameters goes to
        ``gradients``, and ``gradient``, of what it made, is overwritten.
        """
        gradient = relu_backward_(gradient, made)
        weight, bias = f"{number} weight", f"{number} bias"
        return linear_backward(h, gradient, parameters[weight], gradients[weight], gradients[bias], number > 0)

    def head(self, h: Tensor, parameters: Parameters) -> Tensor:
        """Logits ``[hosts, classes, rows]``."""
        return linear(h, parameters["head weight"], parameters["head bias"])

    def head_backward(self, h: Tensor, gradient: Tensor, parameters: Parameters, gradients: Parameters) -> Tensor:
        """See ``layer_backward``."""
        return _head_backward(h, gradient, parameters, gradients)


@dataclass(frozen=True)
class CNNHost:
    """Convolutions with one number of channels, each with its positive part, and a linear head.

    Args:
        shape: of a sample, ``(channels, length)`` or ``(channels, height, width)``.
        channels: of each convolution.
        depth: convolutions.
        classes: that the head tells apart.
        kernel: places of each axis that a convolution sees.
        stride: places from one to the next.
        pooled: the head is given the mean of each channel; otherwise the channels at every place.
        chunk: hosts that are trained at a time.
    """

    shape: tuple[int, ...]
    channels: int
    depth: int = 3
    classes: int = 10
    kernel: int = 3
    stride: int = 1
    pooled: bool = True
    chunk: int = 32

    isolated = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        check_sizes(self, ("channels", "depth", "classes", "kernel", "stride", "chunk"))
        if len(self.shape) not in (2, 3) or any(type(size) is not int or size < 1 for size in self.shape):
            raise ValueError(f"shape must be (channels, length) or (channels, height, width), got {self.shape!r}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a convolution has a middle, got {self.kernel}")

    @property
    def features(self) -> int:
        """What a seed is given at each place."""
        return self.channels

    @property
    def dims(self) -> int:
        """Axes of space."""
        return len(self.shape) - 1

    @property
    def space(self) -> tuple[int, ...]:
        """Places after the last convolution."""
        space = self.shape[1:]
        for _ in range(self.depth):
            space = tuple((size - 1) // self.stride + 1 for size in space)
        return space

    @property
    def shapes(self) -> Shapes:
        """Of the parameters of one host."""
        made: Shapes = {}
        before = self.shape[0]
        for number in range(self.depth):
            made[f"{number} kernel"] = self.channels, before, *[self.kernel] * self.dims
            made[f"{number} bias"] = (self.channels,)
            before = self.channels
        wide = self.channels * (1 if self.pooled else math.prod(self.space))
        return made | {"head weight": (self.classes, wide), "head bias": (self.classes,)}

    def layer(self, number: int, h: Tensor, parameters: Parameters) -> Tensor:
        """What a convolution gives, ``[hosts, channels, rows, *space]``, for what the one before gave, or samples."""
        return convolution(h, parameters[f"{number} kernel"], parameters[f"{number} bias"], self.stride).relu_()

    def layer_backward(
        self, number: int, h: Tensor, made: Tensor, gradient: Tensor, parameters: Parameters, gradients: Parameters
    ) -> Tensor | None:
        """See ``MLPHost.layer_backward``."""
        gradient = relu_backward_(gradient, made)
        kernel, bias = f"{number} kernel", f"{number} bias"
        return convolution_backward(
            h, gradient, parameters[kernel], self.stride, gradients[kernel], gradients[bias], number > 0
        )

    def head(self, h: Tensor, parameters: Parameters) -> Tensor:
        """Logits ``[hosts, classes, rows]``."""
        return linear(self._pooled(h), parameters["head weight"], parameters["head bias"])

    def head_backward(self, h: Tensor, gradient: Tensor, parameters: Parameters, gradients: Parameters) -> Tensor:
        """See ``MLPHost.layer_backward``."""
        made = _head_backward(self._pooled(h), gradient, parameters, gradients)
        if self.pooled:
            return (made / math.prod(self.space))[..., *[None] * self.dims].expand(h.shape).contiguous()
        return made.view(*h.shape[:2], -1, h.shape[2]).transpose(2, 3).reshape(h.shape)

    def _pooled(self, h: Tensor) -> Tensor:
        """What the head is given, ``[hosts, numbers, rows]``."""
        flat = h.flatten(3)
        return flat.mean(-1) if self.pooled else flat.transpose(2, 3).flatten(1, 2)


Host = MLPHost | CNNHost


def check_sizes(host: object, names: tuple[str, ...]) -> None:
    """Raises: ValueError: a size that is no int of at least 1."""
    for name in names:
        if type(value := getattr(host, name)) is not int or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")


def _head_backward(h: Tensor, gradient: Tensor, parameters: Parameters, gradients: Parameters) -> Tensor:
    weight, bias = gradients["head weight"], gradients["head bias"]
    made = linear_backward(h, gradient, parameters["head weight"], weight, bias, onward=True)
    assert made is not None
    return made
