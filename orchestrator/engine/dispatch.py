"""Assignments: which trial goes on, from which checkpoint, what its worker gets, and which trials a runner holds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from meanflow_core.config import write_yaml
from orchestrator.trials import Assignment, Report, TrialState

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger, TrialHistory
    from orchestrator.spec import SweepSpec

GRACE = 120.0
"""Seconds without a report after which a trial that is to leave is ended, if its stretches are not longer."""


def next_waiting(ledger: Ledger, live: Collection[str]) -> TrialHistory | None:
    """Return the trial that is to go on first: one that was interrupted, the lowest id first.

    Args:
        ledger: the sweep's ledger.
        live: the trials that a runner holds.
    """
    waiting = [
        history
        for history in ledger.histories()
        if history.state in (TrialState.RUNNING, TrialState.WAITING) and history.id not in live
    ]
    if ledger.spec().method.population:  # who is ahead waits for its generation
        turned = ledger.fact("generation", 0)
        waiting = [history for history in waiting if history.replicate or history.last_step <= turned]
    return min(waiting, key=lambda history: (history.replicate, history.config_id), default=None)


def resume_point(history: TrialHistory) -> tuple[int, str | None]:
    """Return step and place of the last checkpoint that is there and did not fail to load before; (0, None) if none."""
    broken = {failure.step for failure in history.attempts if failure.reason.startswith("CheckpointError")}
    for step in sorted(history.points, reverse=True):
        place = history.points[step].checkpoint
        if place and step not in broken and ("://" in place or os.path.exists(place)):
            return step, place
    return 0, None


def assignment(
    ledger: Ledger, history: TrialHistory, *, start: int, checkpoint: str | None, resources: Mapping[str, Any]
) -> Assignment:
    """Return what a worker is to do for a trial; its folder and configuration file are made.

    Args:
        ledger: the sweep's ledger.
        history: the trial.
        start: the step to go on from.
        checkpoint: the state at that step.
        resources: what the trial gets: `{"cpu", "gpu", "custom"}`.
    """
    spec = ledger.spec(history.birth.revision)
    config = spec.config_for(history.values, seed=history.birth.seed)
    folder = ledger.paths.trial(history.id)
    folder.root.mkdir(parents=True, exist_ok=True)
    if not folder.config.exists() or "lineage" in history.labels:
        folder.config.write_text(write_yaml(config), encoding="utf-8")
    program, now = spec.program, ledger.spec().program
    if program is not None and now is not None:  # how it is heard and where it is are no part of a result
        program = replace(program, metrics=now.metrics, folder=now.folder, root=now.root)
    return Assignment(
        trial=history.id,
        sweep=spec.name,
        sweep_id=ledger.id,
        config=config,
        trainer=spec.trainer,
        metric=spec.metric.name,
        metrics=[metric.name for metric in spec.metrics],
        goal=spec.metric.goal,
        steps=spec.report_steps(config),
        start=start,
        checkpoint=checkpoint,
        folder=str(folder.root),
        attempt=history.run,
        resources=dict(resources),
        program=None if program is None else program.to_dict(),
    )


def trial_resources(spec: SweepSpec, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a trial gets, `{"cpu", "gpu", "custom"}`: what is given, or what the sweep file says."""
    if given is not None:
        return {"cpu": 1.0, "gpu": 0.0, "custom": {}, **given}
    needs = spec.resources
    return {"cpu": needs.cpu, "gpu": needs.gpu * needs.workers, "custom": dict(needs.custom)}


def longest_stretch(ledger: Ledger) -> float:
    """Return the seconds that a stretch between two reports of this sweep took so far, at most."""
    return max((point.seconds for each in ledger.histories() for point in each.points.values()), default=0.0)


@dataclass
class LiveTrial:
    """A trial that a runner holds."""

    handed: float
    """The clock when it was handed out."""
    since: float
    """The clock at its last report, or when it was handed out."""
    reached: int
    """Its start, then the step of its last report."""
    reported: float = 0.0
    """Seconds of work its reports account for."""
    leaving: bool = False
    """It was told to pause: it does no more work."""
    pausing: bool = False
    """Somebody has asked to pause it."""
    asked: float = math.inf
    """The clock when it was seen that it is to leave at its next report."""


class LiveTrials:
    """Live trials by id.

    Args:
        clock: seconds that never jump.
        longest: seconds that a stretch between two reports took so far, at most.
    """

    def __init__(self, clock: Callable[[], float], longest: float = 0.0) -> None:
        self._clock = clock
        self._longest = longest
        self._trials: dict[str, LiveTrial] = {}

    def __contains__(self, trial: object) -> bool:
        return trial in self._trials

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._trials))

    def __len__(self) -> int:
        return len(self._trials)

    def get(self, trial: str) -> LiveTrial | None:
        """Return a trial that a runner holds, None for any other."""
        return self._trials.get(trial)

    def add(self, trial: str, start: int) -> None:
        """Take in that a trial was handed out, to go on from the step `start`."""
        now = self._clock()
        self._trials[trial] = LiveTrial(handed=now, since=now, reached=start)

    def remove(self, trial: str) -> LiveTrial | None:
        """Take in that a trial's run has ended."""
        return self._trials.pop(trial, None)

    def reported(self, live: LiveTrial, report: Report) -> None:
        """Take in a report."""
        live.reported += report.seconds
        live.reached, live.since = report.step, self._clock()
        self._longest = max(self._longest, report.seconds)

    def overdue(self, *, all_leave: bool) -> set[str]:
        """Return the trials that were to leave at their next report and seem to come to none: a program that hangs.

        Those are silent for longer than `GRACE`, and than twice the longest stretch so far.

        Args:
            all_leave: whether all are to leave, and not only those that somebody has asked to pause.
        """
        now, found = self._clock(), set[str]()
        for trial, live in self._trials.items():
            leaves = (all_leave or live.pausing) and not live.leaving
            live.asked = min(live.asked, now) if leaves else math.inf
            if now - max(live.asked, live.since) > max(GRACE, 2 * self._longest):
                found.add(trial)
        return found

    def lost(self, live: LiveTrial | None) -> float:
        """Return the seconds of work since a trial's last report, which are lost if it is interrupted now."""
        return 0.0 if live is None or live.leaving else max(0.0, self._clock() - live.since)

    def unreported(self, live: LiveTrial | None = None) -> float:
        """Return the seconds since a trial was handed out that no report accounts for; None: of all trials."""
        chosen = self._trials.values() if live is None else (live,)
        return sum(max(0.0, self._clock() - each.handed - each.reported) for each in chosen)
