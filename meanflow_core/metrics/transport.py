"""Optimal transport between two samples: exact, and along random lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXACT_ROWS = 1024
"""Most rows the exact distance takes from each side: its cost grows with the cube."""


def equal_counts(first: Tensor, second: Tensor, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the leading rows of both, as float64 and equally many."""
    count = min(len(first), len(second), *([] if limit is None else [limit]))
    return first[:count].double(), second[:count].double()


def wasserstein(first: Tensor, second: Tensor, *, limit: int = EXACT_ROWS) -> float:
    """Return the exact 2-Wasserstein distance between two samples, in units of the coordinates.

    Args:
        first: rows [n, d].
        second: rows [m, d]. The leading min(n, m, limit) rows of both are matched.
        limit: see `second`.

    Raises:
        ModuleNotFoundError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as error:
        rule = "the exact transport distance needs scipy: pip install scipy (or use sliced_wasserstein)"
        raise ModuleNotFoundError(rule, name="scipy") from error
    first, second = equal_counts(first, second, limit)
    cost = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(cost[rows, columns].mean())


def sliced_wasserstein(first: Tensor, second: Tensor, *, lines: int = 128, seed: int = 0) -> float:
    """Return the root of the mean squared 2-Wasserstein distance of the projections on random lines.

    Args:
        first: rows [n, d].
        second: rows [m, d]. The leading min(n, m) rows of both are compared.
        lines: number of directions, drawn evenly on the sphere.
        seed: of the directions.
    """
    first, second = equal_counts(first, second)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(first.shape[1], lines, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=0)
    gap = (first @ direction).sort(dim=0).values - (second @ direction).sort(dim=0).values
    return math.sqrt(gap.square().mean())
