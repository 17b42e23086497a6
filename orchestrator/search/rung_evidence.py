"""How well the order of trials at a rung agrees with that at their end, from those that were trained to it.

Which trials those are is the rungs' own choice, and says too little about the others. The ones that `audit` lets
through whatever they report stand for all that were stopped: each counts as often as such a trial is let through
(Horvitz and Thompson's weights), so that the estimate is not a choice of the rung that it judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.search.curve import Curve
from orchestrator.search.rule import Rule

LEAST = 5
"""Trials without which nothing is said."""
MISLEADS = 0.2
"""Rank correlation over the better half below which a rung misleads."""


@dataclass(frozen=True)
class Agreement:
    """The order at a rung against the order at the end."""

    correlation: float
    """Spearman's, over all trials that were trained to their end."""
    trials: int
    better_half: float | None
    """The same over the better half of them by final value, among which the rung has to choose; None: too few."""
    better: int
    """Trials in that half."""

    @property
    def misleads(self) -> bool:
        """Whether a trial that is worth finishing is stopped there by chance."""
        return self.better_half is not None and self.better_half < MISLEADS


def agreement(
    rule: Rule, goal: str, curves: Mapping[str, Curve], early: Callable[[Curve], float | None]
) -> Agreement | None:
    """Return how the order of `early` agrees with the order at the end; None where too few trials came to it.

    Args:
        rule: decided which trials did.
        goal: "minimize" or "maximize".
        curves: all trials of the search by id.
        early: the value of a trial at the rung, None if it has none.
    """
    sign, seen = 1.0 if goal == "minimize" else -1.0, list[tuple[float, float, float]]()
    for trial, curve in curves.items():
        there = early(curve)
        if there is None or not curve.steps or curve.steps[-1] < curve.length or not math.isfinite(curve.values[-1]):
            continue
        seen.append((sign * curve.values[-1], sign * there, 1.0 / rule.chance(goal, curves, trial)))
    seen.sort()
    correlation = _weighted_spearman(seen)
    if correlation is None:
        return None
    half, before, total = list[tuple[float, float, float]](), 0.0, sum(weight for *_, weight in seen)
    for entry in seen:
        if before < total / 2:
            half.append(entry)
        before += entry[2]
    return Agreement(correlation, len(seen), _weighted_spearman(half), len(half))


def _weighted_spearman(seen: Sequence[tuple[float, float, float]]) -> float | None:
    """Return Spearman's rank correlation of (a, b, weight), as if each pair were there `weight` times.

    None for fewer than `LEAST` pairs or a side without spread: there is no order to compare then.
    """
    weights = [weight for *_, weight in seen]
    ranks = [_ranks([entry[side] for entry in seen], weights) for side in (0, 1)]
    if len(seen) < LEAST or any(len(set(side)) == 1 for side in ranks):
        return None
    total = sum(weights)
    means = [sum(w * r for w, r in zip(weights, side, strict=True)) / total for side in ranks]
    first, second = ([rank - mean for rank in side] for side, mean in zip(ranks, means, strict=True))

    def product(a: Sequence[float], b: Sequence[float]) -> float:
        return math.fsum(w * x * y for w, x, y in zip(weights, a, b, strict=True))

    return product(first, second) / math.sqrt(product(first, first) * product(second, second))


def _ranks(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return each value's rank among all, each there `weight` times; equal ones share the middle of theirs."""
    at: dict[float, float] = {}
    for value, weight in zip(values, weights, strict=True):
        at[value] = at.get(value, 0.0) + weight
    ranks, below = dict[float, float](), 0.0
    for value in sorted(at):
        ranks[value] = below + (at[value] + 1) / 2
        below += at[value]
    return [ranks[value] for value in values]
