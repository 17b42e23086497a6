"""What ends a sweep: its clock over all drivers, its budgets, its target, and nothing left to try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import nan
from typing import TYPE_CHECKING

from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger, TrialHistory
    from orchestrator.spec import Budget, SweepSpec

HEARTBEAT = 60.0
"""Seconds after which the sweep's clock is recorded though nothing happens."""


class SweepClock:
    """Seconds in which drivers have run a sweep: those of earlier drivers are in its ledger, this one's are counted.

    Args:
        ledger: the sweep's ledger.
        clock: seconds that never jump.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.now = clock
        self._ledger = ledger
        self._opened, self._before = clock(), ledger.wall_seconds
        self._recorded = self._opened

    def wall(self) -> float:
        """Return the seconds in which drivers have run this sweep so far."""
        return self._before + max(0.0, self.now() - self._opened)

    def beat(self) -> None:
        """Record the clock if it has been a while."""
        if self.now() - self._recorded >= HEARTBEAT:
            self._recorded = self.now()
            self._ledger.set_wall(self.wall())


def spent(
    budget: Budget, histories: Iterable[TrialHistory], *, wall: float, gpu_flying: float = 0.0
) -> Iterator[str]:  # fmt: skip
    """Yield a line for each limit of time that is reached.

    Args:
        budget: the limits.
        histories: all trials.
        wall: seconds in which drivers have run the sweep.
        gpu_flying: GPU-seconds of runs that nothing accounts for yet.
    """
    if budget.gpu_hours is not None:
        used = (sum(history.gpu for history in histories) + gpu_flying) / 3600
        if used >= budget.gpu_hours:
            yield f"budget.gpu_hours is {budget.gpu_hours:g}, used {used:.3g}"
    if budget.wall_clock is not None and wall >= budget.wall_clock:
        yield f"budget.wall_clock is {budget.wall_clock:g} s, used {wall:.0f}"


def room_for_trials(budget: Budget, histories: Iterable[TrialHistory]) -> bool:
    """Whether one more trial may be started."""
    return budget.trials is None or sum(1 for _ in histories) < budget.trials


def reached_target(spec: SweepSpec, histories: Iterable[TrialHistory]) -> bool:
    """Whether a trial has reached the target at a report; where there are several, those of all metrics at once."""
    aimed = [metric for metric in spec.metrics if metric.target is not None]
    if len(spec.metrics) == 1:
        return bool(aimed) and any(
            spec.metric.reached(score) for history in histories for score in history.scores().values()
        )
    return bool(aimed) and any(
        all(metric.reached(point.metrics.get(metric.name, nan)) for metric in aimed)
        for history in histories
        for point in history.points.values()
    )


def natural_end(ledger: Ledger, *, exhausted: bool) -> tuple[str, str]:
    """Return the state of a sweep that has nothing more to do, and why.

    Args:
        ledger: the sweep's ledger.
        exhausted: whether the search has no combination left.
    """
    spec, trials = ledger.spec(), ledger.trials()
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if trials and len(failed) == len(trials):
        return "failed", f"every trial failed; the first: {failed[0].reason}"
    if reached_target(spec, ledger.histories()):
        aimed = [f"{metric.name} has reached {metric.target:g}" for metric in spec.metrics if metric.target is not None]
        return "finished", " and ".join(aimed)
    if not room_for_trials(spec.budget, ledger.births()):
        return "finished", f"budget.trials is {spec.budget.trials}"
    if exhausted and not spec.method.exhaustive:
        return "finished", "every combination has been tried"
    return "finished", ""
