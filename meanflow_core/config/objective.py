"""`objective`: the distribution of the times, guidance, the weight, and how du/dt is obtained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from meanflow_core.config.section import INF, Section
from meanflow_core.errors import Problem


@dataclass(frozen=True, kw_only=True)
class TimeConfig(Section):
    """The law of the two times (sec. 4.3, Table 1a, 1d)."""

    law: Literal["lognorm", "uniform"] = "lognorm"
    """`lognorm`: the logit-normal law, sigmoid(N(mean, std)); `uniform`: U(0, 1). The two times are independent."""
    mean: float = -0.4
    """Mean of the logit (`lognorm` only)."""
    std: float = 1.0
    """Standard deviation of the logit (`lognorm` only)."""
    ratio: float = 0.25
    """Share of rows with r != t, an exact count of the batch; the others have r = t. 0 is flow matching."""
    order: Literal["swap_then_mask", "mask_then_swap"] = "swap_then_mask"
    """`swap_then_mask` (the paper): rows with r = t carry the larger of two draws; `mask_then_swap`: a single draw."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(mean=(-INF, INF, "[]"), std=(0, INF, "()"), ratio=(0, 1, "[]"))


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig(Section):
    """Guidance built into the target (Eq. 21): v~ = omega v + kappa u(z,t,t|c) + (1 - omega - kappa) u(z,t,t|null)."""

    omega: float = 1.0
    """Weight of the data's velocity. 1 with kappa 0 is no guidance, bit for bit, and costs no extra pass."""
    kappa: float = 0.0
    """Weight of the network's own conditional velocity; below 1."""
    scale: float | None = None
    """Effective scale w' = omega / (1 - kappa). When set, omega is derived: omega = (1 - kappa) scale."""
    start: float = 0.0
    """Guidance acts for start <= t <= end; outside, omega = 1 and kappa = 0."""
    end: float = 1.0
    """See `start`."""
    dropout: float = 0.1
    """Share of rows trained on the null label with the plain velocity (when the data has labels)."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(
            omega=(0, INF, "()"),
            kappa=(0, 1, "[)"),
            scale=(0, INF, "()"),
            start=(0, 1, "[]"),
            end=(0, 1, "[]"),
            dropout=(0, 1, "[)"),
        )
        if self.scale is not None and self.omega != 1.0:
            rule = "`scale` and `omega` are both set; set one (scale = omega / (1 - kappa))"
            yield Problem(key="omega", value=self.omega, rule=rule)
        if self.start > self.end:
            yield Problem(key="start", value=self.start, rule=f"`start <= end` must hold (end is {self.end:g})")

    @property
    def effective_omega(self) -> float:
        """The omega of Eq. 21: derived from `scale` where that is set."""
        return self.omega if self.scale is None else (1.0 - self.kappa) * self.scale

    @property
    def active(self) -> bool:
        """Whether the guided velocity differs from the plain one anywhere."""
        return self.effective_omega != 1.0 or self.kappa != 0.0


@dataclass(frozen=True, kw_only=True)
class WeightConfig(Section):
    """The adaptive weight w = 1 / (|D|^2 + eps)^power, |D|^2 summed over a row, no gradient (sec. 4.3, Table 1e)."""

    law: Literal["adaptive"] = "adaptive"
    """Which weighting."""
    power: float = 1.0
    """The paper's p. 0 is the plain squared error, 0.5 is close to pseudo-Huber."""
    eps: float = 1e-3
    """The paper's c, in units of the summed squared error."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(power=(0, INF, "[)"), eps=(0, INF, "()"))


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section):
    """What is minimised. Defaults: the paper's ImageNet set-up."""

    time: TimeConfig = field(default_factory=TimeConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    weight: WeightConfig = field(default_factory=WeightConfig)
    tangent: Literal["v01", "v00", "v10", "v11"] = "v01"
    """Tangent of (z, r, t) in du/dt. Only `v01` is MeanFlow; the others reproduce the paper's Table 1b."""
    derivative: Literal["auto", "dual", "jvp", "finite_difference"] = "auto"
    """How du/dt is computed. `auto`: `dual` where the network supports it, else `jvp`. All but the last are exact."""


# -------------------------------------------------------------------------------------------------- models
