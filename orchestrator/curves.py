"""The learning curves of the search's trials, as early stopping looks at them: kept beside the ledger, made from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.stopping import Curve, reason_to_stop

if TYPE_CHECKING:
    from orchestrator.folding import TrialHistory
    from orchestrator.ledger import Ledger


class Curves:
    """One `Curve` for each trial of the search; replicates are compared with nobody and have none.

    Args:
        ledger: the sweep's ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._curves: dict[str, Curve] = {}
        for history in ledger.histories():
            self.read(history)

    def read(self, history: TrialHistory) -> None:
        """Make a trial's curve anew: it is new, it has been taken up again, or the sweep was edited."""
        if not history.replicate:
            self._curves[history.id] = self._made(history)
            for step in sorted(history.points):
                self.extend(history, step)

    def extend(self, history: TrialHistory, step: int) -> None:
        """Take in what a trial has reported at `step`."""
        if history.replicate:
            return
        metric, point = self._ledger.spec().metric, history.points[step]
        value = float(point["metrics"].get(metric.name, math.nan))
        worst = math.inf if metric.goal == "minimize" else -math.inf
        self._curves[history.id].add(step, value if math.isfinite(value) else worst, point["order"])

    def length(self, history: TrialHistory) -> int:
        """Return a trial's last step."""
        return (self._made(history) if history.replicate else self._curves[history.id]).length

    def reason_to_stop(self, history: TrialHistory) -> str | None:
        """Return why a trial should stop after its last report, None if it should go on."""
        if history.replicate or history.labels.get("protected"):
            return None
        spec = self._ledger.spec()
        return reason_to_stop(spec.early_terminate, spec.metric.goal, self._curves, history.id)

    def _made(self, history: TrialHistory) -> Curve:
        born = self._ledger.spec(history.birth["revision"])
        config = born.config_for(history.birth["values"], seed=history.birth["seed"])
        rungs = tuple(self._ledger.spec().rungs(config))
        return Curve(number=history.config_id, length=int(config["trainer"]["steps"]), rungs=rungs)
