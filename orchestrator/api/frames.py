"""What is known about sweeps as pandas frames: one row a thing, parameters as columns by their dotted keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from orchestrator.results import Importance, Row, Status
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord


def leaderboard_frame(spec: SweepSpec, rows: Sequence[Row]) -> pandas.DataFrame:
    """Return a row for each configuration, best first; the metrics are means over its seeds."""
    names = _swept(spec, (row.config for row in rows))
    told = []
    for row in rows:
        low, high = row.ci95 or (None, None)
        worse_low, worse_high = (row.vs_best.ci95 if row.vs_best else None) or (None, None)
        told.append(
            {
                "sweep": spec.name,
                "rank": row.rank,
                "trial": row.trial,
                "state": row.state.value,
                **{metric.name: row.metrics.get(metric.name) for metric in spec.metrics},
                "low": low,
                "high": high,
                "n": row.n,
                "worse": row.vs_best.worse if row.vs_best else None,
                "worse_low": worse_low,
                "worse_high": worse_high,
                "p_value": row.p_value_vs_best,
                "separable": None if row.tied_with_best is None or row is rows[0] else not row.tied_with_best,
                "steps": row.steps,
                **_settings(names, row.config),
                "run_id": row.run_id,
            }
        )
    metrics = [metric.name for metric in spec.metrics]
    fixed = ["low", "high", "n", "worse", "worse_low", "worse_high", "p_value", "separable", "steps"]
    frame = _frame(told, ["sweep", "rank", "trial", "state", *metrics, *fixed, *names, "run_id"])
    return frame.astype({"rank": "Int64"})


def trials_frame(spec: SweepSpec, trials: Sequence[TrialRecord]) -> pandas.DataFrame:
    """Return a row for each run, replicates too; the metrics are those of the report that counts (`metric.at`)."""
    names = _swept(spec, (trial.values for trial in trials))
    metrics = _metrics(spec, trials)
    told = [
        {
            **_who(spec, trial),
            "state": trial.state.value,
            "failure": trial.failure.kind if trial.failure else None,
            "steps": trial.steps,
            **{name: judged.get(name) for name in metrics},
            **_settings(names, trial.values),
            "started": trial.started or None,
            "ended": trial.ended,
            "busy_seconds": trial.busy_seconds,
            "gpu_seconds": trial.gpu_seconds,
            "reason": trial.failure.reason if trial.failure else trial.reason,
        }
        for trial in trials
        for judged in [trial.judged_by([metric.name for metric in spec.metrics])]
    ]
    after = ["started", "ended", "busy_seconds", "gpu_seconds", "reason"]
    frame = _frame(told, [*_WHO, "state", "failure", "steps", *metrics, *names, *after])
    for column in ("started", "ended"):
        frame[column] = _instants(frame[column])
    return frame


def curves_frame(spec: SweepSpec, trials: Sequence[TrialRecord]) -> pandas.DataFrame:
    """Return a row for each report of each run."""
    names = _swept(spec, (trial.values for trial in trials))
    metrics = _metrics(spec, trials)
    told = [
        {
            **_who(spec, trial),
            "step": step,
            **{name: report.get(name) for name in metrics},
            **_settings(names, trial.values),
        }
        for trial in trials
        for step, report in sorted(trial.reports.items())
    ]
    return _frame(told, [*_WHO, "step", *metrics, *names])


def importance_frame(found: Importance) -> pandas.DataFrame:
    """Return a row for each parameter, the most important first, with the 90 % interval of its share."""
    told = [{"parameter": s.parameter, "importance": s.importance, "low": s.low, "high": s.high} for s in found.shares]
    return _frame(told, ["parameter", "importance", "low", "high"])


def status_frame(spec: SweepSpec, found: Status) -> pandas.DataFrame:
    """Return one row that says where a sweep stands."""
    spent = {f"{name}_used": amount.used for name, amount in found.budget.items() if name != "trials"}
    told = {
        "sweep": found.sweep,
        "state": found.state,
        **found.counts,
        "left": found.left,
        "total": found.total,
        "best": found.best.trial if found.best else None,
        spec.metric.name: found.best.mean if found.best else None,
        **spent,
        "wasted_seconds": found.wasted_seconds,
        "seconds_left": found.eta_seconds,
    }
    return _frame([told], list(told))


def sweeps_frame(rows: Iterable[Mapping[str, Any]], now: float) -> pandas.DataFrame:
    """Return a row for each sweep of a home.

    Args:
        rows: of `sweep_rows`.
        now: unix seconds, to which their ages count.
    """
    told = [
        {
            "sweep": row["sweep"],
            "state": row["state"],
            "metric": row.get("metric"),
            "best": (row.get("best") or {}).get("metric"),
            "trial": (row.get("best") or {}).get("trial"),
            **{state: (row.get("trials") or {}).get(state) for state in _STATES},
            "owner": (row.get("owner") or {}).get("user"),
            "started": now - row["age_seconds"] if "age_seconds" in row else None,
            "bytes": (row.get("disk") or {}).get("bytes"),
            "reason": row.get("reason"),
        }
        for row in rows
    ]
    after = ["owner", "started", "bytes", "reason"]
    frame = _frame(told, ["sweep", "state", "metric", "best", "trial", *_STATES, *after])
    frame["started"] = _instants(frame["started"])
    return frame


_STATES = ("finished", "pruned", "failed", "running", "waiting", "total")
_WHO = ("sweep", "trial", "config_id", "replicate", "seed")


def _who(spec: SweepSpec, trial: TrialRecord) -> dict[str, Any]:
    return {
        "sweep": spec.name,
        "trial": trial.id,
        "config_id": trial.config_id,
        "replicate": trial.replicate,
        "seed": trial.seed,
    }


def _swept(spec: SweepSpec, configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the swept keys, those of earlier revisions too; `seed` has its column already."""
    names = dict.fromkeys([*spec.space.names, *(name for config in configs for name in config)])
    return [name for name in names if name != "seed"]


def _settings(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values.get(name) for name in names}


def _metrics(spec: SweepSpec, trials: Iterable[TrialRecord]) -> list[str]:
    """Return the names of the metrics, those of the sweep first."""
    reported = (name for trial in trials for report in trial.reports.values() for name in report)
    return list(dict.fromkeys([*(metric.name for metric in spec.metrics), *reported]))


def _frame(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(list(rows), columns=list(columns))


def _instants(seconds: pandas.Series) -> pandas.Series:
    """Return unix seconds as times with their zone (UTC)."""
    import pandas

    return pandas.to_datetime(pandas.to_numeric(seconds), unit="s", utc=True)
