"""The order of a sweep's configurations, best first, with what is known about each and what is only chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.results.choice import estimates
from orchestrator.search import Estimate, Estimates
from orchestrator.statistics import ALPHA, Effect, Interval, has_ratios, holm, mean_ci, paired_effect
from orchestrator.trials import BadSeed, Failure, Group, TrialRecord, TrialState, group_by_config, value_of

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration with all its seeds: what it came to, and its place on the leaderboard."""

    group: Group
    interval: Interval | None
    """The mean of the ranking metric over its seeds; None without a value."""
    bad_seeds: tuple[BadSeed, ...] = ()
    rank: int | None = None
    """Its place, from 1; None without a value or after a failure."""
    vs_best: Effect | None = None
    """How much worse than the best it is on the seeds they share; None where one cannot be compared with the other."""
    p_value_vs_best: float | None = None
    """Of `vs_best`, corrected for the number of comparisons."""
    tied_with_best: bool | None = None
    """Whether a test cannot tell it from the best with the seeds there are; None: no test is possible."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The mean of every metric of the sweep."""
    front: int | None = None
    """Its Pareto front, from 1, where there are several metrics."""
    run_id: str | None = None
    """The run in MLflow."""
    estimate: Estimate | None = None
    """What is expected of it with another seed, where it may be the best one; None: only its values are known."""

    @property
    def trial(self) -> str:
        """Id of its run in the search."""
        return self.group.searched.id

    @property
    def state(self) -> TrialState:
        """State of that run."""
        return self.group.searched.state

    @property
    def failure(self) -> Failure | None:
        """Why that run failed."""
        return self.group.searched.failure

    @property
    def metric(self) -> float | None:
        """What that run is judged by: the ranking metric, by default at its last report (`metric.at`)."""
        return value_of(self.group.searched)

    @property
    def mean(self) -> float | None:
        """The mean of the ranking metric over its seeds."""
        return self.interval.mean if self.interval else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None for one seed."""
        return self.interval.bounds if self.interval else None

    @property
    def expected(self) -> float | None:
        """What the model expects of another seed of it, by which it has its place; None: its values decide."""
        return self.estimate.value if self.estimate is not None and self.n == 1 else None

    @property
    def n(self) -> int:
        """Number of seeds with a value."""
        return self.interval.n if self.interval else 0

    @property
    def steps(self) -> int:
        """Steps its run in the search has reached."""
        return self.group.searched.steps

    @property
    def config(self) -> dict[str, Any]:
        """The swept keys."""
        return dict(self.group.searched.values)

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint of its run in the search: the last one, with `metric.at: best` that of the best report."""
        return self.group.searched.checkpoint

    @property
    def seeds(self) -> dict[int, float]:
        """The ranking metric by seed."""
        return self.group.by_seed()

    @property
    def median(self) -> float | None:
        """The median of the ranking metric over its seeds."""
        return self.group.median()

    @property
    def reused(self) -> str | None:
        """The `sweep/trial` whose result it is, where it was not trained here."""
        origin = self.group.searched.labels.get("reused")
        return str(origin) if origin else None

    @property
    def asked(self) -> bool:
        """Whether somebody has asked for it (`try_first`, `meansweep try`): the search has not drawn it."""
        return "asked" in self.group.searched.labels

    @property
    def replicates(self) -> dict[str, int]:
        """Number of its replicates by state."""
        return dict(Counter(record.state.value for record in self.group.replicates))

    @property
    def collapsed(self) -> bool:
        """Whether one of its seeds collapsed."""
        return any(seed.kind == "collapsed" for seed in self.bad_seeds)

    def to_json(self) -> dict[str, Any]:
        """Return the row of `leaderboard --json`."""
        return {
            "rank": self.rank,
            "trial": self.trial,
            "state": self.state.value,
            "metric": self.metric,
            "mean": self.mean,
            "ci95": list(self.ci95) if self.ci95 else None,
            "n": self.n,
            "steps": self.steps,
            "config": self.config,
            "run_id": self.run_id,
            "checkpoint": self.checkpoint,
            "seeds": self.seeds,
            "median": self.median,
            "bad_seeds": [asdict(seed) for seed in self.bad_seeds],
            "vs_best": self.vs_best.to_json() if self.vs_best else None,
            "p_value_vs_best": self.p_value_vs_best,
            "tied_with_best": self.tied_with_best,
            "replicates": self.replicates,
            "metrics": self.metrics,
            "front": self.front,
            "reused": self.reused,
            "expected": self.estimate and self.estimate.value,
            "expected_loss": self.estimate and self.estimate.loss,
            "asked": self.asked,
            "failure": {"kind": self.failure.kind, "reason": self.failure.reason} if self.failure else None,
        }


