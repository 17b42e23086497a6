"""Which code trains here: its commit, what has been changed since, and the installed packages. Kept with the sweep."""

from __future__ import annotations

import functools
import getpass
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

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
