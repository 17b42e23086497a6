"""Files behind an fsspec URL, e.g. in a bucket: copied whole or not at all, and with patience.

Whatever fails here is the store's fault and none of the training's: it is tried again, and then raised as
`StorageError`, by where it happened and not by its type.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.credentials import without_password

PATIENCE = 300.0
"""Seconds for which a store that does not answer is asked again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between the first two attempts, and between two at most."""
HOPELESS = (
    PermissionError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    NotImplementedError,
)
"""Errors that waiting does not cure: wrong keys, no such bucket, a package that is missing, a store to read alone."""
_HOPELESS_NAMES = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError")
"""The same, of what makes S3's clients: no key at all, a name that no bucket can have."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class StorageError(RuntimeError):
    """A store could not be read or written."""


class StoreAway(StorageError):
    """A store did not answer; it may later."""


def upload(folder: Path, url: str) -> None:
    """Copy a folder's files to a URL; the checkpoint's own JSON file, which makes it whole, goes last.

    Raises:
        StorageError: the store takes none, or not for `PATIENCE` seconds.
    """
    order = sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name))

    def put() -> None:
        files, path = _filesystem(url)
        if _has_folders(path):
            files.makedirs(path, exist_ok=True)
        for file in order:
            if file.suffix == ".json" and files.exists(f"{path}/{file.name}"):
                files.rm_file(f"{path}/{file.name}")  # of an earlier one: with new files beside it, it would lie
        for file in order:
            files.put_file(str(file), f"{path}/{file.name}")

    _patiently(put, f"write {url}")


def download(url: str, folder: Path) -> Path:
    """Copy the files below a URL to a new folder and return it; an empty one where there is nothing.

    Raises:
        StorageError: the store does not let us in, or does not answer for `PATIENCE` seconds.
    """
    folder.mkdir(parents=True)

    def get() -> None:
        files, path = _filesystem(url)
        for name in files.ls(path, detail=False) if files.exists(path) else ():
            files.get_file(name, str(folder / Path(name).name))

    _patiently(get, f"read {url}")
    return folder


def delete(url: str) -> bool:
    """Delete what is below a URL and return whether that worked; where it did not, a warning says so."""
    try:
        files, path = _filesystem(url)
        if files.exists(path):
            files.rm(path, recursive=True)
    except Exception as error:
        log.warning("%s could not be deleted, and stays: %s", url, _said(error))
        return False
    return True


def measure(url: str) -> tuple[int, int]:
    """Return how many files there are below a URL, and their bytes.

    Raises:
        StorageError: the store cannot be reached.
    """
    try:
        files, path = _filesystem(url)
        found = files.find(path, detail=True) if files.exists(path) else {}
    except Exception as error:
        raise StorageError(f"{url}: {_said(error)}") from error
    return len(found), sum(int(entry.get("size") or 0) for entry in found.values())


def check_writable(url: str, *, patience: float = 0.0, told: Callable[[str], None] | None = None) -> None:
    """Write, read and delete a small file below a URL.

    Args:
        url: the place.
        patience: seconds for which a store that does not answer is asked again.
        told: is given the reason once, before the first wait; None: each wait is logged.

    Raises:
        StoreAway: the store does not answer.
        StorageError: one of the three does not work, with the reason.
    """
    if without_password(url) != url:
        raise StorageError(
            f"{without_password(url)} was given with a user, a password or a key, which the sweep's record would show; "
            "put them into HOME/credentials (mode 600), as FSSPEC_SFTP_USERNAME=..., FSSPEC_SFTP_PASSWORD=... for "
            "sftp://, or as the store's own variables"
        )
    if "://" not in url and not os.path.isabs(url):
        raise StorageError(f"{url} is no URL; it must look like s3://BUCKET/PREFIX, or be an absolute path")
    if not url.rpartition("://")[2].strip("/"):
        raise StorageError(f"{url} names no place to write to; it must look like s3://BUCKET/PREFIX")
    try:
        _kind_of_store(url)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{url}: {_said(error)}") from error
    probe = f"{url.rstrip('/')}/.meansweep-{os.getpid()}-{os.urandom(4).hex()}"
    _patiently(lambda: _probe(url, probe), f"write {url}", patience=patience, told=told)


def _probe(url: str, probe: str) -> None:
    """Write, read and delete a small file. That shows whether there is a bucket: one that is away seems to be none.

    Raises:
        StorageError: there is no bucket, or something else was read than was written.
    """
    files, path = _filesystem(probe)
    if _has_folders(path):
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        files.pipe_file(path, b"meansweep")
    except FileNotFoundError as error:
        bucket = path.partition("/")[0]
        raise StorageError(f"{url}: there is no bucket {bucket!r} (none is made here)") from error
    if files.cat_file(path) != b"meansweep":
        raise StorageError(f"{url}: what is written there is not what is read back")
    files.rm_file(path)


def _patiently(
    action: Callable[[], T],
    what: str,
    *,
    patience: float | None = None,
    told: Callable[[str], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Do something with a store, again and again while it does not answer.

    Args:
        action: what is done.
        what: the same in words.
        patience: seconds for which it is tried again; None: `PATIENCE`.
        told: is given the reason once, before the first wait; None: each wait is logged.
        sleep: waits so many seconds.
        clock: counts seconds.

    Raises:
        StoreAway: it did not work for so long.
        StorageError: waiting would not help, with the reason.
    """
    began, pause, most = clock(), FIRST_PAUSE, PATIENCE if patience is None else patience
    while True:
        try:
            return action()
        except StorageError:
            raise
        except Exception as error:
            reason = f"could not {what}: {_said(error)}"
            if isinstance(error, HOPELESS) or type(error).__name__ in _HOPELESS_NAMES:
                raise StorageError(reason) from error
            waited = clock() - began
            if waited + pause > most:
                after = f" for {waited:.0f} s" if waited >= 1 else ""
                raise StoreAway(f"could not {what}{after}: {_said(error)}") from error
            if told is None:
                log.warning("could not %s, again in %.1f s: %s", what, pause, _said(error))
            elif pause == FIRST_PAUSE:
                told(reason)
            sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _has_folders(path: str) -> bool:
    """Whether a store has folders that must be made; one of objects has buckets, and would make one instead."""
    return path.startswith("/")


def _kind_of_store(url: str) -> Any:
    from fsspec.core import get_filesystem_class, split_protocol

    protocol, _ = split_protocol(url)
    return get_filesystem_class(protocol or "file")


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.config import conf, set_conf_env
    from fsspec.core import url_to_fs

    set_conf_env(conf)  # $FSSPEC_...: fsspec itself reads them once, when it is imported
    files, path = url_to_fs(url)
    files.invalidate_cache()  # what another process has written or deleted counts
    return files, path
