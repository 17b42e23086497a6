"""Patience: a trial that has stopped improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from orchestrator.limits import Limits
from orchestrator.search.curve import Curve
from orchestrator.search.rule import JudgedFrom


@dataclass(frozen=True, kw_only=True)
class Patience(JudgedFrom):
    """Stops a trial that has not improved for `patience` reports; it looks at no other trial."""

    name: ClassVar[str] = "patience"
    about: ClassVar[str] = "stop a trial that has not improved for `patience` reports"
    several_metrics: ClassVar[bool] = False

    patience: Annotated[int, Limits(low=1)] = 5
    """Reports without an improvement."""
    min_delta: Annotated[float, Limits(low=0)] = 0.0
    """A smaller improvement is none."""

    def _reason(self, sign: float, curves: Mapping[str, Curve], trial: str) -> str | None:
        best, since = math.inf, 0
        for value in curves[trial].values:
            if sign * value < best - self.min_delta:
                best, since = sign * value, 0
            else:
                since += 1
        return f"patience: no improvement in {since} reports" if since >= self.patience else None
