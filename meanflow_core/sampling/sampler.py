"""From noise to data in one step or several (Eq. 12, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from meanflow_core.config import TrainConfig
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.flow import Network, evaluating, with_scale

INF = float("inf")


@torch.no_grad()
def sample(
    net: Network,
    noise: Tensor,
    *,
    labels: Tensor | None = None,
    steps: int = 1,
    grid: Sequence[float] | None = None,
    guidance: float | None = None,
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
        guidance: the scale w >= 1, of a network that takes it as an input; needs labels. None: such a network takes 1.

    Raises:
        ValueError: if there is no step, the grid does not fall strictly from 1 to 0, or guidance comes without labels
            or below 1.
    """
    times = _uniform_grid(steps) if grid is None else [float(time) for time in grid]
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or any(r >= t for t, r in pairwise(times)):
        raise ValueError(f"the grid must fall strictly from 1 to 0, got {times}")
    if guidance is not None:
        if labels is None or not guidance >= 1:
            raise ValueError(f"`guidance` needs labels and a scale of 1 or more, got {guidance}")
        labels = with_scale(labels, noise.new_full((len(labels),), guidance))
    z = noise
    with evaluating(net):
        for t, r in pairwise(times):
            u = net(z, z.new_full((len(z),), r), z.new_full((len(z),), t), labels)
            z = z - (t - r) * u.to(z.dtype)
    return z


def guidance_scale(config: TrainConfig, asked: float | None, key: str = "--guidance") -> float | None:
    """Return the scale to sample at: the one asked for, or the first of `evaluation.guidance`; None: no input.

    Args:
        config: that the network was trained with.
        asked: the user's wish, if there is one.
        key: where it stands, for the error.

    Raises:
        ConfigError: the scale is below 1, or no input of the network.
    """
    if asked is None:
        return next(iter(config.evaluation.guidance), None)
    if not config.objective.guidance.input:
        rule = (
            "this model has its guidance built in; only one trained with `objective.guidance.input: true` takes a scale"
        )
        raise ConfigError([Problem(key=key, value=asked, rule=rule)])
    if not 1 <= asked < INF:
        raise ConfigError([Problem(key=key, value=asked, rule="must be 1 (no guidance) or more")])
    return asked


def _uniform_grid(steps: int) -> list[float]:
    if steps < 1:
        raise ValueError(f"`steps >= 1` must hold, got {steps}")
    return [1 - i / steps for i in range(steps)] + [0.0]
