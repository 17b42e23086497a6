"""Deleting checkpoints by rule. The record stays, and so do the trials that have still to go on."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.results import best_so_far, leaderboard
from orchestrator.tracking import delete_own_files
from orchestrator.trials import TrialState
from orchestrator.worker import Kept, delete_checkpoints, kept_checkpoints

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.tracking import Store
    from orchestrator.trials import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which checkpoints go: of trials that have ended, those that nothing below spares."""

    keep: Collection[str] = ()
    """`best`, `last`: of each trial that one stays."""
    top: int = 1
    """The trials of so many configurations, the best ones, keep all they have."""
    failed: bool = False
    """Only of trials that failed."""
    older_than: float = 0.0
    """Only of trials that ended so many seconds ago."""


def choose(ledger: Ledger, rule: Rule, *, now: float | None = None) -> list[Kept]:
    """Return the checkpoints of a sweep that a rule deletes. Those of trials that have not ended are never among them.

    Args:
        ledger: the sweep's.
        rule: the rule.
        now: Unix seconds; None: now.
    """
    spec, trials = ledger.spec(), ledger.trials()
    records = {trial.id: trial for trial in trials}
    spared = _first(ledger, rule.top)
    before = (time.time() if now is None else now) - rule.older_than
    by_trial: dict[str, list[Kept]] = {}
    for kept in kept_checkpoints(ledger.paths):
        by_trial.setdefault(kept.trial, []).append(kept)
    gone: list[Kept] = []
    for trial, kept_here in by_trial.items():
        record = records.get(trial)
        if record is None or record.config_id in spared or not _applies(rule, record, before):
            continue
        stay = _stay(rule, kept_here, spec.metric.name, spec.metric.goal)
        gone += [kept for kept in kept_here if kept.name not in stay]
    return gone


def prune(ledger: Ledger, gone: Iterable[Kept], store: Store) -> None:
    """Delete checkpoints, and the links to them in the home's own MLflow.

    Args:
        ledger: of `closed`.
        gone: of `choose`.
        store: where the sweep is shown.

    Raises:
        StorageError: a store does not let us delete; those before are gone, and the record says so.
    """
    steps: dict[str, list[Kept]] = {}
    for kept in gone:
        steps.setdefault(kept.trial, []).append(kept)
    shown = {trial: (ledger.trial(trial).checkpoint or "").rpartition("/")[2] for trial in steps}
    for trial, some in steps.items():
        delete_checkpoints(ledger.paths, ledger.id, some)
        # Also of those that the trial itself has let go of since: of that the record says nothing.
        there = {kept.step for kept in kept_checkpoints(ledger.paths) if kept.trial == trial}
        history = ledger.history(trial)
        ledger.deletions.of_checkpoints(history, [step for step in history.points if step not in there])
    unlinked = [trial for trial, some in steps.items() if shown[trial] in {kept.name for kept in some}]
    delete_own_files(store, ledger.paths.outbox, unlinked, "checkpoint")


def _applies(rule: Rule, record: TrialRecord, before: float) -> bool:
    if not record.state.ended or (rule.failed and record.state is not TrialState.FAILED):
        return False
    return rule.older_than <= 0 or (record.ended is not None and record.ended <= before)


def _stay(rule: Rule, kept: list[Kept], metric: str, goal: str) -> set[str]:
    stay = set()
    if "last" in rule.keep:
        stay.add(max(kept, key=lambda each: each.step).name)
    if "best" in rule.keep:
        sign = 1.0 if goal == "minimize" else -1.0
        stay.add(min(kept, key=lambda each: sign * each.metrics.get(metric, math.inf * sign)).name)
    return stay


def _first(ledger: Ledger, top: int) -> set[int]:
    """The numbers of the best configurations; the very best is always among them."""
    spec, trials = ledger.spec(), ledger.trials()
    rows = [row for row in leaderboard(spec, trials) if row.rank is not None][:top]
    best = best_so_far(spec, trials)
    return {row.group.searched.config_id for row in [*rows, *([best] if best else [])]}
