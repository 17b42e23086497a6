"""Which files are a trainer's own code: found by reading their source, outside of packages and of this tool."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from meanflow_core.config import is_named


def own_files(module: str) -> list[Path]:
    """Return the files of a module and of all that it imports from outside the installed packages and this tool.

    Found by reading their source: nothing is imported. Imports inside of functions count, and files of Python whose
    paths stand there as texts (for `runpy`, `spec_from_file_location`, `exec`); what has a computed name does not (see
    `loaded_here`). First come those of the module's whole top-level package, by path, then others, by name.
    """
    top = module.partition(".")[0]
    package = _find(top)
    whole = [] if package is None else sorted(f for root in _folders(package) for f in root.rglob("*.py"))
    found = dict.fromkeys(whole or ([Path(package.origin)] if package is not None and package.origin else []))
    outside = {file for _, file in _reached(module) if file not in found}
    return [*found, *sorted(outside, key=lambda file: (file.name, file.read_bytes()))]


def packages_of(module: str) -> list[str]:
    """Return the top-level packages (or modules) of a module and of all its own imports; see `own_files`."""
    tops = {name.partition(".")[0] for name, _ in _reached(module) if name}
    return sorted(tops - {"meanflow_core", "orchestrator"})


def _reached(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the names and files of a module and of all that it imports from outside the installed packages.

    A file that is named by its path has the name by which it could be imported, and none where there is no such.
    """
    waiting: list[tuple[str, Path | None]] = [(module, None)]
    seen = set[str | Path]()
    while waiting:
        name, file = waiting.pop()
        if file is None and name not in seen:
            seen.add(name)
            spec = _find(name)
            origin = (spec.origin if spec is not None else None) or ""
            file = Path(origin) if origin.endswith(".py") else None
        if file is None or file.resolve() in seen or _installed_at(file):
            continue
        seen.add(file.resolve())
        yield name, file
        waiting += [(each, None) for each in _imports_of(file, name)]
        waiting += [(_name_of(named), named) for named in _named_in(file)]


def _name_of(file: Path) -> str:
    """The name by which a file could be imported; empty where there is none."""
    for place in map(Path, filter(None, sys.path)):
        if file.is_relative_to(place):
            name = ".".join(file.relative_to(place).with_suffix("").parts)
            found = _find(name)
            if found is not None and found.origin and Path(found.origin).resolve() == file.resolve():
                return name
    return ""


def loaded_here(module: str, names: Iterable[str]) -> str:
    """Return which of these modules are own code that `own_files` does not find: imported by computed names, mostly.

    Args:
        module: of the trainer.
        names: of modules that this process has imported for it.

    Returns:
        JSON of a hash by module; empty for none.
    """
    own = {}
    for name in names:
        file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        ours = file.suffix == ".py" and name.partition(".")[0] not in ("meanflow_core", __package__)
        if ours and not _installed_at(file) and file.is_file():
            own[name] = file.resolve()
    if not own:  # as in most trials: then nobody asks for the files of a whole package
        return ""
    known, root = {file.resolve() for file in own_files(module)}, _root_of(module)
    # With its place, since it may be on a path that only the trainer adds.
    found = {name: f"{_hash(file)} {os.path.relpath(file, root)}" for name, file in own.items() if file not in known}
    return json.dumps(found, sort_keys=True) if found else ""


def loaded_now(text: str, module: str) -> str:
    """Return what `loaded_here` would say today of the modules that it named in `text`. Nothing is imported.

    Args:
        text: of `loaded_here`.
        module: of the trainer.
    """
    root, found = _root_of(module), {}
    for name, then in json.loads(text).items():
        _, _, place = then.partition(" ")
        spec = None if place and (root / place).is_file() else _find(name)
        file = Path(spec.origin) if spec is not None and spec.origin else root / place
        found[name] = f"{_hash(file)} {place}".strip() if file.is_file() else "gone"
    return json.dumps(found, sort_keys=True)


