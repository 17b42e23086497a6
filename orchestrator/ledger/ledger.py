"""The only record of a sweep: an Optuna study in a journal file, read and written through this class.

Each event is one appended line, whole and on disk before anything acts on it: a trial's creation with all that was
decided about it, one attribute for each run, report and end of it. The native state of a trial in Optuna follows from
those and is repaired on opening. Replicates and observations taken over from other sweeps are studies of their own in
the same file, so that the search never counts them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meanflow_core.config import write_yaml
from orchestrator.ledger.history import TrialHistory
from orchestrator.paths import SweepPaths
from orchestrator.trials import Report, TrialRecord, TrialState

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

    from orchestrator.spec import SweepSpec

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of what is written; a ledger of a later one is refused."""
_SEARCH, _REPLICATES, _WARM = "search", "replicates", "warm"


@dataclass(frozen=True)
class SweepState:
    """Where the sweep stands, as last recorded."""

    state: str = "new"
    """new, running, paused, finished, stopped, failed."""
    reason: str = ""
    at: float = 0.0
    """Unix seconds."""
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewTrial:
    """What is decided when a trial is born; written as one line."""

    id: str
    config_id: int
    seed: int
    values: dict[str, Any]
    config_hash: str
    metric: str
    """Name of the metric that ranks."""
    replicate: int = 0
    revision: int = 0
    position: int = 0
    """Where the search stood when it was drawn: draws so far, rejected ones included."""
    gpu: float = 0.0
    """GPUs it occupies while it runs."""
    labels: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    """What an evolutionary sampler wants to find again on this trial."""
    carry: dict[str, Any] | None = None
    """For a trial that is taken up again after its end: what is kept of its former life."""
    waiting: bool = False
    """Born WAITING instead of RUNNING."""


