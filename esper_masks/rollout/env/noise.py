"""Normal numbers from uniform ones, in code that compilers vectorize."""

import torch
from torch import Tensor

CENTRE: tuple[float, ...] = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
CENTRE += (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
TAIL: tuple[float, ...] = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773)
TAIL += (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)


def normal_quantile(uniform: Tensor) -> Tensor:
    """Standard normal numbers of float32 uniforms in [0, 1], finite, to some 1e-5 of their size.

    Source: Giles, "Approximating the erfinv function", GPU Computing Gems, 2010, the single-precision formula.
    """
    inner = uniform * (1 - 2**-23) + 2**-24  # within (0, 1)
    x = 2 * inner - 1
    w = -((1 - x) * (1 + x)).log()
    centre, tail = w - 2.5, w.clamp_min(5).sqrt() - 3
    return torch.where(w < 5, _polynomial(centre, CENTRE), _polynomial(tail, TAIL)) * (x * 2**0.5)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
