"""Where a sweep stands and what it has cost, out of its ledger."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.results.sweep_status import best_so_far
from orchestrator.trials import TrialRecord, TrialState

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger


def is_driven(ledger: Ledger) -> bool:
    """Whether a driver runs the sweep now, by its lock."""
    from orchestrator.ledger import driver_of

    return driver_of(ledger.paths.lock) is not None


def standing(ledger: Ledger, *, driven: bool | None = None) -> list[TrialRecord]:
    """Return the trials as they stand: what a dead driver left running waits for a resume.

    Args:
        ledger: the sweep's ledger.
        driven: whether a driver runs; None: look at the lock.
    """
    trials = ledger.trials()
    if is_driven(ledger) if driven is None else driven:
        return trials
    return [replace(t, state=TrialState.WAITING) if t.state is TrialState.RUNNING else t for t in trials]


def summarize(ledger: Ledger, *, wall: float | None = None, driven: bool | None = None) -> dict[str, Any]:
    """Return `{sweep, state, reason, trials, best, budget, waste, ...}`, JSON-able.

    Args:
        ledger: the sweep's ledger.
        wall: the sweep's clock, if a running driver knows it better than the record.
        driven: whether a driver runs; None: look at the lock.
    """
    driven = is_driven(ledger) if driven is None else driven
    spec, state, trials = ledger.spec(), ledger.state(), standing(ledger, driven=driven)
    counts = dict.fromkeys(("running", "finished", "pruned", "failed", "waiting", "at-rung", "paused"), 0)
    for trial in trials:
        counts[trial.state.value] += 1
    best = best_so_far(spec, trials)
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    lost = sum(trial.wasted_seconds for trial in trials)
    gpu_share = {trial.id: trial.gpu_seconds / trial.busy_seconds for trial in trials if trial.busy_seconds}
    return {
        "sweep": spec.name,
        "state": "interrupted" if state.state in ("running", "paused") and not driven else state.state,
        "reason": state.reason,
        "trials": {**counts, "total": len(trials), "planned": spec.run_cap},
        "best": best and {**best, "name": spec.metric.name, "values": best["config"]},
        "budget": {
            "gpu_hours": {"used": sum(t.gpu_seconds for t in trials) / 3600, "limit": spec.budget.gpu_hours},
            "wall_clock": {"used": ledger.wall_seconds if wall is None else wall, "limit": spec.budget.wall_clock},
            "trials": {"used": len(trials), "limit": spec.budget.trials},
            "busy_hours": sum(trial.busy_seconds for trial in trials) / 3600,
        },
        "waste": {
            "lost_seconds": lost,
            "failed_seconds": sum(trial.busy_seconds - trial.wasted_seconds for trial in failed),
            "gpu_hours": sum(
                gpu_share.get(t.id, 0.0) * (t.busy_seconds if t.state is TrialState.FAILED else t.wasted_seconds)
                for t in trials
            )
            / 3600,
        },
        "revision": ledger.revision,
        "at": time.time(),
    }
