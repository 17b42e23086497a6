"""Run a sweep's trials on Ray: Tune carries them out, the engine decides.

Tune asks the engine for work (`EngineSearcher`), passes each report on and obeys the decision (`EngineScheduler`), and
calls it in between (`Heartbeat`). One Tune trial is one assignment. Tune's own memory (checkpoints, resuming, loggers)
is not used: the ledger has it all, so a killed driver loses nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher, SearchGenerator

from meanflow_core.errors import ConfigError
from orchestrator.runners.ray_actor import TrialWorker
from orchestrator.runners.ray_nodes import capacity, check_fits, connected, nodes, resource_bundle
from orchestrator.spec import DEFAULT_TRAINER
from orchestrator.trials import Assignment, Decision, Done, Outcome, Report
from orchestrator.worker import SharedData, Work, import_trainer, tidy

if TYPE_CHECKING:
    from orchestrator.engine import Engine

OnEvent = Callable[["Engine"], None]
FORWARDED = ("MEANSWEEP_STORAGE", "MEANSWEEP_HOME")
"""Variables of the driver's environment that workers see too."""


SHOWN_EVERY = 0.25
"""Seconds between two calls of `on_event`."""


NODE_PATIENCE = 30.0
"""Seconds in which Ray notices a dead node: until then a broken connection may be its doing."""
PROCESS_PATIENCE = 2.0
"""The same where Ray knows that the process died: the node may be about to follow."""


class _Interrupted(Exception):
    """Leaves Tune's loop: the user has asked to stop."""


def run_ray(engine: Engine, *, on_event: OnEvent | None = None, **options: Any) -> dict[str, Any]:
    """Drive a sweep to its end on Ray and return its summary.

    Ctrl-C and SIGTERM end it cleanly: workers are stopped at once, what they had not reported is repeated on resume,
    and the summary's state is "interrupted".

    Args:
        engine: its decisions.
        on_event: called with the engine a few times a second, and at the end.
        options: of `ray.init`, for a Ray that is started here. `$RAY_ADDRESS` is honoured.

    Raises:
        ConfigError: no node can run a trial.
    """
    with connected(engine.paths.driver_log, **options), interruptible() as interrupted:
        session = Session(engine, on_event, interrupted)
        if engine.spec.max_concurrent is None:
            check_fits(session.resources)
        with tempfile.TemporaryDirectory(prefix="meansweep-tune-") as scratch:
            try:
                _run_tune(session, scratch)
                summary = engine.finish()
            except _Interrupted:
                summary = engine.finish("interrupted by a signal")
            except Exception:
                if session.error is not None:
                    raise session.error from None  # Tune has wrapped it in its own
                raise
            finally:
                session.close()
        session.show()
    return summary


def _run_tune(session: Session, scratch: str) -> None:
    """Turn Tune's loop until the engine is done (`tune.run` without its reporters, loggers and signal handlers)."""
    resources = session.resources
    bundles = [resource_bundle(resources)] * max(1, resources.workers)
    experiment = Experiment(
        name="sweep",
        run=tune.with_resources(TrialWorker, tune.PlacementGroupFactory(bundles)),
        num_samples=2**31,
        storage_path=scratch,
        trial_dirname_creator=lambda trial: trial.trial_id,
        trial_name_creator=lambda trial: trial.trial_id,
    )
    search = SearchGenerator(EngineSearcher(session))
    controller = TuneController(
        search_alg=search,
        scheduler=EngineScheduler(session),
        callbacks=[Heartbeat(session)],
        reuse_actors=True,
        storage=experiment.storage,
        checkpoint_period=10**9,  # seconds: never
    )
    search.add_configurations([experiment])
    controller.update_max_pending_trials()
    try:
        while not controller.is_finished():  # type: ignore[no-untyped-call]
            controller.step()  # type: ignore[no-untyped-call]
    finally:
        controller.cleanup()  # type: ignore[no-untyped-call]


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

    def __init__(self, engine: Engine, on_event: OnEvent | None, interrupted: threading.Event) -> None:
        self.engine = engine
        self.resources = engine.spec.resources
        """What each trial gets; of an edited sweep, from the next driver on, since Tune makes its workers alike."""
        self._on_event = on_event or (lambda engine: None)
        self._interrupted = interrupted
        self._live: dict[str, _Run] = {}
        self._environment = {name: os.environ[name] for name in FORWARDED if name in os.environ}
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
            raise _Interrupted
        with self._noting_errors():
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
            self._nodes, self._nodes_read = nodes(), now
        return self._nodes

    def _alive(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self._read_nodes() if node["Alive"])

    def _work(self, assignment: Assignment) -> Work:
        work = Work(assignment, self.resources, self._cwd, environment=self._environment)
        if self._shared is None and _shares_data(assignment.trainer):
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


