"""Every trial as one row of a CSV file, for a spreadsheet or pandas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.trials import TrialRecord

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

BEFORE = ("trial", "config_id", "replicate", "seed", "state", "failure", "steps")
AFTER = (
    "started",
    "ended",
    "busy_seconds",
    "gpu_seconds",
    "wasted_seconds",
    "attempts",
    "revision",
    "config_hash",
    "checkpoint",
    "reason",
    "reports",
)


def to_csv(spec: SweepSpec, trials: Sequence[TrialRecord]) -> str:
    """Return all trials, replicates too, as CSV with a header; an empty cell is a value that does not exist.

    The columns: who and how it ended; the metrics at the report that counts (`metric.at`); the swept keys; the sweep's
    metrics at each step as `eval/fid_1nfe@500`; times (unix seconds) and costs; every report as JSON in `reports`.
    """
    ranking = [metric.name for metric in spec.metrics]
    finals = list(dict.fromkeys(name for trial in trials for name in trial.judged_by(ranking)))
    finals.sort(key=ranking.count, reverse=True)
    steps = sorted({step for trial in trials for step in trial.reports})
    curve = [(metric.name, step) for metric in spec.metrics for step in steps]
    swept = list(dict.fromkeys([*spec.space.names, *(name for trial in trials for name in trial.values)]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*BEFORE, *finals, *swept, *(f"{name}@{step}" for name, step in curve), *AFTER])
    for trial in trials:
        last = trial.judged_by(ranking)
        row: list[Any] = [trial.id, trial.config_id, trial.replicate, trial.seed, trial.state.value]
        row += [trial.failure.kind if trial.failure else None, trial.steps]
        row += [last.get(name) for name in finals]
        row += [trial.values.get(name) for name in swept]
        row += [trial.reports.get(step, {}).get(name) for name, step in curve]
        row += [trial.started or None, trial.ended, trial.busy_seconds, trial.gpu_seconds, trial.wasted_seconds]
        row += [len(trial.attempts), trial.revision, trial.config_hash, trial.checkpoint]
        row += [trial.failure.reason if trial.failure else trial.reason, json.dumps(trial.reports)]
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Return what csv writes exactly: floats keep every digit, lists and booleans become JSON."""
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value)
    # A spreadsheet takes text that begins like this for a formula, and runs it.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@") else value
