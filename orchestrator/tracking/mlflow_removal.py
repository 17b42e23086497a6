"""Taking a sweep out of an MLflow store: its runs with their files, the versions of models that came of them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.credentials import without_password
from orchestrator.tracking.mlflow_delivery import OUTBOX_TAG
from orchestrator.tracking.mlflow_store import Sent, Store, connect
from orchestrator.tracking.run_files import delete_run, own_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

SWEEP_ID_TAG = "meansweep.sweep_id"
EXPERIMENTS_A_SEARCH = 50


@dataclass(frozen=True)
class Shown:
    """What a store shows of a sweep."""

    runs: Sequence[Run]
    versions: Sequence[ModelVersion]
    """Of registered models, each made from one of the runs."""


def find_shown(store: Store, outboxes: Collection[str], sweep_id: str = "") -> Shown:
    """Return the living runs that came from these outboxes, or bear this sweep's id, and the models made from them.

    Args:
        store: where to look.
        outboxes: their ids.
        sweep_id: of the sweep; empty: of none.

    Raises:
        ConnectionError: the store does not answer.
    """
    marks = [(OUTBOX_TAG, each) for each in sorted(outboxes)] + [(SWEEP_ID_TAG, sweep_id)] * bool(sweep_id)
    try:
        client = connect(store)
        experiments = [each.experiment_id for each in _all(client.search_experiments)]
        runs: dict[str, Run] = {}
        for tag, value in marks:
            for start in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
                some = experiments[start : start + EXPERIMENTS_A_SEARCH]
                found = _all(client.search_runs, some, f"tags.`{tag}` = '{value}'", max_results=1000)
                runs.update({run.info.run_id: run for run in found})
        final = [run_id for run_id, run in runs.items() if run.data.tags.get("meansweep.kind") == "final"]
        versions = [v for run_id in final for v in _all(client.search_model_versions, f"run_id = '{run_id}'")]
    except Exception as error:
        raise ConnectionError(f"{store.name}: {without_password(str(error))}") from error
    return Shown(list(runs.values()), versions)


def remove_shown(store: Store, shown: Shown, sweep: str) -> list[str]:
    """Take out models, runs and the runs' files, and the sweep's experiment where nothing else is in it.

    MLflow keeps a deleted run's numbers until `mlflow gc`. Doing it again does no harm.

    Args:
        store: where.
        shown: what to take out.
        sweep: the sweep's name, which its experiment bears.

    Returns:
        What could not be deleted, a line each.

    Raises:
        ConnectionError: the store does not answer; what was taken out until then is gone.
    """
    left = []
    try:
        client = connect(store)
        for version in shown.versions:
            client.delete_model_version(version.name, version.version)
        for name in dict.fromkeys(version.name for version in shown.versions):
            if not client.search_model_versions(f"name = '{name}'", max_results=1):
                client.delete_registered_model(name)
        for run in shown.runs:
            problem = delete_run(client, store, run)
            left += [problem] if problem else []
        for experiment in dict.fromkeys(run.info.experiment_id for run in shown.runs):
            _close_experiment(client, experiment, sweep)
    except Exception as error:
        raise ConnectionError(f"{store.name}: {without_password(str(error))}") from error
    return left


def delete_own_files(store: Store, outbox: Path, runs: Collection[str], name: str) -> None:
    """Delete one file or folder of runs' files in a home's own store, so that links to it hold no disk.

    Of any other store nothing is deleted.

    Args:
        store: where the runs are shown.
        outbox: the folder of the outbox that they came from.
        runs: their keys there.
        name: of the file or folder.
    """
    known = Sent.load(outbox, store).runs if store.artifacts is not None and outbox.is_dir() else {}
    ids = [known[run] for run in runs if run in known]
    client = connect(store) if ids else None
    for run_id in ids:
        assert client is not None
        folder = own_folder(store, client.get_run(run_id))
        if folder is not None and not (folder / name).is_symlink():
            shutil.rmtree(folder / name, ignore_errors=True)


def _close_experiment(client: MlflowClient, experiment_id: str, sweep: str) -> None:
    """Delete a sweep's own experiment once it is empty; its name is given back first, which MLflow would keep."""
    experiment = client.get_experiment(experiment_id)
    if experiment.name != sweep or client.search_runs([experiment_id], max_results=1):
        return
    client.rename_experiment(experiment_id, f"{sweep} (removed, {experiment_id})")
    client.delete_experiment(experiment_id)


def _all(search: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    """Yield what all pages of a search hold."""
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return
