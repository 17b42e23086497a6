"""Whether early stopping sees what matters: how the order of the trials at a rung agrees with that at their end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.statistics import rank_correlation
from orchestrator.trials import TrialRecord, TrialState, value_of

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

LEAST = 5
"""Trials without which nothing is said."""
MISLEADS, AGREES = 0.2, 0.4
"""Rank correlations over the better half: below the first a rung misleads, from the second on one is proposed."""


@dataclass(frozen=True)
class RungAudit:
    """What the order at a step said of the order at the end, over trials that were trained to it."""

    step: int
    correlation: float
    """Spearman's, over all finished trials."""
    trials: int
    better_half: float | None
    """The same over the better half of them by final value, among which the rung has to choose; None: too few."""

    @property
    def misleads(self) -> bool:
        """Whether a trial that is worth finishing is stopped there by chance."""
        return self.better_half is not None and self.better_half < MISLEADS

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `rungs` in `status --json`."""
        return asdict(self)

    def __str__(self) -> str:
        """Return `step 200: 0.61 (12 trials; 0.02 over the better half)`."""
        half = "" if self.better_half is None else f"; {self.better_half:.2f} over the better half"
        return f"step {self.step}: {self.correlation:.2f} ({self.trials} trials{half})"


def audit_rungs(spec: SweepSpec, trials: Sequence[TrialRecord]) -> list[RungAudit]:
    """Return the audit of each rung that enough finished trials have passed; see `audit_steps`."""
    finished = _finished(trials)
    return audit_steps(spec, trials, spec.rungs_before(finished[0].steps, finished[0].values)) if finished else []


def audit_steps(spec: SweepSpec, trials: Sequence[TrialRecord], steps: Sequence[int]) -> list[RungAudit]:
    """Return what the order at each of these steps said of the order at the end.

    Trials that a rung stopped cannot tell. Those that `audit` lets through can: without them the finished ones are a
    choice by the rung itself, and the true correlation may be another.
    """
    sign, found = 1.0 if spec.metric.goal == "minimize" else -1.0, []
    for step in steps:
        pairs = sorted(
            (sign * (value_of(trial) or 0.0), sign * trial.reports[step][spec.metric.name])
            for trial in _finished(trials)
            if step < trial.steps and spec.metric.name in trial.reports.get(step, {})
        )
        correlation = _correlation(pairs)
        if correlation is not None:
            better_half = _correlation(pairs[: (len(pairs) + 1) // 2])
            found.append(RungAudit(step, correlation, len(pairs), better_half))
    return found


def audit_warnings(spec: SweepSpec, trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield a sentence for each rung that misleads, with what would be better."""
    wrong = [audit for audit in audit_rungs(spec, trials) if audit.misleads]
    if not wrong:
        return
    reported = sorted({step for trial in _finished(trials) for step in trial.reports})
    later = [audit for audit in audit_steps(spec, trials, reported) if (audit.better_half or 0.0) >= AGREES]
    after = next((audit.step for audit in later if audit.step > wrong[-1].step), None)
    better = "train trials to their end (`type: none`)" if after is None else f"have the first rung at step {after}"
    for audit in wrong:
        yield (
            f"The rung at step {audit.step} misleads: among the better half of {audit.trials} finished trials the "
            f"order there says nothing of that at the end (rank correlation {audit.better_half:.2f}); {better}."
        )


def _finished(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [t for t in trials if t.state is TrialState.FINISHED and not t.replicate and value_of(t) is not None]


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    return rank_correlation([end for end, _ in pairs], [early for _, early in pairs], least=LEAST)
