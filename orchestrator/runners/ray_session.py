"""What runs on Ray at the moment: which assignment each Tune trial carries out, and what the end of a worker means.

A `Session` stands between Tune's hooks and the engine; it alone knows both.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.experiment import Trial

from meanflow_core.errors import ConfigError
from orchestrator.credentials import for_workers
from orchestrator.paths import Home
from orchestrator.runners.ray_nodes import capacity, nodes
from orchestrator.spec import DEFAULT_TRAINER
from orchestrator.trials import Assignment, Decision, Done, Outcome, Report
from orchestrator.worker import SharedData, Work, import_trainer, tidy

if TYPE_CHECKING:
    from orchestrator.engine import Engine

OnEvent = Callable[["Engine"], None]
FORWARDED = ("MEANSWEEP_STORAGE", "MEANSWEEP_HOME")
"""Variables of the driver's environment that workers see too, besides the keys of a store."""
SHOWN_EVERY = 0.25
"""Seconds between two calls of `on_event`."""
NODE_PATIENCE = 30.0
"""Seconds in which Ray notices a dead node: until then a broken connection may be its doing."""
RAY_PATIENCE = 15.0
"""Seconds without any node after which the Ray of a local run counts as dead."""
PROCESS_PATIENCE = 2.0
"""The same where Ray knows that the process died: the node may be about to follow."""


class RayGone(ConnectionError):
    """Ray itself has died, and nobody will start it again."""


class Interrupted(Exception):
    """Leaves Tune's loop: the user has asked to stop."""


@dataclass
class _Run:
    """One assignment under way."""

    assignment: Assignment
    alive: frozenset[str]
    """The nodes that were there when it was handed out."""
    trial: Trial | None = None
    """Tune's own; known once its worker is there."""
    heard: float = math.inf
    """When its worker began or last reported."""
    nodes: frozenset[str] = frozenset()
    """Where its workers are; known once they have reported."""
    end: Outcome | None = None
    """How it seems to have ended, if its node may turn out to be the reason."""
    until: float = 0.0

    def lost_with_its_node(self, alive: frozenset[str]) -> bool:
        """Whether one of its nodes is gone (where they are not known: of those that there were when it began)."""
        return not (self.nodes or self.alive) <= alive

    def kill(self) -> None:
        """End its worker at once."""
        if self.trial is not None and self.trial.temporary_state.ray_actor is not None:
            ray.kill(self.trial.temporary_state.ray_actor)


