"""Means with intervals, and paired comparisons over the seeds of a configuration.

Two configurations are compared on the seeds they share: equal seeds mean equal data order and equal noise, so the
difference of a pair is freed from what the seed does to both.

A metric above zero, such as FID, is compared by its logarithm: a seed moves a bad configuration by more than a good
one, in about the same proportion, so differences of logarithms have the one spread that a t-test assumes. They are
also what people say: "1.9 times worse".
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

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
    half = _t_quantile(len(values) - 1, level) * deviation / math.sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half, n=len(values))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How much worse one configuration is than another on the seeds they share."""

    ratio: bool
    """Whether it is a quotient (2: twice as bad) or a difference (0.5: worse by 0.5)."""
    worse: float
    """Below 1 (of a quotient) or 0 (of a difference) it is the better one."""
    ci95: tuple[float, float] | None
    """The 95 % interval of `worse`; None for one seed."""
    p_value: float | None
    """Two-sided, of a paired t-test; None for one seed."""
    n: int
    """Number of shared seeds."""

    @property
    def is_better(self) -> bool:
        """Whether it is ahead, be it by chance."""
        return self.worse < (1.0 if self.ratio else 0.0)

    @property
    def turned(self) -> Effect:
        """The same seen from the other configuration."""
        worse, *ends = (1 / x if self.ratio else -x for x in (self.worse, *(self.ci95 or ())))
        return replace(self, worse=worse, ci95=(ends[1], ends[0]) if ends else None)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        scale = "ratio" if self.ratio else "difference"
        return {"scale": scale, "worse": self.worse, "ci95": list(self.ci95) if self.ci95 else None, "n": self.n}


def has_ratios(values: Iterable[float]) -> bool:
    """Return whether a metric with these values is compared by ratio: all are above zero.

    Decide it once for all that is compared, so that all of it is on one scale.
    """
    return all(value > 0 for value in values)


def wants_log(values: Sequence[float]) -> bool:
    """Return whether values are shown on a logarithmic axis: all are above zero, and they differ more than fivefold."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 5


def paired_effect(a: Mapping[int, float], b: Mapping[int, float], *, ratio: bool, goal: str) -> Effect | None:
    """Return how much worse `a` is than `b`, with a paired t-test; None where they share no seed.

    Args:
        a: metric by seed of one configuration.
        b: metric by seed of another.
        ratio: compare logarithms, of values above zero (see `has_ratios`): the effect is the geometric mean of the
            quotients.
        goal: `minimize` or `maximize`; where the metric is minimised, the larger one is the worse.
    """
    pairs = [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]
    if not pairs:
        return None
    sign = 1.0 if goal == "minimize" else -1.0
    differences = [sign * (math.log(x / y) if ratio else x - y) for x, y in pairs]
    interval = mean_ci(differences)
    back = math.exp if ratio else float
    return Effect(
        ratio=ratio,
        worse=back(interval.mean),
        ci95=interval.bounds and (back(interval.bounds[0]), back(interval.bounds[1])),
        p_value=_t_test(differences),
        n=len(pairs),
    )


def _t_test(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a t-test of mean zero; None for fewer than two values."""
    mean, deviation = _moments(values)
    if deviation is None:
        return None
    # Differences that agree to the last bits have no spread to measure: only their being zero or not is known.
    if not deviation or deviation <= 1e-12 * abs(mean):
        return 1.0 if mean == 0 else 0.0
    n = len(values)
    return max(1.0 - _within(n - 1, abs(mean) / deviation * math.sqrt(n)), 0.0)


def _within(degrees: int, t: float) -> float:
    """Return P(|T| < t) of Student's t law with whole degrees of freedom.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4: exact, and at hand at once,
    where scipy takes a second to be imported.
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = 0.0 if degrees == 1 else cosine if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@cache
def _t_quantile(degrees: int, level: float) -> float:
    """Return the t with P(|T| < t) = level, by bisection in the angle atan(t / sqrt(degrees))."""
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        inside = _within(degrees, math.sqrt(degrees) * math.tan(middle)) < level
        low, high = (middle, high) if inside else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def detectable(n: int, deviation: float, *, power: float = 0.8, alpha: float = ALPHA) -> float:
    """Return the smallest true difference that a paired t-test finds with a probability of `power`.

    Solves `power = P(|T| > t)` for the noncentrality of T, noncentral t with n - 1 degrees of freedom
    (noncentrality = difference / deviation * sqrt(n)); the tail on the wrong side, below 1e-3 here, is left out.

    Args:
        n: shared seeds, at least two.
        deviation: standard deviation of a pair's difference (of logarithms: exp of the result is a ratio).
        power: the probability of finding it, in (alpha, 1).
        alpha: level of the two-sided test.

    Raises:
        ValueError: fewer than two seeds.
    """
    if n < 2:
        raise ValueError(f"`n` must be at least 2 (got {n})")
    from scipy.special import nctdtr

    threshold = _t_quantile(n - 1, 1 - alpha)
    low, high = 0.0, 4.0 * threshold + 8.0  # there T is above the threshold with near certainty
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if 1 - float(nctdtr(n - 1, middle, threshold)) > power else (middle, high)
    return high * deviation / math.sqrt(n)


def pair_deviation(groups: Sequence[Mapping[int, float]]) -> float | None:
    """Return the standard deviation of log(a / b) on a seed, for two configurations like these; None if not known.

    Of each configuration's logarithms its mean is taken off, and the mean of each seed over the configurations; what
    is left is one configuration's own chance, and a pair has it twice.

    Args:
        groups: metric by seed of each configuration; those whose values are above zero at two or more of the seeds
            that all of them share count.
    """
    usable = [group for group in groups if len(group) > 1 and has_ratios(group.values())]
    shared = sorted(set.intersection(*(set(group) for group in usable))) if len(usable) > 1 else []
    if len(shared) < 2:
        return None
    logs = [[math.log(group[seed]) for seed in shared] for group in usable]
    rows = [math.fsum(row) / len(row) for row in logs]
    columns = [math.fsum(column) / len(column) for column in zip(*logs, strict=True)]
    centre = math.fsum(rows) / len(rows)
    left = math.fsum(
        (value - mean - column + centre) ** 2
        for row, mean in zip(logs, rows, strict=True)
        for value, column in zip(row, columns, strict=True)
    )
    return math.sqrt(2 * left / ((len(rows) - 1) * (len(columns) - 1)))


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


def separable_from_best(
    groups: Sequence[Mapping[int, float]], *, ratio: bool, alpha: float = ALPHA
) -> list[bool | None]:
    """Return for each group whether a test tells it from the first: True or False, None where no test is possible.

    Args:
        groups: metric by seed of each configuration, the best first; it is not separable from itself.
        ratio: see `paired_effect`.
        alpha: level of the tests together (Holm).
    """
    if not groups:
        return []
    effects = [paired_effect(other, groups[0], ratio=ratio, goal="minimize") for other in groups[1:]]
    corrected = holm([effect.p_value if effect else None for effect in effects])
    return [False, *(None if p is None else p < alpha for p in corrected)]


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
    x, y = _ranks(a), _ranks(b)
    middle = (len(a) + 1) / 2
    products = math.fsum((p - middle) * (q - middle) for p, q in zip(x, y, strict=True))
    spreads = (math.fsum((p - middle) ** 2 for p in ranks) for ranks in (x, y))
    return products / math.sqrt(math.prod(spreads))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 1; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 for value in values]
