"""The file below the ledger: Optuna's journal with one writer, a tail that is repaired, and a disk that may be full.

The writer is whoever holds `DriverLock`, so the journal itself needs no lock.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from orchestrator.ledger.errors import LedgerError


class _Unlocked:
    """No lock for single writes: the writer holds the driver's lock already, readers need none."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class Journal(JournalFileBackend):
    """Optuna's journal file. An append is whole and on disk when it returns, or has not happened."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_Unlocked())  # type: ignore[arg-type]  # two methods, no base to import
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries and wait for the disk.

        Raises:
            LedgerError: the disk refused; the file is as it was before.
        """
        size = self._path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            os.truncate(self._path, size)  # half a line in the middle would make all later ones unreadable
            raise LedgerError(
                f"{self._path}: cannot be written ({error.strerror or error}); nothing recorded is lost: "
                f"make room, then `meansweep resume {self._path.parent.name}`"
            ) from error


def repair_tail(path: Path) -> bytes:
    """Cut off what a power cut or a full disk left of a last line, and return it.

    Lines before the last whole one are not looked at: they were complete when something was written after them.
    """
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = _line_start(file, end)
            file.seek(start)
            if _whole(file.read(end - start)):
                break
            end = start
        file.seek(end)
        torn = file.read()
        if torn:
            file.truncate(end)
            os.fsync(file.fileno())
        return torn


def _line_start(file: Any, end: int) -> int:
    """The offset at which the line that ends before `end` starts."""
    block, position = 1 << 16, end - 1  # the last byte is the line's own end, or the line is torn
    while position > 0:
        start = max(0, position - block)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + int(found) + 1
        position = start
    return 0


def _whole(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False
