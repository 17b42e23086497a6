"""A sweep as one file: put away, and brought back under its id where none of its name is."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.formatting import size
from orchestrator.ledger import Ledger, LedgerError
from orchestrator.lifecycle.access import LifecycleError
from orchestrator.paths import Home, SweepPaths, valid_name
from orchestrator.worker import download, kept_checkpoints, upload

if TYPE_CHECKING:
    from orchestrator.worker import Kept

FORMAT = 1
MANIFEST, SWEEP, STORED = "meansweep-archive.json", "sweep", "stored"
"""In the file: what it is, the sweep's folder, and its checkpoints from stores."""
LEFT_OUT = ("driver.lock", "mailbox", "outbox/sender.lock")
"""What means something to this process alone, or here alone."""
UNREADABLE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, KeyError, TypeError, LedgerError)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive says of itself, in its first member."""

    format: int
    sweep: str
    id: str
    checkpoints: bool
    bytes: int
    made: float


def archive(ledger: Ledger, out: Path, *, checkpoints: bool = False) -> int:
    """Write a sweep into one file, a gzipped tar; nothing of the sweep changes.

    Args:
        ledger: of `closed`.
        out: the file, which must not exist; it is there when it is complete.
        checkpoints: with them, also those in a store.

    Returns:
        The file's bytes.

    Raises:
        LifecycleError: there is a link in the sweep's folder, or the file exists.
        StorageError: a store of checkpoints does not answer.
    """
    if out.exists():
        raise LifecycleError(f"{out} exists; it is not overwritten")
    paths = ledger.paths
    files = list(_files(paths, checkpoints=checkpoints))
    total = sum(file.stat().st_size for file in files)
    known = Manifest(
        format=FORMAT, sweep=paths.name, id=ledger.id, checkpoints=checkpoints, bytes=total, made=time.time()
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        with tarfile.open(aside, "w:gz", compresslevel=3) as tar, tempfile.TemporaryDirectory() as scratch:
            note = Path(scratch) / MANIFEST
            note.write_text(json.dumps(asdict(known)))
            tar.add(note, MANIFEST)
            for file in files:
                tar.add(file, f"{SWEEP}/{file.relative_to(paths.root).as_posix()}", recursive=False)
            for kept in kept_checkpoints(paths) if checkpoints else ():
                if _elsewhere(kept, paths):
                    local = download(kept.place, Path(scratch) / kept.trial / kept.name)
                    tar.add(local, f"{STORED}/{kept.trial}/{kept.name}")
                    shutil.rmtree(local)
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        aside.rename(out)
        return out.stat().st_size
    finally:
        aside.unlink(missing_ok=True)


def restore(home: Home, file: Path) -> SweepPaths:
    """Bring a sweep back into a home, under its name and its id. All of it is there, or nothing.

    Checkpoints that were in a store are put back where they were.

    Raises:
        ConfigError: the file is no archive, or damaged; a sweep of this name exists; the disk is too small.
        StorageError: a store takes no checkpoints.
    """
    try:
        with tarfile.open(file, "r:gz") as tar:
            known = _manifest(tar, file)
            target = home.sweep(known.sweep)
            if os.path.lexists(target.root):
                raise _wrong(file, f"{target.root} exists; it is not overwritten (`meansweep remove {known.sweep}`)")
            home.sweeps.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(home.sweeps).free) < known.bytes:
                raise _wrong(file, f"holds {size(known.bytes)}, and {home.sweeps} has {size(free)} free")
            with tempfile.TemporaryDirectory(prefix=".restoring-", dir=home.sweeps) as scratch:
                for member in tar:
                    _extract(tar, member, Path(scratch), file)
                while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                    pass  # to the end, where the check sum is
                aside = SweepPaths(Path(scratch) / known.sweep)
                (Path(scratch) / SWEEP).rename(aside.root)
                back = Ledger.open(aside)
                if back.id != known.id:
                    raise _wrong(file, f"holds sweep {back.id or '?'} and says that it is {known.id}")
                _put_back(aside, Path(scratch) / STORED)
                os.rename(aside.root, target.root)  # fails if it exists by now and is not empty
            return target
    except UNREADABLE as error:
        raise _wrong(file, f"cannot be read as an archive of a sweep ({type(error).__name__}: {error})") from error


def _files(paths: SweepPaths, *, checkpoints: bool) -> Iterator[Path]:
    for root, folders, names in os.walk(paths.root):
        for name in sorted([*names, *folders]):
            file = Path(root) / name
            if file.is_symlink():
                raise LifecycleError(f"{file} is a link; an archive holds what is in the sweep's own folder alone")
        inside = Path(root).relative_to(paths.root)
        folders[:] = sorted(
            name
            for name in folders
            if (inside / name).as_posix() not in LEFT_OUT
            and (checkpoints or not (len(inside.parts) == 2 and inside.parts[0] == "trials" and name == "checkpoints"))
        )
        for name in sorted(names):
            place = (inside / name).as_posix()
            sent = place.startswith("outbox/sent-")  # to the store of this home
            if place not in LEFT_OUT and not sent and (checkpoints or name != "checkpoints.json"):
                yield Path(root) / name


def _manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > 1 << 16:
        raise _wrong(file, "is no archive of a sweep")
    content: dict[str, Any] = json.loads(_read(tar, first))
    if content["format"] > FORMAT:
        raise _wrong(file, f"is of a later version (format {content['format']}, this one knows {FORMAT})")
    known = Manifest(**{key: content[key] for key in Manifest.__dataclass_fields__})
    if not valid_name(known.sweep):
        raise _wrong(file, f"names a sweep {known.sweep!r}, which is no name of one")
    return known


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, file: Path) -> None:
    """Write one member below a folder: a plain file of ours, and nothing that leads elsewhere."""
    place = PurePosixPath(member.name)
    if member.name == MANIFEST or member.isdir():
        return
    if not member.isreg() or place.is_absolute() or ".." in place.parts or place.parts[0] not in (SWEEP, STORED):
        raise _wrong(file, f"holds {member.name!r}, which no archive of a sweep does")
    target = folder.joinpath(*place.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    stream = tar.extractfile(member)
    assert stream is not None
    with target.open("xb") as copy:
        shutil.copyfileobj(stream, copy)
    os.utime(target, (member.mtime, member.mtime))


def _elsewhere(kept: Kept, paths: SweepPaths) -> bool:
    return not paths.trial(kept.trial).checkpoints.joinpath(kept.name).is_dir()


def _put_back(paths: SweepPaths, stored: Path) -> None:
    """Copy checkpoints from an archive to the store that they came from."""
    for kept in kept_checkpoints(paths):
        local = stored / kept.trial / kept.name
        if local.is_dir():
            upload(local, kept.place)


def _wrong(file: Path, rule: str) -> ConfigError:
    return ConfigError([Problem(key="FILE", value=str(file), rule=rule)])
