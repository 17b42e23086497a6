"""The split a of s = t - a (t - r): how it moves over a training, or what it is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from meanflow_core.config import SplitConfig

Law = Callable[[SplitConfig, float], float]


def _linear(split: SplitConfig, x: float) -> float:
    return min(max(x, 0.0), 1.0)


def _cosine(split: SplitConfig, x: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * min(max(x, 0.0), 1.0))


def _sigmoid(split: SplitConfig, x: float) -> float:
    return 0.5 + 0.5 * math.tanh(0.5 * split.sharpness * (x - 0.5))  # the logistic function, without overflow


DONE: dict[str, Law] = {"constant": lambda split, x: 0.0, "linear": _linear, "cosine": _cosine, "sigmoid": _sigmoid}
"""The share of the way from `start` to `end` that is done where the share x of the schedule has passed."""


def split_at(split: SplitConfig, progress: float) -> float:
    """Return a of a distribution that is not drawn.

    Args:
        split: `objective.split`, resolved.
        progress: the share of the training that is done, step / trainer.steps. Past 1, a stays.
    """
    start, end = split.bounds
    x = (min(progress, 1.0) - split.after) / (split.until - split.after)
    if split.law == "exponential":
        a = start * (end / start) ** _linear(split, x)
    else:
        assert split.law is not None
        a = start + (end - start) * DONE[split.law](split, x)
    assert split.snap is not None
    return 0.0 if a < split.snap else 1.0 if a > 1.0 - split.snap else a


def draw_split(
    n: int,
    split: SplitConfig,
    progress: float,
    *,
    generator: Callable[[], Generator],
    device: torch.device | str | None = None,
) -> Tensor | float:
    """Return a of n rows: float32 [n], or a number where it is 0 or 1 for all of them (a limit: see `choose_target`).

    Args:
        n: rows of the global batch.
        split: `objective.split`, resolved.
        progress: step / trainer.steps.
        generator: called for the source of randomness where a is drawn; must live on `device`.
        device: where the values are made.
    """
    if split.law == "uniform":
        start, end = split.bounds
        return start + (end - start) * torch.rand(n, generator=generator(), device=device)
    a = split_at(split, progress)
    return a if a in (0.0, 1.0) else torch.full((n,), a, device=device)