class EngineSearcher(Searcher):
    """Tune's source of trials."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def suggest(self, trial_id: str) -> Any:
        """Return the next assignment, None to be asked again, or FINISHED."""
        answer = self._session.next(trial_id)
        if isinstance(answer, Done):
            return str(Searcher.FINISHED)
        return None if answer is None else {"work": answer}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the scheduler tells the engine."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the memory."""


class EngineScheduler(TrialScheduler):
    """Passes results to the engine and its decisions to Tune."""

    _supports_buffered_results = False

    def __init__(self, session: Session) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """Let the engine record a report, or an end, and return what Tune does next."""
        self._session.heard_from(trial.trial_id, result["nodes"])
        if "report" in result:
            decision = self._session.report(trial.trial_id, result["report"])
            # A paused trial is a stopped run for Tune: its continuation is a new assignment from the checkpoint.
            return str(TrialScheduler.CONTINUE if decision is Decision.CONTINUE else TrialScheduler.STOP)
        outcome = result["outcome"]
        if outcome.kind == "infrastructure" and self._session.resources.workers > 1:
            self._session.died(trial.trial_id, outcome, NODE_PATIENCE)  # another of its workers, with its node
        else:
            self._session.ended(trial.trial_id, outcome)
        # A worker that is not to be used again is asked to go on: now that its failure is recorded, it breaks.
        return str(TrialScheduler.CONTINUE if result["failed"] else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Tell the engine of a worker that is gone."""
        error = _error_of(trial)
        outcome = outcome_of_loss(error)
        if outcome.kind != "infrastructure":
            self._session.ended(trial.trial_id, outcome)
        else:
            unsure = isinstance(error, ray.exceptions.ActorUnavailableError)
            self._session.died(trial.trial_id, outcome, NODE_PATIENCE if unsure else PROCESS_PATIENCE)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leave the order to Tune: first come, first served."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do."""

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """Nothing to do: the end was told with the result."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do."""

    def debug_string(self) -> str:
        """Return a name."""
        return "meansweep engine"


class Heartbeat(tune.Callback):
    """Gives the engine its turn in each round of Tune's loop, also when no result arrives; empties what has ended."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Take a turn; Tune calls this ten times a second or more."""
        self._session.beat()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note it."""
        self._session.started(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Empty it."""
        _empty(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Empty it."""
        _empty(trial)


def _empty(trial: Trial) -> None:
    """Let go of what a Tune trial carries: Tune keeps every one of them until the sweep is over."""
    trial.config.clear()
    trial.evaluated_params.clear()
    known = trial.run_metadata
    known.last_result, known.metric_analysis, known.metric_n_steps = {}, {}, {}


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


def _error_of(trial: Trial) -> BaseException | None:
    """Return what Tune has kept of an error: itself if an actor or a task raised it, else (out of memory) its text."""
    file = trial.pickled_error_file
    if file and Path(file).exists():
        with open(file, "rb") as stream:
            error = pickle.load(stream)  # written by Tune in this process
        return error if isinstance(error, BaseException) else None
    file = trial.error_file
    return RuntimeError(Path(file).read_text(errors="replace")) if file and Path(file).exists() else None


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Set an event on SIGINT or SIGTERM, for the block; a second one interrupts at once, as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        event.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
