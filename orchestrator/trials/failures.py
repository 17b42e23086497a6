"""What a failed run means: whether the trial goes on, and whether the sweep does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from orchestrator.trials.trial import Failure, FailureKind, TrialRecord, TrialState

LOST_LIMIT: Final = 20
"""Times a trial may lose its worker without a fault of its own before it is given up."""
BREAKER: Final = 3
"""Equal bugs, with nothing finished, that stop a sweep."""
BAD_REGION: Final = ("diverged", "oom")
"""Failures that say something about the configuration: the search learns to avoid its neighbourhood."""
_FRAME = re.compile(r'^\s*File "(.+)", line (\d+), in (.+)$', re.M)


def goes_on(kind: FailureKind, *, charged: int, lost: int, retries: int) -> bool:
    """Whether a trial is tried again after this failure.

    Args:
        kind: the failure's class. A lost worker costs nothing, a fault of the machine costs one of the retries;
            what the configuration or the code did would only happen again.
        charged: charged failures so far, this one included.
        lost: lost workers so far, this one included.
        retries: what the sweep allows.
    """
    if kind == "lost":
        return lost <= LOST_LIMIT
    return kind == "infrastructure" and charged <= retries


def bug_hash(traceback: str | None) -> str:
    """Return a hash of where and as what a bug was raised; the values in its message do not count."""
    text = traceback or ""
    frames = [f"{file}:{line}:{name}" for file, line, name in _FRAME.findall(text)]
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return hashlib.sha256("\n".join([*frames, last.partition(":")[0]]).encode()).hexdigest()[:16]


def sweep_breaking_bug(records: Iterable[TrialRecord]) -> Failure | None:
    """Return the bug that has ended the first trials alike, before anything worked; None if there is none.

    A trial that was finished here, stopped early or waits at a rung proves that the code can run.
    """
    counts: dict[str, int] = {}
    for record in records:
        ran = record.state in (TrialState.FINISHED, TrialState.PRUNED, TrialState.AT_RUNG)
        if ran and "reused" not in record.labels:
            return None
        if record.failure is not None and record.failure.kind == "bug":
            found = bug_hash(record.failure.traceback)
            counts[found] = counts.get(found, 0) + 1
            if counts[found] >= BREAKER:
                return record.failure
    return None
