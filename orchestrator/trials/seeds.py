"""A configuration with all its seeds: the trial of the search and its replicates, and which of the seeds went wrong."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.statistics import Interval, mean_ci
from orchestrator.trials.trial import TrialRecord, TrialState

COLLAPSED = 3.0
"""How many times worse than the best seed of its configuration a collapsed one ended."""


@dataclass(frozen=True)
class BadSeed:
    """A seed of a configuration that works with another seed."""

    trial: str
    """Id of its run."""
    seed: int
    kind: Literal["collapsed", "diverged"]
    value: float | None
    """The ranking metric where it ended; None for a diverged one."""


@dataclass(frozen=True)
class Group:
    """One configuration with all its seeds."""

    searched: TrialRecord
    replicates: tuple[TrialRecord, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the searched trial came to its full length."""
        return self.searched.state is TrialState.FINISHED and value_of(self.searched) is not None

    @property
    def runs(self) -> tuple[TrialRecord, ...]:
        """The trials whose values count together: the searched one, and the replicates that finished."""
        done = tuple(r for r in self.replicates if r.state is TrialState.FINISHED and value_of(r) is not None)
        return ((self.searched,) if value_of(self.searched) is not None else ()) + (done if self.finished else ())

    def by_seed(self, metric: str | None = None) -> dict[int, float]:
        """Return seed -> value of a metric at the report that counts (None: the ranking value)."""
        values = {run.seed: value_of(run, metric) for run in self.runs}
        return {seed: value for seed, value in values.items() if value is not None}

    def interval(self, metric: str | None = None) -> Interval | None:
        """Return the mean over seeds with its 95 % interval, None without a value."""
        values = list(self.by_seed(metric).values())
        return mean_ci(values) if values else None

    def median(self) -> float | None:
        """Return the median of the ranking metric over seeds, None without a value."""
        values = self.by_seed().values()
        return statistics.median(values) if values else None

    def bad_seeds(self, metric: str, goal: str) -> list[BadSeed]:
        """Return the seeds that diverged or collapsed, although another one did not.

        A seed collapsed if it ended more than `COLLAPSED` times worse than the best seed, and worse than that one was
        at any of its reports. Only metrics above zero can tell.

        Args:
            metric: name of the ranking metric.
            goal: `minimize` or `maximize`.
        """
        diverged = [r for r in self.replicates if r.failure is not None and r.failure.kind == "diverged"]
        found = [BadSeed(run.id, run.seed, "diverged", None) for run in diverged] if self.finished else []
        values = self.by_seed()
        if len(values) < 2:
            return found
        least = goal == "minimize"
        best = (min if least else max)(self.runs, key=lambda run: values[run.seed])
        curve = [v for report in best.reports.values() if math.isfinite(v := report.get(metric, math.nan))]
        good, ever = values[best.seed], (max if least else min)([*curve, values[best.seed]])
        for run in self.runs:
            value = values[run.seed]
            far = value > COLLAPSED * good > 0 if least else 0 <= COLLAPSED * value < good
            if far and (value > ever if least else value < ever):
                found.append(BadSeed(run.id, run.seed, "collapsed", value))
        return sorted(found, key=lambda bad: bad.seed)


def value_of(record: TrialRecord, metric: str | None = None) -> float | None:
    """Return a metric at the report of a trial that counts if it is finite; `metric=None` is the ranking value.

    A failed trial has no value, whatever it reported before it failed.
    """
    if record.state is TrialState.FAILED:
        return None
    value = record.metric if metric is None else record.judged.get(metric)
    return value if value is not None and math.isfinite(value) else None


def group_by_config(trials: Iterable[TrialRecord]) -> list[Group]:
    """Return the configurations in the order they were first tried."""
    searched: dict[int, TrialRecord] = {}
    replicates: dict[int, list[TrialRecord]] = {}
    for record in sorted(trials, key=lambda r: (r.config_id, r.replicate)):
        if record.config_id in searched:
            replicates.setdefault(record.config_id, []).append(record)
        else:
            searched[record.config_id] = record
    return [Group(record, tuple(replicates.get(key, ()))) for key, record in searched.items()]
