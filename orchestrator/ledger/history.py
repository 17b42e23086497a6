"""A trial's history out of its recorded events: the same code while a sweep runs and when its ledger is read back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.ledger.events import Exit, NewTrial, Point, RunStart
from orchestrator.paths import relocated
from orchestrator.trials import At, Failure, TrialRecord, TrialState, best_of, score, scores


class TrialHistory:
    """Everything recorded about one trial; `apply` takes the events in the order in which they were written."""

    def __init__(self, row: int) -> None:
        self.row = row
        """Optuna's id of the row that holds it."""
        self.birth: NewTrial
        """Known from the first event on."""
        self.points: dict[int, Point] = {}
        """Its reports by step."""
        self.end: Exit | None = None
        self.run = 0
        """Number of the current or last run; 0 is the first."""
        self.passed = 0
        """The step that it had reported when it was last let on: rungs up to there hold it no more."""
        self.outs = 0
        self.charged = 0
        """Runs that count against the retries, since it was last restarted."""
        self.lost = 0
        """Runs whose worker was lost, since it was last restarted."""
        self.attempts: list[Failure] = []
        self.labels: dict[str, Any] = {}
        self.busy = self.gpu = self.wasted = 0.0
        self.wall = 0.0
        self.reason = ""
        self.deleted = False
        """Somebody has deleted it: it counts as tried, and nobody sees it any more."""
        self._gpu_share = 0.0
        """GPUs of the current or last run."""
        self._state = TrialState.RUNNING
        self._record: TrialRecord | None = None

    # ------------------------------------------------------------------------------------------- events

    def apply(self, key: str, event: Mapping[str, Any]) -> None:
        """Take in one event; `key` is the attribute's name in the ledger."""
        kind, _, rest = key.partition(":")
        self.wall = max(self.wall, event.get("wall", 0.0))
        self._record = None
        match kind:
            case "trial":
                self._born(NewTrial.from_json(event))
            case "run":
                self._start(int(rest), RunStart.from_json(event))
            case "promoted":
                self.passed = int(rest)
            case "report":
                self.points[int(rest)] = point = Point.from_json(event)
                self._spend(point.seconds)
            case "repeat":
                self._spend(event["seconds"], wasted=True)
            case "out":
                out = Exit.from_json(event)
                self._leave(out)
                self.outs += 1
                self.charged += out.charged
                self.lost += out.failure is not None and out.failure.kind == "lost"
            case "end":
                self.end = Exit.from_json(event)
                self._leave(self.end)
            case "label":
                self.labels = {**self.labels, rest: event["value"]}

    def moved_to(self, folder: Path) -> None:
        """Take the sweep's folder as it stands now: with its project, checkpoints may have been moved since."""
        for step, point in self.points.items():
            if point.checkpoint:
                self.points[step] = replace(point, checkpoint=relocated(point.checkpoint, folder))
        self._record = None

    def forget_checkpoints(self, steps: Iterable[int]) -> None:
        """Take in that the checkpoints at these steps were deleted by a rule."""
        for step in steps:
            if step in self.points:
                self.points[step] = replace(self.points[step], checkpoint=None)
        self._record = None

    def _born(self, birth: NewTrial) -> None:
        self.birth, self.labels, self._gpu_share = birth, dict(birth.labels), birth.gpu
        if birth.carry is not None:
            carry = birth.carry
            self.points, self.run, self.attempts = dict(carry.points), carry.run, list(carry.attempts)
            self.busy, self.gpu, self.wasted = carry.busy, carry.gpu, carry.wasted
        self._state = TrialState.WAITING if birth.waiting else TrialState.RUNNING

    def _start(self, number: int, start: RunStart) -> None:
        self.run, self._state, self.reason = number, TrialState.RUNNING, ""
        self._gpu_share, self.passed = start.gpu, self.last_step
        if start.drift:
            self.labels = {**self.labels, "drift": [*dict.fromkeys([*self.labels.get("drift", []), *start.drift])]}

    def _leave(self, out: Exit) -> None:
        self._state, self.reason = out.state, out.reason
        self._spend(out.wasted, wasted=True)
        if out.failure is not None:
            self.attempts = [*self.attempts, out.failure]

    def _spend(self, seconds: float, wasted: bool = False) -> None:
        if not math.isfinite(seconds) or seconds < 0:
            return  # a worker's clock that jumped says nothing
        self.busy += seconds
        self.gpu += seconds * self._gpu_share
        if wasted:
            self.wasted += seconds

    # -------------------------------------------------------------------------------------------- views

    @property
    def id(self) -> str:
        """The trial's id."""
        return self.birth.id

    @property
    def values(self) -> dict[str, Any]:
        """The swept parameters: as at its creation, or as population based training has last changed them."""
        lineage = self.labels.get("lineage")
        return dict(lineage[-1]["values"] if lineage else self.birth.values)

    @property
    def config_id(self) -> int:
        """The configuration's number."""
        return self.birth.config_id

    @property
    def replicate(self) -> int:
        """0 for the trial of the search."""
        return self.birth.replicate

    @property
    def left_behind(self) -> bool:
        """It was pruned because it still waited at a rung when the sweep had nothing more to do."""
        return self.end is not None and self.end.left_behind

    @property
    def state(self) -> TrialState:
        """Where the trial stands."""
        return self._state

    @property
    def last_step(self) -> int:
        """The last step reported, 0 before the first."""
        return max(self.points, default=0)

    @property
    def last_order(self) -> int:
        """The position of its last report among all reports of the sweep."""
        return max((point.order for point in self.points.values()), default=0)

    def record(self) -> TrialRecord:
        """Return the trial as others see it; the same object until something is recorded."""
        if self._record is None:
            self._record = self._make_record()
        return self._record

    def scores(self) -> dict[int, float]:
        """Return what the trial was judged by after each report; NaN where that had not the ranking metric."""
        values = {step: self.points[step].metrics.get(self.birth.metric, math.nan) for step in sorted(self.points)}
        return scores(values, At.from_json(self.birth.judged), self.birth.goal)

    def _score(self, values: Sequence[float], at: At) -> float | None:
        known = bool(self.points) and self.birth.metric in self.points[self.last_step].metrics
        return score(values, at, self.birth.goal) if known and self._state is not TrialState.FAILED else None

    def _make_record(self) -> TrialRecord:
        birth, points = self.birth, dict(sorted(self.points.items()))
        steps, at = self.last_step, At.from_json(birth.judged)
        checkpoints = [point.checkpoint for point in points.values() if point.checkpoint]
        values = [point.metrics.get(birth.metric, math.nan) for point in points.values()]
        judged = list(points)[best_of(values, birth.goal)] if at.best and points else None
        own = points[judged].checkpoint if judged is not None else None
        return TrialRecord(
            id=birth.id,
            config_id=birth.config_id,
            replicate=birth.replicate,
            seed=birth.seed,
            values=self.values,
            config_hash=birth.config_hash,
            state=self._state,
            steps=steps,
            reports={step: point.metrics for step, point in points.items()},
            metric=self._score(values, at),
            judged_step=judged,
            checkpoint=own or (checkpoints[-1] if checkpoints else None),
            failure=self.end.failure if self.end else None,
            attempts=tuple(self.attempts),
            started=birth.at,
            ended=self.end.at if self.end else None,
            busy_seconds=self.busy,
            gpu_seconds=self.gpu,
            wasted_seconds=self.wasted,
            revision=birth.revision,
            reason=self.reason,
            labels=self.labels,
        )
