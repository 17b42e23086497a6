"""Averages of the weights whose length is chosen after the training (EDM2, arXiv 2312.02696, sec. 3).

The average of exponent g at time T weighs the weights of time t by (g + 1) t^g / T^(g + 1). Its length is the profile's
standard deviation over T (`sigma_rel`). Two such averages, stored now and then, span those of other lengths well: the
coefficients are those whose sum of profiles is nearest to the wanted one in the mean square, with the sum 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

Stored = tuple[float, int]
"""A stored average: its length, and the step at which it was stored."""


@cache  # asked for at every step
def exponent_of(length: float) -> float:
    """Return g of a length s: s^2 = (g + 1) / ((g + 2)^2 (g + 3)). It is positive below s = 1 / sqrt(12) = 0.289."""
    inverse = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def decay_of(length: float, step: int) -> float:
    """Return the decay of the update after optimiser step `step` (the first is 1: it takes the weights as they are)."""
    return float((1.0 - 1.0 / step) ** (exponent_of(length) + 1.0))


def coefficients(stored: Sequence[Stored], length: float, step: int) -> list[float]:
    """Return what each stored average is multiplied by, so that the sum is the average of a length at a step.

    Args:
        stored: at steps up to `step`.
        length: wanted.
        step: of the training.
    """
    products = np.array([[_product(one, other) for other in stored] for one in stored])
    wanted = np.array([_product(one, (length, step)) for one in stored])
    # The profiles have very different heights; scaled, the equations are solved to more digits. The last one, with its
    # multiplier, says that the coefficients add up to 1: weights that stand still stay what they are.
    scale = 1.0 / np.sqrt(np.diag(products))
    size = len(stored)
    equations = np.zeros((size + 1, size + 1))
    equations[:size, :size] = products * scale[:, None] * scale
    equations[size, :size] = equations[:size, size] = scale
    solution = np.linalg.lstsq(equations, np.append(wanted * scale, 1.0), rcond=1e-12)[0]
    return [float(value) for value in solution[:size] * scale]


def _product(one: Stored, other: Stored) -> float:
    """Return the integral of the product of two profiles."""
    (early, a), (late, b) = sorted([(one[1], exponent_of(one[0])), (other[1], exponent_of(other[0]))])
    return float((a + 1) * (b + 1) / ((a + b + 1) * late) * (early / late) ** b)


def combined(parts: Iterable[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Return the sum of coefficient times weights, added up in float64; what is no float is the last one's."""
    total: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for coefficient, weights in parts:
        last = weights
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + coefficient * tensor.double()
    return {name: total[name].to(tensor.dtype) if name in total else tensor for name, tensor in last.items()}
