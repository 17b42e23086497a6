"""The order of a sweep's configurations, best first, with what is known about each and what is only chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.statistics import ALPHA, holm, mean_ci, paired_test
from orchestrator.trials import Group, TrialRecord, TrialState, group_by_config, value_of

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

Row = dict[str, Any]
"""A row of `leaderboard --json`."""


def leaderboard(spec: SweepSpec, trials: Iterable[TrialRecord], run_ids: Mapping[str, str] | None = None) -> list[Row]:
    """Return one row for each configuration, best first: the rows of `leaderboard --json`.

    The order: finished configurations; unstable ones, of which another seed diverged or collapsed (see
    `Group.bad_seeds`); those that were stopped early or still run, by the step they reached (a value at an early rung
    never outranks a finished one); those without a value; failed ones. Rows without a value or with a failure have
    no rank.

    Finished configurations are compared on the seeds they share: all by the trial of the search, then those with
    replicates among themselves by their mean. With several metrics the Pareto front comes first, then the rest by
    the number of fronts above them.

    Args:
        spec: the sweep.
        trials: every trial of its ledger.
        run_ids: MLflow run by trial id.
    """
    goals = {metric.name: metric.goal for metric in spec.metrics}
    ordered, fronts = order(group_by_config(trials), goals)
    metric, goal = next(iter(goals.items()))
    bad_seeds = [group.bad_seeds(metric, goal) for group in ordered]
    best = next((group for group in ordered if group.finished), None)
    several = len(goals) > 1
    # A test of means says nothing about seeds of which one fell out of the world.
    comparable = [bool(best and not several and not bad) for bad in bad_seeds]
    p_values = holm([_compared(best, group) if ok else None for group, ok in zip(ordered, comparable, strict=True)])
    rows = []
    for position, (group, p, bad) in enumerate(zip(ordered, p_values, bad_seeds, strict=True), start=1):
        record, interval = group.searched, group.interval()
        tied = True if group is best else None if p is None else p >= ALPHA
        rows.append(
            {
                "rank": position if interval else None,
                "trial": record.id,
                "state": record.state.value,
                "metric": value_of(record),
                "mean": interval.mean if interval else None,
                "ci95": [interval.low, interval.high] if interval and interval.n > 1 else None,
                "n": interval.n if interval else 0,
                "steps": record.steps,
                "config": dict(record.values),
                "run_id": (run_ids or {}).get(record.id),
                "checkpoint": record.checkpoint,
                "seeds": group.by_seed(),
                "median": group.median(),
                "bad_seeds": [asdict(seed) for seed in bad],
                "p_value_vs_best": p,
                "tied_with_best": tied if interval else None,
                "replicates": _states(group.replicates),
                "metrics": {name: found.mean for name in goals if (found := group.interval(name))},
                "front": fronts.get(record.id) if several else None,
                "failure": {"kind": record.failure.kind, "reason": record.failure.reason} if record.failure else None,
            }
        )
    return rows


def order(groups: Sequence[Group], goals: Mapping[str, str]) -> tuple[list[Group], dict[str, int]]:
    """Return the groups best first, and for several metrics the number of each finished one's Pareto front (from 1).

    Args:
        groups: the configurations.
        goals: `minimize` or `maximize` by metric, the first one the ranking metric.
    """
    metric, goal = next(iter(goals.items()))
    sign = 1.0 if goal == "minimize" else -1.0

    def by_search(group: Group) -> tuple[float, int]:
        return sign * (value_of(group.searched) or 0.0), group.searched.config_id

    tiers: list[list[Group]] = [[], [], [], [], []]
    for group in groups:
        tiers[_tier(group, metric, goal)].append(group)
    fronts: dict[str, int] = {}
    if len(goals) > 1:
        fronts = pareto_fronts([*tiers[0], *tiers[1]], goals)
        for tier in tiers[:2]:
            tier.sort(key=lambda group: (fronts[group.searched.id], *by_search(group)))
    else:
        for tier in tiers[:2]:
            tier.sort(key=by_search)
            _reorder_replicated(tier, sign)
    tiers[2].sort(key=lambda group: (-group.searched.steps, *by_search(group)))
    return [group for tier in tiers for group in tier], fronts


def pareto_fronts(groups: Sequence[Group], goals: Mapping[str, str]) -> dict[str, int]:
    """Return trial id -> number of its non-dominated front, 1 the best. A missing value counts as the worst one."""

    def point(group: Group) -> tuple[float, ...]:
        found = [group.interval(name) for name in goals]
        signs = [1.0 if goal == "minimize" else -1.0 for goal in goals.values()]
        return tuple(sign * i.mean if i else math.inf for sign, i in zip(signs, found, strict=True))

    left = {group.searched.id: point(group) for group in groups}
    fronts: dict[str, int] = {}
    number_of_front = 0
    while left:
        number_of_front += 1
        front = [key for key, p in left.items() if not any(_dominates(other, p) for other in left.values())]
        for key in front:
            fronts[key] = number_of_front
            del left[key]
    return fronts


def _tier(group: Group, metric: str, goal: str) -> int:
    if group.finished:
        return 1 if group.bad_seeds(metric, goal) else 0
    if group.searched.state is TrialState.FAILED:
        return 4
    return 2 if value_of(group.searched) is not None else 3


def _reorder_replicated(ordered: list[Group], sign: float) -> None:
    """Sort the groups with replicates by mean, within the places that their common seed gave them.

    A mean over other seeds is not comparable with a single value, which may be a lucky seed's.
    """
    places = [index for index, group in enumerate(ordered) if len(group.runs) > 1]
    means = {index: mean_ci(list(ordered[index].by_seed().values())).mean for index in places}
    replicated = [ordered[index] for index in sorted(places, key=lambda index: sign * means[index])]
    for index, group in zip(places, replicated, strict=True):
        ordered[index] = group


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def _compared(best: Group | None, group: Group) -> float | None:
    if best is None or group is best or not group.finished:
        return None
    return paired_test(best.by_seed(), group.by_seed())


def _states(records: Iterable[TrialRecord]) -> dict[str, int]:
    states: dict[str, int] = {}
    for record in records:
        states[record.state.value] = states.get(record.state.value, 0) + 1
    return states
