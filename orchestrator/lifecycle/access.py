"""The right to change a sweep as a whole: nobody drives it, nobody sends its outbox, and its folder is its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from orchestrator.ledger import Ledger, SweepBusy
from orchestrator.paths import SweepPaths
from orchestrator.tracking import sending


class LifecycleError(RuntimeError):
    """It could not be done, or not to its end; says what to do."""


@contextlib.contextmanager
def closed(paths: SweepPaths) -> Iterator[Ledger]:
    """Hold a sweep that does not run; its ledger is open for writing.

    Raises:
        LifecycleError: it runs, is being sent to MLflow, or its folder is a link.
        LedgerError: its ledger is damaged.
    """
    if paths.root.is_symlink():
        raise LifecycleError(f"{paths.root} is a link to {paths.root.resolve()}; nothing is done to what a link names")
    with contextlib.ExitStack() as held:
        try:
            ledger = held.enter_context(Ledger.open(paths, write=True))
        except SweepBusy as busy:
            raise LifecycleError(str(busy)) from busy
        if paths.outbox.is_dir():
            try:
                held.enter_context(sending(paths.outbox))
            except BlockingIOError as error:
                raise LifecycleError(f"{paths.name} is being sent to MLflow; try again in a moment") from error
        yield ledger
