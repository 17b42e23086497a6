"""The right to write a sweep's ledger: a lock of the kernel on `driver.lock`, let go of when its holder dies.

However that process dies; so the journal itself needs no lock, and none can be left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from orchestrator.ledger.errors import SweepBusy

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
