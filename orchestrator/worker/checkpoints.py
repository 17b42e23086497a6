"""Where a trial's checkpoints are kept: its own folder, or a place named by an fsspec URL."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanflow_core.training import CheckpointError, Snapshot, load_checkpoint, save_checkpoint, take_snapshot
from orchestrator.paths import TrialPaths
from orchestrator.trials import Assignment
from orchestrator.worker.storage import StorageError, delete, download, upload

KEPT = "checkpoints.json"
"""In a trial's folder: which of its checkpoints there are."""
_STEP = re.compile(r"step-[0-9]{8,}")
OWNER = "meansweep.sweep"
"""In a checkpoint: the id of the sweep whose it is."""


@dataclass(frozen=True)
class Written:
    """A checkpoint that is whole."""

    name: str
    """`step-00000090`."""
    place: str
    """Its folder or URL."""
    bytes: int


class CheckpointStore:
    """A trial's checkpoints, one folder a step; workers write here directly and the driver never touches the data.

    Args:
        paths: the trial's folder; checkpoints go to its `checkpoints` folder.
        url: an fsspec URL (`s3://bucket/sweep-id/trial`) to use for the checkpoints instead. Each is then written to a
            local scratch folder first and copied, its marker file last, so that a torn copy is never taken for whole.
        owner: the sweep's id, which is written into each; another sweep's is not loaded. Empty: of none.
    """

    def __init__(self, paths: TrialPaths, url: str | None = None, owner: str = "") -> None:
        self._paths = paths
        self._owner = owner
        self._url = url.rstrip("/") if url else None
        self._kept_file = paths.root / KEPT

    @classmethod
    def of(cls, assignment: Assignment) -> CheckpointStore:
        """Return the store of an assignment's trial."""
        return cls.at(TrialPaths(Path(assignment.folder)), assignment.sweep, assignment.trial, assignment.sweep_id)

    @classmethod
    def at(cls, paths: TrialPaths, sweep: str, trial: str, sweep_id: str = "") -> CheckpointStore:
        """Return the store of a trial: below `$MEANSWEEP_STORAGE` if that names a URL, in its folder if not."""
        return cls(paths, url_of(sweep, trial, sweep_id), sweep_id)

    def save(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
        """Write the state reached at `step` and return the name by which `load` finds it.

        Raises:
            StorageError: the disk or the store does not take it.
        """
        return self.keep(self.write(step, self.copied(state)), metrics)

    def copied(self, state: Mapping[str, Any]) -> Snapshot:
        """Return a copy of a trainer's state, marked as this sweep's: what `write` takes while the trainer goes on."""
        return take_snapshot({**state, OWNER: self._owner} if self._owner else state)

    def write(self, step: int, state: Snapshot) -> Written:
        """Write the state reached at `step`; it counts once `keep` has been told.

        Raises:
            StorageError: the disk or the store does not take it.
        """
        target = self._paths.checkpoint(step)
        name = target.name
        if self._url is None:
            try:
                save_checkpoint(target, state)
            except OSError as error:
                raise StorageError(f"could not write {target}: {error}") from error
            return Written(name, str(target), size_of(target))
        place = f"{self._url}/{name}"
        with tempfile.TemporaryDirectory(prefix="meansweep-checkpoint-") as scratch:
            local = Path(scratch) / name
            save_checkpoint(local, state)
            upload(local, place)
            return Written(name, place, size_of(local))

    def keep(self, written: Written, metrics: Mapping[str, float]) -> str:
        """Count a checkpoint among the trial's, with the metrics of its step, and return its place."""
        entry = {"metrics": dict(metrics), "bytes": written.bytes, "place": written.place}
        self._write_kept({**self._kept(), written.name: entry})
        return written.place

    def forget(self, written: Written) -> None:
        """Delete a checkpoint that never was counted."""
        if written.name not in self._kept():
            self._delete(written.name, {written.name: {"place": written.place}})

    def load(self, place: str) -> dict[str, Any]:
        """Return the state kept at `place` (a folder or a URL).

        Raises:
            CheckpointError: it is missing or damaged, or another sweep's.
            StorageError: the store cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="meansweep-checkpoint-") as scratch:
            state = dict(load_checkpoint(local_checkpoint(place, Path(scratch))))
        owner = state.pop(OWNER, "")  # without one: of a release that had no ids
        if owner and self._owner and owner != self._owner:
            raise CheckpointError(f"{place}: belongs to another sweep ({owner}; this one is {self._owner})")
        return state

    def begin(self, start: int) -> None:
        """Delete what an earlier run wrote after `start`, complete or not: it was never recorded."""
        kept, first_new = self._kept(), self._paths.checkpoint(start).name
        for name in [name for name in kept if name > first_new or start == 0]:
            self._delete(name, kept)
        self._write_kept(kept)
        uncounted = (path for path in self._paths.checkpoints.glob("step-*") if path.name > first_new)
        for torn in (*self._paths.checkpoints.glob(".*.tmp"), *uncounted):
            shutil.rmtree(torn, ignore_errors=True)

    def keep_best_and_last(self, metric: str | None, goal: str = "minimize") -> None:
        """Delete all checkpoints but the last and the one with the best value of `metric`."""
        kept = self._kept()
        if len(kept) < 2:
            return
        sign = 1.0 if goal == "minimize" else -1.0
        best = min(kept, key=lambda name: sign * kept[name]["metrics"].get(metric or "", math.inf * sign))
        for name in kept.keys() - {best, max(kept)}:
            self._delete(name, kept)
        self._write_kept(kept)

    def drop(self, names: Sequence[str]) -> None:
        """Delete these of the trial's checkpoints.

        Raises:
            StorageError: the store has not deleted one; those before it are gone.
        """
        kept = self._kept()
        for name in names:
            if name in kept:
                self._delete(name, kept)
                self._write_kept(kept)
                if name in kept:
                    raise StorageError(f"{kept[name]['place']} could not be deleted")

    def adopt(self, step: int, place: str) -> None:
        """Make a copy of the checkpoint at `place` this trial's own at `step`, instead of what stands there."""
        target = self._paths.checkpoint(step)
        if self._url is not None:
            with tempfile.TemporaryDirectory(prefix="meansweep-checkpoint-") as scratch:
                upload(local_checkpoint(place, Path(scratch)), f"{self._url}/{target.name}")
            return
        aside = target.with_name(f".{target.name}.adopted.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(place, aside, copy_function=_link)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)

    def _delete(self, name: str, kept: dict[str, dict[str, Any]]) -> None:
        """Delete one that is kept; where the store fails it stays, to be tried again when the next one is deleted."""
        place = str(kept[name].get("place", ""))
        if not self._is_own(place, name) or delete(place):
            shutil.rmtree(self._paths.checkpoints / name, ignore_errors=True)  # a second worker may be faster
            del kept[name]

    def _is_own(self, place: str, name: str) -> bool:
        """Whether a place is in a store, and there in a folder of this trial's alone.

        Others were written before there were ids, where other homes may write too: they are left there.
        """
        marked = bool(self._owner) and place.endswith(f"-{self._owner}/{self._paths.root.name}/{name}")
        return marked or (self._url is not None and place == f"{self._url}/{name}")

    def _kept(self) -> dict[str, dict[str, Any]]:
        return read_kept(self._kept_file)

    def _write_kept(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        aside = self._kept_file.with_suffix(".new")
        self._kept_file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(kept))
        aside.replace(self._kept_file)


def read_kept(file: Path) -> dict[str, dict[str, Any]]:
    """Return a trial's checkpoints by name, each with its `metrics` and its `bytes`, out of its `checkpoints.json`."""
    entries = json.loads(file.read_text()) if file.exists() else {}
    return {name: entry for name, entry in entries.items() if _STEP.fullmatch(name)}


def stored_folder(sweep: str, sweep_id: str) -> str | None:
    """Return where `$MEANSWEEP_STORAGE` keeps a sweep's checkpoints; None: in its own folder."""
    base = os.environ.get("MEANSWEEP_STORAGE", "").rstrip("/")
    return f"{base}/{'-'.join(filter(None, (sweep, sweep_id)))}" if base else None


def url_of(sweep: str, trial: str, sweep_id: str = "") -> str | None:
    """Return the URL of a trial's checkpoints in the store; None: in its own folder.

    The sweep's id is part of it: other homes have sweeps of the same name in the same bucket.
    """
    place = stored_folder(sweep, sweep_id)
    return f"{place}/{trial}" if place else None


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.iterdir())


def _link(source: str, target: str) -> None:
    """Link a file where the file system can: a checkpoint's files are never written to again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def local_checkpoint(place: str, scratch: Path) -> Path:
    """Return a local folder with the checkpoint kept at `place`, copied below `scratch` if it is a URL."""
    return download(place, scratch / "checkpoint") if "://" in place else Path(place)
