"""What a row is conditioned on: its class and, for a network with guidance as an input, the scale of its guidance.

The two travel in one tensor, in the place of the labels: int64 [B], or [B, 2] with the class and the scale w >= 1. So
whatever cuts, joins and selects rows need not know which it is.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from meanflow_core.config import GuidanceConfig


def with_scale(labels: Tensor, scales: Tensor) -> Tensor:
    """Return the condition [B, 2] of classes (int64 [B]) and scales (floating [B]); it has the dtype of the scales."""
    return torch.stack([labels.to(scales.dtype), scales], dim=1)


def null_condition(condition: Tensor, null_label: int) -> Tensor:
    """Return a condition like the given one with the null label in every row, and the scale 1 (no guidance)."""
    if condition.dim() == 1:
        return torch.full_like(condition, null_label)
    return with_scale(torch.full_like(condition[:, 0], null_label), torch.ones_like(condition[:, 1]))


def draw_scales(
    n: int, config: GuidanceConfig, *, generator: Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw n scales from [1, scale_max], density w^-scale_decay: float32 [n]."""
    share = torch.rand(n, generator=generator, device=device)
    if config.scale_decay == 1:
        return torch.exp(share * math.log(config.scale_max))
    power = 1 - config.scale_decay
    return torch.pow(1 + share * (config.scale_max**power - 1), 1 / power)
