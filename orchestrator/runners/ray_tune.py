"""Run a sweep's trials on Ray: Tune carries them out, the engine decides.

Tune asks the engine for work (`EngineSearcher`), passes each report on and obeys the decision (`EngineScheduler`), and
calls it in between (`Heartbeat`). One Tune trial is one assignment. Tune's own memory (checkpoints, resuming, loggers)
is not used: the ledger has it all, so a killed driver loses nothing.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher, SearchGenerator

from orchestrator.credentials import STORE_KEYS
from orchestrator.ending import on_signals
from orchestrator.runners.ray_actor import TrialWorker
from orchestrator.runners.ray_nodes import check_fits, connected, resource_bundle
from orchestrator.runners.ray_session import (
    NODE_PATIENCE,
    PROCESS_PATIENCE,
    Interrupted,
    OnEvent,
    RayGone,
    Session,
    outcome_of_loss,
)
from orchestrator.trials import Decision, Done

if TYPE_CHECKING:
    from orchestrator.engine import Engine
    from orchestrator.results import Status


def run_ray(engine: Engine, *, on_event: OnEvent | None = None, **options: Any) -> Status:
    """Drive a sweep to its end on Ray and return where it stands then.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end it cleanly: workers are stopped at once, what they had not reported is
    repeated on resume, and the state is then "interrupted".

    Args:
        engine: its decisions.
        on_event: called with the engine a few times a second, and at the end.
        options: of `connected`. `$RAY_ADDRESS` is honoured.

    Raises:
        ConfigError: no node can run a trial.
        RayGone: Ray itself has died; nothing is lost.
    """
    with connected(engine.paths.driver_log, **options) as own, interruptible() as interrupted:
        session = Session(engine, on_event, interrupted, own_ray=own)
        if engine.spec.max_concurrent is None:
            check_fits(session.resources)
        with tempfile.TemporaryDirectory(prefix="meansweep-tune-") as scratch:
            try:
                _run_tune(session, scratch)
                status = engine.finish()
            except Interrupted:
                status = engine.finish("interrupted by a signal")
            except Exception:
                if isinstance(session.error, RayGone):
                    engine.finish(str(session.error))
                if session.error is not None:
                    raise session.error from None  # Tune has wrapped it in its own
                raise
            finally:
                session.close()
        session.show()
    return status


def _run_tune(session: Session, scratch: str) -> None:
    """Turn Tune's loop until the engine is done (`tune.run` without its reporters, loggers and signal handlers)."""
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(STORE_KEYS)  # into what Ray logs; they travel with the work
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
    """Set an event on a signal to end, for the block; a second one interrupts at once."""
    event = threading.Event()

    def note(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    with on_signals(note):
        yield event
