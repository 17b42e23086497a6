"""Threshold: a trial that leaves a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from meanflow_core.errors import Problem
from orchestrator.search.curve import Curve
from orchestrator.search.rule import JudgedFrom


@dataclass(frozen=True, kw_only=True)
class Threshold(JudgedFrom):
    """Stops a trial whose last value lies outside [lower, upper]; it does not rank trials."""

    name: ClassVar[str] = "threshold"
    about: ClassVar[str] = "stop a trial that leaves [lower, upper]"

    lower: float | None = None
    """A trial whose metric falls below is stopped."""
    upper: float | None = None
    """A trial whose metric rises above is stopped."""

    def problems(self) -> Iterator[Problem]:
        """See `Rule`."""
        if self.lower is None and self.upper is None:
            yield Problem(key="", rule="needs `lower` or `upper`")
        elif self.lower is not None and self.upper is not None and self.lower >= self.upper:
            rule = f"`lower < upper` must hold (upper is {self.upper:g})"
            yield Problem(key="lower", rule=rule, value=self.lower)

    def _reason(self, sign: float, curves: Mapping[str, Curve], trial: str) -> str | None:
        value = curves[trial].reported[-1]
        if self.lower is not None and value < self.lower:
            return f"threshold: {value:.6g} is below {self.lower:g}"
        if self.upper is not None and value > self.upper:
            return f"threshold: {value:.6g} is above {self.upper:g}"
        return None
