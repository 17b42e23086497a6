"""Median and percentile: Vizier's rule of the others at the same step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from orchestrator.limits import Limits
from orchestrator.search.curve import Curve
from orchestrator.search.rule import Comparing, JudgedFrom


@dataclass(frozen=True, kw_only=True)
class Median(JudgedFrom, Comparing):
    """Stops a trial whose best value so far is worse than the median of what the others had at the same step."""

    name: ClassVar[str] = "median"
    about: ClassVar[str] = "stop a trial that is worse than the median of the others at the same step"
    several_metrics: ClassVar[bool] = False

    warmup_trials: Annotated[int, Limits(low=1)] = 5
    """Trials that must have reached a step before a trial is judged there."""

    @property
    def share(self) -> float:
        """In %, counted from the best: the part of the others that a trial must be among."""
        return 50.0

    def _reason(self, sign: float, curves: Mapping[str, Curve], trial: str) -> str | None:
        curve = curves[trial]
        step, now = curve.steps[-1], curve.order[-1]
        others = []
        for name, other in curves.items():
            if name != trial and other.first_from(step, now) is not None:
                index = other.last_until(step, now)
                if index is not None:
                    others.append(sign * other.values[index])
        if len(others) < self.warmup_trials:
            return None
        limit = _percentile(sorted(others), self.share)
        best = min(sign * value for value in curve.values)
        if best <= limit:
            return None
        less = "less" if sign > 0 else "more"
        return (
            f"{self.name}: best so far {sign * best:.6g} at step {step}, "
            f"{self.share:g} % of the others have {less} than {sign * limit:.6g}"
        )


@dataclass(frozen=True, kw_only=True)
class Percentile(Median):
    """The same with another percentile than 50."""

    name: ClassVar[str] = "percentile"
    about: ClassVar[str] = "the same with another percentile than 50"

    percentile: Annotated[float, Limits(above=0, high=100)] = 50.0
    """The share (in %, counted from the best) of the other trials that a trial must be among."""

    @property
    def share(self) -> float:
        """See `Median`."""
        return self.percentile


def _percentile(ascending: list[float], percentile: float) -> float:
    """Linear interpolation between the two nearest values."""
    position = (len(ascending) - 1) * percentile / 100
    low = math.floor(position)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (position - low)
