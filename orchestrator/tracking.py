"""What a sweep shows: events in the sweep's words become records of runs, and a sink takes the records.

`MlflowTracker` writes them to the outbox on disk, from which a thread feeds MLflow; `MemoryTracker`, its twin, keeps
the same runs in memory. No method waits for a server or raises into the sweep.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from meanflow_core.yamlfile import write_yaml
from orchestrator.delivery import Delivery, Sender, Sent, Store, metric_name
from orchestrator.outbox import Outbox
from orchestrator.paths import Home
from orchestrator.views import description, experiment_tags

if TYPE_CHECKING:
    from orchestrator.paths import SweepPaths
    from orchestrator.records import TrialRecord
    from orchestrator.spec import SweepSpec

log = logging.getLogger(__name__)

SWEEP = "sweep"
"""Key of the sweep's own run; a trial's key is its id."""
Points = Iterable[tuple[int, Mapping[str, float]]]


class Tracker(Protocol):
    """Shows a sweep. Every method returns at once and never raises; calling one again changes nothing.

    Call `report` before the report is recorded: a point that is shown twice is kept once, one that is recorded but
    was never shown would be missing after a kill.
    """

    def sweep_started(self, spec: SweepSpec, info: Mapping[str, Any]) -> None:
        """Open the sweep's run, or go on with it.

        Args:
            spec: the sweep.
            info: what is known, all optional: `plan` and `environment` (JSON-able), `code_version` (text), `yaml`
                (the sweep file's text), `trials` (the recorded trials of a sweep that goes on; what a killed driver
                could not show any more is shown now).
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

    def trial_ended(self, record: TrialRecord) -> None:
        """Close a trial's run with what it came to."""
        ...

    def sweep_ended(self, state: str, summary: Mapping[str, Any]) -> None:
        """Close the sweep's run; a state other than "finished" leaves its open trials marked as interrupted."""
        ...

    def close(self, timeout: float = 30.0) -> int:
        """Stop; wait at most `timeout` seconds for what is still to be sent. Returns the number of records left."""
        ...


class Sink(Protocol):
    """Takes records; see `orchestrator.outbox.Outbox`, which is one."""

    def append(self, run: str, what: str, data: Mapping[str, Any]) -> None:
        """Add an event."""
        ...

    def append_points(self, run: str, points: list[tuple[int, dict[str, float]]]) -> None:
        """Add metrics by step, but none twice."""
        ...

    def append_once(self, run: str, what: str, key: str, step: int, data: Mapping[str, Any]) -> bool:
        """Add an event about `key` at `step`, but not twice. Returns whether it is new."""
        ...


Self = TypeVar("Self", bound="EventTracker")
Args = ParamSpec("Args")


