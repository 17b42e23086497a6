"""What a row is conditioned on: its class, the scale of its guidance, and a condition of any shape.

They travel in one tensor, in the place of the labels, so whatever cuts, joins and selects rows need not know which it
is: int64 [B], the class; [B, 2], the class and the scale w >= 1, for a network with guidance as an input; or
[B, 3 + K], for data with conditions: the class, the scale, whether the condition is absent (1) or there (0), and the K
entries of the condition. Whole numbers up to 2^24 are exact in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from meanflow_core.config import GuidanceConfig

HEAD = 3
"""Columns before those of the condition."""


@dataclass(frozen=True, eq=False)
class ConditionSpec:
    """The conditions of a data set.

    Args:
        shape: of one row's condition, e.g. (77, 768), (3, 32, 32), (12,) or ().
        dtype: of what the network gets.
        null: the condition of a dropped row, of that shape; None: zeros. A network with `null_condition` uses its own.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    null: Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers in one row's condition."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the metadata of weights; the null condition is among the weights."""
        return {"shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ConditionSpec:
        """Return what `to_dict` has written."""
        return cls(tuple(content["shape"]), getattr(torch, content["dtype"]))

    def pack(self, labels: Tensor | None, condition: Tensor) -> Tensor:
        """Return [B, 3 + K] of classes (int64 [B], or None) and conditions [B, *shape]."""
        flat = condition.reshape(len(condition), -1)
        flat = flat if flat.dtype == torch.float64 else flat.to(torch.float32)
        head = flat.new_zeros(len(flat), HEAD)
        head[:, 1] = 1
        if labels is not None:
            head[:, 0] = labels.to(flat.dtype)
        return torch.cat([head, flat], dim=1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return classes int64 [B], scales [B], absent bool [B, 1, ...], and conditions [B, *shape]."""
        condition = packed[:, HEAD:].reshape(-1, *self.shape)
        if not self.dtype.is_floating_point:
            condition = condition.round()
        absent = packed[:, 2].bool().reshape(-1, *[1] * len(self.shape))
        return packed[:, 0].long(), packed[:, 1], absent, condition.to(self.dtype)


def with_scale(labels: Tensor, scales: Tensor) -> Tensor:
    """Return the condition [B, 2] of classes (int64 [B]) and scales (floating [B]); it has the dtype of the scales.

    Labels [B, 3 + K] with conditions keep them, and get the scales.
    """
    if labels.dim() == 2:
        return torch.cat([labels[:, :1], scales.to(labels.dtype)[:, None], labels[:, 2:]], dim=1)
    return torch.stack([labels.to(scales.dtype), scales], dim=1)


def null_condition(condition: Tensor, null_label: int) -> Tensor:
    """Return a condition like the given one with the null label in every row, and the scale 1 (no guidance).

    A condition of another shape is marked as absent in every row.
    """
    if condition.dim() == 1:
        return torch.full_like(condition, null_label)
    head = torch.ones_like(condition[:, :HEAD])
    head[:, 0] = null_label
    return torch.cat([head, condition[:, HEAD:]], dim=1)


def draw_scales(
    n: int, config: GuidanceConfig, *, generator: Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw n scales from [1, scale_max], density w^-scale_decay: float32 [n]."""
    share = torch.rand(n, generator=generator, device=device)
    if config.scale_decay == 1:
        return torch.exp(share * math.log(config.scale_max))
    power = 1 - config.scale_decay
    return torch.pow(1 + share * (config.scale_max**power - 1), 1 / power)
