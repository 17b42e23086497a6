"""The order of a sweep's configurations, best first, with what is known about each and what is only chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.records import TrialRecord, TrialState
from orchestrator.statistics import ALPHA, Interval, holm, mean_ci, paired_test
from orchestrator.texts import number, p_value, plus_minus, short_names

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.spec import SweepSpec

Row = dict[str, Any]
"""A row of `leaderboard --json`."""


@dataclass(frozen=True)
class Group:
    """One configuration with all its seeds: the trial of the search and its replicates."""

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

    @property
    def unstable(self) -> bool:
        """Whether another seed of the same configuration diverged."""
        return any(r.failure is not None and r.failure.kind == "diverged" for r in self.replicates)

    def by_seed(self, metric: str | None = None) -> dict[int, float]:
        """Return seed -> value of a metric at the last report (None: the ranking metric)."""
        values = {run.seed: value_of(run, metric) for run in self.runs}
        return {seed: value for seed, value in values.items() if value is not None}

    def interval(self, metric: str | None = None) -> Interval | None:
        """Return the mean over seeds with its 95 % interval, None without a value."""
        values = list(self.by_seed(metric).values())
        return mean_ci(values) if values else None


def value_of(record: TrialRecord, metric: str | None = None) -> float | None:
    """Return a metric at a trial's last report if it is finite; `metric=None` is the ranking metric.

    A failed trial has no value, whatever it reported before it failed.
    """
    if record.state is TrialState.FAILED:
        return None
    value = record.metric if metric is None else record.reports.get(max(record.reports, default=0), {}).get(metric)
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


def leaderboard(spec: SweepSpec, trials: Iterable[TrialRecord], run_ids: Mapping[str, str] | None = None) -> list[Row]:
    """Return one row for each configuration, best first: the rows of `leaderboard --json`.

    The order: finished configurations; those of which another seed diverged; those that were stopped early or still
    run, by the step they reached (a value at an early rung never outranks a finished one); those without a value;
    failed ones. Rows without a value or with a failure have no rank.

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
    best = next((group for group in ordered if group.finished), None)
    several = len(goals) > 1
    p_values = holm([_compared(best, group, several) for group in ordered])
    rows = []
    for position, (group, p) in enumerate(zip(ordered, p_values, strict=True), start=1):
        record, interval = group.searched, group.interval()
        if group is best:
            tied: bool | None = True
        else:
            tied = None if p is None else p >= ALPHA
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
    sign = 1.0 if next(iter(goals.values())) == "minimize" else -1.0

    def by_search(group: Group) -> tuple[float, int]:
        return sign * (value_of(group.searched) or 0.0), group.searched.config_id

    tiers: list[list[Group]] = [[], [], [], [], []]
    for group in groups:
        tiers[_tier(group)].append(group)
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


def _tier(group: Group) -> int:
    if group.finished:
        return 1 if group.unstable else 0
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


def _compared(best: Group | None, group: Group, several: bool) -> float | None:
    if best is None or group is best or several or not group.finished:
        return None
    return paired_test(best.by_seed(), group.by_seed())


def _states(records: Iterable[TrialRecord]) -> dict[str, int]:
    states: dict[str, int] = {}
    for record in records:
        states[record.state.value] = states.get(record.state.value, 0) + 1
    return states


# ----------------------------------------------------------------------------------------------- on paper


def varying(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the swept keys that do not have one and the same value everywhere, in their order."""
    every = list(configs)
    names = list(dict.fromkeys(name for config in every for name in config))
    return [name for name in names if len({repr(config.get(name)) for config in every}) > 1]


def interval_text(row: Row) -> str:
    """Return `12.3 ± 0.4`, or the value alone."""
    ci = row["ci95"]
    return plus_minus(row["mean"], None if ci is None else (ci[1] - ci[0]) / 2)


def against_best(row: Row) -> str:
    """Return in a word or two how a row stands to the best one; empty where no test is possible."""
    if row["p_value_vs_best"] is None:
        return "best" if row["tied_with_best"] else ""
    return "tied" if row["tied_with_best"] else p_value(row["p_value_vs_best"])


def state_text(row: Row) -> str:
    """Return the state of a row, of a failed one its failure class."""
    return str(row["failure"]["kind"] if row["failure"] else row["state"])


def leaderboard_table(spec: SweepSpec, rows: Sequence[Row], *, limit: int | None = None, width: int = 100) -> Table:
    """Return the table for a terminal: as many of the varying parameters as fit into `width` columns.

    Args:
        spec: the sweep.
        rows: of `leaderboard`.
        limit: how many rows are shown.
        width: columns of the terminal.
    """
    from rich import box
    from rich.table import Table

    names = varying(row["config"] for row in rows)
    shown = list(rows[:limit])
    short = short_names(names)
    columns: list[tuple[str, list[str]]] = [
        ("rank", [number(row["rank"]) for row in shown]),
        ("trial", [row["trial"] for row in shown]),
        ("state", [state_text(row) for row in shown]),
    ]
    for metric in spec.metrics:
        first = metric is spec.metrics[0]
        cells = [interval_text(row) if first else number(row["metrics"].get(metric.name)) for row in shown]
        columns.append((metric.name.removeprefix("eval/"), cells))
    if len(spec.metrics) > 1:
        columns.append(("front", [number(row["front"]) for row in shown]))
    if any(row["n"] > 1 for row in rows):
        columns.append(("n", [str(row["n"]) for row in shown]))
    notes = [against_best(row) for row in shown]
    if any(note not in ("", "best") for note in notes):
        columns.append(("vs best", notes))
    columns.append(("steps", [str(row["steps"]) for row in shown]))

    room = width + 2 - sum(_width(column) + 2 for column in columns)
    left_out = []
    for name in names:
        column = (short[name], [_setting(row["config"].get(name)) for row in shown])
        if _width(column) + 2 <= room:
            columns.append(column)
            room -= _width(column) + 2
        else:
            left_out.append(short[name])

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = _caption(spec, rows, shown, left_out), "left"
    for title, cells in columns:
        right = title not in ("state", "vs best") and all(_numeric(cell) for cell in cells)
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for index, row in enumerate(shown):
        style = "bold green" if row["rank"] == 1 else "dim" if row["rank"] is None else ""
        table.add_row(*(cells[index] for _, cells in columns), style=style)
    return table


def _caption(spec: SweepSpec, rows: Sequence[Row], shown: Sequence[Row], left_out: Sequence[str]) -> str:
    goals = ", ".join(f"{metric.goal} {metric.name}" for metric in spec.metrics)
    parts = [goals]
    if any(row["ci95"] for row in rows):
        parts.append("± is the 95 % interval of the mean over n seeds")
    if len(shown) < len(rows):
        parts.append(f"{len(rows) - len(shown)} more rows")
    if left_out:
        parts.append(f"not shown: {', '.join(left_out)}")
    return "; ".join(parts)


def _setting(value: Any) -> str:
    small = isinstance(value, float) and abs(value) < 1
    return number(value, 2 if small else 3)


def _width(column: tuple[str, Sequence[str]]) -> int:
    return max(map(len, (column[0], *column[1])))


def _numeric(cell: str) -> bool:
    return cell in ("-", "") or cell[:1].isdigit() or (cell[:1] == "-" and cell[1:2].isdigit())