class Session:
    """What the three Tune hooks share: which Tune trial is which assignment, and how many may run."""

    def __init__(
        self, engine: Engine, on_event: OnEvent | None, interrupted: threading.Event, *, own_ray: bool = False
    ) -> None:
        self.engine = engine
        self.resources = engine.spec.resources
        """What each trial gets; of an edited sweep, from the next driver on, since Tune makes its workers alike."""
        self._on_event = on_event or (lambda engine: None)
        self._interrupted = interrupted
        self._own_ray = own_ray
        self._alone_since = math.inf
        self._live: dict[str, _Run] = {}
        forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        self._environment = {**forwarded, **for_workers(Home(engine.paths.root.parents[1]))}
        self._cwd = os.getcwd()
        self._shared: Any = None
        self._nodes: list[dict[str, Any]] = []
        self._nodes_read = -math.inf
        self._shown = -math.inf
        self.error: BaseException | None = None
        """What the engine raised: the sweep cannot go on."""

    def close(self) -> None:
        """Let go of the shared data."""
        if self._shared is not None:
            ray.kill(self._shared)

    def beat(self) -> None:
        """Let the engine look at its mailbox and its budget, and the user at the table."""
        if self._interrupted.is_set():
            for run in self._live.values():
                run.kill()  # it would finish its stretch first
            raise Interrupted
        with self._noting_errors():
            self._demand_ray()
            stopped = self.engine.poll()
            for tune_id, run in list(self._live.items()):
                if run.assignment.trial in stopped:
                    self._cut_short(tune_id, run, Outcome(kind="stopped"))
                elif run.end is None and time.monotonic() - run.heard > (self.engine.spec.report_timeout or math.inf):
                    reason = f"it reported nothing for {self.engine.spec.report_timeout:g} s (report_timeout)"
                    self._cut_short(tune_id, run, Outcome(kind="infrastructure", reason=reason))
            self._judge_deaths()
            if time.monotonic() - self._shown >= SHOWN_EVERY:
                self.show()

    def _demand_ray(self) -> None:
        """Give up when the Ray that was started for this sweep has no node any more: none will join it."""
        if not self._own_ray or self._alive():
            self._alone_since = math.inf
            return
        now = time.monotonic()
        self._alone_since = min(self._alone_since, now)
        if now - self._alone_since >= RAY_PATIENCE:
            raise RayGone(f"the Ray of this sweep has died (no node answered for {RAY_PATIENCE:g} s)")

    def _cut_short(self, tune_id: str, run: _Run, outcome: Outcome) -> None:
        self.ended(tune_id, outcome)
        run.kill()

    def show(self) -> None:
        """Let the user see how the sweep stands."""
        self._shown = time.monotonic()
        self._on_event(self.engine)

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise

    def next(self, tune_id: str) -> Work | Done | None:
        """Return the next piece of work, None if there is none now."""
        if all(run.end is not None for run in self._live.values()):
            self.beat()  # Tune sits in a loop of its own while nothing runs
        if len(self._live) >= self.limit():
            return None
        with self._noting_errors():
            answer = self.engine.next()
        if isinstance(answer, Assignment):
            self._live[tune_id] = _Run(answer, self._alive())
            return self._work(answer)
        if isinstance(answer, Done) and not self._live:
            return answer
        return None

    def limit(self) -> int:
        """Return how many trials may run: as many as fit on the nodes that are there now."""
        # With `max_concurrent` more may be asked for than fits: an autoscaler starts nodes for them.
        return self.engine.spec.max_concurrent or capacity(self._read_nodes(), self.resources)

    def _read_nodes(self) -> list[dict[str, Any]]:
        now = time.monotonic()
        if now - self._nodes_read > 1.0:
            self._nodes, self._nodes_read = self._ask_nodes(), now
        return self._nodes

    def _ask_nodes(self) -> list[dict[str, Any]]:
        try:
            return nodes()
        except Exception:  # its control process is gone too
            if self._own_ray:
                return []
            raise

    def _alive(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self._read_nodes() if node["Alive"])

    def _work(self, assignment: Assignment) -> Work:
        work = Work(assignment, self.resources, self._cwd, environment=self._environment)
        if self._shared is None and assignment.program is None and _shares_data(assignment.trainer):
            self._shared = SharedData.remote(work)  # type: ignore[attr-defined]
        return replace(work, shared=self._shared)

    def started(self, trial: Trial) -> None:
        """Take in that a trial's worker is there."""
        run = self._live.get(trial.trial_id)
        if run is not None:
            run.trial, run.heard = trial, time.monotonic()

    def heard_from(self, tune_id: str, nodes: frozenset[str]) -> None:
        """Take in where a run's workers are."""
        if tune_id in self._live:
            self._live[tune_id].nodes = nodes

    def report(self, tune_id: str, report: Report) -> Decision:
        """Pass a report on and return the decision; one of a run that is over is worth nothing any more."""
        run = self._live.get(tune_id)
        if run is None:
            return Decision.STOP
        with self._noting_errors():
            decision = self.engine.report(run.assignment.trial, report)
            run.heard = time.monotonic()
            if decision is not Decision.CONTINUE:
                self.ended(tune_id, Outcome(kind="stopped", last_step=report.step))
                tidy(run.assignment)
        return decision

    def ended(self, tune_id: str, outcome: Outcome) -> None:
        """Tell the engine how a run ended, once."""
        run = self._live.pop(tune_id, None)
        if run is not None:
            with self._noting_errors():
                self.engine.ended(run.assignment.trial, outcome)

    def died(self, tune_id: str, outcome: Outcome, patience: float) -> None:
        """Take in that a worker is gone, and wait a little with the decision.

        A worker is often missed before its node is: Ray then speaks of a broken connection, and only seconds later of
        a node that died. What a node's loss ends is no fault and costs no retry.
        """
        run = self._live.get(tune_id)
        if run is not None and run.end is None:
            run.end, run.until = outcome, time.monotonic() + patience

    def _judge_deaths(self) -> None:
        for tune_id, run in list(self._live.items()):
            if run.end is None:
                continue
            if run.lost_with_its_node(self._alive()):
                self.ended(tune_id, Outcome(kind="lost", reason="the node of its worker was lost"))
            elif time.monotonic() >= run.until:
                self.ended(tune_id, run.end)


def _shares_data(trainer: str) -> bool:
    if trainer == DEFAULT_TRAINER:
        return True
    try:
        return hasattr(import_trainer(trainer), "shared_data")
    except (ConfigError, ImportError):
        return True  # it may be found where the workers are; if not, the first trial says so


def outcome_of_loss(error: BaseException | None) -> Outcome:
    """Say what the death of a worker was: its node's, the memory monitor's, or the process's own."""
    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in text:
        return Outcome(kind="oom", reason="Ray ended its worker because the node ran out of memory", traceback=text)
    if isinstance(error, ray.exceptions.RayActorError):
        if getattr(error, "preempted", False) or "node has died" in text or "node is dead" in text:
            return Outcome(kind="lost", reason="the node of its worker was lost")
        if getattr(error, "actor_init_failed", False):
            return Outcome(kind="bug", reason="its worker could not be started", traceback=text)
        return Outcome(kind="infrastructure", reason="its worker process died", traceback=text)
    return Outcome(kind="infrastructure", reason=f"Ray could not run it: {type(error).__name__}", traceback=text)
