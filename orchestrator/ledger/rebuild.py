"""What a damaged ledger has lost of the sweep as a whole, made again from what else there is of it.

Its studies have known names, its last sweep file lies beside it, and its id stands in what has left it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from meanflow_core.errors import ConfigError
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.events import Revision
from orchestrator.ledger.foreign import is_own_fact
from orchestrator.paths import SweepPaths

STUDIES = ("search", "replicates", "warm")
"""The studies of a ledger, in the order in which they are made, by its first lines; later ones count them."""


def with_studies(lines: Sequence[bytes], paths: SweepPaths) -> tuple[list[bytes], list[int], list[str]]:
    """Return a journal's lines with the studies that none of them makes.

    Args:
        lines: the lines; damaged ones may be among them.
        paths: the sweep's folder.

    Returns:
        The lines, those that made a lost study replaced; the numbers of all lines as they were (0: a new one); what was
        made again, in words.

    Raises:
        LedgerError: all studies are lost, and the sweep file too.
    """
    entries = [entry_of(line) for line in lines]
    made = {entry["study_name"]: n for n, entry in reversed([*enumerate(entries)]) if entry.get("op_code") == 0}
    lost = [name for name in STUDIES if name not in made]
    if not lost:
        return list(lines), list(range(1, len(lines) + 1)), []
    some = next(iter(made.values()), None)
    directions = _directions(lines, paths) if some is None else entries[some]["directions"]
    head = [
        (made[name] + 1, lines[made[name]]) if name in made
        else (0, _line(op_code=0, study_name=name, directions=directions))
        for name in STUDIES
    ]  # fmt: skip
    heads = {number - 1 for number, _ in head}
    gone = {n for n in range(min(len(STUDIES), len(lines))) if not entries[n]}
    rest = [(n + 1, line) for n, line in enumerate(lines) if n not in heads | gone]
    numbers, found = zip(*[*head, *rest], strict=True)
    return list(found), list(numbers), [f"the study {name!r}" for name in lost]


def with_facts(lines: Sequence[bytes], damaged: Sequence[int], paths: SweepPaths) -> tuple[list[bytes], list[str]]:
    """Return a journal's lines with the sweep files and the id that none of them holds, and what those are, in words.

    Args:
        lines: the lines, all of them whole.
        damaged: the numbers of those that were taken out, for the message.
        paths: the sweep's folder.

    Raises:
        LedgerError: a sweep file is lost and cannot be made again: with what to do.
    """
    facts, revisions = _known(lines)
    if not damaged and not revisions:  # a sweep that was never started
        return list(lines), []
    told: list[str] = []
    new: dict[str, Any] = {}
    known = {number: facts[f"spec:{number}"] for number in _numbers(facts)}
    for number in range(max([*known, *revisions, 0]), -1, -1):
        if number in known:
            continue
        if number + 1 in known:
            known[number] = {**known[number + 1], "changes": [], "command": None}
            told.append(f"the sweep file of revision {number}: it is that of revision {number + 1} now")
        else:
            source = _source(paths, number, damaged)
            known[number] = Revision(source=source, at=paths.spec.stat().st_mtime).to_json()
            told.append(f"the sweep file of revision {number}, from {paths.spec.name}")
        new[f"spec:{number}"] = known[number]
    if "id" not in facts and (found := _id(paths)):
        new["id"] = found
        told.append(f"the sweep's id, {found}")
    at = max((n for n, line in enumerate(lines, start=1) if entry_of(line).get("op_code") == 0), default=0)
    added = [_line(op_code=2, study_id=0, user_attr={key: value}) for key, value in new.items()]
    return [*lines[:at], *added, *lines[at:]], told


def entry_of(line: bytes) -> dict[str, Any]:
    """Return what a line of a journal holds; nothing of a damaged one."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "op_code" in found else {}


def _directions(lines: Iterable[bytes], paths: SweepPaths) -> list[int]:
    from orchestrator.spec import SweepSpec

    facts, _ = _known(lines)
    numbers = _numbers(facts)
    source = facts[f"spec:{numbers[-1]}"]["source"] if numbers else _source(paths, 0, [1])
    return [1 if metric.goal == "minimize" else 2 for metric in SweepSpec.from_source(source).metrics]


def _known(lines: Iterable[bytes]) -> tuple[dict[str, Any], set[int]]:
    """Return the facts that are there, and the revisions that trials speak of."""
    facts: dict[str, Any] = {}
    revisions = set[int]()
    for entry in map(entry_of, lines):
        if entry.get("op_code") == 2 and entry["study_id"] == 0:
            facts |= {key: value for key, value in entry["user_attr"].items() if is_own_fact(key, value)}
        birth = (entry.get("user_attrs") or {}).get("trial") if entry.get("op_code") == 4 else None
        if isinstance(birth, dict):
            revisions.add(int(birth.get("revision", 0)))
    return facts, revisions


def _numbers(facts: dict[str, Any]) -> list[int]:
    return sorted(int(key.partition(":")[2]) for key in facts if key.startswith("spec:"))


def _source(paths: SweepPaths, number: int, damaged: Sequence[int]) -> dict[str, Any]:
    from orchestrator.spec import read_spec

    try:
        return read_spec(paths.spec).source
    except (ConfigError, OSError) as error:
        reason = error.problems[0] if isinstance(error, ConfigError) else f"{paths.spec}: {error.strerror}"
        lines = f" with line {', '.join(map(str, damaged))}" if damaged else ""
        raise LedgerError(
            f"{paths.journal}: the sweep file of revision {number} is lost{lines}, and its copy cannot be read either "
            f"({reason}); put the sweep file there, as {paths.spec}, and repair again"
        ) from error


def _id(paths: SweepPaths) -> str:
    """Return the sweep's id out of its outbox, the places of its checkpoints, or a checkpoint; empty: it is nowhere."""
    marks = (
        (paths.outbox.glob("*.jsonl"), rb'"meansweep\.sweep_id": ?"([0-9a-f]{16})"'),
        (paths.trials.glob("*/checkpoints.json"), rb"/" + re.escape(paths.name).encode() + rb"-([0-9a-f]{16})/"),
        (paths.trials.glob("*/checkpoints/*/state.json"), rb'"meansweep\.sweep": ?"([0-9a-f]{16})"'),
    )
    for files, pattern in marks:
        for file in files:
            if found := _first(file, re.compile(pattern)):
                return found
    return ""


def _first(file: Path, pattern: re.Pattern[bytes]) -> str:
    with file.open("rb") as stream:
        return next((found[1].decode() for line in stream if (found := pattern.search(line))), "")


def _line(**content: Any) -> bytes:
    return json.dumps({"worker_id": "repair", **content}).encode() + b"\n"
