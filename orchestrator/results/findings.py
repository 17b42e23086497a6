"""What a sweep has found, in sentences: the best configuration, how sure that is, and what to look at next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.formatting import count, join, number, p_value, short_names
from orchestrator.results.effect_text import effect_text
from orchestrator.results.leaderboard_rows import Row
from orchestrator.results.leaderboard_text import bad_seeds_text, interval_text
from orchestrator.results.parameter_importance import Importance
from orchestrator.results.rung_audit import audit_warnings
from orchestrator.trials import TrialRecord, TrialState, better

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

EDGE = 0.05
"""A value in the outer 5 % of its range lies at the edge."""
MATTERS = 0.1
"""Share of the importance above which a parameter is spoken of."""


def verdict(spec: SweepSpec, rows: Sequence[Row], importance: Importance | None = None) -> str:
    """Return what the sweep has found, in a sentence or two.

    Args:
        spec: the sweep.
        rows: of `leaderboard`.
        importance: of `importance`; None: nothing is said of it.
    """
    ranked = [row for row in rows if row.rank is not None]
    if not ranked:
        if not rows:
            return "No trial has run yet."
        return "Every trial so far has failed." if all(row.failure for row in rows) else "No trial has a result yet."
    best = ranked[0]
    if best.state is not TrialState.FINISHED:
        return (
            f"No trial has finished yet; trial {best.trial} has got furthest, with {spec.metric.name} "
            f"{number(best.metric)} at step {best.steps}."
        )
    seeds = f" over {count(best.n, 'seed')}" if best.n > 1 else ""
    head = f"Trial {best.trial} is best, with {spec.metric.name} {interval_text(best)}{seeds}"
    finished = [row for row in ranked[1:] if row.state is TrialState.FINISHED]
    if len(spec.metrics) > 1:
        front = [row.trial for row in ranked if row.front == 1]
        trials_of = f"trial{'s' if len(front) > 1 else ''} {_few(front, 12)}"
        them = "configurations form" if len(front) > 1 else "configuration forms"
        text = (
            f"{len(front)} {them} the Pareto front, of which none is worse than another in every metric: {trials_of}."
        )
    else:
        text = f"{head}{_against(best, finished)}.{_promising(best, finished, spec.metric.goal)}"
    return text + (_what_matters(importance) if importance else "")


def notes(spec: SweepSpec, trials: Sequence[TrialRecord], rows: Sequence[Row], importance: Importance) -> Iterator[str]:
    """Yield what a reader should know before relying on the verdict."""
    ranked = [row for row in rows if row.rank is not None]
    going = sum(not trial.state.ended for trial in trials)
    if going:
        yield f"{count(going, 'trial')} {'has' if going == 1 else 'have'} not ended: these results may change."
    if ranked and ranked[0].state is TrialState.FINISHED:
        yield from _at_the_edge(spec, ranked[0], importance)
        if ranked[0].n == 1 and len(spec.metrics) == 1:
            yield "One seed a configuration: `replicates` in the sweep file tells real differences from lucky seeds."
    for row in rows:
        if row.bad_seeds and row is not ranked[0] and not _leads_without(row, ranked[0], spec.metric.goal):
            yield (
                f"Trial {row.trial} is unstable: {bad_seeds_text(row)}. It ranks below the stable ones; "
                "see its curves before training it for long."
            )
    failing = [row.trial for row in rows if row.replicates.get("failed") and row.state is TrialState.FINISHED]
    failing = [trial for trial in failing if not any(row.trial == trial and row.bad_seeds for row in rows)]
    if failing:
        yield f"Another seed of trial {join(failing)} failed: see the failures before training it for long."
    failed = sum(row.failure is not None for row in rows)
    if failed * 4 > len(rows):
        yield f"{failed} of {count(len(rows), 'configuration')} failed: see the failures."
    yield from audit_warnings(spec, trials)
    drifted = [trial.id for trial in trials if trial.labels.get("drift")]
    if drifted:
        yield f"{count(len(drifted), 'trial')} ran in another environment than the sweep's: {_few(drifted)}."
    reused = [trial.id for trial in trials if trial.labels.get("reused")]
    if reused:
        yield f"{count(len(reused), 'trial')} took over the result of an equal configuration: {_few(reused)}."


def _against(best: Row, finished: Sequence[Row]) -> str:
    """Return how the best one stands to the next stable one, and to those it is tied with."""
    if best.bad_seeds:
        return f", but it is unstable: {bad_seeds_text(best)}"
    rivals = [row for row in finished if not row.bad_seeds]
    if not rivals:
        return f"; no other {'stable ' if finished else ''}one has finished"
    tied = [row for row in rivals if row.tied_with_best]
    if tied:
        seeds = join([str(n) for n in sorted({row.vs_best.n for row in tied if row.vs_best})], "or")
        nearest_ = f", which is {effect_text(tied[0].vs_best)}" if len(tied) == 1 and tied[0].vs_best else ""
        return (
            f", but with {seeds} shared seeds it is not separable from trial {_few([r.trial for r in tied])}{nearest_}"
        )
    second = rivals[0]
    if second.p_value_vs_best is None or second.vs_best is None:
        shared = "with one seed each" if best.n == 1 else "on the one seed they share"
        return f", ahead of trial {second.trial} ({interval_text(second)}); {shared} that may be chance"
    sure = p_value(second.p_value_vs_best)
    return f"; the runner-up, trial {second.trial}, is {effect_text(second.vs_best)} ({sure})"


def _promising(best: Row, finished: Sequence[Row], goal: str) -> str:
    """Return which unstable ones would lead if their bad seeds had not been."""
    return "".join(
        f" Trial {row.trial} has the better median ({number(row.median, 3)}), but it is unstable: "
        f"{bad_seeds_text(row)}."
        for row in finished
        if _leads_without(row, best, goal)
    )


def _leads_without(row: Row, best: Row, goal: str) -> bool:
    """Whether an unstable configuration would lead if its bad seeds had not been."""
    median, mean = row.median, best.mean
    return bool(row.bad_seeds) and median is not None and mean is not None and better(median, mean, goal)


def _what_matters(importance: Importance) -> str:
    """Return what decides most, and whether that is sure: its interval lies above the estimate of the next."""
    if not importance.shares:
        return ""
    top = importance.shares[0]
    second = importance.shares[1].importance if len(importance.shares) > 1 else 0.0
    says = "matters" if top.low > second else "seems to matter"
    share = f"{top.importance:.0%} of the importance, between {top.low:.0%} and {top.high:.0%}"
    return f" {top.parameter} {says} most ({share})."


def _at_the_edge(spec: SweepSpec, best: Row, importance: Importance) -> Iterator[str]:
    """Yield the ranges at whose end the best value lies, where the parameter matters."""
    shares = {share.parameter: share.importance for share in importance.shares}
    short = short_names(spec.space.names)
    for parameter in spec.space.parameters:
        value = best.config.get(parameter.name)
        if parameter.kind not in ("int", "float") or value is None or not parameter.contains(value):
            continue
        if parameter.discrete and parameter.size < 10:
            continue
        unit = parameter.to_unit(value)
        if min(unit, 1 - unit) < EDGE and shares.get(parameter.name, 1.0) >= MATTERS:
            end = "lower" if unit < 0.5 else "upper"
            bounds = f"{number(parameter.low)} to {number(parameter.high)}"
            yield (
                f"The best {short[parameter.name]}, {number(value, 3)}, lies at the {end} end of its range "
                f"({bounds}): better values may lie beyond it."
            )


def _few(names: Sequence[str], most: int = 6) -> str:
    return join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"
