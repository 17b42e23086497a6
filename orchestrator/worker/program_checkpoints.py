"""An own program's folder for checkpoints: it outlives the process, and follows the trial to another node.

The folder is the trial's own. Where `$MEANSWEEP_STORAGE` names a URL, a program writes to a local folder instead, which
is sent there as one archive after each report that finds it changed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.paths import TrialPaths
from orchestrator.trials import Assignment
from orchestrator.worker.checkpoints import KEPT, url_of
from orchestrator.worker.storage import delete, download, upload

NAME = "step-00000000"
"""Of the folder, below the trial's `checkpoints`, and of its archive's place behind the URL: it is of no step alone."""
ARCHIVE = "checkpoints.tar"


class ProgramCheckpoints:
    """The checkpoints of one trial's program.

    Args:
        paths: the trial's folder.
        url: where its checkpoints are kept instead.
    """

    def __init__(self, paths: TrialPaths, url: str | None = None) -> None:
        self._paths = paths
        self._scratch = None if url is None else tempfile.TemporaryDirectory(prefix="meansweep-program-")
        self._seen: list[tuple[str, int, int]] | None = None
        self.folder = Path(self._scratch.name) / NAME if self._scratch is not None else paths.checkpoints / NAME
        """Where the program finds and writes them."""
        self.place = f"{url}/{NAME}" if url is not None else str(self.folder)
        """Where they are kept: a folder, or a URL."""

    @classmethod
    def of(cls, assignment: Assignment) -> ProgramCheckpoints:
        """Return those of an assignment's trial."""
        where = (assignment.sweep, assignment.trial, assignment.sweep_id)
        return cls(TrialPaths(Path(assignment.folder)), url_of(*where))

    def fetch(self) -> None:
        """Make the folder, with what an earlier run has left.

        Raises:
            StorageError: the store cannot be reached.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._scratch is None:
            return
        archive = download(self.place, Path(self._scratch.name) / "fetched") / ARCHIVE
        if archive.is_file():
            with tarfile.open(archive) as tar:
                tar.extractall(self.folder, filter="data")
            archive.unlink()
        self._seen = self._files()

    def keep(self, metrics: Mapping[str, float]) -> str:
        """Keep the folder as it is now, if it has changed, and return where.

        Args:
            metrics: what was reached with it.

        Raises:
            StorageError: the store does not take it.
        """
        found = self._files()
        if found == self._seen:
            return self.place
        if self._scratch is not None:
            with tempfile.TemporaryDirectory(prefix="meansweep-checkpoint-") as aside:
                with tarfile.open(Path(aside) / ARCHIVE, "w") as tar:
                    tar.add(self.folder, arcname=".")
                upload(Path(aside), self.place)
        size = sum(size for _, size, _ in found)
        entry: dict[str, Any] = {"metrics": dict(metrics), "bytes": size, "place": self.place}
        self._note({NAME: entry} if found else {})
        self._seen = found
        return self.place

    def set_aside(self) -> None:
        """Put away what is there: another run of the trial starts without it."""
        aside = self._paths.root / "diverged-checkpoints"
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.move(self.folder, aside)
        if self._scratch is not None:
            delete(self.place)
        self._note({})
        self.folder.mkdir(parents=True, exist_ok=True)
        self._seen = []

    def _files(self) -> list[tuple[str, int, int]]:
        """Name, bytes and time of each file; one that is just being replaced is left out."""
        found = []
        for file in sorted(self.folder.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                if file.is_file():
                    found.append((str(file), stat.st_size, stat.st_mtime_ns))
        return found

    def _note(self, kept: Mapping[str, Any]) -> None:
        aside = self._paths.root / f"{KEPT}.new"
        aside.write_text(json.dumps(kept))
        aside.replace(self._paths.root / KEPT)
