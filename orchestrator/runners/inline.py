"""The runner without Ray: trials one after the other in this process, for debugging and tests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.ending import on_signals
from orchestrator.engine import Engine
from orchestrator.trials import Assignment, Decision, Done, Outcome, Report, Wait
from orchestrator.worker import MakeTrainer, OnLog, build_trainer, classify, make_shared, run_trial, shared_key, tidy

if TYPE_CHECKING:
    from orchestrator.results import Status

log = logging.getLogger(__name__)

IDLE = 0.2
"""Seconds between looks into the mailbox while the sweep is paused."""


def run_inline(
    engine: Engine,
    *,
    make_trainer: MakeTrainer | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_event: Callable[[Engine], None] | None = None,
) -> Status:
    """Drive a sweep to its end, one trial at a time, and return where it stands then.

    Ctrl-C ends it cleanly: the trial keeps its last checkpoint, the state is then "interrupted".

    Args:
        engine: the sweep; its ledger stays open.
        make_trainer: makes a trial's trainer; by default the class that the sweep names.
        clock: seconds, for the trials' durations.
        sleep: waits, while the sweep is paused.
        on_event: called after every report and end of a run, e.g. to draw a table.
    """
    make = make_trainer or _Shared().make
    with _interrupts() as interrupts:
        while not interrupts.seen:
            engine.poll()
            work = engine.next()
            if isinstance(work, Done):
                break
            if isinstance(work, Wait):
                sleep(IDLE)
                continue
            engine.ended(work.trial, _run(engine, work, make, clock, interrupts, on_event))
            if on_event is not None:
                on_event(engine)
        return engine.finish("interrupted by a signal" if interrupts.seen else None)


def _run(
    engine: Engine,
    work: Assignment,
    make: MakeTrainer,
    clock: Callable[[], float],
    interrupts: _Interrupts,
    on_event: Callable[[Engine], None] | None,
) -> Outcome:
    """Run one trial and say how that ended."""
    last: Report | None = None
    reports = run_trial(work, make_trainer=make, clock=clock)
    try:
        while True:
            with interrupts.welcome():
                report = next(reports, None)
            if report is None:
                return Outcome(kind="finished", last_step=None if last is None else last.step)
            last = report
            decision = engine.report(work.trial, report)
            if on_event is not None:
                on_event(engine)
            if decision is not Decision.CONTINUE:
                tidy(work)
            if decision is not Decision.CONTINUE or work.trial in engine.poll():
                return Outcome(kind="stopped", last_step=report.step)
            if interrupts.seen:
                return Outcome(kind="stopped", reason="interrupted", last_step=report.step)
    except KeyboardInterrupt as error:
        if not interrupts.seen:  # nobody has interrupted: the trainer has raised it itself
            return classify(RuntimeError("the trainer raised KeyboardInterrupt").with_traceback(error.__traceback__))
        return Outcome(kind="stopped", reason="interrupted", last_step=None if last is None else last.step)
    except Exception as error:
        step, metrics = (0, {}) if last is None else (last.step, last.metrics)
        return classify(error, last_step=step, last_finite=metrics)
    finally:
        del reports  # frees the trainer before the next one is made


class _Shared:
    """Builds trainers that share data and reference statistics; those of the last kind of data are kept."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._shared: Any = None

    def make(self, assignment: Assignment, on_log: OnLog) -> Any:
        key = shared_key(assignment.config)
        if key != self._key:
            self._shared = make_shared(assignment.trainer, assignment.config)
            self._key = key
        return build_trainer(assignment, on_log, shared=self._shared)


class _Interrupts:
    """Signals to end: always noticed, raised in the middle of training and never while something is recorded."""

    def __init__(self) -> None:
        self.seen = False
        self._welcome = False

    def handle(self, *_: object) -> None:
        again, self.seen = self.seen, True
        if self._welcome or again:
            raise KeyboardInterrupt

    @contextmanager
    def welcome(self) -> Iterator[None]:
        if self.seen:
            raise KeyboardInterrupt
        self._welcome = True
        try:
            yield
        finally:
            self._welcome = False


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    interrupts = _Interrupts()
    with on_signals(interrupts.handle):
        yield interrupts
