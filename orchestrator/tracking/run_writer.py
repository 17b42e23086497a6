"""One run's events as records: what a trial, a sweep and a final training have in common."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from meanflow_core.config import write_yaml
from orchestrator.provenance import user_name
from orchestrator.tracking.mlflow_delivery import metric_name

Points = Iterable[tuple[int, Mapping[str, float]]]
RUNNING, FINISHED, KILLED, FAILED = "RUNNING", "FINISHED", "KILLED", "FAILED"
LARGEST_TEXT = 5000
"""Characters of a tag; MLflow refuses longer ones."""


class Sink(Protocol):
    """Takes records; see `orchestrator.tracking.outbox.Outbox`, which is one."""

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


class RunWriter:
    """Writes the events of one run.

    Args:
        sink: takes the records.
        key: of the run inside the sink.
    """

    def __init__(self, sink: Sink, key: str) -> None:
        self._sink, self._key = sink, key

    @property
    def status(self) -> str | None:
        """The last status; None before the first."""
        return self._sink.status(self._key)

    def begin(self, name: str, sweep: str, *, parent: str | None = None, parent_id: str | None = None) -> bool:
        """Open the run, or go on with it; the first event of a run. Returns whether it is new.

        Args:
            name: that people see.
            sweep: whose experiment it belongs to: each has its own, so that table and charts show one sweep.
            parent: key of the run above it in the same sink.
            parent_id: MLflow's id of a run above it that is in another sink.
        """
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or sweep
        place: dict[str, Any] = {
            "name": name,
            "experiment": experiment,
            "parent": parent,
            "parent_id": parent_id,
            "tags": {},
        }
        return self._sink.append_once(self._key, "run", "run", 0, place)

    def set_status(self, status: str) -> None:
        """Set RUNNING, FINISHED, KILLED or FAILED."""
        self._sink.append(self._key, "status", {"status": status})

    def params(self, params: Mapping[str, str]) -> None:
        """Set the run's parameters, in this order; later calls change nothing, since MLflow's do not change."""
        self._sink.append_once(self._key, "params", "params", 0, {"params": dict(params)})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; empty ones are left out, long ones cut."""
        kept = {name: value[:LARGEST_TEXT] for name, value in tags.items() if value}
        self._sink.append(self._key, "tags", {"tags": kept})

    def common_tags(self, sweep: str, kind: str, command: str, environment: Mapping[str, Any]) -> None:
        """Set the tags that every run has; `environment` is what `environment` of the engine returned."""
        self.tags(
            {
                "meansweep.sweep": sweep,
                "meansweep.kind": kind,
                "meansweep.code": str(environment.get("code") or ""),
                "mlflow.source.git.commit": str(environment.get("commit") or "").partition(" ")[0],
                "mlflow.user": user_name(),
                "mlflow.source.name": command,
                "mlflow.source.type": "LOCAL",
            }
        )

    def points(self, points: Points) -> None:
        """Add metrics, those of one step together, steps ascending."""
        by_step: dict[int, dict[str, float]] = {}
        for step, values in points:
            by_step.setdefault(int(step), {}).update({metric_name(k): float(v) for k, v in values.items()})
        self._sink.append_points(self._key, sorted(by_step.items()))

    def images(self, step: int, images: Mapping[str, str]) -> None:
        """Add pictures (files, by name) of a step; a plain name gets a section of its own on MLflow's pages."""
        for name, path in images.items():
            key = metric_name(name if "/" in name else f"{name}/grid")
            self._sink.append_once(self._key, "image", key, step, {"path": os.path.abspath(path)})

    def text(self, file: str, text: str) -> None:
        """Add a small file; an empty one is left out."""
        if text:
            self._sink.append(self._key, "text", {"file": file, "text": text})

    def folder(self, name: str, path: Path, *, limit: int) -> None:
        """Add a folder of files under a name, if there is one here and it has at most `limit` bytes."""
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if 0 < size <= limit:
            self._sink.append_once(self._key, "file", name, 0, {"path": os.path.abspath(path), "folder": name})

    def dataset(self, data: object, digest: str = "") -> None:
        """Record the data it trains on.

        Args:
            data: the `data` section of its configuration; anything but a mapping is left out.
            digest: identifies the data; empty: derived from the section.
        """
        if isinstance(data, Mapping):
            digest = digest or hashlib.sha256(as_json(data).encode()).hexdigest()
            content = {"name": str(data.get("name", "data")), "digest": digest[:16], "profile": dict(data)}
            self._sink.append(self._key, "dataset", content)


def as_text(value: Any) -> str:
    """Return a parameter's value as it is shown; config.yaml has it with all digits."""
    return format(value, ".6g") if isinstance(value, float) else str(value)


def as_json(value: Any) -> str:
    """Return JSON for people, empty for nothing."""
    return json.dumps(value, indent=2, default=str, sort_keys=True) if value else ""


def as_yaml(value: Any) -> str:
    """Return YAML for people."""
    return write_yaml(json.loads(json.dumps(value, default=str)))
