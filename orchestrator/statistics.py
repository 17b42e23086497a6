"""Means with intervals and paired tests over the seeds of a configuration.

Two configurations are compared on the seeds they share: equal seeds mean equal data order and equal noise, so the
difference of a pair is freed from what the seed does to both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALPHA = 0.05
"""A difference counts as real below this (corrected) p-value."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its two-sided confidence interval; `low` and `high` are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return `low` and `high`, None for a single value."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def half_width(self) -> float | None:
        """Return half the width of the interval (the figure after a ±), None for a single value."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_ci(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of `values` and its Student t interval.

    Args:
        values: independent measurements (one for each seed), at least one.
        level: coverage, in (0, 1).

    Raises:
        ValueError: no values, a value that is not finite, or a level outside (0, 1).
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"`values` must be finite and at least one (got {list(values)!r})")
    if not 0 < level < 1:
        raise ValueError(f"`0 < level < 1` must hold (got {level!r})")
    mean, deviation = _moments(values)
    if deviation is None:
        return Interval(mean=mean, low=None, high=None, n=1)
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * deviation / math.sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half, n=len(values))


def paired_test(a: Mapping[int, float], b: Mapping[int, float]) -> float | None:
    """Return the two-sided p-value of a paired t-test of `a` against `b`; None where fewer than two seeds are shared.

    Args:
        a: metric by seed of one configuration.
        b: metric by seed of another.
    """
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if len(differences) < 2:
        return None
    mean, deviation = _moments(differences)
    # Differences that agree to the last bits have no spread to measure: only their being zero or not is known.
    if not deviation or deviation <= 1e-12 * abs(mean):
        return 1.0 if mean == 0 else 0.0
    from scipy.special import stdtr

    n = len(differences)
    return float(2 * stdtr(n - 1, -abs(mean) / deviation * math.sqrt(n)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values corrected for their number (Holm's step-down), in the given order; None stays None.

    Declaring every difference with a corrected value below alpha real is wrong about any of them with a probability
    of at most alpha.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - position)))
        corrected[index] = largest
    return corrected


def tied_with_best(groups: Sequence[Mapping[int, float]], alpha: float = ALPHA) -> list[bool | None]:
    """Return for each group whether it can still be the best: True or False by test, None where no test is possible.

    Args:
        groups: metric by seed of each configuration, the best first; the best ties with itself.
        alpha: level of the tests together (Holm).
    """
    if not groups:
        return []
    corrected = holm([paired_test(groups[0], other) for other in groups[1:]])
    return [True, *(None if p is None else p >= alpha for p in corrected)]


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), None for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def rank_correlation(a: Sequence[float], b: Sequence[float], *, least: int = 3) -> float | None:
    """Return Spearman's rank correlation of paired values.

    None for fewer than `least` pairs or a side without spread: there is no order to compare then.

    Raises:
        ValueError: the two differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"`a` and `b` must be of one length (got {len(a)} and {len(b)})")
    if len(a) < least or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
