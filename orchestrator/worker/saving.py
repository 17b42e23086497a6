"""A trial's checkpoint, written by a thread while the trial is judged and its samples are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meanflow_core.training import BackgroundWriter
from orchestrator.worker.checkpoints import CheckpointStore, Written


class Saving:
    """Writes a trial's checkpoints one after the other.

    A checkpoint is on its place before the report that names it is made, and counts from then on. What fails between
    leaves none.

    Args:
        store: of the trial; None: in a process that writes none.
    """

    def __init__(self, store: CheckpointStore | None) -> None:
        self._store, self._writer = store, BackgroundWriter()
        self._written: Written | None = None

    def begin(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy a trainer's state and begin to write it; the trainer may go on at once."""
        store = self._store
        if store is None:
            return
        copied = store.copied(state)

        def write() -> None:
            self._written = store.write(step, copied)

        self._writer.begin(write)

    def finish(self, metrics: Mapping[str, float]) -> str | None:
        """Wait until the checkpoint is whole, count it, and return its place; None in a process that writes none.

        Raises:
            StorageError: the disk or the store does not take it.
        """
        if self._store is None:
            return None
        self._writer.finish()
        written, self._written = self._written, None
        assert written is not None, "no checkpoint was begun"
        return self._store.keep(written, metrics)

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._writer.__exit__(kind, *error)  # type: ignore[arg-type]
        if self._store is not None and self._written is not None:
            self._store.forget(self._written)
