"""The numbers of an objective as scalar tensors, so that one compiled graph serves every value of a sweep."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from meanflow_core.config import GuidanceConfig, ObjectiveConfig

KERNELS_OF_THEIR_OWN = (0.0, 0.5, 1.0, 2.0)
"""Powers that torch computes by other kernels than a power of any exponent (a reciprocal, a root): they stay numbers,
so that compiled and uncompiled losses are of the same operations."""


class ActiveGuidance(GuidanceConfig):
    """Guidance whose omega and kappa are tensors: nobody may ask whether they are 1 and 0, and they are not."""

    @property
    def active(self) -> bool:
        """See `GuidanceConfig`."""
        return True


def with_scalars(objective: ObjectiveConfig, device: torch.device | str) -> ObjectiveConfig:
    """Return the same objective with float64 scalars on the device where it has numbers: the target has the same bits.

    What decides which operations there are (names, a kappa of 0, a direction of 1, no clip) stays as it is:
    torch.compile compares it, and compiles again where it differs. A power is rounded otherwise by 1e-7 (float32).
    """

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=device)

    guidance, weight = objective.guidance, objective.weight
    omega, kappa = guidance.effective_omega, guidance.kappa
    bounds: dict[str, Any] = {"start": scalar(guidance.start), "end": scalar(guidance.end)}
    if guidance.active and not guidance.input and 1.0 - omega - kappa != 0:
        terms = {"omega": scalar(omega), "kappa": scalar(kappa) if kappa else 0.0, "scale": None}
        changed_guidance: GuidanceConfig = _changed(guidance, ActiveGuidance, **terms, **bounds)
    else:
        changed_guidance = _changed(guidance, GuidanceConfig, **bounds)
    power, eps, direction = weight.power, weight.eps, objective.direction
    assert power is not None
    assert eps is not None
    assert direction is not None
    made: ObjectiveConfig = _changed(
        objective,
        ObjectiveConfig,
        guidance=changed_guidance,
        weight=_changed(
            weight, type(weight), eps=scalar(eps), power=power if power in KERNELS_OF_THEIR_OWN else scalar(power)
        ),
        direction=direction if direction in (0.0, 1.0) else scalar(direction),
        gap_weight=scalar(objective.gap_weight) if objective.gap_weight else 0.0,
        clip=None if objective.clip is None else scalar(objective.clip),
    )
    return made


def _changed(section: Any, kind: type, **values: Any) -> Any:
    """Return a copy of a section with other values, which are not checked: they are no numbers."""
    made = copy.copy(section)
    object.__setattr__(made, "__class__", kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made