def unranked(group: Group, metric: str, goal: str) -> Row:
    """Return what a configuration came to, without a place among others.

    Args:
        group: the configuration.
        metric: the ranking metric.
        goal: `minimize` or `maximize`.
    """
    return Row(group=group, interval=group.interval(), bad_seeds=tuple(group.bad_seeds(metric, goal)))


def leaderboard(spec: SweepSpec, trials: Iterable[TrialRecord], run_ids: Mapping[str, str] | None = None) -> list[Row]:
    """Return one row for each configuration, best first.

    The order: finished configurations; unstable ones, of which another seed diverged or collapsed (see
    `Group.bad_seeds`); those that were stopped early or still run, by the step they reached (a value at an early rung
    never outranks a finished one); those without a value; failed ones. Rows without a value or with a failure have
    no rank.

    Finished configurations of one seed each are ordered by what the model of the learning curves expects of them,
    where it has seen enough (`estimates`), else by their values. Where there are more seeds, they are compared on
    those that they share: all by the trial of the search, then those with replicates among themselves by their mean.
    With several metrics the Pareto front comes first, then the rest by the number of fronts above them.

    Args:
        spec: the sweep.
        trials: every trial of its ledger.
        run_ids: MLflow run by trial id.
    """
    goals = {metric.name: metric.goal for metric in spec.metrics}
    groups = group_by_config(trials)
    known = estimates(spec, groups)
    ordered, fronts = order(groups, goals, known)
    metric, goal = next(iter(goals.items()))
    found = [unranked(group, metric, goal) for group in ordered]
    best = next((group for group in ordered if group.finished), None)
    several = len(goals) > 1
    # A test of means says nothing about seeds of which one fell out of the world.
    ratio = compared_by_ratio(ordered)
    effects = [
        None if several or row.bad_seeds else _compared(row.group, best, ratio=ratio, goal=goal) for row in found
    ]
    corrected = holm([effect.p_value if effect else None for effect in effects])
    rows = []
    for position, (row, effect, p) in enumerate(zip(found, effects, corrected, strict=True), start=1):
        tied = True if row.group is best else None if p is None else p >= ALPHA
        rows.append(
            replace(
                row,
                rank=position if row.interval else None,
                vs_best=effect,
                p_value_vs_best=p,
                tied_with_best=tied if row.interval else None,
                metrics={name: i.mean for name in goals if (i := row.group.interval(name if several else None))},
                front=fronts.get(row.trial) if several else None,
                run_id=(run_ids or {}).get(row.trial),
                estimate=known.configurations.get(row.group.searched.config_id) if known else None,
            )
        )
    return rows


def order(
    groups: Sequence[Group], goals: Mapping[str, str], known: Estimates | None = None
) -> tuple[list[Group], dict[str, int]]:
    """Return the groups best first, and for several metrics the number of each finished one's Pareto front (from 1).

    Args:
        groups: the configurations.
        goals: `minimize` or `maximize` by metric, the first one the ranking metric.
        known: what is expected of those that may be the best one; None: their values decide.
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
        if known is not None and known.by == "model":
            expected = known.configurations
            tiers[0].sort(key=lambda group: _expected(group, expected, sign))
    tiers[2].sort(key=lambda group: (-group.searched.steps, *by_search(group)))
    return [group for tier in tiers for group in tier], fronts


def _expected(group: Group, known: Mapping[int, Estimate], sign: float) -> float:
    """By what a group is ranked among those that may be the best; all others follow in their order."""
    estimate = known.get(group.searched.config_id)
    return math.inf if estimate is None else sign * estimate.value


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


def compared_by_ratio(groups: Iterable[Group]) -> bool:
    """Return whether the ranking metric of a sweep is compared by ratio: every value of it is above zero."""
    return has_ratios(value for group in groups for value in group.by_seed().values())


def _compared(group: Group, best: Group | None, *, ratio: bool, goal: str) -> Effect | None:
    if best is None or group is best or not group.finished:
        return None
    return paired_effect(group.by_seed(), best.by_seed(), ratio=ratio, goal=goal)
