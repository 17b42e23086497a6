"""The straight path between data (t = 0) and noise (t = 1), sec. 3 of arXiv 2505.13447."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""An average-velocity network: u(z, r, t, labels), like z [B, ...]; r <= t, both [B]; labels int64 [B], None,
or [B, 2] with the scale of guidance beside the class (`flow.condition`)."""


@dataclass(frozen=True)
class PathPoint:
    """A point of the path and the velocity there, both like x [B, ...]."""

    z: Tensor
    velocity: Tensor


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> PathPoint:
    """Return z_t = (1 - t) x + t eps and the conditional velocity v = dz/dt = eps - x.

    Args:
        x: data [B, ...].
        noise: standard normal, like x.
        t: times [B]; 0 is data, 1 is noise.
    """
    t = per_row(t, x)
    return PathPoint(z=(1 - t) * x + t * noise, velocity=noise - x)


def is_exactly(value: Tensor | float, number: float) -> bool:
    """Whether a coefficient is this number. A tensor is not: it stands for those that change no operation."""
    return not isinstance(value, Tensor) and value == number


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` [B] as [B, 1, ..., 1], so that they multiply the rows of `like`."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))
