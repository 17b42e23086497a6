"""The file below the ledger: Optuna's journal with one writer, a tail that is repaired, and a disk that may be full.

The writer is whoever holds the kernel's lock on `driver.lock`; the kernel lets go of it when that process dies, however
it dies. So the journal itself needs no lock, and none can be left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from orchestrator.ledger.errors import LedgerError, SweepBusy

_ATTEMPTS, _PAUSE = 20, 0.05  # a reader that asks who drives holds the lock for an instant


class DriverLock:
    """The right to write a sweep's ledger, held by one process at a time and released by the kernel at its death."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Args:
            path: the lock's file; made if need be. Its text names the holder, for people.

        Raises:
            SweepBusy: another process holds it.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by programs started from here
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 == _ATTEMPTS:
                    os.close(self._file)
                    raise SweepBusy(path, *_named(path)) from None
                time.sleep(_PAUSE)
        os.ftruncate(self._file, 0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.pwrite(self._file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def release(self) -> None:
        """Let go of the lock; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def driver_of(path: Path) -> tuple[int | None, str | None] | None:
    """Return (pid, host) of the process that holds the lock at `path`, None if nobody does."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(path)
    finally:
        os.close(file)
    return None


def _named(path: Path) -> tuple[int | None, str | None]:
    try:
        holder = json.loads(path.read_text())
        return int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError):
        return None, None


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
                "make room, then `meansweep resume`"
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
