"""Names in a sweep file that others must be able to hold: MLflow as parameters and metrics, the disk as a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.spec.reader import Path, Reader

LONGEST_NAME = 100
"""Characters of a sweep's name, which is a folder's and part of a checkpoint's path."""
LONGEST_KEY = 250
"""Characters of a parameter's or metric's name; MLflow's limit."""
_SWEEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"[/\w.\- :]+")  # MLflow's


def folder_name(title: str) -> str:
    """Return a title as the name of a folder: `My sweep (2)` is `My-sweep-2`; itself where it may be one."""
    if _SWEEP.fullmatch(title):
        return title
    return re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-._")[:LONGEST_NAME].rstrip("-._")


def check_sweep_name(reader: Reader, name: str) -> None:
    """Note a name that cannot be a folder's."""
    if len(name) > LONGEST_NAME:
        reader.wrong(("name",), f"must have at most {LONGEST_NAME} characters: it is also a folder's name", name)
    elif not _SWEEP.fullmatch(name):
        reader.wrong(("name",), "must consist of letters, digits, `.`, `_` and `-`: it is also a folder's name", name)


def check_key(reader: Reader, path: Path, key: str) -> None:
    """Note a parameter's or metric's name that is empty, or that MLflow does not take."""
    if not all(key.split(".")):
        reader.wrong(path, "has an empty name, or an empty part between dots", key)
    elif len(key) > LONGEST_KEY:
        reader.wrong(path, f"must have a name of at most {LONGEST_KEY} characters, which is MLflow's limit", key)
    elif not _KEY.fullmatch(key):
        rule = "must have a name of letters, digits, `_`, `-`, `.`, `/`, `:` and spaces: MLflow takes no others"
        reader.wrong(path, rule, key)
    elif key.startswith("/") or not all(part.strip(".") for part in key.split("/")):
        reader.wrong(path, "must have a name that is no absolute or relative path: MLflow takes none", key)


def check_groups(reader: Reader, places: Iterable[tuple[Path, str]], others: Iterable[str]) -> None:
    """Note every key that stands beside a key below it: one is a value, the other makes it a group.

    Args:
        reader: takes the problems.
        places: where each key stands that the sweep sets, and the key.
        others: further keys that have a value.
    """
    found = list(places)
    known = {key for _, key in found} | set(others)
    for path, key in found:
        parts = key.split(".")
        for above in (".".join(parts[:end]) for end in range(1, len(parts))):
            if above in known:
                reader.wrong(path, f"`{key}` is below `{above}`, which has a value itself; rename one of the two")
