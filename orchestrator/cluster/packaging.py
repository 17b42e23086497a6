"""What travels to a cluster: the code of this installation and of the sweep's trainer, and the files that are named."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meanflow_core.errors import ConfigError, Problem
from orchestrator.provenance import leave_note

SHIPPED = ("meanflow_core", "orchestrator")
LEFT_OUT = {"__pycache__", "data", "meansweep-data", "mlruns", "node_modules", "venv", "build", "dist"}
"""Folders that are not shipped with a package, unless they hold code; hidden ones are not either."""
MOST_BYTES = 50 * 2**20


@contextmanager
def staged(trainer: str | None = None, files: Sequence[Path] = (), packages: Sequence[str] = ()) -> Iterator[Path]:
    """Make a folder with what a job needs: our packages, that of a sweep's trainer, and copies of files.

    Args:
        trainer: as package.module:Class.
        files: are copied.
        packages: of the user's own networks, data and metrics.

    Raises:
        ConfigError: the trainer's package cannot be found here, or is too big to be code.
    """
    with tempfile.TemporaryDirectory(prefix="meansweep-submit-") as scratch:
        folder = Path(scratch)
        own = {*packages, *([trainer.partition(":")[0].partition(".")[0]] if trainer else [])}
        for package in sorted({*SHIPPED, *own}):
            copy_package(package, folder)
        for package in sorted(own):
            leave_note(package, folder)
        for file in files:
            shutil.copy2(file, folder)
        yield folder


def copy_package(name: str, folder: Path) -> None:
    """Copy an importable package, or module, below `folder`.

    Raises:
        ConfigError: there is none of that name, or it is too big.
    """
    found = importlib.util.find_spec(name)
    if found is None or not (found.submodule_search_locations or found.origin):
        raise ConfigError(
            [Problem(key="trainer", value=name, rule="no such package here, so it cannot be sent to the cluster")]
        )
    if found.submodule_search_locations:
        for place in found.submodule_search_locations:
            shutil.copytree(place, folder / name, ignore=_left_out, dirs_exist_ok=True)
    else:
        shutil.copy2(str(found.origin), folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        rule = f"its package is {size >> 20} MiB, too much for code alone; keep data out of the package's folder"
        raise ConfigError([Problem(key="trainer", value=name, rule=rule)])


def _left_out(place: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name.startswith(".") or (name in LEFT_OUT and not Path(place, name, "__init__.py").exists())
    ]
