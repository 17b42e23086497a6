"""What a sweep keeps of checkpoints, on its disk and in a store: how much, where, and how it is deleted."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.paths import SweepPaths
from orchestrator.worker.checkpoints import KEPT, CheckpointStore, read_kept, stored_folder
from orchestrator.worker.storage import StorageError, delete, measure


@dataclass(frozen=True)
class Kept:
    """One checkpoint that a trial keeps."""

    trial: str
    name: str
    """`step-00000090`."""
    place: str
    """Its folder or URL."""
    bytes: int
    metrics: dict[str, float]

    @property
    def step(self) -> int:
        """The step at which it was taken."""
        return int(self.name.rpartition("-")[2])

    @property
    def in_store(self) -> bool:
        """Whether it is in a store, and not in its trial's own folder, wherever the home was then."""
        return "://" in self.place or Path(self.place).parent.name == self.trial

    def stored_below(self, sweep: str, sweep_id: str) -> str | None:
        """Return the folder of this sweep's checkpoints in the store that has it; None: it is in none that is its own.

        Only a folder that bears the sweep's id is its own: others may write to `NAME/TRIAL` of a release before ids.
        """
        if not sweep_id:
            return None
        own = re.escape(f"/{sweep}-{sweep_id}")
        found = re.fullmatch(rf"(.+{own})/{re.escape(self.trial)}/{re.escape(self.name)}", self.place)
        return None if found is None or ".." in found[1].split("/") else found[1]


def kept_checkpoints(paths: SweepPaths) -> list[Kept]:
    """Return every checkpoint that the trials of a sweep keep, wherever it is."""
    return [
        Kept(file.parent.name, name, str(entry.get("place", "")), int(entry["bytes"]), dict(entry["metrics"]))
        for file in sorted(paths.trials.glob(f"*/{KEPT}"))
        for name, entry in sorted(read_kept(file).items())
    ]


def disk_use(paths: SweepPaths) -> dict[str, Any]:
    """Return what a sweep takes.

    Returns:
        `checkpoints` (how many), `bytes` (theirs, wherever they are), `stored` (those of them in a store, not here),
        `here` (bytes of all files in the sweep's folder) and `free` (bytes left on the disk that takes the checkpoints;
        on that of the folder where a store is none of this machine's disks).
    """
    kept = kept_checkpoints(paths)
    elsewhere = [each for each in kept if each.in_store]
    return {
        "checkpoints": len(kept),
        "bytes": sum(each.bytes for each in kept),
        "stored": sum(each.bytes for each in elsewhere),
        "here": folder_size(paths.root)[1],
        "free": shutil.disk_usage(_disk_of(elsewhere) or paths.root).free,
    }


def _disk_of(stored: list[Kept]) -> Path | None:
    """Return a folder on the disk of a store that is a disk of this machine; None where none is."""
    for each in reversed(stored):
        path = Path(each.place.removeprefix("file://"))
        if path.is_absolute():
            return next((folder for folder in path.parents if folder.is_dir()), None)
    return None


def stored_folders(paths: SweepPaths, sweep_id: str) -> tuple[list[str], list[str]]:
    """Return where in stores a sweep's checkpoints are.

    Returns:
        The folders (URLs, or paths outside of the sweep's own folder) in which nothing but this sweep's checkpoints
        is; and the places of checkpoints in folders that other sweeps may use too.
    """
    here = stored_folder(paths.name, sweep_id) if sweep_id else None
    own, shared = dict.fromkeys([here] if here else []), []
    for each in kept_checkpoints(paths):
        folder = each.stored_below(paths.name, sweep_id)
        if folder is not None:
            own[folder] = None
        elif each.in_store:
            shared.append(each.place)
    return list(own), shared


def measure_stored(folders: Iterable[str]) -> tuple[int, int]:
    """Return how many files there are below these folders, and their bytes.

    Raises:
        StorageError: a store cannot be reached.
    """
    sizes = [measure(folder) for folder in folders]
    return sum(files for files, _ in sizes), sum(size for _, size in sizes)


def delete_stored(folders: Iterable[str]) -> None:
    """Delete these folders.

    Raises:
        StorageError: one could not be deleted.
    """
    for folder in folders:
        if not delete(folder):
            raise StorageError(f"{folder} could not be deleted")


def delete_checkpoints(paths: SweepPaths, sweep_id: str, gone: Iterable[Kept]) -> None:
    """Delete some of what a sweep keeps. A store that fails keeps its checkpoint, and it stays noted.

    Raises:
        StorageError: one could not be deleted; those before it are.
    """
    for each in gone:
        CheckpointStore(paths.trial(each.trial), None, sweep_id).drop([each.name])


def folder_size(folder: Path) -> tuple[int, int]:
    """Return how many files a folder holds, and their bytes; what it links to is not followed."""
    files, size, seen = 0, 0, set[tuple[int, int]]()
    for root, folders, names in os.walk(folder):
        for name in [*names, *(each for each in folders if os.path.islink(os.path.join(root, each)))]:
            try:
                stat = os.lstat(os.path.join(root, name))
            except FileNotFoundError:  # a worker has replaced it in this moment
                continue
            files += 1
            if (stat.st_dev, stat.st_ino) not in seen:
                size += stat.st_size
                seen.add((stat.st_dev, stat.st_ino))
    return files, size
