"""The ramps of June 2026, by which a seed's share in the network, alpha, changes.

A ramp of N epochs goes from ``start`` to ``target`` along a curve p, which is 1 at the end; ``RAMPS`` has its values:

    alpha after ``done`` of ``steps`` epochs = start + (target - start) * p(done / steps)
"""

import math

TARGETS = (0.5, 0.7, 1.0)
TEMPOS = (3, 5, 8)  # epochs of the ramp by which a seed enters BLENDING
SPEEDS = (0, 3, 5, 8)  # epochs of a ramp that an op begins
SHARPNESS = (6.0, 12.0, 24.0)  # of the three sigmoids
SIDE = max(*SPEEDS, *TEMPOS) + 1  # of the table of ramps: epochs, and those done, are 0 to 8


def _curve(number: int, x: float) -> float:
    """A part of a ramp after a part x of its epochs."""
    if number == 0:
        return x
    if number == 1:
        return (1 - math.cos(math.pi * x)) / 2
    sharp = SHARPNESS[number - 2]
    low, value, high = (1 / (1 + math.exp(-sharp * (at - 0.5))) for at in (0, x, 1))
    return (value - low) / (high - low)


# [curves * epochs * epochs done]: ``_curve``, and 0 where no ramp is
RAMPS = [
    _curve(number, done / steps) if 0 < steps >= done else 0.0
    for number in range(2 + len(SHARPNESS))
    for steps in range(SIDE)
    for done in range(SIDE)
]
