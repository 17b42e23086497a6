"""How much each row counts, by how wrong it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_core.config import PRESETS, WeightConfig
from meanflow_core.flow.path import is_exactly


def adaptive_weight(squared_error: Tensor, config: WeightConfig) -> Tensor:
    """Return w = 1 / (|D|^2 + eps)^power for each row, without gradient (sec. 4.3).

    Args:
        squared_error: |D|^2 [B], summed over a row's entries; `eps` is in the same units.
        config: `objective.weight`; a section outside an `ObjectiveConfig` has the values of `meanflow`.
    """
    usual = PRESETS["meanflow"]
    power = usual.power if config.power is None else config.power
    if is_exactly(power, 0.0):
        return torch.ones_like(squared_error)
    return (squared_error.detach() + (usual.eps if config.eps is None else config.eps)) ** -power


LAWS: dict[str, Callable[[Tensor, WeightConfig], Tensor]] = {"adaptive": adaptive_weight}
"""Every weighting. A new one is a function and a line here (and its name in `WeightConfig.law`)."""


def row_weight(squared_error: Tensor, config: WeightConfig) -> Tensor:
    """Return the weight of each row [B] by `objective.weight`, a constant."""
    return LAWS[config.law](squared_error.detach(), config)
