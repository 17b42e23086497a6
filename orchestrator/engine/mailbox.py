"""Commands for a running driver: one file each, in a folder of the sweep, written aside and renamed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.paths import SweepPaths

log = logging.getLogger(__name__)
_COUNT = itertools.count()
TRANSIENT = ("stop", "pause", "resume", "trial-stop", "trial-pause")
"""Commands for the driver of the moment: they mean nothing to the next one."""


def post(paths: SweepPaths, command: Mapping[str, Any]) -> None:
    """Leave a command for the driver."""
    paths.mailbox.mkdir(parents=True, exist_ok=True)
    last = max((int(file.name.partition("-")[0]) for file in _waiting(paths) if "-" in file.name), default=0)
    name = f"{max(time.time_ns(), last + 1):020d}-{os.getpid()}-{next(_COUNT)}"  # a clock may jump back
    aside = paths.mailbox / f".{name}"
    aside.write_text(json.dumps(dict(command)))
    aside.rename(paths.mailbox / f"{name}.json")


def take(paths: SweepPaths) -> Iterator[dict[str, Any]]:
    """Yield the waiting commands, oldest first, each with an `id`; it is deleted once the caller asks for the next.

    So a command is carried out at least once: a driver that is killed over it finds it again.
    """
    for file in _waiting(paths):
        try:
            command = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read and is dropped: %s", file, error)
        else:
            yield {**command, "id": file.stem}
        file.unlink(missing_ok=True)


def drop_stale(paths: SweepPaths) -> None:
    """Delete commands that were meant for a driver that is no more."""
    for file in _waiting(paths):
        try:
            stale = json.loads(file.read_text()).get("command") in TRANSIENT
        except (OSError, ValueError):
            stale = True
        if stale:
            file.unlink(missing_ok=True)


def _waiting(paths: SweepPaths) -> list[Path]:
    return sorted(paths.mailbox.glob("*.json")) if paths.mailbox.is_dir() else []
