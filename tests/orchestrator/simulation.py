"""A runner for tests: workers that are stepped one report at a time, in this process, with checkpoints on disk.

It can be killed in the middle of any write of the ledger: everything in memory is dropped, the files stay.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.engine import Engine
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.trials.protocol import Assignment, Decision, Done, Outcome, Report, Wait
from orchestrator.trials.trial import TrialRecord
from tests.orchestrator import toy


class Killed(BaseException):
    """The process is gone."""


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Worker:
    """Trains one assignment, one report at a time; each stretch takes `seconds` on the clock."""

    work: Assignment
    clock: Clock | None = None
    seconds: float = 1.0
    reports: Iterator[Report] = field(init=False)

    def __post_init__(self) -> None:
        self.reports = self._train()

    def _train(self) -> Iterator[Report]:
        module, _, name = self.work.trainer.partition(":")
        trainer = getattr(importlib.import_module(module), name)(self.work.config)
        if self.work.checkpoint:
            trainer.load_state_dict(json.loads((Path(self.work.checkpoint) / "state.json").read_text()))
        for step in self.work.remaining:
            rows = [(step, trainer.train(step - trainer.step))]
            if self.clock is not None:
                self.clock.now += self.seconds
            metrics = trainer.evaluate()
            checkpoint = Path(self.work.folder) / f"step-{step}"
            checkpoint.mkdir(exist_ok=True)
            (checkpoint / "state.json").write_text(json.dumps(trainer.state_dict()))
            yield Report(step=step, metrics=metrics, rows=rows, checkpoint=str(checkpoint), seconds=self.seconds)


@dataclass
class Trace:
    """What a runner was given and said, over all sessions."""

    handed: list[tuple[str, int]] = field(default_factory=list)
    decisions: list[tuple[str, int, Decision]] = field(default_factory=list)


def drive(
    engine: Engine,
    *,
    workers: int = 1,
    clock: Clock | None = None,
    seconds: float = 1.0,
    trace: Trace | None = None,
    on_report: Callable[[Engine, Assignment, Report], None] | None = None,
) -> Done:
    """Run an engine to its end with so many workers, each reporting in turn."""
    flying: list[Worker] = []
    trace = trace if trace is not None else Trace()
    while True:
        stopped = engine.poll()
        for worker in [worker for worker in flying if worker.work.trial in stopped]:
            flying.remove(worker)
            engine.ended(worker.work.trial, Outcome(kind="stopped"))
        work: Any = Wait()
        while len(flying) < workers and isinstance(work := engine.next(), Assignment):
            trace.handed.append((work.trial, work.start))
            flying.append(Worker(work, clock, seconds))
        if not flying:
            assert isinstance(work, Done), work
            return work
        worker = flying.pop(0)
        if _one_report(engine, worker, trace, on_report):
            flying.append(worker)


def _one_report(
    engine: Engine,
    worker: Worker,
    trace: Trace,
    on_report: Callable[[Engine, Assignment, Report], None] | None,
) -> bool:
    """Let a worker come to its next report; False when its run has ended."""
    from orchestrator.worker.failure_kinds import classify

    trial = worker.work.trial
    try:
        report = next(worker.reports, None)
    except Exception as error:
        engine.ended(trial, classify(error))
        return False
    if report is None:
        engine.ended(trial, Outcome(kind="finished"))
        return False
    decision = engine.report(trial, report)
    trace.decisions.append((trial, report.step, decision))
    if on_report is not None:
        on_report(engine, worker.work, report)
    if decision is not Decision.CONTINUE:
        engine.ended(trial, Outcome(kind="stopped", last_step=report.step))
        return False
    return True


def open_engine(home: Home, content: dict[str, Any], **options: Any) -> Engine:
    """Start the sweep, or go on with it if its ledger is there."""
    try:
        return resume_sweep(home, content["name"], **options)
    except LedgerError:
        return start_sweep(home, toy.spec(content), **options)


def run(home: Home, content: dict[str, Any], *, workers: int = 1, trace: Trace | None = None) -> list[TrialRecord]:
    """Start or go on with a sweep, drive it to its end, and return its trials."""
    engine = open_engine(home, content)
    try:
        drive(engine, workers=workers, trace=trace)
        engine.finish()
        return engine.ledger.trials()
    finally:
        engine.ledger.close()


def read(home: Home, name: str = "toy") -> list[TrialRecord]:
    """Return a sweep's trials as another process sees them."""
    return Ledger.open(home.sweep(name)).trials()


def essence(trials: list[TrialRecord]) -> list[tuple[Any, ...]]:
    """Return what must not depend on interruptions: configurations, seeds, every reported value, decisions."""
    return [
        (t.id, t.seed, t.values, t.config_hash, t.state.value, t.reason, t.reports, t.metric, t.revision)
        for t in trials
    ]


def unearned(journal: Path, *, rungs: Sequence[int], eta: float, run_cap: int) -> list[str]:
    """Return every report beyond a rung by a trial of a promoting sweep that was never among its best there.

    The ledger's lines are gone through in the order in which they were written: a trial that goes on from a rung must
    be among the best 1/eta of those that had come there by then, rounded down, or up once all trials are born.
    """
    births, found = 0, []
    there: dict[int, dict[int, float]] = {rung: {} for rung in rungs}
    stands, earned = dict[int, int](), dict[int, set[int]]()
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        births += "distributions" in entry  # the creation of a trial
        row = entry.get("trial_id", -1)
        for key in entry.get("user_attr", {}):
            kind, _, rest = key.partition(":")
            if kind == "report":
                step = stands[row] = int(rest)
                skipped = [rung for rung in rungs if rung < step and rung not in earned.get(row, ())]
                found += [f"trial {row} reported at step {step} and was never let on from {rung}" for rung in skipped]
                if step in there:
                    there[step][row] = entry["user_attr"][key]["metrics"]["loss"]
            elif kind in ("run", "promoted") and stands.get(row) in there:
                values = there[stands[row]]
                share = len(values) / eta
                best = sorted(values, key=lambda other: values[other])[
                    : int(share) if births < run_cap else ceil(share)
                ]
                earned.setdefault(row, set()).update([stands[row]] if row in best else [])
    return found


class Killer:
    """Kills the process at the n-th write of the ledger: before it, in its middle, or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at: int | None = None
        self.how = "before"
        self._write = Journal.append_logs
        killer = self

        def append_logs(journal: Journal, logs: list[dict[str, Any]]) -> None:
            killer.count += 1
            if killer.count != killer.at:
                killer._write(journal, logs)
                return
            if killer.how == "within":
                with open(journal._file_path, "ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:-7])
            if killer.how == "after":
                killer._write(journal, logs)
            raise Killed

        monkeypatch.setattr(Journal, "append_logs", append_logs)

    def arm(self, at: int | None, how: str = "before") -> None:
        """Set the write of the next session at which it is killed."""
        self.count, self.at, self.how = 0, at, how