def _never_raises(
    method: Callable[Concatenate[Self, Args], None],
) -> Callable[Concatenate[Self, Args], None]:
    """Log what goes wrong in showing a sweep; the sweep itself must not notice."""

    @functools.wraps(method)
    def guarded(self: Self, /, *args: Args.args, **kwargs: Args.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            if self.strict:
                raise
            log.exception("an event could not be tracked")

    return guarded


class EventTracker:
    """Turns the events of a sweep into records.

    Args:
        sink: takes the records.
        strict: raise what goes wrong here, for tests; otherwise it is logged.
        checkpoint_limit: bytes; a trial's last checkpoint becomes an artifact if it is no larger.
    """

    def __init__(self, sink: Sink, *, strict: bool = False, checkpoint_limit: int = 32 << 20) -> None:
        self.strict = strict
        self._sink = sink
        self._checkpoint_limit = checkpoint_limit
        self._spec: SweepSpec | None = None
        self._code = ""
        self._open: dict[str, None] = {}  # a set that keeps its order
        self._ended: set[str] = set()
        self._best: tuple[float, str] | None = None

    # ------------------------------------------------------------------------------------------------- sweep

    @_never_raises
    def sweep_started(self, spec: SweepSpec, info: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._spec = spec
        self._code = str(info.get("code_version", ""))
        new = self._sink.append_once(
            SWEEP, "run", "run", 0, {"name": spec.name, "experiment": experiment_name(spec.name), "tags": {}}
        )
        params = {"method": spec.method, "metric": f"{spec.metric.goal} {spec.metric.name}"}
        if spec.run_cap is not None:
            params["run_cap"] = str(spec.run_cap)
        self._sink.append_once(SWEEP, "params", "params", 0, {"params": params})
        self._tags(SWEEP, {**self._common_tags(), "meansweep.kind": "sweep", "meansweep.state": "running"})
        self._sink.append(SWEEP, "experiment", {"tags": experiment_tags(spec)})
        self._describe()
        texts = {
            "sweep.yaml": info.get("yaml") or as_yaml(spec.source.get("sweep", {})),
            "plan.json": as_json(info.get("plan")),
            "environment.json": as_json(info.get("environment")),
        }
        for file, text in texts.items():
            if text:
                self._sink.append(SWEEP, "text", {"file": file, "text": text})
        if not new:
            self._sink.append(SWEEP, "status", {"status": "RUNNING"})
        for record in info.get("trials", ()):
            self._catch_up(record)

    @_never_raises
    def sweep_ended(self, state: str, summary: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for trial in list(self._open):
            self._tags(trial, {"meansweep.state": "interrupted"})
            self._sink.append(trial, "status", {"status": "KILLED"})
        self._open.clear()
        self._describe()
        if summary:
            self._sink.append(SWEEP, "text", {"file": "summary.json", "text": as_json(summary)})
        self._tags(SWEEP, {"meansweep.state": state})
        status = {"finished": "FINISHED", "done": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
        self._sink.append(SWEEP, "status", {"status": status})

    # ------------------------------------------------------------------------------------------------ trials

    @_never_raises
    def trial_started(self, record: TrialRecord, config: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        assert self._spec is not None
        key = record.id
        name = f"trial {key} · seed {record.seed}"
        place = {"experiment": experiment_name(self._spec.name), "parent": SWEEP}
        new = self._sink.append_once(key, "run", "run", 0, {"name": name, **place, "tags": {}})
        params = {name: as_text(value) for name, value in record.values.items()}
        self._sink.append_once(key, "params", "params", 0, {"params": {**params, "seed": str(record.seed)}})
        tags = {
            **self._common_tags(),
            "meansweep.kind": "trial" if record.replicate == 0 else "replicate",
            "meansweep.trial": key,
            "meansweep.config": str(record.config_id),
            "meansweep.config_hash": record.config_hash,
            "meansweep.revision": str(record.revision),
            "meansweep.attempt": str(len(record.attempts) + 1),
            "meansweep.state": "running",
        }
        self._tags(key, tags)
        if new:
            self._sink.append(key, "text", {"file": "config.yaml", "text": as_yaml(config)})
            self._dataset(key, config, record.labels)
        else:
            self._sink.append(key, "status", {"status": "RUNNING"})
        self._open[key] = None
        self._ended.discard(key)

    @_never_raises
    def report(
        self, trial_id: str, step: int, metrics: Mapping[str, float], rows: Points, images: Mapping[str, str]
    ) -> None:
        """See `Tracker`."""
        self._points(trial_id, [*rows, (step, metrics)])
        for key, path in images.items():
            self._sink.append_once(trial_id, "image", metric_name(key), step, {"path": str(path)})

    @_never_raises
    def trial_ended(self, record: TrialRecord) -> None:
        """See `Tracker`."""
        key, state = record.id, str(record.state.value)
        spent = {"trial/steps": record.steps, "trial/busy_seconds": record.busy_seconds}
        if record.gpu_seconds:
            spent["trial/gpu_seconds"] = record.gpu_seconds
        self._points(key, [(record.steps, spent)])
        tags = {"meansweep.state": state}
        if record.failure is not None:
            tags |= {
                "meansweep.state": record.failure.kind if record.failure.kind == "diverged" else state,
                "meansweep.failure": record.failure.kind,
                "meansweep.failure_reason": record.failure.reason[:4000],
            }
            if record.failure.traceback:
                self._sink.append(key, "text", {"file": "traceback.txt", "text": record.failure.traceback})
        self._tags(key, tags)
        if record.checkpoint and state == "finished":
            self._checkpoint(key, Path(record.checkpoint))
        status = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}.get(state, "KILLED")
        self._sink.append(key, "status", {"status": status})
        self._open.pop(key, None)
        self._ended.add(key)
        self._note_best(record, state)

    def close(self, timeout: float = 30.0) -> int:
        """See `Tracker`."""
        return 0

    # ---------------------------------------------------------------------------------------------- internal

    def _catch_up(self, record: TrialRecord) -> None:
        """Show what the ledger knows of a trial and a killed driver could not show any more."""
        state = str(record.state.value)
        if state not in ("finished", "pruned", "failed"):
            return
        self._points(record.id, sorted(record.reports.items()))
        self.trial_ended(record)

    def _note_best(self, record: TrialRecord, state: str) -> None:
        assert self._spec is not None
        metric = self._spec.metric
        if state not in ("finished", "pruned") or record.metric is None or not math.isfinite(record.metric):
            return
        if record.replicate:
            return
        sign = 1.0 if metric.goal == "minimize" else -1.0
        if self._best is None or sign * record.metric < sign * self._best[0]:
            self._best = (record.metric, record.id)
            self._tags(SWEEP, {"meansweep.best_trial": record.id})
            self._describe()
        self._points(SWEEP, [(record.config_id, {f"best/{metric.name}": self._best[0]})])

    def _points(self, key: str, points: Points) -> None:
        """Add points, those of one step together, steps ascending."""
        by_step: dict[int, dict[str, float]] = {}
        for step, values in points:
            by_step.setdefault(int(step), {}).update({metric_name(k): float(v) for k, v in values.items()})
        self._sink.append_points(key, sorted(by_step.items()))

    def _tags(self, key: str, tags: Mapping[str, str]) -> None:
        self._sink.append(key, "tags", {"tags": {name: value for name, value in tags.items() if value}})

    def _common_tags(self) -> dict[str, str]:
        assert self._spec is not None
        return {
            "meansweep.sweep": self._spec.name,
            "meansweep.code_version": self._code,
            "mlflow.user": _user(),
            "mlflow.source.name": f"meansweep run {self._spec.name}",
            "mlflow.source.type": "LOCAL",
        }

    def _dataset(self, key: str, config: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
        data = config.get("data")
        if not isinstance(data, Mapping):
            return
        found = labels.get("data_fingerprint")
        digest = str(found) if found else hashlib.sha256(as_json(data).encode()).hexdigest()
        self._sink.append(
            key, "dataset", {"name": str(data.get("name", "data")), "digest": digest[:16], "profile": data}
        )

    def _checkpoint(self, key: str, folder: Path) -> None:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if 0 < size <= self._checkpoint_limit:
            self._sink.append_once(key, "file", "checkpoint", 0, {"path": str(folder), "folder": "checkpoint"})

    def _describe(self) -> None:
        assert self._spec is not None
        self._tags(SWEEP, {"mlflow.note.content": description(self._spec, self._best)})


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
                state.status = data["status"]
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


def run_ids(paths: SweepPaths, store: Store | None = None) -> dict[str, str]:
    """Return trial id -> MLflow run id, as far as runs have been sent ("sweep": the parent run).

    Args:
        paths: the sweep's.
        store: the store; None: the one that the sweep's home uses now.
    """
    store = store or Store.of(Home(paths.root.parents[1]))
    return dict(Sent.load(paths.outbox, store).runs)


def experiment_name(sweep: str) -> str:
    """Return the experiment of a sweep: its own, so that table and charts show one sweep and its columns only."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or sweep


def as_text(value: Any) -> str:
    """Return a parameter's value as it is shown; config.yaml has it with all digits."""
    return format(value, ".6g") if isinstance(value, float) else str(value)


def as_json(value: Any) -> str:
    """Return JSON for people, empty for nothing."""
    return json.dumps(value, indent=2, default=str, sort_keys=True) if value else ""


def as_yaml(value: Any) -> str:
    """Return YAML for people."""
    return write_yaml(json.loads(json.dumps(value, default=str)))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
