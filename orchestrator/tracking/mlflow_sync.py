"""Send an outbox on demand, and prove that a store holds each of its points exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.credentials import without_password
from orchestrator.tracking.mlflow_delivery import Delivery, stored_value
from orchestrator.tracking.mlflow_store import Store, is_refusal_of_user, sending
from orchestrator.tracking.outbox import DELETED, Outbox

Point = tuple[str, str, int]
"""Run, metric, step."""


@dataclass(frozen=True)
class CheckReport:
    """What a store holds compared with what the outbox says it must hold.

    Args:
        store: the store's URI, without a password.
        runs: runs in the outbox.
        points: metric points in the outbox.
        held: points of the outbox that the store holds exactly once.
        missing: points that the store lacks, as (run, metric, step); the first hundred.
        doubled: points that it holds more than once, or with another value.
        extra: points under the outbox's runs that the outbox does not know.
        doubles: runs of this outbox that should not exist.
        pending: records not sent yet.
        refused: records that the store refused, with the reason.
    """

    store: str
    runs: int = 0
    points: int = 0
    held: int = 0
    missing: tuple[Point, ...] = ()
    doubled: tuple[Point, ...] = ()
    extra: int = 0
    doubles: int = 0
    pending: int = 0
    refused: tuple[Mapping[str, Any], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the store holds every point exactly once, and nothing else."""
        clean = not (self.missing or self.doubled or self.extra or self.doubles or self.pending or self.refused)
        return clean and self.held == self.points

    def __str__(self) -> str:
        if self.complete:
            return f"{self.store} holds all {self.points} metric points of {self.runs} runs, each exactly once."
        parts = [f"{self.store} holds {self.held} of {self.points} metric points of {self.runs} runs exactly once"]
        parts += [f"{self.pending} events queued"] * bool(self.pending)
        for name, points in (("missing", self.missing), ("more than once", self.doubled)):
            some = ", ".join(f"{run} {metric} at step {step}" for run, metric, step in points[:3])
            parts += [f"{name}: {some}{' ...' if len(points) > 3 else ''}"] * bool(points)
        parts += [f"{self.extra} points are not from this outbox"] * bool(self.extra)
        parts += [f"{self.doubles} duplicate runs"] * bool(self.doubles)
        parts += [f"refused: run {refusal['run']}: {refusal['reason']}" for refusal in self.refused[:3]]
        return "; ".join(parts) + "."


def sync(folder: Path, store: Store) -> int:
    """Send everything in an outbox that a store has not got; return the number of records sent.

    Raises:
        FileNotFoundError: there is no outbox: nothing has been tracked here.
        BlockingIOError: another process (a running sweep) is sending.
        ConnectionError: the store cannot be reached. What was sent until then is remembered.
    """
    delivery = Delivery(Outbox(folder), store)
    count = 0
    with sending(folder), _reaching(store):
        delivery.confirm_store()
        while sent := delivery.send():
            count += sent
        delivery.delete_doubles()
        _close_orphans(delivery)
    return count


def _close_orphans(delivery: Delivery) -> None:
    """End the runs whose driver is gone without a word: while we hold the right to send, no driver is alive.

    `resume` sets the runs it goes on with to running again.
    """
    last: dict[str, str] = {}
    for record in delivery.outbox.records():
        if record.what in ("run", "status", DELETED):
            last[record.run] = DELETED if record.what == DELETED else record.data.get("status", "RUNNING")
    for run, status in last.items():
        if status == "RUNNING" and run in delivery.sent.runs:
            run_id = delivery.sent.runs[run]
            delivery.client.set_tag(run_id, "meansweep.state", "interrupted")
            delivery.client.set_terminated(run_id, "KILLED")


def check(folder: Path, store: Store) -> CheckReport:
    """Compare an outbox with a store, point by point.

    Raises:
        FileNotFoundError: there is no outbox: nothing has been tracked here.
        ConnectionError: the store cannot be reached.
    """
    delivery = Delivery(Outbox(folder), store)
    expected = expected_points(delivery.outbox)
    missing: list[Point] = []
    doubled: list[Point] = []
    extra = 0
    with _reaching(store):
        delivery.client.search_experiments(max_results=1)  # where nothing was sent yet, nothing else would ask
        delivery.confirm_store()
        for run, metrics in expected.items():
            held = _held_points(delivery, run, set(metrics))
            for name, found in held.items():
                wanted = metrics.get(name, {})
                extra += len(found.keys() - wanted.keys())
                for step, value in wanted.items():
                    values = found.get(step, [])
                    if not values:
                        missing.append((run, name, step))
                    elif len(values) > 1 or not _same(values[0], stored_value(value)):
                        doubled.append((run, name, step))
        mine = set(delivery.sent.runs.values())
        living = [run for experiment in delivery.sent.experiments.values() for run in delivery.runs(experiment)]
    points = sum(len(steps) for metrics in expected.values() for steps in metrics.values())
    return CheckReport(
        store=store.name,
        runs=len(expected),
        points=points,
        held=points - len(missing) - len(doubled),
        missing=tuple(missing[:100]),
        doubled=tuple(doubled[:100]),
        extra=extra,
        doubles=sum(run.info.run_id not in mine for run in living),
        pending=delivery.pending,
        refused=tuple(delivery.sent.refused),
    )


def _held_points(delivery: Delivery, run: str, names: set[str]) -> dict[str, dict[int, list[float]]]:
    """Return what the store holds of a run: metric -> step -> values; also of metrics that are not in `names`."""
    held: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    run_id = delivery.sent.runs.get(run)
    if run_id is None:
        return held
    for name in delivery.client.get_run(run_id).data.metrics:
        found = held.setdefault(name, {})
        for metric in delivery.client.get_metric_history(run_id, name):
            found.setdefault(metric.step, []).append(metric.value)
    return held


@contextmanager
def _reaching(store: Store) -> Iterator[None]:
    """Turn whatever a store that is down causes into one kind of error."""
    try:
        yield
    except Exception as error:
        reason = without_password(str(error).partition("\n")[0] or type(error).__name__)
        said = f"cannot be reached or reports an error: {reason}"
        if is_refusal_of_user(error):
            said = "rejects this user and password ($MLFLOW_TRACKING_USERNAME, $MLFLOW_TRACKING_PASSWORD)"
        raise ConnectionError(f"{store.name} {said}") from error


def expected_points(outbox: Outbox) -> dict[str, dict[str, dict[int, float]]]:
    """Return run -> metric -> step -> value: what a store must hold."""
    expected: dict[str, dict[str, dict[int, float]]] = {}
    gone: set[str] = set()
    for record in outbox.records():
        metrics = expected.setdefault(record.run, {})
        if record.what == DELETED:
            gone.add(record.run)
        if record.what == "metrics":
            for step, values in record.data["points"]:
                for name, value in values.items():
                    metrics.setdefault(name, {})[step] = float(value)
    return {run: metrics for run, metrics in expected.items() if run not in gone}


def _same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))