def _root_of(module: str) -> Path:
    """The folder from which a module is imported."""
    top = _find(module.partition(".")[0])
    if top is None:
        return Path.cwd()
    folders = [*_folders(top), Path(top.origin or "")]
    return folders[0].resolve().parent


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def program_files(scripts: Iterable[Path], folder: Path) -> list[Path]:
    """Return an own program's files: its scripts, and all that those of Python import from beside them.

    Args:
        scripts: the files that its command names.
        folder: where it runs.
    """
    found = dict.fromkeys(script for script in scripts if not _installed_at(script))
    places = list(dict.fromkeys(str(place) for place in (*(script.parent for script in found), folder)))
    outside: dict[Path, None] = {}
    waiting, seen = [name for file in found if file.suffix == ".py" for name in _imports_of(file, "__main__")], set()
    while waiting:
        name = waiting.pop()
        spec = None if name in seen else _find(name, places)
        seen.add(name)
        if spec is None or not (spec.origin or "").endswith(".py") or _installed_at(Path(spec.origin or "")):
            continue
        file = Path(spec.origin or "").resolve()
        if file not in found:
            outside[file] = None
        waiting += _imports_of(file, name)
    for file in [each for script in [*found, *outside] for each in _named_in(script)]:
        if file not in found and not _installed_at(file):
            outside[file] = None
    return [*found, *sorted(outside, key=lambda file: (file.name, file.read_bytes()))]


def _imports_of(file: Path, name: str) -> list[str]:
    """The modules that a file imports under its name, and those above them."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = []
    for level, module, taken in _said_in(file).imports:
        above = package.split(".")[: len(package.split(".")) - (level - 1)] if level else []
        base = ".".join(filter(None, [*above, module]))
        names += [base, *(f"{base}.{each}" for each in taken)]
    return [".".join(parts[:end]) for each in names for parts in [each.split(".")] for end in range(1, len(parts) + 1)]


def _named_in(file: Path) -> list[Path]:
    """The files of Python whose paths stand as texts in a file: from its folder on, or from the current one."""
    found = []
    for text in _said_in(file).paths:
        places = (file.resolve().parent / text, Path.cwd() / text)
        found += [place.resolve() for place in places if place.is_file()][:1]
    return [each for each in found if each != file.resolve()]


@dataclass(frozen=True)
class _Said:
    """What a file says of other files; nothing where it cannot be read as Python."""

    imports: list[tuple[int, str, list[str]]]
    """Level, module and names of each import."""
    paths: list[str]
    """Texts that look like the path of a file of Python."""


def _said_in(file: Path) -> _Said:
    stat = file.stat()
    return _parsed(file, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _parsed(file: Path, *version: int) -> _Said:
    del version  # of the file: when it changes it is read again
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return _Said([], [])
    imports: list[tuple[int, str, list[str]]] = []
    texts = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", [alias.name for alias in node.names]))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    paths = (text for text in texts if text.endswith(".py") and len(text) < 250 and "\0" not in text)
    return _Said(imports, sorted(paths))


def _find(name: str, places: list[str] | None = None) -> ModuleSpec | None:
    """Where a module is, among `places` (None: where Python looks); None for one that is not there, or this tool's."""
    parts = name.split(".")
    if parts[0] == __package__:
        return None
    spec = PathFinder.find_spec(parts[0], places)
    for part in parts[1:]:
        if spec is None or spec.submodule_search_locations is None or _installed_at(Path(spec.origin or "")):
            return None
        # Its last name alone: of a folder without __init__.py in another one, Python would look up the parent module,
        # which has not been imported.
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec


def _folders(spec: ModuleSpec) -> list[Path]:
    return [Path(place) for place in spec.submodule_search_locations or ()]


def _installed_at(file: Path) -> bool:
    """Whether a file belongs to Python or to an installed package, whose version says what it is."""
    return str(file).startswith(_installed_places())


@functools.cache
def _installed_places() -> tuple[str, ...]:
    # Once a process: Python works each of them out anew, and a trial asks for thousands of files.
    return tuple({sysconfig.get_path(key) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def own_packages(names: Iterable[object]) -> list[str]:
    """Return the top-level packages (or modules) of every package.module:name among `names`, sorted.

    Installed ones are left out: they are where the packages they stand beside are. Nothing is imported.
    """
    found = set()
    for name in names:
        if not is_named(name):
            continue
        package = str(name).partition(":")[0].partition(".")[0]
        place = importlib.util.find_spec(package)
        if place is not None and place.origin and place.has_location and not _installed_at(Path(place.origin)):
            found.add(package)
    return sorted(found - {"meanflow_core", "orchestrator"})
