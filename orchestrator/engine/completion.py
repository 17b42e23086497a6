"""Completion of runs and trials: by the last report, by a rule, by a failure, by hand."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from meanflow_core.errors import nearest
from orchestrator.trials import Failure, Outcome, Report, TrialState, goes_on

if TYPE_CHECKING:
    from orchestrator.engine.budget import SweepClock
    from orchestrator.engine.learning_curves import Curves
    from orchestrator.ledger import Ledger, TrialHistory
    from orchestrator.tracking import Tracker


class Endings:
    """Records ends, and tells the tracker of those of trials.

    Args:
        ledger: the sweep's ledger, open for writing.
        curves: what the trials have reported.
        clock: the sweep's clock.
        tracker: shows what happens; may be None.
    """

    def __init__(self, ledger: Ledger, curves: Curves, clock: SweepClock, tracker: Tracker | None) -> None:
        self._ledger = ledger
        self._curves = curves
        self._clock = clock
        self._tracker = tracker

    def settle(self) -> None:
        """Take in what the last driver's death left: runs without an end, and reports recorded without their effect."""
        heard = self._ledger.wall_seconds
        running = [history for history in self._ledger.histories() if history.state is TrialState.RUNNING]
        for history in sorted(running, key=lambda history: history.last_order):
            self.conclude(history)
            if not history.state.ended:
                # At least this long its driver lived on after the trial's last event, and nothing came of it.
                self.interrupted(history, "its driver was killed", wasted=max(0.0, heard - history.wall))

    def conclude(self, history: TrialHistory) -> None:
        """End a trial whose last report ends it. A function of the recorded reports alone."""
        step = history.last_step
        if not step:
            return
        metrics = history.points[step].metrics
        bad = [metric.name for metric in self._ledger.spec().metrics if not math.isfinite(metrics[metric.name])]
        if bad:
            reason = f"{bad[0]} is {metrics[bad[0]]} at step {step}"
            self.end(history, TrialState.FAILED, reason, Outcome(kind="diverged", reason=reason, last_step=step))
        elif self._at_its_end(history):
            origin = history.labels.get("reused")
            self.end(history, TrialState.FINISHED, f"reused from {origin}" if origin else "")
        else:
            stop = self._curves.reason_to_stop(history)
            if stop is not None:
                self.end(history, TrialState.PRUNED, stop)

    def _at_its_end(self, history: TrialHistory) -> bool:
        """Whether a trial's last report is that of its last step. A program is at its end when its process is."""
        if self._ledger.spec(history.birth.revision).program is not None:
            return "reused" in history.labels
        return history.last_step >= self._curves.length(history)

    def without_metric(self, history: TrialHistory, report: Report) -> str | None:
        """End a trial that does not report what the sweep optimises, and return why; None if it reports all of it."""
        missing = [metric.name for metric in self._ledger.spec().metrics if metric.name not in report.metrics]
        if not missing:
            return None
        close = nearest(missing[0], list(report.metrics))
        reason = f"the trainer does not report {missing[0]!r}; it reports {', '.join(sorted(report.metrics))}" + (
            f" (did you mean {close!r}?)" if close else ""
        )
        self.end(history, TrialState.FAILED, reason, Outcome(kind="bug", reason=reason))
        return reason

    def interrupted(
        self, history: TrialHistory, reason: str, *, wasted: float = 0.0, by_hand: bool = False
    ) -> None:  # fmt: skip
        """Record that a run ended without a fault: the trial is PAUSED by hand, AT_RUNG, or WAITING.

        Args:
            history: the trial.
            reason: for people.
            wasted: seconds of work that no report accounts for.
            by_hand: somebody has asked for it.
        """
        state = TrialState.PAUSED if by_hand else self._between_runs(history)
        waits = f"waits at step {history.last_step} to be promoted"
        said = {TrialState.PAUSED: "paused by hand", TrialState.AT_RUNG: waits}.get(state, reason)
        self._ledger.end_run(history.id, state, said, wall=self._clock.wall(), wasted=wasted)
        if self._tracker is not None:
            self._tracker.trial_paused(history.record())

    def _between_runs(self, history: TrialHistory) -> TrialState:
        return TrialState.WAITING if self._curves.rung(history) is None else TrialState.AT_RUNG

    def leave_behind(self, history: TrialHistory) -> None:
        """End a trial at a rung from which no trial is promoted any more, unless the sweep is extended."""
        self.end(history, TrialState.PRUNED, self._curves.place(history), left_behind=True)

    def failed(self, history: TrialHistory, outcome: Outcome, *, reached: int, wasted: float) -> None:
        """Record that a run failed: the trial waits for another one, or has failed.

        Args:
            history: the trial.
            outcome: the failure.
            reached: the last step that the run is known to have reached.
            wasted: seconds of work that no report accounts for.
        """
        if outcome.kind == "finished" and self._ledger.spec().program is not None and history.last_step:
            self.end(history, TrialState.FINISHED, "")
            return
        if outcome.kind == "finished":  # without its last report, which would have ended it
            reason = f"the trainer came to its end at step {history.last_step} of {self._curves.length(history)}"
            outcome = Outcome(kind="bug", reason=reason, last_step=history.last_step)
        failure = self._failure(history, outcome, reached)
        charged = failure.kind == "infrastructure"
        if goes_on(
            failure.kind,
            charged=history.charged + charged,
            lost=history.lost + (failure.kind == "lost"),
            retries=self._ledger.spec().retries,
        ):
            self._ledger.end_run(
                history.id, self._between_runs(history), f"{failure.kind}: {failure.reason}",
                wall=self._clock.wall(), wasted=wasted, failure=failure, charged=charged,
            )  # fmt: skip
        else:
            reason = f"{failure.kind}: {failure.reason}"
            self.end(history, TrialState.FAILED, reason, outcome, wasted=wasted, reached=reached)

    def end(
        self, history: TrialHistory, state: TrialState, reason: str, outcome: Outcome | None = None,
        *, wasted: float = 0.0, reached: int | None = None, left_behind: bool = False,
    ) -> None:  # fmt: skip
        """Record a trial's end.

        Args:
            history: the trial.
            state: FINISHED, PRUNED or FAILED.
            reason: for people.
            outcome: the failure, if it failed.
            wasted: seconds of work that no report accounts for.
            reached: the last step that its run is known to have reached; by default that of its last report.
            left_behind: it waited at a rung until there was nothing more to do.
        """
        step = history.last_step if reached is None else reached
        failure = None if outcome is None else self._failure(history, outcome, step)
        self._ledger.end_run(
            history.id, state, reason,
            wall=self._clock.wall(), wasted=wasted, failure=failure, left_behind=left_behind,
        )  # fmt: skip
        if self._tracker is not None:
            self._tracker.trial_ended(history.record())

    def _failure(self, history: TrialHistory, outcome: Outcome, reached: int) -> Failure:
        kind = outcome.kind
        if kind in ("finished", "stopped"):
            raise ValueError(f"no failure: {kind}")
        return Failure(
            kind=kind,  # type: ignore[arg-type]  # the two others were just excluded
            reason=outcome.reason,
            traceback=outcome.traceback,
            log=str(self._ledger.paths.trial(history.id).log),
            attempt=history.run,
            step=reached,
            at=time.time(),
        )
