"""The learning curves of the search's trials, as early stopping looks at them: kept beside the ledger, made from it."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.search import Curve
from orchestrator.spec import flat
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger, TrialHistory

FIRST_RUNG = "first_rung"
"""The label of a trial that not all rungs judge: the step of the first one that does, or its last step."""


class Curves:
    """One `Curve` for each trial of the search; replicates are not compared and have none.

    Args:
        ledger: the sweep's ledger.
        forecast: returns what trials are expected to come to at their end, by number, as far as the search can tell.
    """

    def __init__(self, ledger: Ledger, forecast: Callable[[], Mapping[int, float]]) -> None:
        self._ledger = ledger
        self._forecast = forecast
        self._curves: dict[str, Curve] = {}
        for history in ledger.histories():
            self.read(history)

    def read(self, history: TrialHistory) -> None:
        """Rebuild a trial's curve: it is new, it was retried, or the sweep was edited."""
        if not history.replicate:
            self._curves[history.id] = self._made(history)
            for step in sorted(history.points):
                self.extend(history, step)

    def extend(self, history: TrialHistory, step: int) -> None:
        """Take in what a trial has reported at `step`."""
        if history.replicate:
            return
        metric, point = self._ledger.spec().metric, history.points[step]
        value = float(point.metrics.get(metric.name, math.nan))
        worst = math.inf if metric.goal == "minimize" else -math.inf
        value, curve = value if math.isfinite(value) else worst, self._curves[history.id]
        curve.add(step, value, point.order)
        curve.values[-1] = metric.score(curve.reported, before=curve.values[-2] if len(curve.values) > 1 else None)

    def length(self, history: TrialHistory) -> int:
        """Return a trial's last step."""
        return (self._made(history) if history.replicate else self._curves[history.id]).length

    def reason_to_stop(self, history: TrialHistory) -> str | None:
        """Return why a trial should stop after its last report, None if it should go on."""
        if history.replicate or history.labels.get("protected"):
            return None
        spec = self._ledger.spec()
        return spec.early_terminate.reason_to_stop(spec.metric.goal, self._curves, history.id)

    def rung(self, history: TrialHistory) -> int | None:
        """Return the index of the rung at which a trial has to wait to be promoted, None if nothing holds it."""
        rule = self._ledger.spec().early_terminate
        if not rule.promotes or history.replicate or history.labels.get("protected"):
            return None
        return rule.held_at(self._curves[history.id], history.passed)

    def labels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is recorded with a new trial of this configuration: the first rung that judges it, if not all do.

        It is recorded because it depends on what had ended by then; see `Rule.first_rung`.
        """
        spec = self._ledger.spec()
        first = spec.early_terminate.first_rung(spec.metric.goal, self._curves, self._group(config))
        rungs = [*spec.rungs(config), spec.length(config)]
        return {FIRST_RUNG: rungs[min(first, len(rungs) - 1)]} if first else {}

    def place(self, history: TrialHistory) -> str:
        """Return in words a trial's place at its rung."""
        spec, rung = self._ledger.spec(), self.rung(history)
        if rung is None:
            return "its rung no longer exists"
        return spec.early_terminate.place(spec.metric.goal, self._curves, history.id, rung)

    def at_rungs(self) -> list[TrialHistory]:
        """Return the trials that wait at rungs."""
        return [history for history in self._ledger.histories() if history.state is TrialState.AT_RUNG]

    def next_promoted(
        self,
        also: TrialHistory | None = None,
        *,
        last: bool = False,
    ) -> TrialHistory | None:
        """Return the trial at a rung that goes on first, None if none does.

        One that was left behind when the sweep had nothing more to do may go on too, once there are more trials.

        Args:
            also: a trial that stands at a rung and still has its worker.
            last: see `Rule.next_promotion`.
        """
        spec, held = self._ledger.spec(), dict[str, int]()
        if not spec.early_terminate.promotes:
            return next(iter(self.at_rungs()), None)  # the sweep was edited: nothing holds them any more
        left = [history for history in self._ledger.histories() if history.left_behind]
        for history in [*self.at_rungs(), *left, *([also] if also else [])]:
            rung = self.rung(history)
            if rung is not None:
                held[history.id] = rung
            elif history.state is TrialState.AT_RUNG:
                return history  # the sweep was edited, and its rungs are others
        if not held:
            return None
        chosen = spec.early_terminate.next_promotion(
            spec.metric.goal, self._curves, held, last=last, forecast=self._forecast()
        )
        return None if chosen is None else self._ledger.history(chosen)

    def _made(self, history: TrialHistory) -> Curve:
        born = self._ledger.spec(history.birth.revision)
        config = born.config_for(history.birth.values, seed=history.birth.seed)
        spec = self._ledger.spec()
        length, rungs = spec.length(config), tuple(spec.rungs(config))
        first = bisect_left(rungs, history.labels.get(FIRST_RUNG, 0))
        return Curve(history.config_id, length, rungs, group=self._group(config), first=first)

    def _group(self, config: Mapping[str, Any]) -> str | None:
        key = self._ledger.spec().early_terminate.group_key
        return None if key is None else json.dumps(flat(config).get(key), sort_keys=True)
