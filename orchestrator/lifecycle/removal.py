"""Removing a sweep with all that belongs to it, so that a removal that is cut off can be done again to its end."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.final import training_in
from orchestrator.ledger import REMOVING
from orchestrator.lifecycle.access import LifecycleError
from orchestrator.provenance import user_name
from orchestrator.tracking import remove_shown
from orchestrator.worker import delete_stored

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.lifecycle.belongings import Belongings


def remove(ledger: Ledger, found: Belongings) -> list[str]:
    """Remove a sweep: from MLflow, from the stores of its checkpoints, its final trainings, and its folder last.

    The ledger goes at the very end: until then a sweep whose removal was cut off is there, says so, and can be removed.

    Args:
        ledger: of `closed`; it is closed when this returns.
        found: what belongs to the sweep.

    Returns:
        What could not be deleted in MLflow, a line each.

    Raises:
        LifecycleError: one of its final trainings runs.
        ConnectionError: MLflow does not answer.
        StorageError: a store of checkpoints does not, or does not let us delete.
        OSError: a file cannot be deleted.
    """
    with contextlib.ExitStack() as held:
        for folder in found.trainings:
            try:
                held.enter_context(training_in(folder))
            except BlockingIOError as error:
                raise LifecycleError(f"the final training {folder.name} runs; nothing was removed") from error
        ledger.set_state(REMOVING, f"its removal by {user_name() or 'somebody'} has begun")
        left = remove_shown(found.store, found.shown, ledger.paths.name) if found.shown is not None else []
        delete_stored(found.stored)
        for folder in found.trainings:
            _delete(folder)
    paths = ledger.paths
    last = (paths.outbox, paths.journal, paths.lock)
    for entry in sorted(paths.root.iterdir()):
        if entry not in last:
            _delete(entry)
    _delete(paths.outbox)
    _delete(paths.journal)
    ledger.close()
    _delete(paths.lock)
    with contextlib.suppress(OSError):  # somebody has put something there in this moment: it is none of the sweep's
        paths.root.rmdir()
    return left


def _delete(path: Path) -> None:
    """Delete a file or a folder; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
