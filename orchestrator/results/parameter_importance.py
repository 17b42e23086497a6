"""Which swept parameters decide how good a configuration is: Optuna's PED-ANOVA over all trials of a sweep.

The trials enter by their order, finished ones first, then those stopped early by the step they reached, diverged ones
last. So a value from an early rung is never mistaken for a final one, and what makes training diverge counts.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import count, short_names
from orchestrator.results.leaderboard_rows import order
from orchestrator.results.studies import distributions_of, rebuild_study
from orchestrator.trials import Group, TrialRecord, group_by_config

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from rich.console import RenderableType

    from orchestrator.spec import SweepSpec

LEAST = 10
"""Fewest configurations with a result: below, half of them would count as the best."""
BEST = 5
"""Fewest configurations that count as the best; with many, a tenth of all."""
RESAMPLES = 50


@dataclass(frozen=True)
class Share:
    """How much one parameter decides, as a share of 1, with its 90 % bootstrap interval."""

    parameter: str
    importance: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each parameter decides whether a configuration is among the best."""

    sweep: str
    metric: str
    method: str = "ped-anova"
    trials: int
    """Configurations that were looked at."""
    best: int
    """How many of them count as the best."""
    shares: tuple[Share, ...] = ()
    """Most important first; they add up to 1. Empty where nothing can be said."""
    message: str | None = None
    """Why nothing can be said."""

    def to_json(self) -> dict[str, Any]:
        """Return what `importance --json` prints."""
        return {
            "sweep": self.sweep,
            "metric": self.metric,
            "method": self.method,
            "trials": self.trials,
            "best": self.best,
            "importance": [asdict(share) for share in self.shares],
            "message": self.message,
        }


def importance(spec: SweepSpec, trials: Sequence[TrialRecord], *, resamples: int = RESAMPLES) -> Importance:
    """Return how much each parameter decides whether a configuration is among the best, most important first.

    Args:
        spec: the sweep.
        trials: every trial of its ledger.
        resamples: bootstrap resamples for the intervals.
    """
    groups = _ordered(spec, trials)
    places = {group.searched.id: float(place) for group, place in zip(groups, _places(groups), strict=True)}
    records = [group.searched for group in groups]
    names = _varied(records)
    share = max(0.1, BEST / max(len(records), 1))
    found = Importance(sweep=spec.name, metric=spec.metric.name, trials=len(records), best=round(share * len(records)))
    message = _why_not(records, names, places)
    if message is not None:
        return replace(found, message=message)
    draw = random.Random(0)
    distributions = distributions_of(spec, records)
    shares = _evaluate(records, places, distributions, names, share)
    repeats = min(resamples, 10_000 // len(records))
    spread = [
        _evaluate(draw.choices(records, k=len(records)), places, distributions, names, share) for _ in range(repeats)
    ]
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return replace(
        found, shares=tuple(Share(name, value, *_bounds([one[name] for one in spread])) for name, value in ranked)
    )


def _why_not(records: Sequence[TrialRecord], names: Sequence[str], places: Mapping[str, float]) -> str | None:
    """Return why nothing can be said about importance, None if something can."""
    if len(records) < LEAST:
        have = count(len(records), "configuration")
        return f"importance needs {LEAST} configurations with a result; this sweep has {have}"
    if not names:
        return "every configuration has the same values, so nothing can be said about importance"
    if len(set(places.values())) == 1:
        return "every configuration is equally good, so no parameter matters more than another"
    return None


def importance_table(spec: SweepSpec, found: Importance) -> RenderableType:
    """Return the importances for a terminal, as bars."""
    from rich import box
    from rich.console import Group as Stack
    from rich.table import Table
    from rich.text import Text

    if found.message:
        return Text(found.message)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("parameter", no_wrap=True)
    table.add_column("importance", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("90 % interval", no_wrap=True)
    short = short_names(spec.space.names)
    for row in found.shares:
        name = short.get(row.parameter, row.parameter)
        interval = f"{row.low:.0%} to {row.high:.0%}"
        table.add_row(name, f"{row.importance:.0%}", Text("━" * round(row.importance * 40), "cyan"), interval)
    trials = f"{found.trials} configurations, of which {found.best} count as the best"
    caption = f"share in being among the best by {found.metric}; {trials} (PED-ANOVA)"
    return Stack(table, Text(caption, style="dim"))


# ---------------------------------------------------------------------------------------------- measuring


def _ordered(spec: SweepSpec, trials: Sequence[TrialRecord]) -> list[Group]:
    """Return the configurations that came to an end of their own, best first by the ranking metric."""
    ordered, _ = order(group_by_config(trials), {spec.metric.name: spec.metric.goal})
    return [group for group in ordered if _diverged(group) or (group.searched.state.ended and group.interval())]


def _places(groups: Sequence[Group]) -> list[int]:
    """Return each one's place; diverged ones share the last."""
    sound = sum(not _diverged(group) for group in groups)
    return [min(place, sound) for place in range(len(groups))]


def _diverged(group: Group) -> bool:
    failure = group.searched.failure
    return failure is not None and failure.kind == "diverged"


def _varied(records: Sequence[TrialRecord]) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record.values)
    return [name for name in names if len({repr(r.values[name]) for r in records if name in r.values}) > 1]


def _evaluate(
    records: Sequence[TrialRecord],
    places: dict[str, float],
    distributions: dict[str, BaseDistribution],
    names: Sequence[str],
    share: float,
) -> dict[str, float]:
    """Return name -> share of the importance; equal shares where the evaluator finds none at all."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = rebuild_study(records, {name: distributions[name] for name in names}, lambda record: places[record.id])
    present = [name for name in names if any(name in record.values for record in records)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Target and region")  # mostly diverged: shares come out equal
        warnings.filterwarnings("ignore", message="Some regimes")  # few trials: the intervals are wide and say so
        evaluator = PedAnovaImportanceEvaluator(target_quantile=min(share, 0.5))
        found = get_param_importances(study, evaluator=evaluator, params=present)
    values = {name: float(found.get(name, 0.0)) for name in names}
    total = math.fsum(values.values())
    return {name: value / total if total > 0 else 1 / len(names) for name, value in values.items()}


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the 5 % and 95 % quantiles of resampled values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.05 * last)], ordered[round(0.95 * last)]
