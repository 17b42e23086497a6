"""Where a trial's checkpoints are kept: its own folder, or a place named by an fsspec URL."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meanflow_core.training import load_checkpoint, save_checkpoint
from orchestrator.paths import SweepPaths, TrialPaths
from orchestrator.trials import Assignment

KEPT = "checkpoints.json"
"""In a trial's folder: which of its checkpoints there are."""


class CheckpointStore:
    """A trial's checkpoints, one folder a step; workers write here directly and the driver never touches the data.

    Args:
        paths: the trial's folder; checkpoints go to its `checkpoints` folder.
        url: an fsspec URL (`s3://bucket/sweep/trial`) to use for the checkpoints instead. Each is then written to a
            local scratch folder first and copied, its marker file last, so that a torn copy is never taken for whole.
    """

    def __init__(self, paths: TrialPaths, url: str | None = None) -> None:
        self._paths = paths
        self._url = url.rstrip("/") if url else None
        self._kept_file = paths.root / KEPT

    @classmethod
    def of(cls, assignment: Assignment) -> CheckpointStore:
        """Return the store of an assignment's trial."""
        return cls.at(TrialPaths(Path(assignment.folder)), assignment.sweep, assignment.trial)

    @classmethod
    def at(cls, paths: TrialPaths, sweep: str, trial: str) -> CheckpointStore:
        """Return the store of a trial: below `$MEANSWEEP_STORAGE` if that names a URL, in its folder if not."""
        base = os.environ.get("MEANSWEEP_STORAGE", "").rstrip("/")
        return cls(paths, f"{base}/{sweep}/{trial}" if base else None)

    def save(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
        """Write the state reached at `step` and return the name by which `load` finds it."""
        target = self._paths.checkpoint(step)
        name = target.name
        if self._url is None:
            save_checkpoint(target, state)
            place, size = str(target), size_of(target)
        else:
            place = f"{self._url}/{name}"
            with tempfile.TemporaryDirectory(prefix="meansweep-checkpoint-") as scratch:
                local = Path(scratch) / name
                save_checkpoint(local, state)
                upload(local, place)
                size = size_of(local)
        self._write_kept({**self._kept(), name: {"metrics": dict(metrics), "bytes": size}})
        return place

    def load(self, place: str) -> dict[str, Any]:
        """Return the state kept at `place` (a folder or a URL).

        Raises:
            CheckpointError: it is missing or damaged.
        """
        if "://" not in place:
            return dict(load_checkpoint(Path(place)))
        with tempfile.TemporaryDirectory(prefix="meansweep-checkpoint-") as scratch:
            return dict(load_checkpoint(download(place, Path(scratch) / "checkpoint")))

    def begin(self, start: int) -> None:
        """Delete what an earlier run wrote after `start`, complete or not: it was never recorded."""
        kept, first_new = self._kept(), self._paths.checkpoint(start).name
        for name in [name for name in kept if name > first_new or start == 0]:
            self._delete(name)
            del kept[name]
        self._write_kept(kept)
        for torn in self._paths.checkpoints.glob(".*.tmp"):
            shutil.rmtree(torn, ignore_errors=True)

    def keep_best_and_last(self, metric: str | None, goal: str = "minimize") -> None:
        """Delete all checkpoints but the last and the one with the best value of `metric`."""
        kept = self._kept()
        if len(kept) < 2:
            return
        sign = 1.0 if goal == "minimize" else -1.0
        best = min(kept, key=lambda name: sign * kept[name]["metrics"].get(metric or "", math.inf * sign))
        for name in kept.keys() - {best, max(kept)}:
            self._delete(name)
            del kept[name]
        self._write_kept(kept)

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

    def _delete(self, name: str) -> None:
        if self._url is None:
            shutil.rmtree(
                self._paths.checkpoints / name, ignore_errors=True
            )  # a second worker of the trial may be faster
            return
        files, path = _filesystem(f"{self._url}/{name}")
        if files.exists(path):
            files.rm(path, recursive=True)

    def _kept(self) -> dict[str, dict[str, Any]]:
        return read_kept(self._kept_file)

    def _write_kept(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        aside = self._kept_file.with_suffix(".new")
        self._kept_file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(kept))
        aside.replace(self._kept_file)


def read_kept(file: Path) -> dict[str, dict[str, Any]]:
    """Return a trial's checkpoints by name, each with its `metrics` and its `bytes`, out of its `checkpoints.json`."""
    return dict(json.loads(file.read_text())) if file.exists() else {}


def disk_use(paths: SweepPaths) -> dict[str, int]:
    """Return how many checkpoints a sweep keeps, wherever they are, their bytes, and the bytes free in its folder."""
    kept = [entry for file in paths.trials.glob(f"*/{KEPT}") for entry in read_kept(file).values()]
    return {
        "checkpoints": len(kept),
        "bytes": sum(entry["bytes"] for entry in kept),
        "free": shutil.disk_usage(paths.root).free,
    }


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


def upload(folder: Path, url: str) -> None:
    """Copy a folder's files to a URL; the checkpoint's own JSON file, which makes it whole, goes last."""
    files, path = _filesystem(url)
    files.makedirs(path, exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
        files.put_file(str(file), f"{path}/{file.name}")


def download(url: str, folder: Path) -> Path:
    """Copy the files below a URL to a new folder and return it."""
    files, path = _filesystem(url)
    folder.mkdir(parents=True)
    for name in files.ls(path, detail=False) if files.exists(path) else ():
        files.get_file(name, str(folder / Path(name).name))
    return folder


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(url)
    return files, path
