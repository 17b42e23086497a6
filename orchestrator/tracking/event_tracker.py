"""The events of a sweep, in the sweep's words, become records of runs that a sink takes."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from meanflow_core.errors import ConfigError
from orchestrator.results import bad_seeds_text, best_so_far, best_text, leaderboard, verdict
from orchestrator.statistics import wants_log
from orchestrator.tracking.mlflow_views import SCORE, description, experiment_tags, trial_description
from orchestrator.tracking.run_writer import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    Points,
    RunWriter,
    Sink,
    as_json,
    as_text,
    as_yaml,
)
from orchestrator.trials import LAST, better

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord

log = logging.getLogger(__name__)

SWEEP = "sweep"
"""Key of the sweep's own run; a trial's key is its id."""
CURVES = 11
"""Metrics beside the sweep's own that the ready-made page has a chart of; MLflow makes those of the others."""

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
    """Turns the events of a sweep into records; its methods are those of `orchestrator.tracking.tracker.Tracker`.

    Args:
        sink: takes the records.
        strict: raise what goes wrong here, for tests; otherwise it is logged.
        checkpoint_limit: bytes; a trial's last checkpoint becomes an artifact if it is no larger.
    """

    def __init__(self, sink: Sink, *, strict: bool = False, checkpoint_limit: int = 32 << 20) -> None:
        self.strict = strict
        self._sink = sink
        self._checkpoint_limit = checkpoint_limit
        self._sweep = RunWriter(sink, SWEEP)
        self._spec: SweepSpec | None = None
        self._environment: Mapping[str, Any] = {}
        self._id = ""
        self._open: dict[str, None] = {}  # a set that keeps its order
        self._ended: dict[str, TrialRecord] = {}
        self._ranked = 0
        self._least: float | None = None
        self._charts: tuple[bool, tuple[str, ...]] = (False, ())
        self._pictures: dict[str, Mapping[str, str]] = {}

    @_never_raises
    def sweep_started(self, spec: SweepSpec, info: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._spec = spec
        self._environment = info.get("environment") or {}
        self._id = str(info.get("id", ""))
        new = self._sweep.begin(spec.name, spec.name)
        params = {"method": spec.method.name, "metric": spec.metric.words}
        self._sweep.params(params if spec.run_cap is None else {**params, "run_cap": str(spec.run_cap)})
        self._common_tags(self._sweep, "sweep")
        self._sink.append(SWEEP, "experiment", {"tags": experiment_tags(spec)})
        self._sweep.text("sweep.yaml", as_yaml(spec.standalone))
        self._sweep.text("plan.json", as_json(info.get("plan")))
        self._sweep.text("environment.json", as_json(self._environment))
        for name, text in (info.get("code") or {}).items():
            self._sweep.text(f"code/{name}", text)
        self._sweep.tags({"meansweep.state": "running"})
        if not new:
            self._sweep.set_status(RUNNING)
        for record in info.get("trials", ()):
            self._catch_up(record)
        self._describe()

    @_never_raises
    def sweep_ended(self, state: str, summary: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for key in self._open:
            self._run(key).tags({"meansweep.state": "interrupted"})
            self._run(key).set_status(KILLED)
        self._open.clear()
        self._sweep.text("summary.json", as_json(summary))
        self._sweep.tags({"meansweep.state": state})
        self._show_leaderboard(state)
        self._sweep.set_status({"finished": FINISHED, "failed": FAILED}.get(state, KILLED))

    @_never_raises
    def trial_started(self, record: TrialRecord, config: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        run = self._run(record.id)
        new = run.begin(f"trial {record.id} · seed {record.seed}", self._known.name, parent=SWEEP)
        run.params({**{name: as_text(value) for name, value in record.values.items()}, "seed": str(record.seed)})
        self._common_tags(run, "replicate" if record.replicate else "trial")
        tags = {
            "meansweep.trial": record.id,
            "meansweep.config": str(record.config_id),
            "meansweep.config_hash": record.config_hash,
            "meansweep.revision": str(record.revision),
            "meansweep.attempt": str(len(record.attempts) + 1),
            "meansweep.reused": str(record.labels.get("reused", "")),
            "meansweep.asked": str(record.labels.get("asked", "")),
            "meansweep.state": "running",
            "mlflow.note.content": trial_description(self._known.name, record),
        }
        run.tags(tags)
        if new:
            run.text("config.yaml", as_yaml(config))
            swept = any(name.startswith("data.") for name in record.values)
            run.dataset(config.get("data"), "" if swept else self._data_digest())
        self._show_lineage(run, record)
        run.set_status(RUNNING)
        self._open[record.id] = None

    @_never_raises
    def report(
        self, trial_id: str, step: int, metrics: Mapping[str, float], rows: Points, images: Mapping[str, str]
    ) -> None:
        """See `Tracker`."""
        self._run(trial_id).points([*rows, (step, {**metrics, "trial/steps": step})])
        self._run(trial_id).images(step, images)
        self._pictures |= {trial_id: images} if images else {}

    @_never_raises
    def trial_paused(self, record: TrialRecord) -> None:
        """See `Tracker`."""
        self._run(record.id).tags({"meansweep.state": record.state.value, "meansweep.reason": record.reason})

    @_never_raises
    def trial_ended(self, record: TrialRecord) -> None:
        """See `Tracker`."""
        self._close(record)
        self._describe()

    @property
    def refused(self) -> int:
        """See `Tracker`."""
        return 0

    def close(self, timeout: float = 30.0) -> int:
        """See `Tracker`."""
        return 0

    # ---------------------------------------------------------------------------------------------- internal

    def _close(self, record: TrialRecord) -> None:
        """Close a trial's run."""
        self._show_unseen(record)
        run, state = self._run(record.id), record.state.value
        spent = {"trial/steps": record.steps, "trial/busy_seconds": record.busy_seconds}
        if record.gpu_seconds:
            spent["trial/gpu_seconds"] = record.gpu_seconds
        if record.metric is not None and self._known.metric.at != LAST:
            spent[SCORE] = record.metric
        run.points([(record.steps, spent)])
        run.tags({"meansweep.state": state, "meansweep.reason": record.reason})
        if record.failure is not None:
            run.tags({"meansweep.failure": record.failure.kind})
            run.text("traceback.txt", record.failure.traceback or "")
        if record.checkpoint and state == "finished":
            run.folder("checkpoint", Path(record.checkpoint), limit=self._checkpoint_limit)
        # Once more where the slider of MLflow's page of a run begins, which cannot be set.
        run.images(0, {f"{name}/end": path for name, path in self._pictures.pop(record.id, {}).items()})
        run.set_status({"finished": FINISHED, "failed": FAILED}.get(state, KILLED))
        self._open.pop(record.id, None)
        self._rank(record)

    def _show_lineage(self, run: RunWriter, record: TrialRecord) -> None:
        """Show whose weights and which values a member of a population went on with; its parameters stay as they were.

        MLflow's parameters cannot change, so the values become metrics `pbt/<parameter>` by step.
        """
        changes = record.labels.get("lineage", [])
        if not changes:
            return
        told = [f"step {change['step']}: from trial {change['donor']}" for change in changes]
        run.tags({"meansweep.lineage": "; ".join(told)})
        run.points(
            (step, {f"pbt/{name}": value for name, value in values.items() if isinstance(value, int | float)})
            for step, values in [(0, record.values), *((change["step"], change["values"]) for change in changes)]
        )

    @property
    def _known(self) -> SweepSpec:
        if self._spec is None:
            raise RuntimeError("the first event must be sweep_started")
        return self._spec

    def _run(self, key: str) -> RunWriter:
        return RunWriter(self._sink, key)

    def _common_tags(self, run: RunWriter, kind: str) -> None:
        name = self._known.name
        run.common_tags(name, kind, f"meansweep run {name}", self._environment)
        run.tags({"meansweep.sweep_id": self._id})

    def _data_digest(self) -> str:
        return str(self._environment.get("data", "")).rpartition(":")[2]

    def _catch_up(self, record: TrialRecord) -> None:
        """Show what the ledger knows of a trial and a killed driver could not show any more."""
        shown = self._sink.status(record.id)
        if not record.state.ended:
            if shown == RUNNING:  # it will be handed out again; if not, it is closed with the sweep
                self._open[record.id] = None
        elif shown in (None, RUNNING):
            self._close(record)
        else:
            self._rank(record)

    def _show_unseen(self, record: TrialRecord) -> None:
        """Add what the ledger knows of a trial: one that was never handed out (reused), or that a kill cut off."""
        if self._sink.status(record.id) is None:
            try:
                config = self._known.config_for(record.values, seed=record.seed)
            except ConfigError:  # of an earlier revision of the sweep file, whose rules were others
                config = dict(record.values)
            self.trial_started(record, config)
        self._run(record.id).points(record.reports.items())

    def _rank(self, record: TrialRecord) -> None:
        """Draw the curve of the best value so far over the trials that have ended."""
        self._ended[record.id] = record
        metric = self._known.metric
        if record.state.value == "failed" or record.replicate or record.metric is None:
            return
        self._ranked += 1
        if self._least is None or better(record.metric, self._least, metric.goal):
            self._least = record.metric
        self._sweep.points([(self._ranked, {f"best/{metric.name}": self._least})])

    def _describe(self) -> None:
        """Say above the sweep's run how far it has come."""
        best = best_so_far(self._known, list(self._ended.values()))
        told = f"**Best so far:** {best_text(best)}." if best else ""
        trial = best.trial if best else ""
        name, reports = self._known.metric.name, [r for record in self._ended.values() for r in record.reports.values()]
        values = [report[name] for report in reports if name in report]
        others = dict.fromkeys(other for report in reports for other in report if other != name)
        charts = wants_log([value for value in values if math.isfinite(value)]), tuple(others)[:CURVES]
        if charts != self._charts:
            self._charts = charts
            tags = experiment_tags(self._known, log=charts[0], others=charts[1])
            self._sink.append(SWEEP, "experiment", {"tags": tags})
        self._sweep.tags({"meansweep.best_trial": trial, "mlflow.note.content": description(self._known, told)})

    def _show_leaderboard(self, state: str) -> None:
        """Say above the sweep's run what it has found, and at each run which place its configuration has."""
        rows = leaderboard(self._known, self._ended.values())
        told = f"**{'Result' if state == 'finished' else 'So far'}:** {verdict(self._known, rows)}"
        self._sweep.tags({"mlflow.note.content": description(self._known, told)})
        places = {row.trial: row for row in rows if row.rank is not None}
        for record in self._ended.values():
            row = places.get(record.id.partition(".")[0])
            if row is not None:
                place = {"meansweep.rank": str(row.rank), "meansweep.unstable": bad_seeds_text(row)}
                self._run(record.id).tags(place)
