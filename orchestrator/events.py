"""The events of a sweep, in the sweep's words, become records of runs that a sink takes."""

from __future__ import annotations

import functools
import getpass
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from meanflow_core.errors import ConfigError
from meanflow_core.yamlfile import write_yaml
from orchestrator.delivery import metric_name
from orchestrator.records import better
from orchestrator.views import description, experiment_tags

if TYPE_CHECKING:
    from orchestrator.records import TrialRecord
    from orchestrator.spec import SweepSpec

log = logging.getLogger(__name__)

SWEEP = "sweep"
"""Key of the sweep's own run; a trial's key is its id."""
RUNNING, KILLED = "RUNNING", "KILLED"
Points = Iterable[tuple[int, Mapping[str, float]]]


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

    def status(self, run: str) -> str | None:
        """Return the last status added for a run; None: none yet."""
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
        self._environment: Mapping[str, Any] = {}
        self._open: dict[str, None] = {}  # a set that keeps its order
        self._ranked = 0
        self._best: tuple[float, str] | None = None

    # ------------------------------------------------------------------------------------------------- sweep

    @_never_raises
    def sweep_started(self, spec: SweepSpec, info: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._spec = spec
        self._environment = info.get("environment") or {}
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
            "sweep.yaml": as_yaml(spec.source.get("sweep", {})),
            "plan.json": as_json(info.get("plan")),
            "environment.json": as_json(info.get("environment")),
        }
        for file, text in texts.items():
            if text:
                self._sink.append(SWEEP, "text", {"file": file, "text": text})
        if not new:
            self._sink.append(SWEEP, "status", {"status": RUNNING})
        for record in info.get("trials", ()):
            self._catch_up(record)

    @_never_raises
    def sweep_ended(self, state: str, summary: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for trial in list(self._open):
            self._tags(trial, {"meansweep.state": "interrupted"})
            self._sink.append(trial, "status", {"status": KILLED})
        self._open.clear()
        self._describe()
        if summary:
            self._sink.append(SWEEP, "text", {"file": "summary.json", "text": as_json(summary)})
        self._tags(SWEEP, {"meansweep.state": state})
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, KILLED)
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
            "meansweep.reused": str(record.labels.get("reused", "")),
            "meansweep.state": "running",
        }
        self._tags(key, tags)
        if new:
            self._sink.append(key, "text", {"file": "config.yaml", "text": as_yaml(config)})
            self._dataset(key, config, record.values)
        self._sink.append(key, "status", {"status": RUNNING})
        self._open[key] = None

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
        self._show_unseen(record)
        key, state = record.id, record.state.value
        spent = {"trial/steps": record.steps, "trial/busy_seconds": record.busy_seconds}
        if record.gpu_seconds:
            spent["trial/gpu_seconds"] = record.gpu_seconds
        self._points(key, [(record.steps, spent)])
        tags = {"meansweep.state": state, "meansweep.reason": record.reason}
        if record.failure is not None:
            tags["meansweep.failure"] = record.failure.kind
            if record.failure.traceback:
                self._sink.append(key, "text", {"file": "traceback.txt", "text": record.failure.traceback})
        self._tags(key, tags)
        if record.checkpoint and state == "finished":
            self._checkpoint(key, Path(record.checkpoint))
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, KILLED)
        self._sink.append(key, "status", {"status": status})
        self._open.pop(key, None)
        self._rank(record)

    def close(self, timeout: float = 30.0) -> int:
        """See `Tracker`."""
        return 0

    # ---------------------------------------------------------------------------------------------- internal

    def _catch_up(self, record: TrialRecord) -> None:
        """Show what the ledger knows of a trial and a killed driver could not show any more."""
        shown = self._sink.status(record.id)
        if not record.state.ended:
            if shown == RUNNING:  # it will be handed out again; if not, it is closed with the sweep
                self._open[record.id] = None
        elif shown in (None, RUNNING):
            self.trial_ended(record)
        else:
            self._rank(record)

    def _show_unseen(self, record: TrialRecord) -> None:
        """Add what the ledger knows of a trial: one that was never handed out (reused), or that a kill cut off."""
        assert self._spec is not None
        if self._sink.status(record.id) is None:
            try:
                config = self._spec.config_for(record.values, seed=record.seed)
            except ConfigError:  # of an earlier revision of the sweep file, whose rules were others
                config = dict(record.values)
            self.trial_started(record, config)
        self._points(record.id, record.reports.items())

    def _rank(self, record: TrialRecord) -> None:
        """Draw the curve of the best value so far over the trials that have ended."""
        assert self._spec is not None
        metric = self._spec.metric
        if record.state.value == "failed" or record.replicate or record.metric is None:
            return
        self._ranked += 1
        if self._best is None or better(record.metric, self._best[0], metric.goal):
            self._best = (record.metric, record.id)
            self._tags(SWEEP, {"meansweep.best_trial": record.id})
            self._describe()
        self._points(SWEEP, [(self._ranked, {f"best/{metric.name}": self._best[0]})])

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
            "meansweep.code": str(self._environment.get("code", "")),
            "mlflow.user": _user(),
            "mlflow.source.name": f"meansweep run {self._spec.name}",
            "mlflow.source.type": "LOCAL",
        }

    def _dataset(self, key: str, config: Mapping[str, Any], searched: Iterable[str]) -> None:
        data = config.get("data")
        if not isinstance(data, Mapping):
            return
        digest = str(self._environment.get("data", "")).rpartition(":")[2]
        if not digest or any(name.startswith("data.") for name in searched):
            digest = hashlib.sha256(as_json(data).encode()).hexdigest()
        content = {"name": str(data.get("name", "data")), "digest": digest[:16], "profile": dict(data)}
        self._sink.append(key, "dataset", content)

    def _checkpoint(self, key: str, folder: Path) -> None:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if 0 < size <= self._checkpoint_limit:
            self._sink.append_once(key, "file", "checkpoint", 0, {"path": str(folder), "folder": "checkpoint"})

    def _describe(self) -> None:
        assert self._spec is not None
        self._tags(SWEEP, {"mlflow.note.content": description(self._spec, self._best)})


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
