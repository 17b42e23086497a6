"""The sweep's decisions, one event at a time, without Ray and without a clock of its own.

A runner asks for work (`next`), passes on what trials report (`report`) and how their runs end (`ended`), and looks in
now and then (`poll`). Every event is recorded before it has any effect, and every decision is a function of what is
recorded; so the engine can be killed anywhere and a new one, over the same ledger, goes on as this one would have.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError
from orchestrator.engine import control, mailbox
from orchestrator.engine.budget import SweepClock, natural_end, reached_target, room_for_trials, spent
from orchestrator.engine.completion import Endings
from orchestrator.engine.dispatch import (
    LiveTrials,
    assignment,
    longest_stretch,
    next_waiting,
    resume_point,
    trial_resources,
)
from orchestrator.engine.environment_check import drift_of, learn
from orchestrator.engine.generations import turn_generation
from orchestrator.engine.learning_curves import Curves
from orchestrator.engine.new_trials import Proposals
from orchestrator.engine.reuse import Known
from orchestrator.ledger import Ledger, TrialHistory
from orchestrator.provenance import recorded
from orchestrator.results import Status, status_of
from orchestrator.trials import Assignment, Decision, Done, Outcome, Report, TrialState, Wait, sweep_breaking_bug

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec
    from orchestrator.tracking import Tracker

log = logging.getLogger(__name__)


class Engine:
    """See the module. One engine drives one sweep; the ledger must be open for writing.

    Args:
        ledger: the sweep's ledger; the engine does not close it.
        clock: seconds that never jump.
        tracker: shows what happens; may be None. Whoever made it closes it.
        resources: what a trial really gets (`{"cpu", "gpu", "custom"}`), where that differs from the sweep file.
        environment: what `environment_check.environment` returned here and now; differences from the sweep's own
            are labelled on every trial that runs from now on.
        known: configurations finished in other sweeps, to be reused or skipped.
        strict: stop the sweep when a worker turns out to train on another device or other data than those before it.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.monotonic,
        tracker: Tracker | None = None,
        resources: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        known: Mapping[str, Known] | None = None,
        strict: bool = False,
    ) -> None:
        self.ledger = ledger
        self.paths = ledger.paths
        self.tracker = tracker
        self._strict = strict
        self._halt: tuple[str, str] | None = None
        """State and reason: nothing more is handed out, what runs pauses at its next report."""
        self._held = False
        self._clock = SweepClock(ledger, clock)
        self._live = LiveTrials(clock, longest_stretch(ledger))
        self._proposals = Proposals(ledger, known or {})
        self.spec: SweepSpec = ledger.spec()
        self._resources = trial_resources(self.spec, resources)  # an edit counts from the next driver on
        self.drift: list[str] = drift_of(ledger, environment or {})
        self._begin()
        self._curves = Curves(ledger, self._proposals.forecast)
        self._endings = Endings(ledger, self._curves, self._clock, tracker)
        self._endings.settle()
        self._bug = sweep_breaking_bug(ledger.trials())

    def _begin(self) -> None:
        """Record that this driver has taken over, and tell the tracker."""
        self.ledger.add_session(self.drift)
        if self.ledger.state().state != "running":
            self.ledger.set_state("running")
        mailbox.drop_stale(self.paths)
        if self.tracker is not None:
            info = {
                "id": self.ledger.id,
                "environment": self.ledger.environment(),
                "trials": self.ledger.trials(),
                "plan": self.ledger.fact("plan"),
                "code": recorded(self.paths.code),
            }
            self.tracker.sweep_started(self.spec, {key: value for key, value in info.items() if value is not None})

    # -------------------------------------------------------------------------------------------- work

    def next(self) -> Assignment | Wait | Done:
        """Return the next piece of work.

        First what was interrupted, then what is promoted from a rung, new trials, what is left at rungs, replicates.
        """
        self._check_limits()
        if self._halt is not None:
            return Wait(reason=self._halt[1]) if self._live else self._done()
        if self._held:
            return Wait(reason="the sweep is paused")
        if self.spec.max_concurrent is not None and len(self._live) >= self.spec.max_concurrent:
            return Wait(reason=f"max_concurrent is {self.spec.max_concurrent}")
        if self.spec.method.population and not self._live:
            turn_generation(self.ledger, complete=self._proposals.complete())
        again = next_waiting(self.ledger, self._live) or self._curves.next_promoted()
        if again is not None:
            return self._go_on(again)
        born = self._next_of_search()
        if born is not None:
            return self._hand_out(born, 0, None)
        again = self._curves.next_promoted(last=True)
        if again is not None:
            return self._go_on(again)
        if any(not self.ledger.history(trial).replicate for trial in self._live):
            return Wait(reason="the last trials are running")
        for history in self._curves.at_rungs():
            self._endings.leave_behind(history)
        born = self._next_replicate()
        if born is not None:
            return self._hand_out(born, 0, None)
        return Wait(reason="the last trials are running") if self._live else self._done()

    def _go_on(self, history: TrialHistory) -> Assignment:
        if history.state.ended:
            control.restart(self.ledger, history, protect=False)
            history = self.ledger.history(history.id)
            self._curves.read(history)
        start, checkpoint = resume_point(history)
        self.ledger.start_run(history.id, start=start, gpu=self._resources["gpu"], wall=self.wall(), drift=self.drift)
        return self._hand_out(history, start, checkpoint)

    def _hand_out(self, history: TrialHistory, start: int, checkpoint: str | None) -> Assignment:
        work = assignment(self.ledger, history, start=start, checkpoint=checkpoint, resources=self._resources)
        if self.tracker is not None:
            # What a run is shown to have started with never changes; its lineage is in its labels.
            record = dataclasses.replace(history.record(), values=history.birth.values)
            self.tracker.trial_started(record, work.config)
        self._live.add(history.id, start)
        return work

    def _room_for_trials(self) -> bool:
        return room_for_trials(self.spec.budget, self.ledger.births())

    def _next_of_search(self) -> TrialHistory | None:
        """Draw configurations until one has to be trained: what is known from other sweeps is at its end at once."""
        while self._room_for_trials() and not reached_target(self.spec, self.ledger.histories()):
            born = self._proposals.next_configuration(
                wall=self.wall(), gpu=self._resources["gpu"], drift=self.drift, labels=self._curves.labels
            )
            if born is None:
                return None
            self._curves.read(born)
            self._endings.conclude(born)
            if not born.state.ended:
                return born
        return None

    def _next_replicate(self) -> TrialHistory | None:
        """More seeds for the best configurations."""
        if not self._room_for_trials():
            return None
        return self._proposals.next_replicate(wall=self.wall(), gpu=self._resources["gpu"], drift=self.drift)

    # --------------------------------------------------------------------------------------------- events

    def report(self, trial_id: str, report: Report) -> Decision:
        """Take in a report and say whether the trial goes on. Recorded first; the decision follows from the record."""
        live = self._live.get(trial_id)
        if live is None:
            log.warning("a report of trial %s, which is not running, is ignored", trial_id)
            return Decision.STOP
        history = self.ledger.history(trial_id)
        if history.state.ended:  # stopped by hand in the meantime
            return Decision.STOP
        found = learn(self.ledger, history, report.facts)
        if found and self._strict:
            self.halt("stopped", f"--strict, and trial {trial_id} differs: {'; '.join(found)}")
        wrong = self._endings.without_metric(history, report)
        if wrong is not None:
            self._halt = ("failed", wrong)
            return Decision.STOP
        if self.tracker is not None:  # before it is recorded: shown twice is kept once, never shown would be missing
            self.tracker.report(trial_id, report.step, report.metrics, report.rows, report.images)
        if self.ledger.add_report(trial_id, report, wall=self.wall()):
            self._curves.extend(history, report.step)
        self._live.reported(live, report)
        self._check_limits()
        self._endings.conclude(history)
        if history.state.ended:
            return Decision.STOP
        live.leaving = live.pausing or not self._keeps_its_worker(history)
        return Decision.PAUSE if live.leaving else Decision.CONTINUE

    def _keeps_its_worker(self, history: TrialHistory) -> bool:
        if self._halt is not None or self._held or self.spec.method.population:
            return False
        if self._curves.rung(history) is not None:
            if next_waiting(self.ledger, self._live) is not None or self._curves.next_promoted(history) is not history:
                return False
            self.ledger.promote(history.id, wall=self.wall())  # it would be the next to be handed out
        return True

    def ended(self, trial_id: str, outcome: Outcome) -> None:
        """Take in how a trial's run ended. One that a decision has ended already needs no more than the news."""
        live = self._live.remove(trial_id)
        if live is None:
            return
        history = self.ledger.history(trial_id)
        if history.state.ended:
            return
        if outcome.kind == "stopped":
            reason, lost = outcome.reason or "interrupted", self._live.lost(live)
            self._endings.interrupted(history, reason, wasted=lost, by_hand=live.pausing)
            return
        self._endings.failed(history, outcome, reached=live.reached, wasted=self._live.unreported(live))
        self._bug = self._bug or sweep_breaking_bug(self.ledger.trials())

    # ------------------------------------------------------------------------------------- time and limits

    def wall(self) -> float:
        """Return the seconds in which drivers have run this sweep so far."""
        return self._clock.wall()

    def poll(self) -> frozenset[str]:
        """Look into the mailbox and at the budget.

        Returns:
            The trials whose runs must be ended now, without waiting for their next reports; the runner calls `ended`
            with a "stopped" outcome for each.
        """
        now: set[str] = set()
        for command in mailbox.take(self.paths):
            now |= self._obey(command)
        self._check_limits()
        self._clock.beat()
        return frozenset(now & self.live | self._live.overdue(all_leave=self._halt is not None or self._held))

    def _check_limits(self) -> None:
        if self._halt is not None:
            return
        if self._bug is not None:
            self._halt = ("failed", f"the same bug ended the first trials: {self._bug.reason}")
            return
        flying = self._resources["gpu"] * self._live.unreported()
        for reason in spent(self.spec.budget, self.ledger.births(), wall=self.wall(), gpu_flying=flying):
            self._halt = ("finished", reason)

    # ------------------------------------------------------------------------------------------ commands

    def _obey(self, command: Mapping[str, Any]) -> set[str]:
        """Carry out a command from another shell; return the trials whose runs must end at once."""
        try:
            control.check(self.ledger, command)
        except ConfigError as error:  # it was checked before it was posted; the sweep has moved on since
            log.warning("a command is not carried out: %s", error)
            return set()
        kind, trial = command["command"], str(command.get("trial", ""))
        match kind:
            case "stop":
                self.halt("stopped", "stopped by hand")
            case "pause" | "resume":
                self.hold(kind == "pause")
            case "trial-stop":
                lost = self._live.lost(self._live.get(trial))
                self._endings.end(self.ledger.history(trial), TrialState.PRUNED, "stopped by hand", wasted=lost)
                return {trial}
            case "trial-pause" if (live := self._live.get(trial)) is not None:
                live.pausing = True
            case _:
                log.info("%s", control.apply(self.ledger, command))
                self._take_over()
        return set()

    def _take_over(self) -> None:
        """Take over what a command has changed in the ledger: a new revision, trials that are restarted."""
        if self.ledger.spec() is not self.spec:
            self.spec = self.ledger.spec()
            self._proposals.renew()
        for history in self.ledger.histories():
            self._curves.read(history)

    @property
    def live(self) -> frozenset[str]:
        """The trials that the runner holds."""
        return frozenset(self._live)

    @property
    def halted(self) -> str | None:
        """Why nothing more is handed out; None while the sweep goes on."""
        return None if self._halt is None else self._halt[1]

    def halt(self, state: str, reason: str) -> None:
        """Hand out nothing more; what runs pauses at its next report, and `next` then says Done.

        Args:
            state: what the sweep's state will be: "stopped", "interrupted", "finished" or "failed".
            reason: for people.
        """
        self._halt = self._halt or (state, reason)

    def hold(self, held: bool) -> None:
        """Pause the sweep, or go on: while it is held, trials pause at their next reports and none is handed out."""
        if held != self._held:
            self._held = held
            self.ledger.set_state("paused" if held else "running")

    # --------------------------------------------------------------------------------------------- the end

    def _done(self) -> Done:
        state, reason = self._halt or natural_end(self.ledger, exhausted=self._proposals.exhausted)
        return Done(reason=reason, failed=state == "failed")

    def finish(self, reason: str | None = None) -> Status:
        """Record the end of this driver's work and return where the sweep stands; trials still out are interrupted.

        Args:
            reason: why it ends before `next` said Done ("interrupted" is the state then).
        """
        for trial_id in self._live:
            self.ended(trial_id, Outcome(kind="stopped", reason="interrupted"))
        if reason is not None and self._halt is None:
            self._halt = ("interrupted", reason)
        state, why = self._halt or natural_end(self.ledger, exhausted=self._proposals.exhausted)
        self.ledger.set_wall(self.wall())
        self.ledger.set_state(state, why, traceback=self._bug.traceback if self._bug else None)
        status = self.status()
        if self.tracker is not None:
            self.tracker.sweep_ended(state, status.to_json())
        return status

    def status(self) -> Status:
        """Return where the sweep stands now."""
        return status_of(self.ledger, wall=self.wall())
