"""Damage in a journal: which line it is, and the journal without that line."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.rebuild import entry_of, with_facts, with_studies
from orchestrator.paths import SweepPaths

UNREADABLE = (ValueError, KeyError, AttributeError, AssertionError, TypeError, IndexError)
"""What Optuna raises of a journal that is not one."""
_CREATES_TRIAL = re.compile(rb'"op_code"\s*:\s*4\b')
_STUDY = re.compile(rb'"study_id"\s*:\s*(\d+)')


def damaged_lines(path: Path) -> list[int]:
    """Return the numbers, from 1, of the lines that keep a journal from being read."""
    lines = path.read_bytes().splitlines(keepends=True)
    broken = [number for number, line in enumerate(lines, start=1) if not entry_of(line)]
    if broken or _readable(lines):
        return broken
    low, high = 0, len(lines)  # the first `low` lines can be read, the first `high` cannot
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _readable(lines[:middle]) else (low, middle)
    return [high]


class Repaired(NamedTuple):
    """What a repair has done."""

    lines: list[int]
    """The numbers of the damaged lines, which it has taken out."""
    rebuilt: list[str]
    """What was lost with them and made again, in words."""
    aside: Path | None
    """Where the damaged file is kept; None where nothing was damaged."""


def repair(paths: SweepPaths) -> Repaired:
    """Take the damaged lines out of a sweep's journal; the damaged file is kept beside it.

    Nothing but those lines is lost. Where one made a trial, an empty row takes its place, since later lines count rows;
    what one said of the sweep as a whole is made again (`rebuild`).

    Raises:
        SweepBusy: a driver runs.
        LedgerError: it cannot be read without those lines either.
    """
    from orchestrator.ledger.driver_lock import DriverLock
    from orchestrator.ledger.journal import repair_tail

    lock = DriverLock(paths.lock)
    try:
        repair_tail(paths.journal)
        before = paths.journal.read_bytes().splitlines(keepends=True)
        lines, numbers, told = with_studies(before, paths)
        found = [number for number in range(1, len(before) + 1) if number not in numbers]
        kept: list[bytes | None] = list(lines)
        while broken := _next_damage(kept):
            again = numbers[broken - 1] in found
            kept[broken - 1] = None if again else _instead(lines[broken - 1], kept, broken)
            found += [] if again else [numbers[broken - 1]]
        whole, made = with_facts([line for line in kept if line is not None], sorted(found), paths)
        if not found and not told and not made:
            return Repaired([], [], None)
        if not _readable(whole):
            raise LedgerError(f"{paths.journal}: lines {found} are damaged, and it cannot be read without them either")
        aside = paths.root / f"{paths.journal.name}.damaged-{1 + len(list(paths.root.glob('*.damaged-*')))}"
        shutil.copy2(paths.journal, aside)
        fresh = paths.journal.with_suffix(".repaired")
        fresh.write_bytes(b"".join(whole))
        fresh.replace(paths.journal)
        return Repaired(sorted(found), [*told, *made], aside)
    finally:
        lock.release()


def _next_damage(kept: Sequence[bytes | None]) -> int:
    """The number of the first line that still keeps the journal from being read; 0 for none."""
    for number, line in enumerate(kept, start=1):
        if line is not None and not entry_of(line):
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
    without = [each for at, each in enumerate(kept, start=1) if each is not None and at != number and entry_of(each)]
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
