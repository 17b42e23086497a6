"""Whether an own program can be started here: its file, the program that runs it, the files of Python beside it."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from meanflow_core.errors import Problem, nearest
from orchestrator.source_files import program_files

if TYPE_CHECKING:
    from orchestrator.spec import Program

_VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")


def missing_program(program: Program) -> Iterator[Problem]:
    """Yield what keeps a trial from starting its program here. Nothing is run."""
    folder = program.place()
    if not folder.is_dir():
        yield Problem(key="trainer.folder", value=program.folder, rule=f"is no folder here: {folder}")
        return
    file = None if program.program is None else folder / program.program
    if file is not None and file.is_dir():
        yield Problem(key="program", value=program.program, rule="is a folder, and must be a file")
    elif file is not None and not file.is_file():
        near = nearest(file.name, [each.name for each in _listed(file.parent)])
        looked = f"it is looked for in {folder} and in the current folder"
        yield Problem(key="program", value=program.program, rule=f"there is no such file; {looked}", nearest=near)
    else:
        yield from _runner(program, folder)
    yield from broken_files("program", program.name, program_files(program.scripts(folder), folder))
    for name in dict.fromkeys(_VARIABLE.findall(" ".join(program.command))):
        if name not in os.environ:
            yield Problem(key="command", value=f"${{envvar:{name}}}", rule=f"the variable {name} is not set here")


def broken_files(key: str, value: str, files: Iterable[Path]) -> Iterator[Problem]:
    """Yield a problem for each file of Python that does not compile."""
    what = "cannot be imported" if key == "trainer" else "does not compile"
    for file in (each for each in files if each.suffix == ".py"):
        there = file.stat()
        if fault := _fault(file, there.st_mtime_ns, there.st_size):
            yield Problem(key=key, value=value, rule=f"{what}: {fault}")


@functools.cache
def _fault(file: Path, changed: int, size: int) -> str:
    """Return why a file of Python does not compile, "" if it does; looked at again once it has changed.

    Args:
        file: that file.
        changed: when it last was, in nanoseconds.
        size: in bytes.
    """
    try:
        # To code, and not to a tree: for one, CPython 3.11 may raise SystemError where garbage is collected.
        compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        return f"{type(error).__name__}: {getattr(error, 'msg', error)} ({file}, line {line})"
    return ""


def _runner(program: Program, folder: Path) -> Iterator[Problem]:
    """Yield a problem if the command's first word cannot be run."""
    words = program.words({}, json_file="")
    first = next((word for word in words if os.path.basename(word) != "env" and "=" not in word), None)
    if first is None:
        return
    path = folder / first
    if os.path.dirname(first) and path.is_file() and not os.access(path, os.X_OK):
        rule = f"is not executable: `chmod +x {first}`, or write what runs it before it"
        yield Problem(key="command", value=first, rule=rule)
    elif not (os.path.dirname(first) and path.is_file()) and shutil.which(first) is None:
        beside = f"; write ./{first}" if path.is_file() else ""
        yield Problem(key="command", value=first, rule=f"there is no such program here{beside}")


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
