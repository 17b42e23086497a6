"""When a trial is stopped early: pure functions of the recorded reports.

A decision looks at the reports recorded up to the trial's own last one and at nothing else, so it comes out the same
whether it is taken at once or after a crash and a resume.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.spec import EarlyTerminate


@dataclass
class Curve:
    """What one trial has reported.

    Args:
        number: the trial's number in the sweep; it decides the bracket.
        length: the trial's last step.
        rungs: the rungs' steps for a trial of this length, all brackets' together.
    """

    number: int
    length: int
    rungs: tuple[int, ...] = ()
    steps: list[int] = field(default_factory=list)
    """Ascending."""
    values: list[float] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    """The position of each report among all reports of the sweep."""

    def add(self, step: int, value: float, order: int) -> None:
        """Append the next report."""
        self.steps.append(step)
        self.values.append(value)
        self.order.append(order)

    def first_from(self, step: int, before: int | None = None) -> int | None:
        """Return the index of the first report at or past `step`, None if there is none (up to position `before`)."""
        index = bisect_left(self.steps, step)
        there = index < len(self.steps) and (before is None or self.order[index] <= before)
        return index if there else None

    def at_rung(self, index: int, before: int | None = None) -> float | None:
        """Return the value that counts at a rung: of the first report at or past it, if the next rung was not reached.

        A trial under other rungs (the sweep was edited) or of another sweep may have no value there: one from much
        later would be compared with what others had early.

        Args:
            index: the rung's number.
            before: only reports up to this position count.
        """
        if index >= len(self.rungs):
            return None
        found = self.first_from(self.rungs[index], before)
        end = self.rungs[index + 1] if index + 1 < len(self.rungs) else self.length
        return self.values[found] if found is not None and self.steps[found] < end else None

    def last_until(self, step: int, before: int) -> int | None:
        """Return the index of the last report up to `step` and up to position `before`."""
        index = bisect_left(self.steps, step + 1) - 1
        while index >= 0 and self.order[index] > before:
            index -= 1
        return index if index >= 0 else None


def reason_to_stop(rule: EarlyTerminate | None, goal: str, curves: Mapping[str, Curve], trial: str) -> str | None:
    """Return why a trial should stop after its last report, None if it should go on.

    A trial's last step is never judged: the trial ends there anyway. A rule that promotes stops nobody; see
    `orchestrator.search.promotion`.

    Args:
        rule: the sweep's rule; None never stops.
        goal: "minimize" or "maximize".
        curves: all trials of the search by id; `trial` among them, with at least one report.
        trial: the trial that is judged.
    """
    curve = curves[trial]
    if rule is None or rule.promote or curve.steps[-1] >= curve.length:
        return None
    sign = 1.0 if goal == "minimize" else -1.0
    match rule.type:
        case "asha" | "hyperband":
            return _behind_at_rung(rule, sign, curves, curve)
        case "median" | "percentile":
            return _behind_the_others(rule, sign, curves, trial)
        case "patience":
            return _without_improvement(rule, sign, curve)
        case "threshold":
            return _out_of_bounds(rule, curve)
        case _:
            return None


def keep_count(total: int, eta: float) -> int:
    """Return how many of `total` trials at a rung go on: one in eta, rounded up.

    Rounded up, because the rule meets few trials at a late rung: rounded down, the second of five would be stopped
    though it may be the best of all when it ends, and it is never asked again.
    """
    return max(1, math.ceil(total / eta - 1e-9))


def _behind_at_rung(rule: EarlyTerminate, sign: float, curves: Mapping[str, Curve], curve: Curve) -> str | None:
    """ASHA: at each rung just reached, only the best 1/eta of those that have reached it so far goes on.

    The value that counts at a rung never changes again; see `Curve.at_rung`.
    """
    now, previous = curve.order[-1], curve.steps[-2] if len(curve.steps) > 1 else 0
    bracket, index = curve.number % rule.brackets, bisect_right(curve.rungs, curve.steps[-1]) - 1
    if index < bracket or curve.rungs[index] <= previous:
        return None
    peers = (other for other in curves.values() if other.number % rule.brackets == bracket)
    values = sorted(sign * value for peer in peers if (value := peer.at_rung(index, now)) is not None)
    own = sign * curve.values[-1]
    last_kept = values[keep_count(len(values), rule.eta) - 1]
    if own <= last_kept:  # equal values are kept: the order of arrival must not decide between them
        return None
    place = 1 + bisect_left(values, own)
    return f"{rule.type}: place {place} of {len(values)} at step {curve.rungs[index]}, the best 1/{rule.eta:g} goes on"


def _behind_the_others(rule: EarlyTerminate, sign: float, curves: Mapping[str, Curve], trial: str) -> str | None:
    """Vizier's rule: the trial's best so far against a percentile of what the others had at the same step."""
    curve = curves[trial]
    step, now = curve.steps[-1], curve.order[-1]
    if step < (rule.min_iter or 0):
        return None
    others = []
    for name, other in curves.items():
        if name != trial and other.first_from(step, now) is not None:
            index = other.last_until(step, now)
            if index is not None:
                others.append(sign * other.values[index])
    if len(others) < max(1, rule.warmup_trials):
        return None
    percentile = 50.0 if rule.type == "median" else rule.percentile
    limit = _percentile(sorted(others), percentile)
    best = min(sign * value for value in curve.values)
    if best > limit:
        return f"{rule.type}: best so far {sign * best:.6g} at step {step}, {percentile:g} % of the others have " + (
            f"{'less' if sign > 0 else 'more'} than {sign * limit:.6g}"
        )
    return None


def _percentile(ascending: list[float], percentile: float) -> float:
    """Linear interpolation between the two nearest values."""
    position = (len(ascending) - 1) * percentile / 100
    low = math.floor(position)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (position - low)


def _without_improvement(rule: EarlyTerminate, sign: float, curve: Curve) -> str | None:
    best, since = math.inf, 0
    for value in curve.values:
        if sign * value < best - rule.min_delta:
            best, since = sign * value, 0
        else:
            since += 1
    if since >= rule.patience and curve.steps[-1] >= (rule.min_iter or 0):
        return f"patience: no improvement in {since} reports"
    return None


def _out_of_bounds(rule: EarlyTerminate, curve: Curve) -> str | None:
    value = curve.values[-1]
    if curve.steps[-1] < (rule.min_iter or 0):
        return None
    if rule.lower is not None and value < rule.lower:
        return f"threshold: {value:.6g} is below {rule.lower:g}"
    if rule.upper is not None and value > rule.upper:
        return f"threshold: {value:.6g} is above {rule.upper:g}"
    return None
