"""Which code trains here: its commit, what has been changed since, and the installed packages. Kept with the sweep."""

from __future__ import annotations

import ast
import functools
import getpass
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from meanflow_core.config import is_named

NOTE = "{}.provenance.json"
"""Beside a package that was sent elsewhere without its repository: what `code_of` found where it came from."""
LARGEST_DIFF = 2**20
"""Bytes of changes that are kept."""
PATIENCE = 10
"""Seconds for one question to git."""


@dataclass(frozen=True)
class Code:
    """A state of the repository that holds a trainer's package."""

    commit: str | None = None
    """None: it is in no git repository that could be asked."""
    changes: str = ""
    """The difference to the commit, as `git apply` takes it, new files of Python among it."""

    @property
    def name(self) -> str | None:
        """The commit, and whether that is all."""
        return f"{self.commit} with changes" if self.changes else self.commit


@functools.cache
def code_of(package: str) -> Code:
    """Return the commit and the changes of an importable package's repository. Nothing is imported.

    Asked once a process: what is changed on disk later is not what it runs.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.origin:
        return Code()
    source = Path(found.origin).resolve()
    note = (source.parent if found.submodule_search_locations is None else source.parents[1]) / NOTE.format(package)
    return _code_at(source, note)


@functools.cache
def code_of_file(source: Path) -> Code:
    """Return the same for a file: an own program's."""
    return _code_at(source, source.parent / NOTE.format(source.name))


def _code_at(source: Path, note: Path) -> Code:
    if note.is_file():
        return Code(**json.loads(note.read_text()))
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return Code()  # in no repository, or, as an installed package, in one that does not hold it
    root = Path((_git(source.parent, "rev-parse", "--show-toplevel") or "").strip())
    commit = (_git(root, "rev-parse", "HEAD") or "").strip()
    return Code(commit, _changes(root)) if commit else Code()


def own_files(module: str) -> list[Path]:
    """Return the files of a module and of all that it imports from outside the installed packages and this tool.

    Found by reading their source: nothing is imported. Imports inside of functions count, those by a computed name do
    not (see `loaded_here`). First come those of the module's whole top-level package, by path, then others, by name.
    """
    top = module.partition(".")[0]
    package = _find(top)
    whole = [] if package is None else sorted(f for root in _folders(package) for f in root.rglob("*.py"))
    found = dict.fromkeys(whole or ([Path(package.origin)] if package is not None and package.origin else []))
    outside = {file for _, file in _reached(module) if file not in found}
    return [*found, *sorted(outside, key=lambda file: (file.name, file.read_bytes()))]


def packages_of(module: str) -> list[str]:
    """Return the top-level packages (or modules) of a module and of all its own imports; see `own_files`."""
    tops = {name.partition(".")[0] for name, _ in _reached(module)}
    return sorted(tops - {"meanflow_core", "orchestrator"})


def _reached(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the names and files of a module and of all that it imports from outside the installed packages."""
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        spec = None if name in seen else _find(name)
        seen.add(name)
        if spec is None or not (spec.origin or "").endswith(".py") or _installed_at(Path(spec.origin or "")):
            continue
        file = Path(spec.origin or "")
        yield name, file
        waiting += _imports_of(file, name)


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
            own[name] = file
    if not own:  # as in most trials: then nobody asks for the files of a whole package
        return ""
    known = {file.resolve() for file in own_files(module)}
    found = {name: _hash(file) for name, file in own.items() if file.resolve() not in known}
    return json.dumps(found, sort_keys=True) if found else ""


def loaded_now(text: str) -> str:
    """Return what `loaded_here` would say today of the modules that it named in `text`. Nothing is imported."""
    found = {}
    for name in json.loads(text):
        spec = _find(name)
        found[name] = _hash(Path(spec.origin)) if spec is not None and spec.origin else "gone"
    return json.dumps(found, sort_keys=True)


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
    return [*found, *sorted(outside, key=lambda file: (file.name, file.read_bytes()))]


def _imports_of(file: Path, name: str) -> list[str]:
    stat = file.stat()
    return _imported(file, name, stat.st_mtime_ns, stat.st_size)


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


@functools.cache
def _imported(file: Path, name: str, *version: int) -> list[str]:
    """The modules that a file imports, and those above them; empty where it cannot be read as Python."""
    del version  # of the file: when it changes it is read again
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            base = ".".join(filter(None, [*above, node.module or ""]))
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [".".join(parts[:end]) for each in names for parts in [each.split(".")] for end in range(1, len(parts) + 1)]


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


def leave_note(name: str, code: Code, folder: Path) -> None:
    """Write what is known of the code of a package, or of a program's file, beside a copy of it in `folder`."""
    (folder / NOTE.format(name)).write_text(json.dumps(asdict(code)))


def record(folder: Path, code: Code) -> None:
    """Write `packages-NN.txt` and `changes-NN.diff` into a folder, each only where it differs from the one before."""
    found = {"packages": (packages(), "txt"), "changes": (code.changes, "diff")}
    for stem, (text, suffix) in found.items():
        before = sorted(folder.glob(f"{stem}-*.{suffix}"))
        if text != (before[-1].read_text() if before else ""):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}-{len(before) + 1:02}.{suffix}").write_text(text)


def recorded(folder: Path) -> dict[str, str]:
    """Return what `record` has written into a folder, by the files' names."""
    return {file.name: file.read_text() for file in sorted(folder.glob("*-*.*"))}


def first_packages(folder: Path) -> str:
    """Return the packages that `record` wrote first into a folder; empty where it has not."""
    files = sorted(folder.glob("packages-*.txt"))
    return files[0].read_text() if files else ""


@functools.cache
def packages() -> str:
    """Return the packages installed when this process began, one `name==version` a line, as pip takes them."""
    known: dict[str, str] = {}
    for place in sys.path:
        for entry in Path(place).glob("*.dist-info"):  # `importlib.metadata` would open a file of each: a second
            name, _, version = entry.name.removesuffix(".dist-info").partition("-")
            known.setdefault(name.lower().replace("_", "-"), version)
    return "".join(f"{name}=={version}\n" for name, version in sorted(known.items()))


SAID_USER, SAID_HOST = "MEANSWEEP_USER", "MEANSWEEP_USER_HOST"
"""Variables that say for whom a command runs: on a cluster everybody is the same user of the same machine."""


def user_name() -> str:
    """Return who runs this; empty for a container's user without a name."""
    if os.environ.get(SAID_USER):
        return os.environ[SAID_USER]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def host_name() -> str:
    """Return the machine of who runs this."""
    return os.environ.get(SAID_HOST) or socket.gethostname()


def new_id() -> str:
    """Return an id that no other sweep has: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def _changes(root: Path) -> str:
    found = _git(root, "diff", "HEAD", "--binary") or ""
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.py") or ""
    for name in filter(None, new.split("\0")):
        found += _git(root, "diff", "--no-index", "--", "/dev/null", name, fine=(0, 1)) or ""
    return found if len(found) <= LARGEST_DIFF else found[:LARGEST_DIFF] + "\n(cut off here: too long)\n"


def _git(folder: Path, *words: str, fine: tuple[int, ...] = (0,)) -> str | None:
    """Return what git says; None where there is no git, or it does not know."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode in fine else None


def c_compiler() -> str | None:
    """Return the C compiler that torch.compile would find; None: it cannot compile here."""
    names = [*([os.environ["CC"]] if os.environ.get("CC") else []), "cc", "gcc", "clang"]
    return next((name for name in names if shutil.which(name)), None)
