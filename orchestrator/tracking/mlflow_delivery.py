"""Deliver an outbox to an MLflow store: in order, in batches, so that sending anything twice changes nothing.

What makes each event safe to send again:

- a run is found by its tags before it is created, and its id is remembered;
- a metric carries the time of its record, and (run, key, time, step, value) is MLflow's primary key;
- parameters, tags, data sets and the end of a run overwrite themselves;
- a file or an image goes to a name that follows from its record.

Events by name (`Record.what`): run, params, tags, metrics, text, file, image, dataset, experiment, status, deleted.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.credentials import without_password
from orchestrator.paths import relocated
from orchestrator.tracking.mlflow_store import Sent, Store, connect
from orchestrator.tracking.outbox import DELETED, Outbox, Record
from orchestrator.tracking.run_files import delete_run, link_file, link_files, own_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OUTBOX_TAG = "meansweep.outbox"
RUN_TAG = "meansweep.run"
CHUNK = 500
"""Records sent between two notes of the position: what is sent again at most after a kill."""
METRICS_A_BATCH = 1000
NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
PARAMS_A_BATCH = 100

log = logging.getLogger(__name__)


class Unsendable(Exception):
    """An event that no store can take: its file is gone, its picture is damaged."""


class Delivery:
    """Sends an outbox to a store. Use it from one thread, while holding `sending`.

    Args:
        outbox: what to send; when it is open for writing it is forced to disk first.
        store: where to.
    """

    def __init__(self, outbox: Outbox, store: Store) -> None:
        self.outbox = outbox
        self.store = store
        self.sent = Sent.load(outbox.folder, store)
        self._client: MlflowClient | None = None
        self._confirmed = False

    @property
    def client(self) -> MlflowClient:
        """The client, connected on first use."""
        if self._client is None:
            self._client = connect(self.store)
        return self._client

    @property
    def pending(self) -> int:
        """Records that the store has not got yet."""
        return self.outbox.last - self.sent.position

    def send(self, limit: int = CHUNK) -> int:
        """Send the next records; return how many. The position moves only after the store has them all.

        Raises:
            Exception: the store cannot be reached or reports an error; nothing is lost, try again later.
        """
        self.outbox.flush()
        records = []
        for record in self.outbox.records(self.sent.offset):
            records.append(record)
            if len(records) == limit:
                break
        if not records:
            return 0
        if not self._confirmed:
            self.confirm_store()
            if self.sent.offset == 0 and records[0].number > 1:
                return self.send(limit)
        self._send_or_refuse(records)
        self.sent.position, self.sent.offset = records[-1].number, records[-1].end
        self.sent.save()
        return len(records)

    def confirm_store(self) -> None:
        """Start over if the store is not the one that was sent to before (emptied, replaced)."""
        for run_id in list(self.sent.runs.values())[:1]:
            try:
                self.client.get_run(run_id)
            except Exception as error:
                if _code(error) != NOT_THERE:
                    raise
                self.sent = Sent(self.sent.path, self.sent.store)
        self._confirmed = True

    def _send_or_refuse(self, records: Sequence[Record]) -> None:
        """Send records together; if the store calls something in them wrong, one by one, and note what it refuses."""
        try:
            self._apply(records)
        except Exception as error:
            if not self._is_refusal(error):
                self._confirmed = False
                raise
            if len(records) > 1:
                for record in records:
                    self._send_or_refuse([record])
                return
            record = records[0]
            reason = without_password(str(error))[:500]
            log.warning("MLflow refused event %d of run %s: %s", record.number, record.run, reason)
            self.sent.refused.append({"number": record.number, "run": record.run, "reason": reason})

    def _is_refusal(self, error: Exception) -> bool:
        """Whether sending the same again can never work. Everything else is an outage and is tried again."""
        if isinstance(error, Unsendable) or _code(error) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            return True
        if _code(error) != NOT_THERE:
            return False
        self.confirm_store()
        return bool(self.sent.runs)  # the store is the same, only this run has been removed from it

    def _apply(self, records: Sequence[Record]) -> None:
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(record.run, []).append(record)
        for key, group in groups.items():  # by first appearance: a parent's record comes before its children's
            if key in self.sent.deleted:
                continue
            for record in group:
                if record.what == "run":
                    self._open_run(record)
            if key not in self.sent.runs:
                raise Unsendable(f"the outbox has events of run {key!r} but not its beginning")
            self._apply_to_run(self.sent.runs[key], group)

    def _apply_to_run(self, run_id: str, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        metrics: list[Metric] = []
        status: Record | None = None
        for record in records:
            data = record.data
            match record.what:
                case "params":
                    params = {**data["params"], **params}  # a parameter keeps its first value, as MLflow has it
                case "tags":
                    tags.update(data["tags"])
                case "metrics":
                    for step, values in data["points"]:
                        metrics += [Metric(key, float(value), record.time, step) for key, value in values.items()]
                case "status":
                    status = record
                case "run":
                    tags.update(data["tags"])
        self._log_batches(run_id, metrics, params, tags)
        for record in records:
            self._put_artifact(run_id, record)
        if status is not None:  # last: who sees a finished run sees all of it
            self._set_status(run_id, status)
        if any(record.what == DELETED for record in records):
            delete_run(self.client, self.store, self.client.get_run(run_id))
            self.sent.deleted.append(records[0].run)

    def _log_batches(
        self, run_id: str, metrics: Sequence[Any], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Param, RunTag

        details = [Param(key, value) for key, value in params.items()]
        labels = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, max(len(details), len(labels)), PARAMS_A_BATCH):
            part = slice(start, start + PARAMS_A_BATCH)
            self.client.log_batch(run_id, params=details[part], tags=labels[part])
        for start in range(0, len(metrics), METRICS_A_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH])

    def _set_status(self, run_id: str, record: Record) -> None:
        status = record.data["status"]
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time=record.time)

    # ------------------------------------------------------------------------------------------------- runs

    def _open_run(self, record: Record) -> None:
        """Find or create the run of a `run` record and remember its id."""
        data = record.data
        tags = {**data["tags"], OUTBOX_TAG: self.outbox.id, RUN_TAG: record.run}
        parent = data.get("parent_id") or self.sent.runs.get(data.get("parent", ""))
        if parent:
            tags["mlflow.parentRunId"] = parent
        if record.run in self.sent.runs:
            return
        experiment = self._experiment(data["experiment"])
        found = self.runs(experiment, record.run)
        run = (
            min(found, key=lambda run: (run.info.start_time, run.info.run_id))
            if found
            else self.client.create_run(experiment, start_time=record.time, tags=tags, run_name=data["name"])
        )
        self.sent.runs[record.run] = run.info.run_id
        self.sent.save()

    def runs(self, experiment: str, key: str | None = None) -> list[Run]:
        """Return the living runs of this outbox, of one key if given."""
        condition = f"tags.`{OUTBOX_TAG}` = '{self.outbox.id}'"
        if key is not None:
            condition += f" and tags.`{RUN_TAG}` = '{key}'"
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([experiment], condition, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _experiment(self, name: str) -> str:
        known = self.sent.experiments.get(name)
        if known is not None:
            return known
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            place = None if self.store.artifacts is None else (self.store.artifacts / name).as_uri()
            found = str(self.client.create_experiment(name, artifact_location=place))
        else:
            if experiment.lifecycle_stage == "deleted":  # its name cannot be taken again
                self.client.restore_experiment(experiment.experiment_id)
            found = str(experiment.experiment_id)
        self.sent.experiments[name] = found
        return found

    def delete_doubles(self) -> int:
        """Delete runs of this outbox that are not the remembered ones; return how many.

        One appears when a server carries out a request to create a run whose answer was lost.
        """
        mine = set(self.sent.runs.values())
        doubles = [
            run.info.run_id
            for experiment in self.sent.experiments.values()
            for run in self.runs(experiment)
            if run.info.run_id not in mine
        ]
        for run_id in doubles:
            self.client.delete_run(run_id)
        return len(doubles)

    # -------------------------------------------------------------------------------------------- artifacts

    def _put_artifact(self, run_id: str, record: Record) -> None:
        data = record.data
        match record.what:
            case "text":
                self.client.log_text(run_id, data["text"], data["file"])
            case "file":
                path = self._file(data)
                if not path.exists():
                    raise Unsendable(f"{path} is gone")
                own = own_folder(self.store, self.client.get_run(run_id))
                if own is None or not link_files(path, own / (data.get("folder") or "")):
                    put = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
                    put(run_id, str(path), data.get("folder"))
            case "image":
                self._put_image(run_id, record)
            case "dataset":
                self._put_dataset(run_id, data)
            case "experiment":
                experiment = self.client.get_run(run_id).info.experiment_id
                for key, value in data["tags"].items():
                    self.client.set_experiment_tag(experiment, key, value)

    def _file(self, data: Mapping[str, Any]) -> Path:
        return Path(relocated(data["path"], self.outbox.folder.parent.absolute()))

    def _put_image(self, run_id: str, record: Record) -> None:
        """Store a picture as `MlflowClient.log_image` does, but under a name that is the same when sent again."""
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        try:
            content = self._file(record.data).read_bytes()
            with Image.open(io.BytesIO(content)) as picture:
                small = compress_image_size(picture.convert("RGB"))
        except OSError as error:  # missing, or not a picture
            raise Unsendable(str(error)) from error
        stem = image_stem(self.outbox.id, record)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{stem}.png").write_bytes(content)
            small.save(Path(folder) / f"{stem}+compressed.webp")
            self.client.log_artifacts(run_id, folder, "images")
        own = own_folder(self.store, self.client.get_run(run_id))
        if own is not None:
            link_file(self._file(record.data), own / "images" / f"{stem}.png")
        self.client.set_tag(run_id, "mlflow.loggedImages", "true")

    def _put_dataset(self, run_id: str, data: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=data["name"],
            digest=data["digest"],
            source_type="local",
            source=json.dumps({"uri": data.get("source", data["name"])}),
            profile=json.dumps(data.get("profile", {})),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])


def image_stem(outbox: str, record: Record) -> str:
    """Return the name, without its suffix, under which MLflow's image view finds the picture of a record."""
    key = str(record.data["key"]).replace("/", "~")
    unique = uuid.uuid5(uuid.UUID(outbox), str(record.number))
    return f"{key}+step+{record.data['step']}+timestamp+{record.time}+{unique}"


def metric_name(name: str) -> str:
    """Return the nearest name that MLflow accepts for a metric or parameter."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:250]


def stored_value(value: float) -> float:
    """Return what MLflow keeps of a metric's value (infinity becomes the largest finite number)."""
    largest = 1.7976931348623157e308
    return value if math.isnan(value) else min(max(value, -largest), largest)


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))
