"""From noise to data in one step or several (Eq. 12, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from meanflow_core.flow import Network, evaluating


@torch.no_grad()
def sample(
    net: Network, noise: Tensor, *, labels: Tensor | None = None, steps: int = 1, grid: Sequence[float] | None = None
) -> Tensor:
    """Return samples z_0 from z_1 = noise: z_r = z_t - (t - r) u(z_t, r, t) over a decreasing grid of times.

    Guidance is part of the trained network: there is one evaluation a step and nothing to combine. The network is run
    in evaluation mode without gradient, and left in the mode it was in.

    Args:
        net: called as net(z, r, t, labels).
        noise: standard normal [B, ...].
        labels: int64 [B]; None: unlabelled, or the null label.
        steps: number of equal steps from 1 to 0.
        grid: the times instead, from exactly 1 down to exactly 0; then `steps` is not looked at.

    Raises:
        ValueError: if there is no step, or the grid does not fall strictly from 1 to 0.
    """
    times = _uniform_grid(steps) if grid is None else [float(time) for time in grid]
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or any(r >= t for t, r in pairwise(times)):
        raise ValueError(f"the grid must fall strictly from 1 to 0, got {times}")
    z = noise
    with evaluating(net):
        for t, r in pairwise(times):
            u = net(z, z.new_full((len(z),), r), z.new_full((len(z),), t), labels)
            z = z - (t - r) * u.to(z.dtype)
    return z


def _uniform_grid(steps: int) -> list[float]:
    if steps < 1:
        raise ValueError(f"`steps >= 1` must hold, got {steps}")
    return [1 - i / steps for i in range(steps)] + [0.0]
