"""How a sweep is shown: in MLflow, or in memory for tests. No method waits for a server or raises into the sweep.

`MlflowTracker` writes records to the outbox on disk, from which a thread feeds MLflow; `MemoryTracker`, its twin, keeps
the same runs in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.paths import Home
from orchestrator.tracking.event_tracker import SWEEP, EventTracker
from orchestrator.tracking.mlflow_delivery import Delivery
from orchestrator.tracking.mlflow_store import Sent, Store
from orchestrator.tracking.mlflow_views import PORT, ranking_metric, runs_path
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.run_writer import Points
from orchestrator.tracking.sender import Sender

if TYPE_CHECKING:
    from orchestrator.paths import SweepPaths
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord

__all__ = ["SWEEP", "EventTracker", "MemoryRun", "MemoryTracker", "MlflowTracker", "Tracker", "link_to_runs", "run_ids"]


class Tracker(Protocol):
    """Shows a sweep. Every method returns at once and never raises; calling one again changes nothing.

    Call `report` before the report is recorded: a point that is shown twice is kept once, one that is recorded but
    was never shown would be missing after a kill.
    """

    @property
    def refused(self) -> int:
        """Number of events that the store will never take (a picture that is gone, a run that was deleted)."""
        ...

    def sweep_started(self, spec: SweepSpec, info: Mapping[str, Any]) -> None:
        """Open the sweep's run, or go on with it.

        Args:
            spec: the sweep.
            info: what is known, all optional: `plan` and `environment` (JSON-able; its `code` and `data` identify
                the code and the data), `code` (texts by file name: see `orchestrator.provenance.record`), `trials` (the
                recorded trials of a sweep that goes on; what a killed driver could not show any more is shown now).
        """
        ...

    def trial_started(self, record: TrialRecord, config: Mapping[str, Any]) -> None:
        """Open a trial's run below the sweep's, or go on with it."""
        ...

    def report(
        self, trial_id: str, step: int, metrics: Mapping[str, float], rows: Points, images: Mapping[str, str]
    ) -> None:
        """Add metrics and pictures by step.

        Args:
            trial_id: the trial.
            step: the step of the report.
            metrics: its evaluation, by name.
            rows: training metrics at the steps up to it.
            images: path of a picture by its name; the files must stay where they are.
        """
        ...

    def trial_paused(self, record: TrialRecord) -> None:
        """Say that a trial is not trained at the moment, and why; its run stays open."""
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """Close a trial's run with what it came to."""
        ...

    def sweep_ended(self, state: str, summary: Mapping[str, Any]) -> None:
        """Close the sweep's run; a state other than "finished" leaves its open trials marked as interrupted."""
        ...

    def close(self, timeout: float = 30.0) -> int:
        """Stop; wait at most `timeout` seconds for what is still to be sent. Returns the number of records left."""
        ...


class MlflowTracker(EventTracker):
    """Shows the sweep in MLflow: through an outbox on disk and a thread that feeds a store from it.

    Args:
        outbox: folder of the outbox. A sweep that goes on goes on with it.
        store: where to send.
        interval: seconds between deliveries.
        strict: see `EventTracker`.
        checkpoint_limit: see `EventTracker`.
    """

    def __init__(
        self,
        outbox: Path,
        store: Store,
        *,
        interval: float = 1.0,
        strict: bool = False,
        checkpoint_limit: int = 32 << 20,
    ) -> None:
        self.outbox = Outbox(outbox, write=True)
        super().__init__(self.outbox, strict=strict, checkpoint_limit=checkpoint_limit)
        self._sender = Sender(Delivery(self.outbox, store), interval=interval)
        self._sender.start()

    @property
    def problem(self) -> str | None:
        """Why the store cannot be reached at the moment; None: it can."""
        return self._sender.problem

    @property
    def refused(self) -> int:
        """See `Tracker`."""
        return len(self._sender.delivery.sent.refused)

    def close(self, timeout: float = 30.0) -> int:
        """See `Tracker`."""
        left = self._sender.close(timeout)
        if not self._sender.is_alive():
            self.outbox.close()
        return left


@dataclass
class MemoryRun:
    """A run as `MemoryTracker` keeps it and as a store shows it."""

    name: str = ""
    parent: str | None = None
    experiment: str = ""
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    images: dict[str, dict[int, str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)


class MemoryTracker(EventTracker):
    """Keeps the runs in `runs`, by key."""

    def __init__(self, *, strict: bool = True, checkpoint_limit: int = 32 << 20) -> None:
        self.runs: dict[str, MemoryRun] = {}
        super().__init__(_MemorySink(self.runs), strict=strict, checkpoint_limit=checkpoint_limit)


class _MemorySink:
    def __init__(self, runs: dict[str, MemoryRun]) -> None:
        self._runs = runs
        self._seen: set[tuple[str, str, str, int]] = set()
        self._status: dict[str, str] = {}

    def append(self, run: str, what: str, data: Mapping[str, Any]) -> None:
        state = self._runs.setdefault(run, MemoryRun())
        match what:
            case "run":
                state.name, state.experiment, state.parent = data["name"], data["experiment"], data.get("parent")
            case "params":
                state.params.update(data["params"])
            case "tags":
                state.tags.update(data["tags"])
            case "status":
                state.status = self._status[run] = data["status"]
            case "text":
                state.files[data["file"]] = data["text"]
            case "file":
                state.files[data["folder"]] = data["path"]
            case "image":
                state.images.setdefault(data["key"], {})[data["step"]] = data["path"]
            case "dataset":
                state.datasets.append(data["name"])

    def append_points(self, run: str, points: Sequence[tuple[int, dict[str, float]]]) -> None:
        metrics = self._runs.setdefault(run, MemoryRun()).metrics
        for step, values in points:
            for name, value in values.items():
                metrics.setdefault(name, {}).setdefault(step, value)

    def append_once(self, run: str, what: str, key: str, step: int, data: Mapping[str, Any]) -> bool:
        if (run, what, key, step) in self._seen:
            return False
        self._seen.add((run, what, key, step))
        self.append(run, what, {"key": key, "step": step, **data})
        return True

    def status(self, run: str) -> str | None:
        return self._status.get(run)


def link_to_runs(paths: SweepPaths, spec: SweepSpec, configs: Collection[int]) -> str | None:
    """Return the address of MLflow's charts of these configurations, with all their seeds; None: none has been sent.

    Without a server of its own the store is shown by `meansweep ui`, at its usual address.

    Args:
        paths: the sweep's.
        spec: the sweep.
        configs: numbers of configurations.
    """
    store = Store.of(Home(paths.root.parents[1]))
    sent = Sent.load(paths.outbox, store)
    runs = [run for key, run in sent.runs.items() if key.partition(".")[0] in map(str, configs)]
    if not runs or len(sent.experiments) != 1:
        return None
    (experiment,) = sent.experiments.values()
    server = store.name.rstrip("/") if store.uri.startswith("http") else f"http://127.0.0.1:{PORT}"
    return server + runs_path(experiment, runs, ranking_metric(spec), spec.metric.goal)


def run_ids(paths: SweepPaths, store: Store | None = None) -> dict[str, str]:
    """Return trial id -> MLflow run id, as far as runs have been sent ("sweep": the parent run).

    Args:
        paths: the sweep's.
        store: the store; None: the one that the sweep's home uses now.
    """
    store = store or Store.of(Home(paths.root.parents[1]))
    return dict(Sent.load(paths.outbox, store).runs)
