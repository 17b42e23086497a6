"""The sweep's decisions, one event at a time, without Ray and without a clock of its own.

A runner asks for work (`next`), passes on what trials report (`report`) and how their runs end (`ended`), and looks in
now and then (`poll`). Every event is recorded before it has any effect, and every decision is a function of what is
recorded; so the engine can be killed anywhere and a new one, over the same ledger, goes on as this one would have.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, nearest
from meanflow_core.yamlfile import write_yaml
from orchestrator import control, mailbox, population, replicates
from orchestrator.environment import drift
from orchestrator.failures import BAD_REGION, goes_on, sweep_breaking_bug
from orchestrator.folding import TrialHistory
from orchestrator.ledger import Ledger, NewTrial
from orchestrator.messages import Assignment, Done, Outcome, Report, Verdict, Wait
from orchestrator.records import Failure, TrialRecord, TrialState
from orchestrator.reuse import Known
from orchestrator.search import Draw, Observation, Search, finite
from orchestrator.stopping import Curve, reason_to_stop
from orchestrator.storage import CheckpointStore
from orchestrator.summary import reached_target, spent, summarize

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec
    from orchestrator.tracking import Tracker

log = logging.getLogger(__name__)

HEARTBEAT = 60.0
"""Seconds after which the sweep's clock is recorded though nothing happens."""


@dataclass
class _Live:
    """A trial that a runner holds."""

    handed: float
    """The engine's clock when it was handed out."""
    reached: int
    """Its start, then the step of its last report."""
    reported: float = 0.0
    """Seconds of work its reports account for."""


