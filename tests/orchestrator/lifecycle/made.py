"""Whole sweeps in a home: trained, shown in the home's own MLflow, with a final training and a registered model."""

from __future__ import annotations

import json
from pathlib import Path

from meanflow_core.config import load_config
from orchestrator.engine.start import start_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.tracking.final_run import FinalRunLogger, final_run_id
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.tracking.mlflow_sync import sync
from orchestrator.tracking.tracker import MlflowTracker
from tests.orchestrator import toy


def sweep(home: Home, content: dict, *, shown: bool = True) -> Ledger:
    """Run a sweep in this process; its ledger, open for reading."""
    made = (lambda paths: MlflowTracker(paths.outbox, Store.of(home))) if shown else None
    engine = start_sweep(home, toy.spec(content), tracker=made)
    with engine.ledger:
        run_inline(engine)
    if engine.tracker is not None:
        assert engine.tracker.close() == 0
    return Ledger.open(home.sweep(content["name"]))


def training(home: Home, name: str, sweep: str, trial: str = "0", **evidence: object) -> Path:
    """A final training as `train` leaves one, its weights registered as a model of its name."""
    folder, store = home.final(name), Store.of(home)
    folder.mkdir(parents=True)
    config = load_config({"data": {"name": "toy2d"}, "evidence": {"sweep": sweep, "trial": trial, **evidence}})
    (folder / "config.yaml").write_text(config.to_yaml())
    (folder / "weights.safetensors").write_bytes(b"w" * 1000)
    logger = FinalRunLogger(folder, store, name=name, config=config)
    logger.ended("finished")
    assert logger.close() == 0
    client, run_id = connect(store), final_run_id(folder, store)
    client.log_artifact(run_id, str(folder / "weights.safetensors"), "model/artifacts")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    client.create_model_version(name, source=client.get_run(run_id).info.artifact_uri + "/model", run_id=run_id)
    return folder


def shown(home: Home) -> dict[str, list[str]]:
    """The living runs by experiment, and the registered models."""
    client = connect(Store.of(home))
    found = {
        each.name: sorted(run.info.run_name for run in client.search_runs([each.experiment_id]))
        for each in client.search_experiments()
        if each.name != "Default"
    }
    return {**found, "models": sorted(f"{v.name} {v.version}" for v in client.search_model_versions())}


def synced(home: Home, name: str) -> int:
    return sync(home.sweep(name).outbox, Store.of(home))


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by path; nothing is followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for path in folder.rglob("*")
    }


def answer(capsys) -> dict:
    return json.loads(capsys.readouterr().out)
