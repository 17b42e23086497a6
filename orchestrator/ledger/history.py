"""A trial's history out of its recorded events: the same code while a sweep runs and when its ledger is read back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orchestrator.paths import relocated
from orchestrator.trials import Failure, TrialRecord, TrialState


class TrialHistory:
    """Everything recorded about one trial; `apply` takes the events in the order in which they were written."""

    def __init__(self, row: int) -> None:
        self.row = row
        """Optuna's id of the row that holds it."""
        self.birth: dict[str, Any] = {}
        self.points: dict[int, dict[str, Any]] = {}
        """By step: metrics, order, checkpoint, seconds, images, at, wall, run."""
        self.end: dict[str, Any] = {}
        self.run = 0
        """Number of the current or last run; 0 is the first."""
        self.runs: list[dict[str, Any]] = []
        """Start of each run: at, wall, start, gpu."""
        self.passed = 0
        """The step that it had reported when it was last let on: rungs up to there hold it no more."""
        self.left_behind = False
        """It was pruned because it still waited at a rung when the sweep had nothing more to do."""
        self.outs = 0
        self.charged = 0
        """Runs that count against the retries, since it was last taken up."""
        self.lost = 0
        """Runs whose worker was lost, since it was last taken up."""
        self.attempts: list[Failure] = []
        self.labels: dict[str, Any] = {}
        self.busy = self.gpu = self.wasted = 0.0
        self.wall = 0.0
        self.reason = ""
        self._state = TrialState.RUNNING
        self._record: TrialRecord | None = None

    # ------------------------------------------------------------------------------------------- events

    def apply(self, key: str, event: dict[str, Any]) -> None:
        """Take in one event; `key` is the attribute's name in the ledger."""
        kind, _, rest = key.partition(":")
        self.wall = max(self.wall, event.get("wall", 0.0))
        self._record = None
        match kind:
            case "trial":
                self._born(event)
            case "run":
                self.run, self._state, self.reason = int(rest), TrialState.RUNNING, ""
                self.runs.append(event)
                self.passed = self.last_step
                if event["drift"]:
                    known = self.labels.get("drift", [])
                    self.labels = {**self.labels, "drift": [*dict.fromkeys([*known, *event["drift"]])]}
            case "promoted":
                self.passed = int(rest)
            case "report":
                self.points[int(rest)] = event
                self._spend(event["seconds"])
            case "repeat":
                self._spend(event["seconds"], wasted=True)
            case "out":
                self._leave(event)
                self._state = TrialState(event["state"])
                self.outs += 1
                self.charged += bool(event["charged"])
                self.lost += bool(event["failure"]) and event["failure"]["kind"] == "lost"
            case "end":
                self._leave(event)
                self.end = event
                self.left_behind = bool(event.get("left_behind"))
                self._state = TrialState(event["state"])
            case "label":
                self.labels = {**self.labels, rest: event["value"]}

    def moved_to(self, folder: Path) -> None:
        """Take the sweep's folder as it stands now: with its project, checkpoints may have been moved since."""
        for step, point in self.points.items():
            if point["checkpoint"]:
                self.points[step] = {**point, "checkpoint": relocated(point["checkpoint"], folder)}
        self._record = None

    def _born(self, event: dict[str, Any]) -> None:
        self.birth = event
        self.labels = dict(event["labels"])
        self.runs = [{"at": event["at"], "wall": event["wall"], "start": 0, "gpu": event["gpu"]}]
        carry = event["carry"]
        if carry:
            self.points = {int(step): point for step, point in carry["points"].items()}
            self.busy, self.gpu, self.wasted = carry["busy"], carry["gpu"], carry["wasted"]
            self.attempts = [Failure.from_dict(failure) for failure in carry["attempts"]]
            self.run = carry["run"]
        self._state = TrialState.WAITING if event["waiting"] else TrialState.RUNNING

    def _leave(self, event: dict[str, Any]) -> None:
        self.reason = event["reason"]
        self._spend(event["wasted"], wasted=True)
        if event["failure"]:
            self.attempts = [*self.attempts, Failure.from_dict(event["failure"])]

    def _spend(self, seconds: float, wasted: bool = False) -> None:
        if not math.isfinite(seconds) or seconds < 0:
            return  # a worker's clock that jumped says nothing
        self.busy += seconds
        self.gpu += seconds * float(self.runs[-1]["gpu"])
        if wasted:
            self.wasted += seconds

    # -------------------------------------------------------------------------------------------- views

    @property
    def id(self) -> str:
        """The trial's id."""
        return str(self.birth["id"])

    @property
    def values(self) -> dict[str, Any]:
        """The swept parameters: as it was born with them, or as population based training has last changed them."""
        lineage = self.labels.get("lineage")
        return dict(lineage[-1]["values"] if lineage else self.birth["values"])

    @property
    def config_id(self) -> int:
        """The configuration's number."""
        return int(self.birth["config_id"])

    @property
    def replicate(self) -> int:
        """0 for the trial of the search."""
        return int(self.birth["replicate"])

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
        return max((point["order"] for point in self.points.values()), default=0)

    def record(self) -> TrialRecord:
        """Return the trial as others see it; the same object until something is recorded."""
        if self._record is None:
            self._record = self._make_record()
        return self._record

    def _make_record(self) -> TrialRecord:
        birth, steps = self.birth, sorted(self.points)
        last = self.points[steps[-1]]["metrics"] if steps else {}
        checkpoints = [self.points[step]["checkpoint"] for step in steps if self.points[step]["checkpoint"]]
        failure = self.end.get("failure")
        ranking = last.get(birth["metric"])
        return TrialRecord(
            id=self.id,
            config_id=self.config_id,
            replicate=self.replicate,
            seed=birth["seed"],
            values=self.values,
            config_hash=birth["config_hash"],
            state=self._state,
            steps=steps[-1] if steps else 0,
            reports={step: self.points[step]["metrics"] for step in steps},
            metric=None if self._state is TrialState.FAILED else ranking,
            checkpoint=checkpoints[-1] if checkpoints else None,
            failure=Failure.from_dict(failure) if failure else None,
            attempts=tuple(self.attempts),
            started=birth["at"],
            ended=self.end.get("at"),
            busy_seconds=self.busy,
            gpu_seconds=self.gpu,
            wasted_seconds=self.wasted,
            revision=birth["revision"],
            reason=self.reason,
            labels=self.labels,
        )
