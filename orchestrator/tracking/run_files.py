"""The files of runs: in a home's own store they are links to what the sweep keeps, so that there is one copy."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from orchestrator.credentials import without_password
from orchestrator.tracking.mlflow_store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)


def own_folder(store: Store, run: Run) -> Path | None:
    """Return the folder of a run's files if it is one in the home's own store; None: somebody else keeps them."""
    place = urlsplit(run.info.artifact_uri)
    if store.artifacts is None or place.scheme not in ("file", ""):
        return None
    folder = Path(unquote(place.path))
    ours = ".." not in folder.parts and folder.parent.name == run.info.run_id
    return folder if ours and folder.parents[2].resolve() == store.artifacts.resolve() else None


def link_files(source: Path, folder: Path) -> bool:
    """Put a file, or the files of a folder, into another folder as links to the same content.

    What is linked must never be written to again, only replaced. Doing it again changes nothing.

    Returns:
        Whether that was possible: not across disks, nor on every file system.
    """
    files = [file for file in sorted(source.rglob("*")) if file.is_file()] if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    try:
        for file in files:
            _link(file, folder / file.relative_to(root))
    except OSError as error:
        log.debug("%s cannot be linked into %s: %s", source, folder, error)
        return False
    return True


def link_file(source: Path, target: Path) -> bool:
    """Put a link in the place of a copy of `source`; returns whether that was possible. See `link_files`."""
    try:
        _link(source, target)
    except OSError as error:
        log.debug("%s stays a copy of %s: %s", target, source, error)
        return False
    return True


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.linked")
    aside.unlink(missing_ok=True)
    os.link(source, aside)
    aside.replace(target)  # where both are links to one file already, this leaves `aside`
    aside.unlink(missing_ok=True)


def share_file(store: Store, run: Run, source: Path, name: str) -> bool:
    """Put a link to `source` in the place of the copy of it that a run's files have as `name`.

    Only in the home's own store, and where that copy is one: returns whether.
    """
    folder = own_folder(store, run)
    copy = None if folder is None else folder / name
    if copy is None or not copy.is_file() or not filecmp.cmp(copy, source, shallow=False):
        return False
    return link_file(source, copy)


def delete_run(client: MlflowClient, store: Store, run: Run) -> str | None:
    """Delete a run and its files; returns what could not be deleted."""
    problem = None
    try:
        _delete_files(store, run)
    except Exception as error:  # a server without the rights, a bucket of its own: the run goes all the same
        problem = f"files of run {run.info.run_id} in {run.info.artifact_uri}: {without_password(str(error))}"
        log.warning("not deleted: %s", problem)
    client.delete_run(run.info.run_id)
    return problem


def _delete_files(store: Store, run: Run) -> None:
    if store.artifacts is None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        files: Any = get_artifact_repository(run.info.artifact_uri, tracking_uri=store.uri)
        files.delete_artifacts("")
        return
    folder = own_folder(store, run)
    if folder is None:
        raise PermissionError("they are not in this home's own folder of artifacts")
    if folder.parent.is_dir() and not folder.parent.is_symlink():
        shutil.rmtree(folder.parent)
