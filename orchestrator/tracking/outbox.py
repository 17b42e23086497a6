"""The outbox: every tracking event as a numbered line on disk, before anything is sent anywhere.

One writer (the driver) appends; any number of readers follow. Appending costs a `write` to the page cache, which a
killed process does not lose; the sender calls `fsync` before it delivers, so that a server never holds what the
outbox could still forget in a power cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

EVENTS = "events.jsonl"
DELETED = "deleted"
"""The event after which a run is shown no more, whatever comes before or after it."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One event of one run.

    Args:
        number: position in the outbox, from 1 without gaps.
        time: milliseconds since the epoch at which it was appended. Fixed here once: with it MLflow recognises a
            metric that is sent again.
        run: key of the run inside this outbox: "sweep", a trial's id, or "final".
        what: the kind of event, one of the names in `orchestrator.tracking.mlflow_delivery`.
        data: the event's content.
        end: offset in the file just after the record.
    """

    number: int
    time: int
    run: str
    what: str
    data: Mapping[str, Any]
    end: int = 0


class Outbox:
    """An append-only file of records that survives kills, torn lines and full disks.

    Args:
        folder: where it lives; made if missing.
        write: open for appending. There must be one such process at a time (a sweep's ledger lock sees to it).
        clock: seconds since the epoch.

    Raises:
        FileNotFoundError: `write` is false and there is no outbox.
        ValueError: a record in the middle of the file is damaged.
    """

    def __init__(self, folder: Path, *, write: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.folder = Path(folder)
        self.path = self.folder / EVENTS
        self._clock = clock
        self._lock = threading.Lock()
        self._unwritten: list[bytes] = []
        self._high: dict[str, dict[str, int]] = {}
        self._status: dict[str, str] = {}
        self._descriptor: int | None = None
        self._next = 0
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = self._repair_tail(self._descriptor)
            if self._size == 0:
                self._append("", "outbox", {"id": uuid.uuid4().hex, "version": 1})
            else:
                self._recall()
        self.id: str = self._read_id()

    # ------------------------------------------------------------------------------------------------ writing

    def append(self, run: str, what: str, data: Mapping[str, Any]) -> None:
        """Append a record. Never raises for a full disk: the record waits in memory for the next try."""
        with self._lock:
            self._append(run, what, data)

    def append_points(self, run: str, points: list[tuple[int, dict[str, float]]]) -> None:
        """Append metrics by step, leaving out what the outbox already holds of this run.

        A resumed trial trains the steps since its checkpoint again; their points are already here.

        Args:
            run: key of the run.
            points: (step, values by metric name), steps ascending for each name.
        """
        with self._lock:
            high = self._high.setdefault(run, {})
            fresh = []
            for step, values in points:
                new = {key: value for key, value in values.items() if step > high.get(key, -1)}
                if new:
                    fresh.append([step, new])
                    high.update(dict.fromkeys(new, step))
            if fresh:
                self._append(run, "metrics", {"points": fresh})

    def append_once(self, run: str, what: str, key: str, step: int, data: Mapping[str, Any]) -> bool:
        """Append a record about `key` at `step`, unless the outbox holds one of this or a later step.

        Returns:
            Whether it was appended.
        """
        mark = f"{what}:{key}"
        with self._lock:
            high = self._high.setdefault(run, {})
            if step <= high.get(mark, -1):
                return False
            high[mark] = step
            self._append(run, what, {"key": key, "step": step, **data})
            return True

    def status(self, run: str) -> str | None:
        """Return the last status appended for a run; None: it has none, or there is no such run."""
        return self._status.get(run)

    def flush(self) -> bool:
        """Write what a full disk held back and force everything down to the disk. False: not all of it is there."""
        with self._lock:
            if self._descriptor is None:
                return True
            self._write_out()
            pending = bool(self._unwritten)
            descriptor = self._descriptor
        try:
            os.fsync(descriptor)  # outside the lock: appending must not wait for the disk
        except OSError as error:
            log.warning("the tracking outbox %s cannot be forced to disk: %s", self.path, error)
            return False
        return not pending

    def close(self) -> None:
        """Stop writing. Reading still works."""
        if self._descriptor is not None:
            self.flush()
            with self._lock:
                os.close(self._descriptor)
                self._descriptor = None

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def last(self) -> int:
        """Number of the newest record, as far as this process knows (a writer knows exactly)."""
        if self._descriptor is not None:
            return self._next - 1
        return max((record.number for record in self.records()), default=0)

    def records(self, offset: int = 0) -> Iterator[Record]:
        """Yield the complete records that begin at or after a byte offset (0, or some record's `end`)."""
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written, or incomplete; the writer repairs it when it opens
                offset += len(line)
                record = _parse(line, offset)
                if record is None:
                    raise ValueError(f"{self.path}: the record that ends at byte {offset} is damaged: {line[:80]!r}")
                if record.number > 0:
                    yield record

    # ----------------------------------------------------------------------------------------------- internal

    def _read_id(self) -> str:
        with self.path.open("rb") as file:
            head = _parse(file.readline(), 0)
        if head is None or head.what != "outbox":
            raise ValueError(f"{self.path}: not an outbox (its first line is damaged)")
        return str(head.data["id"])

    def _append(self, run: str, what: str, data: Mapping[str, Any]) -> None:
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not open for writing")
        if what == "status":
            self._status[run] = data["status"]
        line = {"n": self._next, "t": int(self._clock() * 1000), "run": run, "do": what, **data}
        self._next += 1
        self._unwritten.append(json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n")
        self._write_out()

    def _write_out(self) -> None:
        assert self._descriptor is not None
        if not self._unwritten:
            return
        blob = b"".join(self._unwritten)
        try:
            written = os.write(self._descriptor, blob)
            if written < len(blob):  # what a nearly full disk does
                raise OSError(f"only {written} of {len(blob)} bytes could be written")
        except OSError as error:
            with contextlib.suppress(OSError):  # an incomplete line is also repaired on the next opening
                os.ftruncate(self._descriptor, self._size)
            log.warning("%d tracking events are queued in memory: %s: %s", len(self._unwritten), self.path, error)
            return
        self._size += len(blob)
        self._unwritten.clear()

    def _recall(self) -> None:
        """Learn from the file the next number and the last step of each metric."""
        self._next = 1
        for record in self.records():
            self._next = record.number + 1
            high = self._high.setdefault(record.run, {})
            if record.what == "metrics":
                for step, values in record.data["points"]:
                    high.update(dict.fromkeys(values, step))
            elif record.what == "status":
                self._status[record.run] = record.data["status"]
            elif "key" in record.data and "step" in record.data:
                high[f"{record.what}:{record.data['key']}"] = record.data["step"]

    @staticmethod
    def _repair_tail(descriptor: int) -> int:
        """Cut the file back to its last complete record; return its size."""
        size = os.fstat(descriptor).st_size
        with os.fdopen(os.dup(descriptor), "rb") as file:
            keep = size
            while keep > 0:
                start = _line_start(file, keep)
                file.seek(start)
                line = file.read(keep - start)
                if line.endswith(b"\n") and _parse(line, keep) is not None:
                    break
                keep = start
        if keep < size:
            log.warning("the tracking outbox ended in an incomplete line of %d bytes, which was removed", size - keep)
            os.ftruncate(descriptor, keep)
        return keep


def outbox_id(folder: Path) -> str | None:
    """Return the id of the outbox in a folder; None: there is none that can be read."""
    try:
        return Outbox(folder).id
    except (OSError, ValueError):
        return None


def show_deleted(folder: Path, runs: Collection[str]) -> None:
    """Append that runs are deleted, where there is an outbox that knows them. The caller is its only writer."""
    if not (folder / EVENTS).is_file():
        return
    outbox = Outbox(folder, write=True)
    try:
        for run in runs:
            if outbox.status(run) is not None:
                outbox.append(run, DELETED, {})
    finally:
        outbox.close()


def _line_start(file: Any, end: int) -> int:
    """Return where the line that ends at `end` (its newline included) begins."""
    position = end - 1  # skip the line's own newline
    while position > 0:
        step = min(65536, position)
        file.seek(position - step)
        found = file.read(step).rfind(b"\n")
        if found >= 0:
            return int(position - step + found + 1)
        position -= step
    return 0


def _parse(line: bytes, end: int) -> Record | None:
    try:
        data = json.loads(line)
        number, moment, run, what = data.pop("n"), data.pop("t"), data.pop("run"), data.pop("do")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return Record(number=number, time=moment, run=run, what=what, data=data, end=end)
