"""Damage in a journal: which line it is, and the journal without that line."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.ledger.errors import LedgerError
from orchestrator.paths import SweepPaths

UNREADABLE = (ValueError, KeyError, AttributeError, AssertionError, TypeError, IndexError)
"""What Optuna raises of a journal that is not one."""
_CREATES_TRIAL = re.compile(rb'"op_code"\s*:\s*4\b')
_STUDY = re.compile(rb'"study_id"\s*:\s*(\d+)')


def damaged_lines(path: Path) -> list[int]:
    """Return the numbers, from 1, of the lines that keep a journal from being read."""
    lines = path.read_bytes().splitlines(keepends=True)
    broken = [number for number, line in enumerate(lines, start=1) if not _is_entry(line)]
    if broken or _readable(lines):
        return broken
    low, high = 0, len(lines)  # the first `low` lines can be read, the first `high` cannot
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _readable(lines[:middle]) else (low, middle)
    return [high]


def repair(paths: SweepPaths) -> tuple[list[int], Path | None]:
    """Take the damaged lines out of a sweep's journal; the damaged file is kept beside it.

    Nothing but those lines is lost. Where one made a trial, an empty row takes its place, since later lines count rows.

    Returns:
        The numbers of the lines, and where the file is kept; ([], None) where nothing was damaged.

    Raises:
        SweepBusy: a driver runs.
        LedgerError: it cannot be read without those lines either.
    """
    from orchestrator.ledger.driver_lock import DriverLock
    from orchestrator.ledger.journal import repair_tail

    lock = DriverLock(paths.lock)
    try:
        repair_tail(paths.journal)
        lines, found = paths.journal.read_bytes().splitlines(keepends=True), list[int]()
        kept: list[bytes | None] = list(lines)
        while broken := _next_damage(kept):
            again = broken in found
            kept[broken - 1] = None if again else _instead(lines[broken - 1], kept, broken)
            found += [] if again else [broken]
        if not found:
            return [], None
        if not _readable([line for line in kept if line is not None]):
            raise LedgerError(f"{paths.journal}: lines {found} are damaged, and it cannot be read without them either")
        number = len(list(paths.root.glob(f"{paths.journal.name}.damaged-*"))) + 1
        aside = paths.root / f"{paths.journal.name}.damaged-{number}"
        shutil.copy2(paths.journal, aside)
        fresh = paths.journal.with_suffix(".repaired")
        fresh.write_bytes(b"".join(line for line in kept if line is not None))
        fresh.replace(paths.journal)
        return found, aside
    finally:
        lock.release()


def _next_damage(kept: Sequence[bytes | None]) -> int:
    """The number of the first line that still keeps the journal from being read; 0 for none."""
    for number, line in enumerate(kept, start=1):
        if line is not None and not _is_entry(line):
            return number
    whole = [(number, line) for number, line in enumerate(kept, start=1) if line is not None]
    if _readable([line for _, line in whole]):
        return 0
    low, high = 0, len(whole)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _readable([line for _, line in whole[:middle]]) else (low, middle)
    return whole[high - 1][0]


def _instead(line: bytes, kept: Sequence[bytes | None], number: int) -> bytes | None:
    """What takes the place of a damaged line: nothing, or the row that it seems to have made."""
    study = _STUDY.search(line)
    row = {
        "op_code": 4, "worker_id": "repair", "study_id": int(study[1]) if study else 0, "datetime_start": None,
        "state": 3, "value": None, "values": None, "distributions": {}, "params": {}, "user_attrs": {},
        "system_attrs": {}, "intermediate_values": {},
    }  # fmt: skip
    placeholder = json.dumps(row).encode() + b"\n"
    if _CREATES_TRIAL.search(line):
        return placeholder
    without = [each for at, each in enumerate(kept, start=1) if each is not None and at != number and _is_entry(each)]
    return placeholder if _row_is_missing(without) else None


def _row_is_missing(lines: Sequence[bytes]) -> bool:
    """Whether a line speaks of a row that none before it has made. Optuna passes over such lines in silence."""
    made = 0
    for line in lines:
        entry = json.loads(line)
        made += entry["op_code"] == 4
        if entry.get("trial_id", -1) >= made:
            return True
    return False


def _is_entry(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _readable(lines: Sequence[bytes]) -> bool:
    from optuna.storages import JournalStorage

    from orchestrator.ledger.journal import Journal

    with tempfile.TemporaryDirectory(prefix="meansweep-journal-") as scratch:
        file = Path(scratch) / "journal"
        file.write_bytes(b"".join(lines))
        try:
            JournalStorage(Journal(file))
        except UNREADABLE:
            return False
        except Exception as error:  # Optuna's own, of entries that contradict each other
            if type(error).__module__.partition(".")[0] == "optuna":
                return False
            raise
    return True
