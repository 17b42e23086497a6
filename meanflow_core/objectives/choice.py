"""From a configuration and a split to the target that serves it."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from torch import Tensor

from meanflow_core.config import ObjectiveConfig
from meanflow_core.objectives.derivative_at_r import DerivativeAtR
from meanflow_core.objectives.derivative_at_t import DerivativeAtT
from meanflow_core.objectives.finite_split import FiniteSplit
from meanflow_core.objectives.target import Target

AT_T, AT_R, DATA_LEG, OWN_LEGS = DerivativeAtT(), DerivativeAtR(), FiniteSplit(own=False), FiniteSplit(own=True)


def choose_target(objective: ObjectiveConfig, split: Tensor | float) -> Target:
    """Return what makes u*: by the preset's own file, or by the split's limit.

    Args:
        objective: `TrainConfig.objective`.
        split: a of the rows with r < t. A number may be 0 or 1 exactly, which are limits; a tensor holds neither.
    """
    preset = objective.preset
    if preset.target is not None:
        return _own_file(preset.target)
    limit = None if isinstance(split, Tensor) else split
    if preset.leg == "own":
        return AT_R if limit == 1 else OWN_LEGS
    return AT_T if limit == 0 else DATA_LEG


@cache
def _own_file(name: str) -> Target:
    target: Target = import_module(f"meanflow_core.objectives.{name}").target
    return target
