"""Deleting trials of a sweep that does not run: their folders, their checkpoints wherever they are, their runs."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from typing import TYPE_CHECKING

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.lifecycle.access import LifecycleError
from orchestrator.results import best_so_far
from orchestrator.tracking import show_deleted
from orchestrator.trials import TrialState
from orchestrator.worker import delete_stored, folder_size, stored_folders

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger


def delete_trial(ledger: Ledger, trial: str) -> list[str]:
    """Delete a configuration with all its seeds. It counts as tried: no other one comes in its place.

    Args:
        ledger: of `closed`.
        trial: id of its run in the search.

    Returns:
        The ids of what was deleted.

    Raises:
        ConfigError: there is no such trial, it is a replicate, or one of a population.
        StorageError: a store does not let us delete; the trial is still there.
    """
    known = {record.id: record for record in ledger.trials()}
    if trial not in known:
        raise _wrong(trial, "there is no such trial", nearest(trial, list(known)))
    if known[trial].replicate:
        raise _wrong(trial, f"is a seed of configuration {known[trial].config_id}, which is deleted as a whole")
    if ledger.spec().method.population:
        raise _wrong(trial, "is of a population, whose members are trained together; `meansweep remove` removes all")
    gone = [record.id for record in known.values() if record.config_id == known[trial].config_id]
    _clear(ledger, gone, "deleted by hand")
    for each in gone:
        ledger.deletions.of_trial(ledger.history(each))
    return gone


def others_than_best(ledger: Ledger) -> tuple[str, list[str], int]:
    """Return the best trial, the trials of all other configurations, and the bytes in the latter's folders.

    Raises:
        LifecycleError: no trial has a result.
    """
    trials = ledger.trials()
    best = best_so_far(ledger.spec(), trials)
    if best is None:
        raise LifecycleError(f"no trial of {ledger.paths.name} has a result: there is no best to keep")
    kept = best.group.searched.config_id
    others = [record.id for record in trials if record.config_id != kept]
    return best.trial, others, sum(folder_size(ledger.paths.trial(trial).root)[1] for trial in others)


def keep_only(ledger: Ledger, others: Collection[str], *, runs: bool = True) -> None:
    """Delete what these trials have made, and keep their numbers: the record is what speaks for the best.

    Args:
        ledger: of `closed`.
        others: ids of the trials.
        runs: also their runs in MLflow.

    Raises:
        StorageError: a store does not let us delete; doing it again deletes the rest.
    """
    _clear(ledger, others, "only the best was kept", runs=runs)
    for trial in others:
        history = ledger.history(trial)
        ledger.deletions.of_checkpoints(history, list(history.points))


def _clear(ledger: Ledger, trials: Collection[str], reason: str, *, runs: bool = True) -> None:
    """Delete what trials have made; their records last, so that what is cut off can be done again."""
    paths = ledger.paths
    stored, _ = stored_folders(paths, ledger.id)
    for trial in trials:
        delete_stored(f"{folder}/{trial}" for folder in stored)
        for root in (paths.trial(trial).root, paths.root / "reruns" / trial):
            if root.is_symlink():
                root.unlink()
            elif root.is_dir():
                shutil.rmtree(root)
    if runs:
        show_deleted(paths.outbox, trials)
    for trial in trials:
        if not ledger.history(trial).state.ended:
            ledger.end_run(trial, TrialState.PRUNED, reason, wall=ledger.wall_seconds)


def _wrong(trial: str, rule: str, close: str | None = None) -> ConfigError:
    return ConfigError([Problem(key="TRIAL", value=trial, rule=rule, nearest=close)])
