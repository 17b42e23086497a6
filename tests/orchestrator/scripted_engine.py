"""An engine that hands out a given list of assignments and remembers everything a runner tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.paths import SweepPaths
from orchestrator.spec.settings import Resources
from orchestrator.trials.protocol import Assignment, Decision, Done, Outcome, Report, Wait


class ScriptedEngine:
    """The engine's interface to its runners, without a ledger. A lost or broken trial is handed out once more."""

    def __init__(
        self,
        root: Path,
        assignments: list[Assignment],
        *,
        resources: Resources | None = None,
        max_concurrent: int | None = None,
        report_timeout: float | None = None,
        decision: Callable[[str, Report], Decision] = lambda trial, report: Decision.CONTINUE,
        retry: tuple[str, ...] = ("lost", "infrastructure"),
    ) -> None:
        self.paths = SweepPaths(root)
        self.spec = SimpleNamespace(
            resources=resources or Resources(cpu=1),
            max_concurrent=max_concurrent,
            report_timeout=report_timeout,
            method="random",
        )
        self.queue = list(assignments)
        self.given: dict[str, Assignment] = {}
        self.running: set[str] = set()
        self.reports: dict[str, list[Report]] = {}
        self.outcomes: dict[str, list[Outcome]] = {}
        self.events: list[tuple[str, str]] = []
        self.polls = 0
        self.to_stop: set[str] = set()
        self._decision, self._retry = decision, retry

    def next(self) -> Assignment | Wait | Done:
        if self.queue:
            assignment = self.queue.pop(0)
            self.given[assignment.trial] = assignment
            self.running.add(assignment.trial)
            self.events.append(("given", assignment.trial))
            return assignment
        return Wait(reason="trials are running") if self.running else Done(reason="all is done")

    def report(self, trial: str, report: Report) -> Decision:
        assert trial in self.running
        self.reports.setdefault(trial, []).append(report)
        self.events.append((f"report {report.step}", trial))
        return Decision.STOP if report.step == self.given[trial].steps[-1] else self._decision(trial, report)

    def ended(self, trial: str, outcome: Outcome) -> None:
        assert trial in self.running
        self.running.discard(trial)
        self.outcomes.setdefault(trial, []).append(outcome)
        self.events.append((outcome.kind, trial))
        if outcome.kind in self._retry:
            reports = self.reports.get(trial)
            last = self.given[trial]
            if reports:
                last = replace(last, start=reports[-1].step, checkpoint=reports[-1].checkpoint)
            self.queue.append(replace(last, attempt=last.attempt + 1))

    def poll(self) -> frozenset[str]:
        self.polls += 1
        return frozenset(self.to_stop & self.running)

    def finish(self, reason: str | None = None) -> dict[str, Any]:
        return {"state": reason}

    def kinds(self, trial: str) -> list[str]:
        return [outcome.kind for outcome in self.outcomes.get(trial, [])]
