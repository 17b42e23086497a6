"""The only record of a sweep: an Optuna study in a journal file, read and written through this class.

Each event is one appended line, whole and on disk before anything acts on it: a trial's creation with all that was
decided about it, one attribute for each run, report and end of it. The native state of a trial in Optuna follows from
those and is repaired on opening.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meanflow_core.config import write_yaml
from orchestrator.ledger.deletions import Deletions
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.events import FORMAT, Exit, NewTrial, Point, Revision, RunStart, Session, WarmStart
from orchestrator.ledger.facts import SweepFacts, owner_here
from orchestrator.ledger.foreign import apply_event, is_birth, next_life
from orchestrator.ledger.history import TrialHistory
from orchestrator.ledger.journal_view import read_journal
from orchestrator.ledger.studies import Studies
from orchestrator.paths import SweepPaths
from orchestrator.provenance import new_id
from orchestrator.trials import Failure, Report, TrialRecord, TrialState

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec


class Ledger(SweepFacts):
    """See the module. Open it with `Ledger.open`; a writer must be closed."""

    def __init__(self, paths: SweepPaths, studies: Studies) -> None:
        self.paths = paths
        super().__init__(studies)
        self.deletions = Deletions(studies)
        self.foreign: list[int] = []
        """Numbers of the rows in Optuna's study that are no trials of ours; they are passed over."""
        self._trials: dict[str, TrialHistory] = {}
        self._specs: dict[int, SweepSpec] = {}
        self._read()

    # ------------------------------------------------------------------------------------------ opening

    @classmethod
    def open(cls, paths: SweepPaths, *, write: bool = False) -> Ledger:
        """Open the ledger of a sweep that exists.

        Args:
            paths: the sweep's folder.
            write: take the writer's lock, repair what a crash left.

        Raises:
            SweepBusy: another process has the lock.
            LedgerError: there is no ledger, or it cannot be read.
        """
        from orchestrator.ledger.driver_lock import DriverLock

        if not paths.journal.is_file():
            raise LedgerError(f"{paths.root}: there is no sweep of this name")
        lock = DriverLock(paths.lock) if write else None
        try:
            view = None if write else read_journal(paths)
            ledger = cls(paths, view or Studies.load(paths, lock))
            if not ledger._facts.get("spec:0"):
                raise LedgerError(f"{paths.journal}: the sweep was never started; `meansweep run` starts it")
            if write and not ledger.id:  # of a release that gave none
                ledger._studies.set_fact("id", new_id())
            return ledger
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def create(
        cls, paths: SweepPaths, spec: SweepSpec, *, environment: Mapping[str, Any] | None = None,
        warm: Sequence[WarmStart] = (), sweep_id: str | None = None,
    ) -> Ledger:  # fmt: skip
        """Make the ledger of a new sweep and open it for writing; what a crash left of an attempt is completed.

        Args:
            paths: the sweep's folder.
            spec: the sweep.
            environment: see `orchestrator.engine.environment_check`.
            warm: observations of other sweeps.
            sweep_id: an id that was given to it before; None: a new one.

        Raises:
            SweepBusy: another process has the lock.
            FileExistsError: the sweep exists already.
        """
        from orchestrator.ledger.driver_lock import DriverLock

        lock = DriverLock(paths.lock)
        try:
            paths.root.mkdir(parents=True, exist_ok=True)
            ledger = cls(paths, Studies.load(paths, lock))
            if ledger._facts.get("spec:0"):
                raise FileExistsError(
                    f"{paths.root}: the sweep exists; `meansweep resume {paths.name}` goes on with it"
                )
            studies = ledger._studies
            studies.create([metric.goal for metric in spec.metrics])
            studies.set_fact("format", FORMAT)
            studies.set_fact("id", sweep_id or new_id())
            studies.set_fact("owner", owner_here())
            studies.set_fact("environment", dict(environment or {}))
            for observation in warm[len(ledger.warm()) :]:
                studies.add_observation(observation.to_json())
            first = Revision(source=spec.source, at=time.time())
            studies.set_fact("spec:0", first.to_json())  # last: now it exists
            ledger._copy_spec(spec)
            return ledger
        except BaseException:
            lock.release()
            raise

    def _read(self) -> None:
        if self._facts.get("format", FORMAT) > FORMAT:
            raise LedgerError(
                f"{self.paths.journal}: written by a later version (format {self._facts['format']}, this one knows "
                f"up to {FORMAT})"
            )
        ended_by_others: list[TrialHistory] = []
        for row in self._studies.rows():
            if not is_birth(row.user_attrs.get("trial")):  # of another tool, or lost and repaired
                self.foreign.append(row.number)
                continue
            history = TrialHistory(row._trial_id)
            for key, event in row.user_attrs.items():
                if isinstance(event, dict):  # what others have added is none of ours
                    apply_event(history, key, event, self.paths.journal)
            history.moved_to(self.paths.root)
            self.deletions.apply(history)
            self._trials[history.id] = history  # a later row of the same id is the trial's next life
            if history.end and not row.state.is_finished() and self.writable:
                self._close_natively(history)
            if not history.end and row.state.is_finished():
                ended_by_others.append(history)
        self._order = max((history.last_order for history in self._trials.values()), default=0)
        for history in ended_by_others if self.writable else ():
            if self._trials[history.id] is history:
                self.add_trial(next_life(history), params={}, wall=self.wall_seconds)

    @property
    def writable(self) -> bool:
        """Whether this process holds the writer's lock."""
        return self._studies.writable

    @property
    def driven(self) -> bool:
        """Whether a driver runs the sweep now: this process, or another one that holds the lock."""
        from orchestrator.ledger.driver_lock import driver_of

        return self.writable or driver_of(self.paths.lock) is not None

    def close(self) -> None:
        """Let go of the writer's lock."""
        self._studies.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ reading

    def trials(self) -> list[TrialRecord]:
        """Return all trials, by configuration and replicate; deleted ones are not among them."""
        ordered = sorted(self.histories(), key=lambda history: (history.config_id, history.replicate))
        return [history.record() for history in ordered]

    def trial(self, trial_id: str) -> TrialRecord:
        """Return one trial.

        Raises:
            KeyError: there is none of this id.
        """
        return self._trials[trial_id].record()

    def history(self, trial_id: str) -> TrialHistory:
        """Return what is known of one trial in full: each report's checkpoint, time and order. Do not change it."""
        return self._trials[trial_id]

    def histories(self) -> Iterator[TrialHistory]:
        """Yield the histories of all trials, in the order in which they were created. Do not change them."""
        return (history for history in self._trials.values() if not history.deleted)

    def births(self) -> Iterator[TrialHistory]:
        """Yield the same with those of deleted trials: their numbers, draws and costs are taken for good."""
        yield from self._trials.values()

    def spec(self, revision: int | None = None) -> SweepSpec:
        """Return the sweep as it was at a revision; by default as last edited."""
        number = self.revision if revision is None else revision
        if number not in self._specs:
            from orchestrator.spec import SweepSpec

            self._specs[number] = SweepSpec.from_source(self._facts[f"spec:{number}"]["source"])
        return self._specs[number]

    @property
    def revision(self) -> int:
        """Number of the sweep's last revision; 0 = as it was started."""
        return max(int(key.split(":")[1]) for key in self._facts if key.startswith("spec:"))

    @property
    def space_revision(self) -> int:
        """Number of the last revision that altered what is drawn."""
        moved = [number for number, revision in enumerate(self.revisions()) if revision.moves_space]
        return max(moved, default=0)

    def revisions(self) -> list[Revision]:
        """Return every revision, the sweep as it was started first."""
        return [Revision.from_json(self._facts[f"spec:{number}"]) for number in range(self.revision + 1)]

    @property
    def wall_seconds(self) -> float:
        """Seconds in which drivers have run this sweep, up to the last event."""
        last = max((history.wall for history in self._trials.values()), default=0.0)
        return max(last, float(self._facts.get("wall", 0.0)))

    def warm(self) -> list[WarmStart]:
        """Return the observations taken over from other sweeps."""
        return [WarmStart.from_json(observation) for observation in self._studies.observations()]

    # ------------------------------------------------------------------------------------------ writing

    def add_session(self, drift: Sequence[str] = ()) -> None:
        """Record that this process drives the sweep from now on, in an environment that differs so."""
        session = Session(pid=os.getpid(), host=socket.gethostname(), at=time.time(), drift=list(drift))
        self._studies.set_fact("sessions", [*self._facts.get("sessions", []), session.to_json()])

    def add_revision(
        self, spec: SweepSpec, changes: Sequence[str], *, moves_space: bool = False, command: str | None = None
    ) -> int:  # fmt: skip
        """Record an edited sweep and return its number.

        Args:
            spec: the sweep as it is now.
            changes: what differs, one line each.
            moves_space: positions of earlier draws mean nothing any more.
            command: id of the command that asked for it, so that it is not carried out twice.
        """
        number = self.revision + 1
        revision = Revision(
            source=spec.source, at=time.time(), changes=list(changes), moves_space=moves_space, command=command
        )
        self._studies.set_fact(f"spec:{number}", revision.to_json())
        self._copy_spec(spec)
        return number

    def _copy_spec(self, spec: SweepSpec) -> None:
        self.paths.spec.write_text(write_yaml(spec.standalone), encoding="utf-8")

    def add_trial(self, new: NewTrial, *, params: Mapping[str, tuple[Any, Any]], wall: float) -> TrialRecord:
        """Record a new trial, with everything decided about it, in one line.

        Args:
            new: the trial.
            params: Optuna's view of the values, (value, distribution) by name, for tools that read studies.
            wall: the sweep's clock.
        """
        event = replace(new, at=time.time(), wall=wall).to_json()
        history = TrialHistory(self._studies.add_row(params, {"trial": event}, replicate=bool(new.replicate)))
        history.apply("trial", event)
        self._trials[new.id] = history
        return history.record()

    def start_run(self, trial_id: str, *, start: int, gpu: float, wall: float, drift: Sequence[str] = ()) -> None:
        """Record that a trial goes on from the checkpoint at `start` (0: from the beginning)."""
        history = self._trials[trial_id]
        event = RunStart(at=time.time(), wall=wall, start=start, gpu=gpu, drift=list(drift))
        self._append(history, f"run:{history.run + 1}", event.to_json())

    def promote(self, trial_id: str, *, wall: float) -> None:
        """Record that a trial goes on past the rung at which it stands, in the same run."""
        history = self._trials[trial_id]
        self._append(history, f"promoted:{history.last_step}", {"at": time.time(), "wall": wall})

    def add_report(self, trial_id: str, report: Report, *, wall: float) -> bool:
        """Record a report; False if its step was recorded before (work repeated after a crash): only its time is.

        The first record of a step stands, since decisions were based on it.
        """
        history = self._trials[trial_id]
        if report.step in history.points:
            repeated = {"seconds": report.seconds, "wall": wall, "run": history.run}
            self._append(history, f"repeat:{history.run}:{report.step}", repeated)
            return False
        self._order += 1
        point = Point(
            metrics=report.metrics, order=self._order, checkpoint=report.checkpoint, seconds=report.seconds,
            images=report.images_seen, at=time.time(), wall=wall, run=history.run,
        )  # fmt: skip
        self._append(history, f"report:{report.step}", point.to_json())
        value = report.metrics.get(history.birth.metric, math.nan)
        if math.isfinite(value):
            self._studies.set_intermediate(history.row, report.step, float(value))
        return True

    def end_run(
        self, trial_id: str, state: TrialState, reason: str, *, wall: float, wasted: float = 0.0,
        failure: Failure | None = None, charged: bool = False, left_behind: bool = False,
    ) -> None:  # fmt: skip
        """Record that a run has ended, and with it the trial if it is FINISHED, PRUNED or FAILED now.

        Args:
            trial_id: the trial.
            state: its state from now on.
            reason: why.
            wall: the sweep's clock.
            wasted: seconds of work since the last report.
            failure: why it failed, if it did.
            charged: whether it counts against the trial's retries.
            left_behind: it waited at a rung until there was nothing more to do.
        """
        history = self._trials[trial_id]
        event = Exit(
            state=state, reason=reason, at=time.time(), wall=wall, wasted=wasted, failure=failure, charged=charged,
            left_behind=left_behind,
        )  # fmt: skip
        self._append(history, "end" if state.ended else f"out:{history.run}:{history.outs}", event.to_json())
        if state.ended:
            self._close_natively(history)

    def label(self, trial_id: str, name: str, value: Any) -> None:
        """Record a label on a trial that has not ended."""
        self._append(self._trials[trial_id], f"label:{name}", {"value": value})

    # ------------------------------------------------------------------------------------------ helpers

    def _append(self, history: TrialHistory, key: str, event: Mapping[str, Any]) -> None:
        self._studies.append(history.row, key, event)
        history.apply(key, event)  # after the disk has it, and by the very code that reads it back

    def _close_natively(self, history: TrialHistory) -> None:
        """Give the row the state that Optuna's own tools understand. Derived: the `end` event is what counts."""
        values = history.record().scores([metric.name for metric in self.spec().metrics])
        finite = all(math.isfinite(value) for value in values)
        self._studies.close_row(history.row, history.state, values if finite else None)
