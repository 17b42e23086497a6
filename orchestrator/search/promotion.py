"""Which of the trials that wait at rungs goes on: ASHA's promotion rule (Li et al., arXiv 1810.05934, Algorithm 2).

A trial that comes to a rung waits there, its checkpoint kept and its worker free, until it is among the best 1/eta of
all that have come to that rung. A function of the recorded reports and of who went on before.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

from orchestrator.search.pruning import Curve, keep_count
from orchestrator.spec import EarlyTerminate


def rung_of(rule: EarlyTerminate, curve: Curve, passed: int) -> int | None:
    """Return the index of the rung at which a trial stands after its last report, None if none holds it.

    Args:
        rule: the sweep's rule.
        curve: what the trial has reported.
        passed: the step up to which it was let through already.
    """
    step = curve.steps[-1] if curve.steps else 0
    index = bisect_right(curve.rungs, step) - 1
    if step >= curve.length or index < curve.number % rule.brackets or curve.rungs[index] <= passed:
        return None
    return index


def next_promotion(
    rule: EarlyTerminate, goal: str, curves: Mapping[str, Curve], held: Mapping[str, int], *, last: bool
) -> str | None:
    """Return the trial that goes on first: the best of the highest rung that has one to go on.

    Args:
        rule: the sweep's rule.
        goal: "minimize" or "maximize".
        curves: all trials of the search by id.
        held: index of the rung at which each trial waits that may go on.
        last: no new trial will come to the first rung. Then one in eta is rounded up, so that some trial is trained to
            its end however few there are; before, it is rounded down, as a trial that waits can still be let through.
    """
    for rung in sorted(set(held.values()), reverse=True):
        found = []
        for bracket in range(rule.brackets):
            order = ranking(rule, goal, curves, rung, bracket)
            count = keep_count(len(order), rule.eta) if last else math.floor(len(order) / rule.eta + 1e-9)
            found += [entry for entry in order[:count] if held.get(entry[2]) == rung]
        if found:
            return min(found)[2]
    return None


def ranking(
    rule: EarlyTerminate, goal: str, curves: Mapping[str, Curve], rung: int, bracket: int
) -> list[tuple[float, int, str]]:
    """Return all trials that have come to a rung, best first: (value, number, id) each, a smaller value being better.

    The value that counts at a rung never changes again; see `Curve.at_rung`.
    """
    sign = 1.0 if goal == "minimize" else -1.0
    found = []
    for trial, curve in curves.items():
        value = curve.at_rung(rung)
        if value is not None and curve.number % rule.brackets == bracket:
            found.append((sign * value, curve.number, trial))
    return sorted(found)


def place(rule: EarlyTerminate, goal: str, curves: Mapping[str, Curve], trial: str, rung: int) -> str:
    """Return where a trial stands at a rung, in words."""
    curve = curves[trial]
    order = [entry[2] for entry in ranking(rule, goal, curves, rung, curve.number % rule.brackets)]
    return (
        f"{rule.type}: place {1 + order.index(trial)} of {len(order)} at step {curve.rungs[rung]}, "
        f"the best 1/{rule.eta:g} goes on"
    )
