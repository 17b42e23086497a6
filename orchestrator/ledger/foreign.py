"""What other tools write into a sweep's study: told from our own by its shape, passed over, or answered for.

Anybody may open the journal with Optuna and set attributes under any name; theirs come after ours and hide them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.events import Carry, NewTrial

if TYPE_CHECKING:
    from orchestrator.ledger.history import TrialHistory

_SHAPES: dict[str, type | tuple[type, ...]] = {
    **{"format": int, "id": str, "wall": (int, float), "sessions": list},
    **{"owner": dict, "environment": dict, "state": dict},
}
_PREFIXES: dict[str, type | tuple[type, ...]] = {"spec": dict, "pruned": list, "deleted": (int, float)}
"""Of facts that there are many of, each with a number after it."""


def is_own_fact(key: str, value: Any) -> bool:
    """Whether a fact about the sweep may be one that a ledger has written."""
    if key.startswith("note:"):
        return True
    prefix, _, number = key.partition(":")
    if prefix in _PREFIXES:
        if prefix == "spec":
            return number.isdecimal() and isinstance(value, dict) and "source" in value
        return number.isdecimal() and isinstance(value, _PREFIXES[prefix])
    return key in _SHAPES and isinstance(value, _SHAPES[key])


def own_facts(journal: Path, study: str) -> dict[str, Any]:
    """Return the facts that a ledger has written about a study, the last of each, whatever others wrote after it."""
    names: list[str] = []
    facts: dict[str, Any] = {}
    for line in journal.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last one, which is being written
            continue
        if entry["op_code"] == 0:
            names.append(entry["study_name"])
        elif entry["op_code"] == 2 and names[entry["study_id"]] == study:
            facts |= {key: value for key, value in entry["user_attr"].items() if is_own_fact(key, value)}
    return facts


def is_birth(event: Any) -> bool:
    """Whether the attribute `trial` of a row is what a ledger has written there."""
    return isinstance(event, Mapping) and {"id", "config_id", "values", "config_hash"} <= event.keys()


def apply_event(history: TrialHistory, key: str, event: Mapping[str, Any], journal: Path) -> None:
    """Take an attribute of a trial's row into its history.

    Raises:
        LedgerError: it bears a name of ours and is none of ours.
    """
    try:
        history.apply(key, event)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        told = f"{journal}: attribute {key!r} of row {history.row} is none of this program's ({error})"
        raise LedgerError(told) from error


def next_life(history: TrialHistory) -> NewTrial:
    """Return a trial as it goes on in a new row, where another tool has ended its own: nothing is added to that."""
    carry = Carry(
        points=history.points, busy=history.busy, gpu=history.gpu, wasted=history.wasted,
        attempts=tuple(history.attempts), run=history.run,
    )  # fmt: skip
    return replace(history.birth, labels=history.labels, carry=carry, waiting=True)
