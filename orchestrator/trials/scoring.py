"""What a trial is judged by: the one place that turns what it has reported into its score.

The score after a report is a function of the reports up to it, so that it is defined at a rung as it is at the end: the
last value, the best one so far, or the mean of the last few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEAN = "mean_of_last"


@dataclass(frozen=True)
class At:
    """Which reports of a trial count."""

    best: bool = False
    """The best one, and not the last ones."""
    mean_of_last: int = 1
    """The mean of so many; 1 is the last one itself."""

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any] | None) -> At:
        """Rebuild it from `to_json`; None is what every sweep had before there was a choice."""
        if isinstance(source, Mapping):
            return cls(mean_of_last=int(source[MEAN]))
        return cls(best=source == "best")

    def to_json(self) -> str | dict[str, int]:
        """Return it as the sweep file has it: `last`, `best`, `{mean_of_last: 3}`."""
        if self.best:
            return "best"
        return "last" if self.mean_of_last == 1 else {MEAN: self.mean_of_last}

    @property
    def words(self) -> str:
        """What is said of it behind a metric's name; empty for the last report, as everybody expects."""
        if self.best:
            return " (best report)"
        return "" if self.mean_of_last == 1 else f" (mean of the last {self.mean_of_last} reports)"


LAST = At()


def score(values: Sequence[float], at: At, goal: str, *, before: float | None = None) -> float:
    """Return what a trial is judged by after these reports.

    Args:
        values: of the metric, in the order of the steps; at least one.
        at: which of them count.
        goal: "minimize" or "maximize".
        before: the score before the last of them, if that is known: it spares a look at all of them.
    """
    if at.best:
        seen = values if before is None else [before, values[-1]]
        return seen[best_of(seen, goal)]
    counted = values[-at.mean_of_last :]
    return counted[0] if len(counted) == 1 else math.fsum(counted) / len(counted)


def scores(reports: Mapping[int, float], at: At, goal: str) -> dict[int, float]:
    """Return the score after each report.

    Args:
        reports: the metric by step, ascending.
        at: which of them count.
        goal: "minimize" or "maximize".
    """
    values, found, before = list[float](), dict[int, float](), None
    for step, value in reports.items():
        values.append(value)
        before = found[step] = score(values, at, goal, before=before)
    return found


def best_of(values: Iterable[float], goal: str) -> int:
    """Return the index of the best value, the first of equal ones; one that is not finite is never better."""
    sign = 1.0 if goal == "minimize" else -1.0
    known = list(enumerate(sign * value if math.isfinite(value) else math.inf for value in values))
    return min(known, key=lambda entry: entry[1])[0]
