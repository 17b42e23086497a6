"""A journal read without Optuna: its import alone takes longer than a whole answer of `status` or `leaderboard`.

Only what a reader needs of Optuna's format is known here (which rows there are, and their attributes). Of a journal
with anything else in it Optuna is asked: what is damaged, and in which line, is said by one place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.ledger.foreign import is_own_fact
from orchestrator.ledger.studies import Studies
from orchestrator.paths import SweepPaths

FINISHED = (1, 2, 3)
"""Optuna's states of a trial that nothing is added to any more."""


@dataclass
class RowState:
    """The state of a row, as Optuna's own object answers for it."""

    code: int

    def is_finished(self) -> bool:
        """Whether nothing is added to the row any more."""
        return self.code in FINISHED


@dataclass
class Row:
    """A row of a study, with those of its names in Optuna that a ledger asks for."""

    _trial_id: int
    number: int
    state: RowState
    user_attrs: dict[str, Any]


class JournalView(Studies):
    """The studies of a journal, for reading alone."""

    def __init__(self, paths: SweepPaths) -> None:
        self._paths = paths
        self._lock = None
        self.facts = {}
        self.names: list[str] = []
        """Of the studies, in the order of their ids."""
        self.by_study: dict[str, list[Row]] = {}

    def rows(self) -> Iterator[Any]:
        """Yield the rows of the search, then those of its replicates, in the order in which they were made."""
        for name in ("search", "replicates"):
            yield from self.by_study.get(name, ())

    def observations(self) -> list[dict[str, Any]]:
        """Return the observations of other sweeps."""
        rows = self.by_study.get("warm", ())
        return [row.user_attrs["observation"] for row in rows if "observation" in row.user_attrs]


def read_journal(paths: SweepPaths) -> JournalView | None:
    """Return what the journal of a sweep holds; None where an entry is not whole, or not known to this reader."""
    view = JournalView(paths)
    trials: list[Row] = []
    try:
        for line in paths.journal.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return None  # the driver is writing it, or it is torn
            _apply(view, trials, json.loads(line))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return view


def _apply(view: JournalView, trials: list[Row], entry: dict[str, Any]) -> None:
    match entry["op_code"]:
        case 0:  # a study is made
            if entry["study_name"] in view.names:
                raise ValueError(entry["study_name"])
            view.names.append(entry["study_name"])
            view.by_study[entry["study_name"]] = []
        case 2:  # a fact about a study
            if view.names[entry["study_id"]] == "search":
                view.facts.update({k: v for k, v in entry["user_attr"].items() if is_own_fact(k, v)})
        case 4:  # a row is made
            rows = view.by_study[view.names[entry["study_id"]]]
            row = Row(len(trials), len(rows), RowState(entry["state"]), dict(entry.get("user_attrs", {})))
            rows.append(row)
            trials.append(row)
        case 6:  # its state
            row = trials[entry["trial_id"]]
            if not row.state.is_finished():
                row.state.code = entry["state"]
        case 7:  # a value on the way, for Optuna's own tools: is there such a row?
            trials[entry["trial_id"]]
        case 8:  # an attribute of a row
            row = trials[entry["trial_id"]]
            if not row.state.is_finished():  # Optuna passes over what comes later, too
                row.user_attrs.update(entry["user_attr"])
        case _:
            raise ValueError(entry["op_code"])