class Ledger:
    """See the module. Open it with `Ledger.open`; a writer must be closed."""

    def __init__(self, paths: SweepPaths, storage: JournalStorage, lock: Any) -> None:
        self.paths = paths
        self._storage = storage
        self._lock = lock
        self._studies: dict[str, int] = {}
        self._trials: dict[str, TrialHistory] = {}
        self._facts: dict[str, Any] = {}
        self._specs: dict[int, SweepSpec] = {}
        self._order = 0

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
        from orchestrator.ledger.journal import DriverLock, LedgerError

        if not paths.journal.is_file():
            raise LedgerError(f"{paths.root}: there is no sweep of this name")
        lock = DriverLock(paths.lock) if write else None
        try:
            ledger = cls._load(paths, lock)
            if not ledger._facts.get("spec:0"):
                raise LedgerError(f"{paths.journal}: the sweep was never started; `meansweep run` starts it")
            return ledger
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def create(
        cls, paths: SweepPaths, spec: SweepSpec, *, environment: Mapping[str, Any] | None = None,
        warm: Sequence[Mapping[str, Any]] = (),
    ) -> Ledger:  # fmt: skip
        """Make the ledger of a new sweep and open it for writing; what a crash left of an attempt is completed.

        Args:
            paths: the sweep's folder.
            spec: the sweep.
            environment: see `orchestrator.engine.environment_check`.
            warm: observations of other sweeps, `{values, metrics: {name: value}, origin}` each.

        Raises:
            SweepBusy: another process has the lock.
            FileExistsError: the sweep exists already.
        """
        from orchestrator.ledger.journal import DriverLock

        lock = DriverLock(paths.lock)
        try:
            paths.root.mkdir(parents=True, exist_ok=True)
            ledger = cls._load(paths, lock)
            if ledger._facts.get("spec:0"):
                raise FileExistsError(f"{paths.root}: the sweep exists; `meansweep resume` goes on with it")
            ledger._create_studies([metric.goal for metric in spec.metrics])
            ledger._set("format", FORMAT)
            ledger._set("environment", dict(environment or {}))
            ledger._add_warm(warm[len(ledger.warm()) :])
            ledger._set("spec:0", {"source": spec.source, "at": time.time(), "changes": []})  # last: now it exists
            ledger._copy_spec(spec)
            return ledger
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _load(cls, paths: SweepPaths, lock: Any) -> Ledger:
        import optuna
        from optuna.storages import JournalStorage

        from orchestrator.ledger.journal import Journal, LedgerError, repair_tail

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if lock is not None and paths.journal.is_file():
            torn = repair_tail(paths.journal)
            if torn:
                log.warning("%s: cut off %d bytes of an unfinished last entry", paths.journal, len(torn))
        try:
            storage = JournalStorage(Journal(paths.journal))
        except (ValueError, KeyError, AttributeError, AssertionError) as error:
            raise LedgerError(f"{paths.journal}: is damaged ({type(error).__name__}: {error})") from error
        ledger = cls(paths, storage, lock)
        ledger._read()
        return ledger

    def _read(self) -> None:
        from orchestrator.ledger.journal import LedgerError

        for study in self._storage.get_all_studies():
            self._studies[study.study_name] = study._study_id
        if _SEARCH not in self._studies:
            return
        self._facts = dict(self._storage.get_study_user_attrs(self._studies[_SEARCH]))
        if self._facts.get("format", FORMAT) > FORMAT:
            raise LedgerError(
                f"{self.paths.journal}: written by a later version (format {self._facts['format']}, this one knows "
                f"up to {FORMAT})"
            )
        for name in (_SEARCH, _REPLICATES):
            if name not in self._studies:
                continue
            for trial in self._storage.get_all_trials(self._studies[name], deepcopy=False):
                history = TrialHistory(trial._trial_id)
                for key, event in trial.user_attrs.items():
                    history.apply(key, event)
                history.moved_to(self.paths.root)
                self._trials[history.id] = history  # a later row of the same id is the trial's next life
                if history.end and not trial.state.is_finished() and self._lock is not None:
                    self._close_natively(history)
        self._order = max((history.last_order for history in self._trials.values()), default=0)

    def _create_studies(self, goals: Sequence[str]) -> None:
        from optuna.study import StudyDirection

        directions = [StudyDirection.MINIMIZE if goal == "minimize" else StudyDirection.MAXIMIZE for goal in goals]
        for name in (_SEARCH, _REPLICATES, _WARM):
            if name not in self._studies:
                self._studies[name] = self._storage.create_new_study(directions, name)

    @property
    def writable(self) -> bool:
        """Whether this process holds the writer's lock."""
        return self._lock is not None

    def close(self) -> None:
        """Let go of the writer's lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ reading

    def trials(self) -> list[TrialRecord]:
        """Return all trials, by configuration and replicate."""
        ordered = sorted(self._trials.values(), key=lambda history: (history.config_id, history.replicate))
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
        """Yield the histories of all trials, in the order in which they were born. Do not change them."""
        yield from self._trials.values()

    def spec(self, revision: int | None = None) -> SweepSpec:
        """Return the sweep as it was at a revision; by default as last edited."""
        from orchestrator.spec import SweepSpec

        number = self.revision if revision is None else revision
        if number not in self._specs:
            self._specs[number] = SweepSpec.from_source(self._facts[f"spec:{number}"]["source"])
        return self._specs[number]

    @property
    def revision(self) -> int:
        """Number of the sweep's last revision; 0 = as it was started."""
        return max(int(key.split(":")[1]) for key in self._facts if key.startswith("spec:"))

    @property
    def space_revision(self) -> int:
        """Number of the last revision that altered what is drawn."""
        moved = [number for number, revision in enumerate(self.revisions()) if revision.get("moves_space")]
        return max(moved, default=0)

    def revisions(self) -> list[dict[str, Any]]:
        """Return every revision: `{source, at, changes, moves_space, command}`."""
        return [self._facts[f"spec:{number}"] for number in range(self.revision + 1)]

    def environment(self) -> dict[str, Any]:
        """Return the environment the sweep was started in."""
        return dict(self._facts.get("environment", {}))

    def sessions(self) -> list[dict[str, Any]]:
        """Return every driver so far: `{pid, host, at, drift}`."""
        return list(self._facts.get("sessions", []))

    def state(self) -> SweepState:
        """Return where the sweep stands; one that says "running" but has no driver was interrupted."""
        return SweepState(**self._facts.get("state", {}))

    @property
    def wall_seconds(self) -> float:
        """Seconds in which drivers have run this sweep, up to the last event."""
        last = max((history.wall for history in self._trials.values()), default=0.0)
        return max(last, float(self._facts.get("wall", 0.0)))

    def warm(self) -> list[dict[str, Any]]:
        """Return the observations taken over from other sweeps: `{values, metrics, origin}`."""
        if _WARM not in self._studies:
            return []
        rows = self._storage.get_all_trials(self._studies[_WARM], deepcopy=False)
        return [row.user_attrs["observation"] for row in rows]

    def fact(self, key: str, default: Any = None) -> Any:
        """Return a fact noted with `note`."""
        return self._facts.get(f"note:{key}", default)

    # ------------------------------------------------------------------------------------------ writing

    def note(self, key: str, value: Any) -> None:
        """Record a JSON-able fact about the sweep."""
        self._set(f"note:{key}", value)

    def set_state(self, state: str, reason: str = "", *, traceback: str | None = None) -> None:
        """Record where the sweep stands."""
        self._set("state", {"state": state, "reason": reason, "at": time.time(), "traceback": traceback})

    def add_session(self, session: Mapping[str, Any]) -> None:
        """Record that a driver has taken over."""
        self._set("sessions", [*self.sessions(), dict(session)])

    def set_wall(self, seconds: float) -> None:
        """Record the sweep's clock, for stretches without any other event."""
        self._set("wall", seconds)

    def set_environment(self, environment: Mapping[str, Any]) -> None:
        """Complete what is known of the environment the sweep was started in."""
        self._set("environment", dict(environment))

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
        event = {"source": spec.source, "at": time.time(), "changes": list(changes), "moves_space": moves_space}
        self._set(f"spec:{number}", {**event, "command": command})
        self._copy_spec(spec)
        return number

    def _copy_spec(self, spec: SweepSpec) -> None:
        self.paths.spec.write_text(write_yaml(spec.source["sweep"]), encoding="utf-8")

    def add_trial(self, new: NewTrial, *, params: Mapping[str, tuple[Any, Any]], wall: float) -> TrialRecord:
        """Record a new trial, with everything decided about it, in one line.

        Args:
            new: the trial.
            params: Optuna's view of the values, (value, distribution) by name, for tools that read studies.
            wall: the sweep's clock.
        """
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        event = {**vars(new), "at": time.time(), "wall": wall}
        trial = create_trial(
            state=Native.RUNNING,
            params={name: value for name, (value, _) in params.items()},
            distributions={name: distribution for name, (_, distribution) in params.items()},
            user_attrs={"trial": event},
        )
        study = self._studies[_REPLICATES if new.replicate else _SEARCH]
        history = TrialHistory(self._storage.create_new_trial(study, trial))
        history.apply("trial", event)
        self._trials[new.id] = history
        return history.record()

    def start_run(self, trial_id: str, *, start: int, gpu: float, wall: float, drift: Sequence[str] = ()) -> None:
        """Record that a trial goes on from the checkpoint at `start` (0: from the beginning)."""
        history = self._trials[trial_id]
        event = {"at": time.time(), "wall": wall, "start": start, "gpu": gpu, "drift": list(drift)}
        self._append(history, f"run:{history.run + 1}", event)

    def promote(self, trial_id: str, *, wall: float) -> None:
        """Record that a trial goes on past the rung at which it stands, in the same run."""
        history = self._trials[trial_id]
        self._append(history, f"promoted:{history.last_step}", {"at": time.time(), "wall": wall})

    def add_report(self, trial_id: str, report: Report, *, wall: float) -> bool:
        """Record a report; False if its step was recorded before (work repeated after a crash): only its time is.

        The first record of a step stands, since decisions were based on it.
        """
        history = self._trials[trial_id]
        event: dict[str, Any] = {"seconds": report.seconds, "wall": wall, "run": history.run}
        if report.step in history.points:
            self._append(history, f"repeat:{history.run}:{report.step}", event)
            return False
        self._order += 1
        event |= {
            "metrics": report.metrics, "order": self._order, "checkpoint": report.checkpoint,
            "images": report.images_seen, "at": time.time(),
        }  # fmt: skip
        self._append(history, f"report:{report.step}", event)
        return True

    def end_run(
        self, trial_id: str, state: TrialState, reason: str, *, wall: float, wasted: float = 0.0,
        failure: Mapping[str, Any] | None = None, charged: bool = False,
    ) -> None:  # fmt: skip
        """Record that a run has ended but the trial has not: it is WAITING, AT_RUNG or PAUSED now.

        Args:
            trial_id: the trial.
            state: WAITING, AT_RUNG or PAUSED.
            reason: why.
            wall: the sweep's clock.
            wasted: seconds of work since the last report.
            failure: `dataclasses.asdict` of a `Failure`, if it was one.
            charged: whether it counts against the trial's retries.
        """
        history = self._trials[trial_id]
        event = {
            "state": state.value, "reason": reason, "at": time.time(), "wall": wall, "wasted": wasted,
            "failure": None if failure is None else dict(failure), "charged": charged,
        }  # fmt: skip
        self._append(history, f"out:{history.run}:{history.outs}", event)

    def end_trial(
        self, trial_id: str, state: TrialState, reason: str, *, wall: float, wasted: float = 0.0,
        failure: Mapping[str, Any] | None = None, left_behind: bool = False,
    ) -> None:  # fmt: skip
        """Record a trial's end: FINISHED, PRUNED or FAILED.

        Args:
            trial_id: the trial.
            state: the end.
            reason: why.
            wall: the sweep's clock.
            wasted: seconds of work since the last report.
            failure: `dataclasses.asdict` of a `Failure`, if it was one.
            left_behind: it waited at a rung until there was nothing more to do.
        """
        history = self._trials[trial_id]
        event = {
            "state": state.value, "reason": reason, "at": time.time(), "wall": wall, "wasted": wasted,
            "failure": None if failure is None else dict(failure),
        }  # fmt: skip
        if left_behind:
            event["left_behind"] = True
        self._append(history, "end", event)
        self._close_natively(history)

    def label(self, trial_id: str, name: str, value: Any) -> None:
        """Record a label on a trial that has not ended."""
        self._append(self._trials[trial_id], f"label:{name}", {"value": value})

    # ------------------------------------------------------------------------------------------ helpers

    def _add_warm(self, observations: Sequence[Mapping[str, Any]]) -> None:
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        for observation in observations:
            trial = create_trial(
                state=Native.COMPLETE, values=list(observation["metrics"].values()),
                user_attrs={"observation": dict(observation)},
            )  # fmt: skip
            self._storage.create_new_trial(self._studies[_WARM], trial)

    def _append(self, history: TrialHistory, key: str, event: dict[str, Any]) -> None:
        self._require_lock()
        self._storage.set_trial_user_attr(history.row, key, event)
        history.apply(key, event)  # after the disk has it, and by the very code that reads it back

    def _set(self, key: str, value: Any) -> None:
        self._require_lock()
        self._storage.set_study_user_attr(self._studies[_SEARCH], key, value)
        self._facts[key] = value

    def _require_lock(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"{self.paths.journal} was opened for reading")

    def _close_natively(self, history: TrialHistory) -> None:
        """Give the row the state that Optuna's own tools understand. Derived: the `end` event is what counts."""
        from optuna.trial import TrialState as Native

        native = {"finished": Native.COMPLETE, "pruned": Native.PRUNED, "failed": Native.FAIL}[history.end["state"]]
        values = None
        if native is not Native.FAIL:
            with contextlib.suppress(KeyError):
                values = self._native_values(history)
        if native is Native.COMPLETE and values is None:
            native = Native.FAIL
        self._storage.set_trial_state_values(history.row, native, values)

    def _native_values(self, history: TrialHistory) -> list[float] | None:
        if not history.points:
            return None
        last = history.points[history.last_step]["metrics"]
        values = [float(last[metric.name]) for metric in self.spec().metrics]
        return values if all(math.isfinite(value) for value in values) else None
