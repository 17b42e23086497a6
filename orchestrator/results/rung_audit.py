"""Whether early stopping sees what matters: how the order of the trials at a rung agrees with that at their end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.results.choice import steps_of
from orchestrator.search import MISLEADS, Curve, agreement
from orchestrator.trials import TrialRecord, TrialState, value_of

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

AGREES = 0.4
"""Rank correlation over the better half from which on a step is proposed for a rung."""


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
    """Return what the order at each of these steps said of the order at the end; see `search.rung_evidence`."""
    curves, found = _curves(spec, trials), []
    for step in steps:
        seen = agreement(spec.early_terminate, spec.metric.goal, curves, partial(_before, step))
        if seen is not None:
            found.append(RungAudit(step, seen.correlation, seen.trials, seen.better_half))
    return found


def audit_lines(spec: SweepSpec, trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield what stands below a leaderboard: a line of all rungs, and a warning of each that misleads."""
    rungs = audit_rungs(spec, trials)
    if rungs:
        yield f"order at a rung against that at the end (rank correlation): {', '.join(map(str, rungs))}"
    yield from audit_warnings(spec, trials)


def audit_warnings(spec: SweepSpec, trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield a sentence for each rung that misleads, with what would be better."""
    wrong = [audit for audit in audit_rungs(spec, trials) if audit.misleads]
    if not wrong:
        return
    reported = sorted({step for trial in _finished(trials) for step in trial.reports})
    later = [audit for audit in audit_steps(spec, trials, reported) if (audit.better_half or 0.0) >= AGREES]
    after = next((audit.step for audit in later if audit.step > wrong[-1].step), None)
    better = "train trials to their end (`type: none`)" if after is None else f"have the first rung at step {after}"
    if getattr(spec.early_terminate, "rungs", None) == "auto":
        better = "new trials pass it (`rungs: auto`) once there is evidence enough"
    for audit in wrong:
        yield (
            f"The rung at step {audit.step} misleads: among the better half of {audit.trials} finished trials the "
            f"order there says nothing of that at the end (rank correlation {audit.better_half:.2f}); {better}."
        )


def _finished(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [t for t in trials if t.state is TrialState.FINISHED and not t.replicate and value_of(t) is not None]


def _curves(spec: SweepSpec, trials: Sequence[TrialRecord]) -> dict[str, Curve]:
    """Return the search's trials as rules of early stopping look at them."""
    key = spec.early_terminate.group_key
    found = {}
    for trial in trials:
        value = {step: report.get(spec.metric.name, math.nan) for step, report in trial.reports.items()}
        steps = sorted(step for step in value if math.isfinite(value[step]))
        if trial.replicate or not steps:
            continue
        ended = trial.state is TrialState.FINISHED and value_of(trial) is not None
        length = trial.steps if ended else max(steps_of(spec, trial.values) or 0, trial.steps + 1)
        found[trial.id] = Curve(
            number=trial.config_id,
            length=length,
            rungs=tuple(spec.rungs_before(length, trial.values)),
            steps=steps,
            values=list(spec.metric.scores({step: value[step] for step in steps}).values()),
            order=[0] * len(steps),
            group=None if key is None else str(trial.values.get(key)),
        )
    return found


def _before(step: int, curve: Curve) -> float | None:
    """Return what a trial reported at a step before its end."""
    return curve.values[curve.steps.index(step)] if step < curve.length and step in curve.steps else None
