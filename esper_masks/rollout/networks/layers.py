"""Linear maps and convolutions, each host's own and all at once, and their gradients.

What passes through networks is ``h``: ``[hosts, features, rows, *space]``, in this order in memory. A host's numbers
lie side by side, and rows, of which there are more than features in a small host, are what a core's lanes run over.
"""

import torch
from torch import Tensor
from torch.nn import functional

Shapes = dict[str, tuple[int, ...]]  # of the parameters of one host or seed, by their names

CONVOLUTIONS = {2: functional.conv2d, 3: functional.conv3d}  # by axes of space and rows


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of the features, at every place: ``[hosts, out, rows, *space]``.

    Args:
        h: ``[hosts, features, rows, *space]``.
        weight: ``[hosts, out, features]``.
        bias: ``[hosts, out]``.
    """
    if len(weight) == 1:
        return linear(_twice(h), _twice(weight), None if bias is None else _twice(bias))[:1]
    flat = h.flatten(2)
    made = torch.bmm(weight, flat) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, flat)
    return made.view(*made.shape[:2], *h.shape[2:])


def linear_backward(
    h: Tensor, gradient: Tensor, weight: Tensor, of_weight: Tensor, of_bias: Tensor, onward: bool
) -> Tensor | None:
    """Gradients of ``linear``, without axes of space.

    Args:
        h: as it was given.
        gradient: of what it gave.
        weight: as it was given.
        of_weight: where the weight's gradient goes.
        of_bias: where the bias's goes.
        onward: whether that of ``h`` is wanted; it is what is returned.
    """
    torch.sum(gradient, 2, out=of_bias)
    if len(weight) == 1:
        of_weight.copy_(torch.bmm(_twice(gradient), _twice(h).transpose(1, 2))[:1])
        return torch.bmm(_twice(weight).transpose(1, 2), _twice(gradient))[:1] if onward else None
    of_weight.copy_(torch.bmm(gradient, h.transpose(1, 2)))  # into a part of a row, bmm goes host by host
    return torch.bmm(weight.transpose(1, 2), gradient) if onward else None


def convolution(h: Tensor, kernel: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """A convolution with zeros around the space: ``[hosts, out, rows, *space over stride]``.

    Rows are one more axis, of which the kernel sees one place; the hosts are groups.

    Args:
        h: ``[hosts, channels, rows, *space]``.
        kernel: ``[hosts, out, channels, *places]``; places are odd.
        bias: ``[hosts, out]``.
        stride: places from one to the next.
    """
    if len(kernel) == 1:
        return convolution(_twice(h), _twice(kernel), _twice(bias), stride)[:1]
    places = kernel.shape[3:]
    made = CONVOLUTIONS[1 + len(places)](
        h.flatten(0, 1).unsqueeze(0),
        kernel.flatten(0, 1).unsqueeze(2),
        bias.flatten(),
        stride=(1, *[stride] * len(places)),
        padding=(0, *[place // 2 for place in places]),
        groups=len(kernel),
    )
    return made.view(*kernel.shape[:2], *made.shape[2:])


def convolution_backward(
    h: Tensor, gradient: Tensor, kernel: Tensor, stride: int, of_kernel: Tensor, of_bias: Tensor, onward: bool
) -> Tensor | None:
    """Gradients of ``convolution``; see ``linear_backward``."""
    count, places = len(kernel), kernel.shape[3:]
    if count == 1:
        h, gradient, kernel = map(_twice, (h, gradient, kernel))
    of_h, made, bias = torch.ops.aten.convolution_backward(
        gradient.flatten(0, 1).unsqueeze(0),
        h.flatten(0, 1).unsqueeze(0),
        kernel.flatten(0, 1).unsqueeze(2),
        [kernel.shape[:2].numel()],
        [1, *[stride] * len(places)],
        [0, *[place // 2 for place in places]],
        [1] * (1 + len(places)),
        False,
        [0] * (1 + len(places)),
        len(kernel),
        [onward, True, True],
    )
    of_kernel.copy_(made.view(kernel.shape)[:count])
    of_bias.copy_(bias.view(kernel.shape[:2])[:count])
    return of_h.view(h.shape)[:count] if onward else None


def _twice(part: Tensor) -> Tensor:
    """One host beside itself: libraries compute a single product in another way, with other last bits than many."""
    return part.expand(2, *part.shape[1:])


def relu_backward_(gradient: Tensor, made: Tensor) -> Tensor:
    """The gradient of what a positive part was taken of, in place of that of what it gave."""
    torch.ops.aten.threshold_backward.grad_input(gradient, made, 0, grad_input=gradient)
    return gradient
