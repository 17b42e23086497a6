"""Which times, and which class labels, a batch is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from meanflow_core.config import TimeConfig, load_config

Draw = Callable[[int, TimeConfig, Generator | None, torch.device | str | None], Tensor]


def uniform(n: int, law: TimeConfig, generator: Generator | None, device: torch.device | str | None) -> Tensor:
    """Draw n times from U(0, 1)."""
    return torch.rand(n, generator=generator, device=device)


def logit_normal(n: int, law: TimeConfig, generator: Generator | None, device: torch.device | str | None) -> Tensor:
    """Draw n times sigmoid(s), s from N(law.mean, law.std^2)."""
    return torch.sigmoid(law.mean + law.std * torch.randn(n, generator=generator, device=device))


LAWS: dict[str, Draw] = {"uniform": uniform, "lognorm": logit_normal}
"""Every distribution of a single time. A new one is a function and a line here (and its name in `TimeConfig.law`)."""


def spanning_rows(n: int, ratio: float) -> int:
    """Return how many of n rows have r != t: n * ratio, rounded."""
    return round(n * ratio)


def sample_times(
    n: int,
    law: TimeConfig | Mapping[str, Any],
    *,
    generator: Generator | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw (r, t) for a batch of n rows: two independent draws, put in order; most rows then get r = t (sec. 4.3).

    The first `spanning_rows(n, law.ratio)` rows have r < t, all others r = t. Rows of a shuffled batch are
    exchangeable, so their place is free, and a fixed one keeps shapes static. The rows with r = t carry the larger of
    the two draws (`swap_then_mask`, as in the paper) or the first one (`mask_then_swap`). Where `law.earlier` is
    `zero`, r is 0 instead of the smaller draw.

    Args:
        n: rows of the batch: the global one, when several devices share it.
        law: `objective.time`, or its keys: {"law": "uniform"}.
        generator: the source of randomness; must live on `device`.
        device: where the times are made.

    Returns:
        r and t, float32 [n], 0 <= r <= t <= 1.
    """
    if not isinstance(law, TimeConfig):
        law = load_config({"objective": {"time": law}}).objective.time
    draw = LAWS[law.law]
    first, second = draw(n, law, generator, device), draw(n, law, generator, device)
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    spanning = torch.arange(n, device=first.device) < spanning_rows(n, law.ratio)
    single = upper if law.order == "swap_then_mask" else first
    if law.earlier == "zero":
        lower = torch.zeros_like(lower)
    return torch.where(spanning, lower, single), torch.where(spanning, upper, single)


def sample_dropped(
    n: int, share: float, *, generator: Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Choose the rows that are trained on the null label: exactly round(n * share), anywhere in the batch.

    Their place is drawn, so they fall on rows with r != t in proportion: the null class learns average velocities too,
    and a small batch does not leave it out (a quarter of a tenth of 16 rows would round to none).

    Returns:
        bool [n].
    """
    chosen = torch.randperm(n, generator=generator, device=device)
    return chosen < round(n * share)
