"""What travels to a cluster: the code of this installation and of the sweep's trainer, and the files that are named."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meanflow_core.errors import ConfigError, Problem
from orchestrator.provenance import code_of, code_of_file, leave_note
from orchestrator.spec import Program

SHIPPED = ("meanflow_core", "orchestrator")
LEFT_OUT = {"__pycache__", "data", "meansweep-data", "mlruns", "node_modules", "venv", "build", "dist"}
"""Folders that are not shipped with a package, unless they hold code; hidden ones are not either."""
PROGRAM_FOLDER = "program"
"""Where an own program's folder goes, beside the sweep's file."""
MOST_BYTES = 50 * 2**20


@contextmanager
def staged(
    trainer: str | None = None,
    files: Sequence[Path] = (),
    packages: Sequence[str] = (),
    program: Program | None = None,
) -> Iterator[Path]:
    """Make a folder with what a job needs: our packages, that of a sweep's trainer, and copies of files.

    Args:
        trainer: as package.module:Class.
        files: are copied.
        packages: of the user's own networks, data and metrics.
        program: of a sweep whose trials are an own program; its folder becomes `PROGRAM_FOLDER`.

    Raises:
        ConfigError: the trainer's package, or the program's folder, cannot be found here, or is too big to be code.
    """
    with tempfile.TemporaryDirectory(prefix="meansweep-submit-") as scratch:
        folder = Path(scratch)
        own = {*packages, *([trainer.partition(":")[0].partition(".")[0]] if trainer else [])}
        for package in sorted({*SHIPPED, *own}):
            copy_package(package, folder)
        for package in sorted(own):
            leave_note(package, code_of(package), folder)
        if program is not None:
            copy_program(program, folder / PROGRAM_FOLDER)
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


def copy_program(program: Program, folder: Path) -> None:
    """Copy a program's working folder.

    Raises:
        ConfigError: it is not here, or more than code.
    """
    here = program.place()
    if program.file_in(here) is not None and not program.scripts(here):
        rule = f"is not in {here}, so it cannot be sent to the cluster"
        raise ConfigError([Problem(key="program", value=program.name, rule=rule)])
    sizes = {
        entry.name: _size(entry) for entry in here.iterdir() if entry.name not in _left_out(str(here), [entry.name])
    }
    if sum(sizes.values()) > MOST_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        rule = (
            f"its folder {here} would travel, and holds {sum(sizes.values()) >> 20} MiB ({largest}: "
            f"{sizes[largest] >> 20} MiB), too much for code alone; put the program into a folder of its own "
            "(`trainer: {folder: ...}`), data elsewhere"
        )
        raise ConfigError([Problem(key="program", value=program.name, rule=rule)])
    shutil.copytree(here, folder, ignore=_left_out)
    for script in program.scripts(here)[:1]:
        leave_note(script.name, code_of_file(script), folder / script.parent.relative_to(here.resolve()))


def _size(entry: Path) -> int:
    """Bytes of what would be copied."""
    if entry.is_file():
        return entry.stat().st_size
    left = _left_out(str(entry), [each.name for each in entry.iterdir()]) if entry.is_dir() else []
    return sum(_size(each) for each in entry.iterdir() if each.name not in left) if entry.is_dir() else 0


def _left_out(place: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name.startswith(".") or (name in LEFT_OUT and not Path(place, name, "__init__.py").exists())
    ]
