"""The adaptive weight of sec. 4.3."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow_core.config import WeightConfig


def adaptive_weight(squared_error: Tensor, config: WeightConfig) -> Tensor:
    """Return w = 1 / (|D|^2 + eps)^power for each row, without gradient.

    Args:
        squared_error: |D|^2 [B], summed over a row's entries; `eps` is in the same units.
        config: `objective.weight`.
    """
    if config.power == 0:
        return torch.ones_like(squared_error)
    return (squared_error.detach() + config.eps) ** -config.power