class Engine:
    """See the module. One engine drives one sweep; the ledger must be open for writing.

    Args:
        ledger: the sweep's ledger; the engine does not close it.
        clock: seconds that never jump.
        tracker: shows what happens; may be None. Whoever made it closes it.
        resources: what a trial really gets (`{"cpu", "gpu", "custom"}`), where that differs from the sweep file.
        environment: what `orchestrator.environment.environment` returned here and now; differences from the sweep's
            own are labelled on every trial that runs from now on.
        known: configurations finished in other sweeps, to be reused or skipped.
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
    ) -> None:
        self.ledger = ledger
        self.paths = ledger.paths
        self._clock = clock
        self.tracker = tracker
        self._given = dict(resources) if resources is not None else None
        self._known = dict(known or {})
        self._live: dict[str, _Live] = {}
        self._halt: tuple[str, str] | None = None
        """State and reason: nothing more is handed out, what runs pauses at its next report."""
        self._held = False
        self._pausing: set[str] = set()
        """Trials that somebody has asked to pause."""
        self._exhausted = False
        self._observed: dict[str, tuple[TrialRecord, Observation]] = {}
        self._curves: dict[str, Curve] = {}
        self._breaking: TrialRecord | None = None
        self._opened, self._wall_before = clock(), ledger.wall_seconds
        self._heard = self._opened
        self._adopt_spec()
        self.drift: list[str] = drift(ledger.environment(), environment or {})
        previous = ledger.state()
        ledger.add_session({"pid": os.getpid(), "host": socket.gethostname(), "at": time.time(), "drift": self.drift})
        if previous.state != "running":
            ledger.set_state("running")
        mailbox.drop_stale(self.paths)
        if tracker is not None:
            info = {"environment": ledger.environment(), "trials": ledger.trials(), "plan": ledger.fact("plan")}
            tracker.sweep_started(self.spec, {key: value for key, value in info.items() if value is not None})
        for history in ledger.histories():
            self._add_curve(history)
        self._settle()

    def _adopt_spec(self) -> None:
        self.spec: SweepSpec = self.ledger.spec()
        self.revision = self.ledger.revision
        self._search = Search(self.spec)
        self._exhausted = False

    # -------------------------------------------------------------------------------------------- work

    def next(self) -> Assignment | Wait | Done:
        """Return the next piece of work: first what was interrupted, then new trials, then replicates."""
        self._check_limits()
        if self._halt is not None:
            return Wait(reason=self._halt[1]) if self._live else self._done()
        if self._held:
            return Wait(reason="the sweep is paused")
        if self.spec.max_concurrent is not None and len(self._live) >= self.spec.max_concurrent:
            return Wait(reason=f"max_concurrent is {self.spec.max_concurrent}")
        if self.spec.method == "pbt":
            self._turn_generation()
        waiting = self._waiting()
        if waiting is not None:
            return self._go_on(waiting)
        if self._room_for_trials():
            drawn = self._next_of_search()
            if drawn is not None:
                return drawn
            repeated = self._next_replicate()
            if repeated is not None:
                return repeated
        return Wait(reason="the last trials are running") if self._live else self._done()

    def _waiting(self) -> TrialHistory | None:
        """Return the trial that has been waiting to go on, the lowest id first."""
        waiting = [
            history
            for history in self.ledger.histories()
            if history.id not in self._live and history.state in (TrialState.RUNNING, TrialState.WAITING)
        ]
        if self.spec.method == "pbt":  # who is ahead waits for its generation
            turned = self.ledger.fact("generation", 0)
            waiting = [history for history in waiting if history.replicate or history.last_step <= turned]
        return min(waiting, key=lambda history: (history.replicate, history.config_id), default=None)

    def _turn_generation(self) -> None:
        """Once the whole population stands at the same report, let its worst go on from copies of its best.

        Recorded first, copied after, and nobody goes on before both are done: a killed engine's successor finds the
        same members at the same step, decides the same, and copies again.
        """
        members = [h for h in self._searched() if h.state in (TrialState.RUNNING, TrialState.WAITING)]
        complete = self._exhausted or len(self._searched()) >= (self.spec.run_cap or 0)
        steps = {history.last_step for history in members}
        step = max(steps, default=0)
        if self._live or not complete or len(steps) != 1 or step <= self.ledger.fact("generation", 0):
            return
        changes = population.exploits(self.spec, members, step)
        for change in changes:
            lineage = self.ledger.history(change.trial).labels.get("lineage", [])
            if not lineage or lineage[-1]["step"] < step:
                self.ledger.label(change.trial, "lineage", [*lineage, change.to_dict()])
        for change in changes:
            store = CheckpointStore.at(self.paths.trial(change.trial), self.spec.name, change.trial)
            store.adopt(step, change.checkpoint)
        self.ledger.note("generation", step)

    def _go_on(self, history: TrialHistory) -> Assignment:
        start, checkpoint = self._resume_point(history)
        self.ledger.start_run(history.id, start=start, gpu=self._resources()["gpu"], wall=self.wall(), drift=self.drift)
        return self._hand_out(history, start, checkpoint)

    def _resume_point(self, history: TrialHistory) -> tuple[int, str | None]:
        """Return the last checkpoint that is there and did not fail to load before."""
        broken = {failure.step for failure in history.attempts if failure.reason.startswith("CheckpointError")}
        for step in sorted(history.points, reverse=True):
            place = history.points[step]["checkpoint"]
            if place and step not in broken and ("://" in place or os.path.exists(place)):
                return step, str(place)
        return 0, None

    def _hand_out(self, history: TrialHistory, start: int, checkpoint: str | None) -> Assignment:
        spec = self.ledger.spec(history.birth["revision"])
        config = spec.config_for(history.values, seed=history.birth["seed"])
        folder = self.paths.trial(history.id)
        folder.root.mkdir(parents=True, exist_ok=True)
        if not folder.config.exists() or "lineage" in history.labels:
            folder.config.write_text(write_yaml(config), encoding="utf-8")
        if self.tracker is not None:
            # What a run is shown to have started with never changes; its lineage is in its labels.
            self.tracker.trial_started(dataclasses.replace(history.record(), values=history.birth["values"]), config)
        self._live[history.id] = _Live(handed=self._clock(), reached=start)
        return Assignment(
            trial=history.id,
            sweep=self.spec.name,
            config=config,
            trainer=spec.trainer,
            metric=spec.metric.name,
            goal=spec.metric.goal,
            steps=spec.report_steps(config),
            start=start,
            checkpoint=checkpoint,
            folder=str(folder.root),
            attempt=history.run,
            resources=self._resources(),
        )

    def _resources(self) -> dict[str, Any]:
        if self._given is not None:
            return {"cpu": 1.0, "gpu": 0.0, "custom": {}, **self._given}
        needs = self.spec.resources
        return {"cpu": needs.cpu, "gpu": needs.gpu * needs.workers, "custom": dict(needs.custom)}

    # ------------------------------------------------------------------------------------------ new trials

    def _room_for_trials(self) -> bool:
        limit = self.spec.budget.trials
        return limit is None or sum(1 for _ in self.ledger.histories()) < limit

    def _searched(self) -> list[TrialHistory]:
        return [history for history in self.ledger.histories() if not history.replicate]

    def _next_of_search(self) -> Assignment | None:
        """Draw new configurations until one has to be trained; those known from other sweeps are recorded at once."""
        while not self._exhausted and not reached_target(self.spec, self.ledger.histories()):
            trials = self._searched()
            if self.spec.run_cap is not None and len(trials) >= self.spec.run_cap:
                return None
            hashes = {history.birth["config_hash"] for history in trials}
            found: dict[str, Any] = {}

            def accept(values: dict[str, Any], hashes: set[str] = hashes, found: dict[str, Any] = found) -> bool:
                try:
                    config = self.spec.config_for(values, seed=values.get("seed", self.spec.seed))
                except ConfigError:
                    return False  # the training configuration's own rules forbid it
                found.update(config=config, hash=self.spec.config_hash(config))
                if self.spec.on_duplicate == "skip" and found["hash"] in self._known:
                    return False
                return found["hash"] not in hashes or (self.spec.on_duplicate == "run" and self.spec.method != "grid")

            draw = self._search.draw(self._position(trials), self._observations(trials), accept)
            if draw is None:
                self._exhausted = True
                return None
            history = self._new_trial(draw, found, number=len(trials))
            if history.state is TrialState.RUNNING:
                return self._hand_out(history, 0, None)
            if not self._room_for_trials():
                return None
        return None

    def _position(self, trials: list[TrialHistory]) -> int:
        """Draws made so far under the present search space."""
        since = self.ledger.fact("space_revision", 0)
        return max(
            (history.birth["position"] + 1 for history in trials if history.birth["revision"] >= since), default=0
        )

    def _new_trial(self, draw: Draw, found: Mapping[str, Any], number: int) -> TrialHistory:
        known = self._known.get(found["hash"]) if self.spec.on_duplicate == "reuse" else None
        if self.spec.method == "pbt":
            known = None  # a member that is at its end takes no part
        seed = int(draw.values.get("seed", self.spec.seed))
        labels: dict[str, Any] = {"drift": self.drift} if self.drift and known is None else {}
        new = NewTrial(
            id=str(number),
            config_id=number,
            seed=seed,
            values=draw.values,
            config_hash=found["hash"],
            metric=self.spec.metric.name,
            revision=self.revision,
            position=draw.position,
            gpu=self._resources()["gpu"],
            labels=labels if known is None else {"reused": known.origin},
            sampler=draw.sampler,
            carry=None if known is None else known.carry(),
        )
        self.ledger.add_trial(new, params=self._search.params(draw.values), wall=self.wall())
        history = self.ledger.history(new.id)
        self._add_curve(history)
        if known is not None:
            self._end(history, TrialState.FINISHED, f"reused from {known.origin}")
        return history

    def _next_replicate(self) -> Assignment | None:
        """More seeds for the best configurations, once the search is through."""
        if self.spec.replicates is None or any(not self.ledger.history(trial).replicate for trial in self._live):
            return None
        wanted = replicates.next_replicate(self.spec, self.ledger.trials())
        if wanted is None:
            return None
        searched = self.ledger.history(str(wanted.config_id))
        values = searched.values
        seed = searched.birth["seed"] + wanted.replicate
        spec = self.ledger.spec(searched.birth["revision"])
        config = spec.config_for(values, seed=seed)
        new = NewTrial(
            id=f"{wanted.config_id}.{wanted.replicate}",
            config_id=wanted.config_id,
            replicate=wanted.replicate,
            seed=seed,
            values=values,
            config_hash=spec.config_hash(config),
            metric=spec.metric.name,
            revision=searched.birth["revision"],
            gpu=self._resources()["gpu"],
            labels={"drift": self.drift} if self.drift else {},
        )
        self.ledger.add_trial(new, params=self._search.params(values), wall=self.wall())
        return self._hand_out(self.ledger.history(new.id), 0, None)

    def _observations(self, trials: list[TrialHistory]) -> list[Observation]:
        """What the search may know: the observations of other sweeps, then its own trials by number."""
        names = [metric.name for metric in self.spec.metrics]
        seen = [
            Observation(-1, warm["values"], TrialState.FINISHED, finite(warm["metrics"].get(name) for name in names))
            for warm in self.ledger.warm()
        ]
        for history in sorted(trials, key=lambda history: history.config_id):
            record = history.record()
            cached = self._observed.get(record.id)
            if cached is None or cached[0] is not record:
                last = record.reports.get(record.steps, {})
                cached = (
                    record,
                    Observation(
                        number=record.config_id,
                        values=record.values,
                        state=record.state,
                        metrics=finite(last.get(name) for name in names),
                        step=record.steps,
                        bad=record.failure is not None and record.failure.kind in BAD_REGION,
                        sampler=history.birth["sampler"],
                    ),
                )
                self._observed[record.id] = cached
            seen.append(cached[1])
        return seen

    # --------------------------------------------------------------------------------------------- events

    def report(self, trial_id: str, report: Report) -> Verdict:
        """Take in a report and say whether the trial goes on. Recorded first; the verdict follows from the record."""
        live = self._live.get(trial_id)
        if live is None:
            log.warning("a report of trial %s, which is not running, is ignored", trial_id)
            return Verdict.STOP
        if report.facts:
            self.learned(**report.facts)
        history = self.ledger.history(trial_id)
        if history.state.ended:  # stopped by hand in the meantime
            return Verdict.STOP
        missing = [metric.name for metric in self.spec.metrics if metric.name not in report.metrics]
        if missing:
            self._fail_for_missing(history, missing[0], report)
            return Verdict.STOP
        if self.tracker is not None:  # before it is recorded: shown twice is kept once, never shown would be missing
            self.tracker.report(trial_id, report.step, report.metrics, report.rows, report.images)
        new = self.ledger.add_report(trial_id, report, wall=self.wall())
        live.reported += report.seconds
        live.reached = report.step
        if new and not history.replicate:
            self._extend_curve(history, report.step)
        self._check_limits()
        self._conclude(history)
        if history.state.ended:
            return Verdict.STOP
        wanted = self._halt is not None or self._held or trial_id in self._pausing or self.spec.method == "pbt"
        return Verdict.PAUSE if wanted else Verdict.CONTINUE

    def _conclude(self, history: TrialHistory) -> None:
        """End a trial whose last report ends it. A function of the recorded reports alone."""
        step = history.last_step
        if not step:
            return
        metrics = history.points[step]["metrics"]
        bad = [name for name in (m.name for m in self.spec.metrics) if not math.isfinite(metrics[name])]
        if bad:
            reason = f"{bad[0]} is {metrics[bad[0]]} at step {step}"
            self._end(history, TrialState.FAILED, reason, Outcome(kind="diverged", reason=reason, last_step=step))
        elif step >= self._length(history):
            self._end(history, TrialState.FINISHED, "")
        elif not history.replicate and not history.labels.get("protected"):
            stop = reason_to_stop(self.spec.early_terminate, self.spec.metric.goal, self._curves, history.id)
            if stop is not None:
                self._end(history, TrialState.PRUNED, stop)

    def ended(self, trial_id: str, outcome: Outcome) -> None:
        """Take in how a trial's run ended. One that a verdict has ended already needs no more than the news."""
        live = self._live.pop(trial_id, None)
        if live is None:
            return
        history = self.ledger.history(trial_id)
        if history.state.ended:
            return
        if outcome.kind == "finished":  # without its last report, which would have ended it
            reason = f"the trainer came to its end at step {history.last_step} of {self._length(history)}"
            outcome = Outcome(kind="bug", reason=reason, last_step=history.last_step)
        if outcome.kind == "stopped":
            by_hand = trial_id in self._pausing
            state = TrialState.PAUSED if by_hand else TrialState.WAITING
            reason = "paused by hand" if by_hand else outcome.reason or "interrupted"
            self.ledger.end_run(trial_id, state, reason, wall=self.wall())
            self._pausing.discard(trial_id)
            return
        self._failed(history, live, outcome)
        self._breaking = self._breaking or sweep_breaking_bug(self.ledger.trials())

    def _failed(self, history: TrialHistory, live: _Live, outcome: Outcome) -> None:
        wasted = max(0.0, self._clock() - live.handed - live.reported)
        failure = self._failure(history, outcome, live.reached)
        kinds = [attempt.kind for attempt in history.attempts] + [failure.kind]
        charged = failure.kind == "infrastructure"
        if goes_on(
            failure.kind,
            charged=history.charged + charged,
            lost=kinds.count("lost"),
            retries=self.spec.retries,
        ):
            self.ledger.end_run(
                history.id, TrialState.WAITING, f"{failure.kind}: {failure.reason}",
                wall=self.wall(), wasted=wasted, failure=dataclasses.asdict(failure), charged=charged,
            )  # fmt: skip
        else:
            self._end(history, TrialState.FAILED, f"{failure.kind}: {failure.reason}", outcome, wasted, live.reached)

    def _failure(self, history: TrialHistory, outcome: Outcome, reached: int) -> Failure:
        kind = outcome.kind
        if kind in ("finished", "stopped"):
            raise ValueError(f"no failure: {kind}")
        return Failure(
            kind=kind,  # type: ignore[arg-type]  # the two others were just excluded
            reason=outcome.reason,
            traceback=outcome.traceback,
            log=str(self.paths.trial(history.id).log),
            attempt=history.run,
            step=reached,
            at=time.time(),
        )

    def _end(
        self, history: TrialHistory, state: TrialState, reason: str, outcome: Outcome | None = None,
        wasted: float = 0.0, reached: int | None = None,
    ) -> None:  # fmt: skip
        step = history.last_step if reached is None else reached
        failure = None if outcome is None else dataclasses.asdict(self._failure(history, outcome, step))
        self._pausing.discard(history.id)
        self.ledger.end_trial(history.id, state, reason, wall=self.wall(), wasted=wasted, failure=failure)
        if self.tracker is not None:
            self.tracker.trial_ended(history.record())

    def _fail_for_missing(self, history: TrialHistory, name: str, report: Report) -> None:
        close = nearest(name, list(report.metrics))
        reason = f"the trainer does not report {name!r}; it reports {', '.join(sorted(report.metrics))}" + (
            f" (did you mean {close!r}?)" if close else ""
        )
        self._end(history, TrialState.FAILED, reason, Outcome(kind="bug", reason=reason))
        self._halt = ("failed", reason)

    def _settle(self) -> None:
        """End the trials whose last recorded report ends them: the kill came between the record and its effect."""
        running = [history for history in self.ledger.histories() if history.state is TrialState.RUNNING]
        for history in sorted(running, key=lambda history: history.last_order):
            self._conclude(history)
        self._breaking = sweep_breaking_bug(self.ledger.trials())

    # ---------------------------------------------------------------------------------------------- curves

    def _length(self, history: TrialHistory) -> int:
        return self._curve_of(history).length

    def _curve_of(self, history: TrialHistory) -> Curve:
        if history.id not in self._curves:
            spec = self.ledger.spec(history.birth["revision"])
            config = spec.config_for(history.birth["values"], seed=history.birth["seed"])
            rungs = tuple(self.spec.rungs(config))
            curve = Curve(number=history.config_id, length=int(config["trainer"]["steps"]), rungs=rungs)
            if history.replicate:
                return curve
            self._curves[history.id] = curve
        return self._curves[history.id]

    def _add_curve(self, history: TrialHistory) -> None:
        if not history.replicate:
            self._curves.pop(history.id, None)
            self._curve_of(history)
            for step in sorted(history.points):
                self._extend_curve(history, step)

    def _extend_curve(self, history: TrialHistory, step: int) -> None:
        point = history.points[step]
        value = float(point["metrics"].get(self.spec.metric.name, math.nan))
        sign = 1.0 if self.spec.metric.goal == "minimize" else -1.0
        self._curves[history.id].add(step, value if math.isfinite(value) else sign * math.inf, point["order"])

    # ------------------------------------------------------------------------------------- time and limits

    def wall(self) -> float:
        """Return the seconds in which drivers have run this sweep so far."""
        return self._wall_before + max(0.0, self._clock() - self._opened)

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
        if self._clock() - self._heard >= HEARTBEAT:
            self._heard = self._clock()
            self.ledger.set_wall(self.wall())
        return frozenset(now & self._live.keys())

    def _obey(self, command: Mapping[str, Any]) -> set[str]:
        """Carry out a command from another shell; return the trials whose runs must end at once."""
        try:
            control.check(self.ledger, command)
        except ConfigError as error:  # it was checked before it was posted; the sweep has moved on since
            log.warning("a command is not carried out: %s", error)
            return set()
        kind, trial = command["command"], command.get("trial")
        match kind:
            case "stop":
                self.halt("stopped", "stopped by hand")
            case "pause" | "resume":
                self.hold(kind == "pause")
            case "trial-stop" if trial in self._live:
                self._end(self.ledger.history(trial), TrialState.PRUNED, "stopped by hand")
                return {trial}
            case "trial-pause" if trial in self._live:
                self._pausing.add(trial)
            case _:
                log.info("%s", control.apply(self.ledger, command))
                self._take_over()
        return set()

    def _take_over(self) -> None:
        """Take over what a command has changed in the ledger: a new revision, trials that are taken up again."""
        if self.ledger.revision != self.revision:
            self._adopt_spec()
        for history in self.ledger.histories():
            if history.id not in self._live:
                self._add_curve(history)

    def _check_limits(self) -> None:
        if self._halt is not None:
            return
        if self._breaking is not None and self._breaking.failure is not None:
            self._halt = ("failed", f"the same bug ended the first trials: {self._breaking.failure.reason}")
            return
        now = self._clock()
        flying = sum(max(0.0, now - live.handed - live.reported) for live in self._live.values())
        gpu = self._resources()["gpu"]
        for reason in spent(self.spec.budget, self.ledger.histories(), wall=self.wall(), gpu_flying=flying * gpu):
            self._halt = ("finished", reason)

    # ------------------------------------------------------------------------------------------ commands

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

    def learned(self, **facts: str) -> list[str]:
        """Take in what only a worker could find out about the environment (`device`, `fingerprint`).

        Returns:
            What differs from the sweep's own environment, one line each.
        """
        then = self.ledger.environment()
        fresh = {key: value for key, value in facts.items() if value and not then.get(key)}
        if fresh:
            self.ledger.set_environment({**then, **fresh})
        found = [line for line in drift(then, facts) if line not in self.drift]
        self.drift = [*self.drift, *found]
        return found

    # --------------------------------------------------------------------------------------------- the end

    def _done(self) -> Done:
        state, reason = self._halt or self._natural_end()
        return Done(reason=reason, failed=state == "failed")

    def _natural_end(self) -> tuple[str, str]:
        trials = self.ledger.trials()
        failed = [trial for trial in trials if trial.state is TrialState.FAILED]
        if trials and len(failed) == len(trials):
            return "failed", f"every trial failed; the first: {failed[0].reason}"
        if reached_target(self.spec, self.ledger.histories()):
            return "finished", f"{self.spec.metric.name} has reached {self.spec.metric.target:g}"
        if not self._room_for_trials():
            return "finished", f"budget.trials is {self.spec.budget.trials}"
        if self._exhausted and self.spec.method != "grid":
            return "finished", "every combination has been tried"
        return "finished", ""

    def finish(self, reason: str | None = None) -> dict[str, Any]:
        """Record the end of this driver's work and return the summary. Trials still out count as interrupted.

        Args:
            reason: why it ends before `next` said Done ("interrupted" is the state then).
        """
        for trial_id in list(self._live):
            self.ended(trial_id, Outcome(kind="stopped", reason="interrupted"))
        if reason is not None and self._halt is None:
            self._halt = ("interrupted", reason)
        state, why = self._halt or self._natural_end()
        traceback = self._breaking.failure.traceback if self._breaking and self._breaking.failure else None
        self.ledger.set_wall(self.wall())
        self.ledger.set_state(state, why, traceback=traceback)
        summary = self.summary()
        if self.tracker is not None:
            self.tracker.sweep_ended(state, summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """Return what `status --json` shows; see `orchestrator.summary`."""
        return summarize(self.ledger, wall=self.wall(), driven=True)
