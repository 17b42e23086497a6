"""What the ledger says about trials: plain frozen values, readable without Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Literal

FailureKind = Literal["diverged", "oom", "lost", "infrastructure", "bug"]


class TrialState(Enum):
    """Where a trial stands. WAITING, AT_RUNG and PAUSED trials have run and may go on from their checkpoints:
    as soon as a worker is free, once they are among the best of their rung, and when somebody says so."""

    WAITING = "waiting"
    RUNNING = "running"
    AT_RUNG = "at-rung"
    PAUSED = "paused"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the trial has come to its end."""
        return self in (TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED)


@dataclass(frozen=True)
class Failure:
    """Why one run of a trial failed."""

    kind: FailureKind
    reason: str
    traceback: str | None = None
    log: str | None = None
    """Path of the trial's log file."""
    attempt: int = 0
    step: int = 0
    """The last step the run is known to have reached."""
    at: float = 0.0
    """Unix seconds."""

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> Failure:
        """Rebuild a failure from `dataclasses.asdict` of it."""
        return cls(**dict(source))


@dataclass(frozen=True)
class TrialRecord:
    """Everything the ledger knows about one trial."""

    id: str
    """"7"; the second replicate of configuration 7 is "7.2"."""
    config_id: int
    replicate: int
    """0 = the trial of the search itself."""
    seed: int
    values: dict[str, Any]
    """The swept parameters by dotted name."""
    config_hash: str
    state: TrialState
    steps: int = 0
    """The last step reported."""
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """Evaluation metrics by step, ascending."""
    metric: float | None = None
    """The ranking value: the score by the first metric (`trials/scoring.py`), by default that of the last report; None
    before the first one and for a failed trial."""
    judged_step: int | None = None
    """The step of the report that counts: with `at: best` the best one; None: the last one."""
    checkpoint: str | None = None
    """The one of `judged_step` where there is one, else the last."""
    failure: Failure | None = None
    """Why the trial FAILED; None in every other state."""
    attempts: tuple[Failure, ...] = ()
    """Every failed run so far, also those that were retried."""
    started: float = 0.0
    ended: float | None = None
    """Unix seconds."""
    busy_seconds: float = 0.0
    """Time workers spent on it, wasted work included."""
    gpu_seconds: float = 0.0
    """`busy_seconds` times its share of a GPU; 0 on CPU."""
    wasted_seconds: float = 0.0
    """The part of `busy_seconds` whose result was lost: repeated stretches and failed ones."""
    revision: int = 0
    """The revision of the sweep file under which it was started."""
    reason: str = ""
    """Why it ended, or waits."""
    labels: dict[str, Any] = field(default_factory=dict)
    """E.g. `reused`: the sweep and trial whose result this is; `drift`: what differs from the sweep's environment."""

    @property
    def judged(self) -> dict[str, float]:
        """The metrics of the report that counts; empty before the first one."""
        step = max(self.reports, default=0) if self.judged_step is None else self.judged_step
        return self.reports.get(step, {})

    def judged_by(self, metrics: Sequence[str]) -> dict[str, float]:
        """Return `judged`, with the one metric of a sweep as it was scored; several are those of one report."""
        scored = {} if self.metric is None or len(metrics) > 1 else {metrics[0]: self.metric}
        return {**self.judged, **scored}

    def scores(self, metrics: Sequence[str]) -> list[float]:
        """Return what the trial is ranked by, one number a metric of the sweep; NaN where it has none."""
        found = [self.metric] if len(metrics) == 1 else [self.judged.get(name) for name in metrics]
        return [math.nan if value is None else float(value) for value in found]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict; NaN and infinities stay as they are."""
        return {**asdict(self), "state": self.state.value}


def better(a: float, b: float, goal: str) -> bool:
    """Whether `a` is strictly better than `b`; a number that is not finite is never better."""
    if not math.isfinite(a):
        return False
    if not math.isfinite(b):
        return True
    return a < b if goal == "minimize" else a > b


def best_first(records: Sequence[TrialRecord], goal: str) -> list[TrialRecord]:
    """Return the records that have a finite metric, best first; ties keep the order of the ids."""
    ranked = [record for record in records if record.metric is not None and math.isfinite(record.metric)]
    sign = 1.0 if goal == "minimize" else -1.0
    return sorted(ranked, key=lambda record: (sign * (record.metric or 0.0), record.config_id, record.replicate))
