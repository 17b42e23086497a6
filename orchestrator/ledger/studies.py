"""The Optuna studies that hold a ledger: rows, their attributes, and facts of the whole, whatever they mean.

The search, its replicates and the observations of other sweeps are studies of their own in one file, so that the search
counts none of the others. What is written is whole and on disk when a method returns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.ledger.damage import UNREADABLE, damaged_lines
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.foreign import is_own_fact, own_facts
from orchestrator.paths import SweepPaths
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

    from orchestrator.ledger.driver_lock import DriverLock

log = logging.getLogger(__name__)

_SEARCH, _REPLICATES, _WARM = "search", "replicates", "warm"


class Studies:
    """See the module. Made by `Studies.load`; a writer holds the sweep's lock until it is closed."""

    def __init__(self, paths: SweepPaths, storage: JournalStorage, lock: DriverLock | None) -> None:
        self._paths = paths
        self._storage = storage
        self._lock = lock
        self._ids = {study.study_name: study._study_id for study in storage.get_all_studies()}
        known = storage.get_study_user_attrs(self._ids[_SEARCH]) if _SEARCH in self._ids else {}
        ours = all(is_own_fact(key, value) for key, value in known.items())
        self.facts: dict[str, Any] = dict(known) if ours else own_facts(paths.journal, _SEARCH)
        """What is recorded of the sweep as a whole."""

    @classmethod
    def load(cls, paths: SweepPaths, lock: DriverLock | None) -> Studies:
        """Read the journal of a sweep; with the lock, an unfinished last entry is cut off first.

        Raises:
            LedgerError: it is damaged.
        """
        import optuna
        from optuna.storages import JournalStorage

        from orchestrator.ledger.journal import Journal, repair_tail

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if lock is not None and paths.journal.is_file():
            torn = repair_tail(paths.journal)
            if torn:
                log.warning("%s: cut off %d bytes of an unfinished last entry", paths.journal, len(torn))
        try:
            storage = JournalStorage(Journal(paths.journal))
        except Exception as error:
            if not isinstance(error, UNREADABLE) and type(error).__module__.partition(".")[0] != "optuna":
                raise
            where = ", ".join(map(str, damaged_lines(paths.journal)))
            raise LedgerError(
                f"{paths.journal}: is damaged in line {where or '?'} ({type(error).__name__}: {error}); "
                f"`meansweep doctor --repair {paths.name}` saves all but that"
            ) from error
        return cls(paths, storage, lock)

    @property
    def writable(self) -> bool:
        """Whether this process holds the writer's lock."""
        return self._lock is not None

    def close(self) -> None:
        """Let go of the writer's lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def rows(self) -> Iterator[FrozenTrial]:
        """Yield the rows of the search, then those of its replicates, in the order in which they were made."""
        for name in (_SEARCH, _REPLICATES):
            if name in self._ids:
                yield from self._storage.get_all_trials(self._ids[name], deepcopy=False)

    def observations(self) -> list[dict[str, Any]]:
        """Return the observations of other sweeps."""
        if _WARM not in self._ids:
            return []
        rows = self._storage.get_all_trials(self._ids[_WARM], deepcopy=False)
        return [row.user_attrs["observation"] for row in rows if "observation" in row.user_attrs]

    # ------------------------------------------------------------------------------------------ writing

    def create(self, goals: Sequence[str]) -> None:
        """Make the studies that are not there yet.

        Args:
            goals: `minimize` or `maximize`, of each metric.
        """
        from optuna.study import StudyDirection

        directions = [StudyDirection.MINIMIZE if goal == "minimize" else StudyDirection.MAXIMIZE for goal in goals]
        for name in (_SEARCH, _REPLICATES, _WARM):
            if name not in self._ids:
                self._ids[name] = self._storage.create_new_study(directions, name)

    def set_fact(self, key: str, value: Any) -> None:
        """Record a fact about the sweep as a whole."""
        self._require_lock()
        self._storage.set_study_user_attr(self._ids[_SEARCH], key, value)
        self.facts[key] = value

    def add_row(self, params: Mapping[str, tuple[Any, Any]], attributes: Mapping[str, Any], *, replicate: bool) -> int:
        """Add a running row and return its id.

        Args:
            params: Optuna's view of the values, (value, distribution) by name, for tools that read studies.
            attributes: what it starts with.
            replicate: it is none of the search.
        """
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        trial = create_trial(
            state=Native.RUNNING,
            params={name: value for name, (value, _) in params.items()},
            distributions={name: distribution for name, (_, distribution) in params.items()},
            user_attrs=dict(attributes),
        )
        return int(self._storage.create_new_trial(self._ids[_REPLICATES if replicate else _SEARCH], trial))

    def append(self, row: int, key: str, value: Any) -> None:
        """Set an attribute of a row."""
        self._require_lock()
        with self._not_ended_by_others(row):
            self._storage.set_trial_user_attr(row, key, value)

    def set_intermediate(self, row: int, step: int, value: float) -> None:
        """Give a row a value at a step, for Optuna's tools: its own report is what counts."""
        self._require_lock()
        with self._not_ended_by_others(row):
            self._storage.set_trial_intermediate_value(row, step, value)

    def close_row(self, row: int, state: TrialState, values: list[float] | None) -> None:
        """Give a row the state that Optuna's own tools understand.

        Args:
            row: its id.
            state: how its trial ended.
            values: of the metrics; None where one is missing or not finite, for Optuna's tools a failure.
        """
        from optuna.trial import TrialState as Native

        finished = Native.COMPLETE if values is not None else Native.FAIL
        native = {TrialState.FINISHED: finished, TrialState.PRUNED: Native.PRUNED}.get(state, Native.FAIL)
        with self._not_ended_by_others(row):
            self._storage.set_trial_state_values(row, native, None if native is Native.FAIL else values)

    def add_observation(self, observation: Mapping[str, Any]) -> None:
        """Record an observation of another sweep."""
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        values = list(observation["metrics"].values())
        trial = create_trial(state=Native.COMPLETE, values=values, user_attrs={"observation": dict(observation)})
        self._storage.create_new_trial(self._ids[_WARM], trial)

    @contextmanager
    def _not_ended_by_others(self, row: int) -> Iterator[None]:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            yield
        except UpdateFinishedTrialError as error:
            raise LedgerError(
                f"{self._paths.journal}: another tool has ended row {row} of the study while its trial ran; "
                f"`meansweep resume {self._paths.name}` lets the trial go on in a new row"
            ) from error

    def _require_lock(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"{self._paths.journal} was opened for reading")
