"""All that belongs to a sweep, wherever it is, and how much that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.config import read_yaml
from meanflow_core.errors import ConfigError
from orchestrator.formatting import count, size
from orchestrator.paths import Home
from orchestrator.tracking import Shown, Store, find_shown, outbox_id
from orchestrator.worker import folder_size, measure_stored, stored_folders

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """What `survey` has found."""

    folder: Path
    files: int
    bytes: int
    """Of the files in the folder."""
    links: Sequence[Path]
    """Links in the folder: they go, what they name stays."""
    stored: Sequence[str]
    """Folders in stores that hold this sweep's checkpoints and nothing else."""
    stored_files: int
    stored_bytes: int
    shared: Sequence[str]
    """Checkpoints in stores where other sweeps may write too: they stay."""
    trainings: Sequence[Path]
    """Folders of final trainings of its trials."""
    training_bytes: int
    shown: Shown | None
    """In MLflow; None: it is left alone."""
    store: Store

    def lines(self) -> list[str]:
        """Return what there is, a line each, for people."""
        found = [f"{self.folder}: {size(self.bytes)} in {count(self.files, 'file')}"]
        found += [f"{folder}: checkpoints" for folder in self.stored]
        if self.stored:
            found[-1] += f"; {size(self.stored_bytes)} in {count(self.stored_files, 'file')}"
        if self.trainings:
            names = ", ".join(folder.name for folder in self.trainings)
            found.append(f"final trainings {names}: {size(self.training_bytes)}")
        if self.shown is not None and (self.shown.runs or self.shown.versions):
            models = [f"{version.name} {version.version}" for version in self.shown.versions]
            told = f", registered models {', '.join(models)}" if models else ""
            found.append(f"MLflow ({self.store.name}): {count(len(self.shown.runs), 'run')} with their files{told}")
        return found

    def kept_lines(self) -> list[str]:
        """Return what stays though it has to do with the sweep, a line each."""
        told = [f"{link} is a link: what it names, {link.readlink()}, stays" for link in self.links]
        if self.shared:
            told.append(f"{self.shared[0]} and {len(self.shared) - 1} more stay: other sweeps may use their folder")
        return told

    def to_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "folder": str(self.folder),
            "files": self.files,
            "bytes": self.bytes,
            "stored": list(self.stored),
            "stored_files": self.stored_files,
            "stored_bytes": self.stored_bytes,
            "trainings": [folder.name for folder in self.trainings],
            "training_bytes": self.training_bytes,
            "mlflow_runs": None if self.shown is None else len(self.shown.runs),
            "models": [] if self.shown is None else [f"models:/{v.name}/{v.version}" for v in self.shown.versions],
            "stays": self.kept_lines(),
        }


def survey(home: Home, ledger: Ledger, store: Store, *, mlflow: bool = True) -> Belongings:
    """Find what belongs to a sweep.

    Args:
        home: where it lives.
        ledger: the sweep's.
        store: where it is shown.
        mlflow: whether to ask the store.

    Raises:
        ConnectionError: MLflow does not answer.
        StorageError: a store of checkpoints does not.
    """
    paths = ledger.paths
    stored, shared = stored_folders(paths, ledger.id)
    stored_files, stored_bytes = measure_stored(stored)
    trainings = list(trainings_of(home, paths.name, ledger.id))
    outboxes = [found for folder in (paths.outbox, *(t / "outbox" for t in trainings)) if (found := outbox_id(folder))]
    files, total = folder_size(paths.root)
    return Belongings(
        folder=paths.root,
        files=files,
        bytes=total,
        links=[path for path in sorted(paths.root.rglob("*")) if path.is_symlink()],
        stored=[folder for folder in stored if "://" in folder or Path(folder).is_dir()] if stored_files else [],
        stored_files=stored_files,
        stored_bytes=stored_bytes,
        shared=shared,
        trainings=trainings,
        training_bytes=sum(folder_size(folder)[1] for folder in trainings),
        shown=find_shown(store, outboxes, ledger.id) if mlflow else None,
        store=store,
    )


def trainings_of(home: Home, sweep: str, sweep_id: str) -> Iterator[Path]:
    """Yield the folders of the final trainings of a sweep's trials; of another sweep of the same name: none."""
    root = home.root / "final"
    for file in sorted(root.glob("*/config.yaml")) if root.is_dir() else ():
        if file.parent.is_symlink():
            continue
        try:
            evidence = read_yaml(file).content.get("evidence")
        except (ConfigError, OSError):
            continue
        said = evidence if isinstance(evidence, dict) else {}
        if said.get("sweep") == sweep and said.get("sweep_id") in (None, "", sweep_id):
            yield file.parent
