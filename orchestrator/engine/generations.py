"""Trials that train together, generation by generation: what changes hands is recorded first, then copied.

A generation is the stretch to the next report step (`trainer.eval_every`). It turns once every member has reported
there, so that what happens is a function of the recorded reports, whatever the number of workers and however often the
sweep was interrupted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError
from orchestrator.search import Member
from orchestrator.trials import TrialState
from orchestrator.worker import CheckpointStore

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger, TrialHistory
    from orchestrator.spec import SweepSpec


def turn_generation(ledger: Ledger, *, complete: bool) -> None:
    """Once the whole population is at the same report, let its worst members copy the best.

    Recorded first, copied after, and no member goes on before both are done: a killed engine's successor finds the same
    members at the same step, decides the same, and copies again.

    Args:
        ledger: the sweep's ledger, open for writing; no runner holds a trial.
        complete: whether all members exist.
    """
    spec = ledger.spec()
    searched = [history for history in ledger.histories() if not history.replicate]
    waiting = [history for history in searched if history.state in (TrialState.RUNNING, TrialState.WAITING)]
    steps = {history.last_step for history in waiting}
    step = max(steps, default=0)
    if not complete or len(steps) != 1 or step <= ledger.fact("generation", 0):
        return
    members = [_member(spec, history, step) for history in waiting]
    changes = spec.method(spec).exploits(members, step, lambda values: _valid(spec, values))
    for change in changes:
        lineage = ledger.history(change.trial).labels.get("lineage", [])
        if not lineage or lineage[-1]["step"] < step:
            ledger.label(change.trial, "lineage", [*lineage, change.to_dict()])
    for change in changes:
        store = CheckpointStore.at(ledger.paths.trial(change.trial), spec.name, change.trial, ledger.id)
        store.adopt(step, change.checkpoint)
    ledger.note("generation", step)


def _member(spec: SweepSpec, history: TrialHistory, step: int) -> Member:
    point = history.points[step]
    value = float(point.metrics.get(spec.metric.name, math.nan))
    return Member(history.id, history.config_id, dict(history.values), value, point.checkpoint)


def _valid(spec: SweepSpec, values: dict[str, Any]) -> bool:
    try:
        spec.config_for(values)
    except ConfigError:
        return False  # the training configuration's own rules forbid it
    return True
