"""A final training's run and its registered model."""

import numpy as np
import pandas as pd
import pytest

from meanflow_core.config import load_config
from meanflow_core.errors import ConfigError
from meanflow_core.trainer import Trainer
from orchestrator.final import FinalResult
from orchestrator.paths import Home
from orchestrator.registry import FINAL, FinalRunLogger, register_model, resolve
from orchestrator.store import Store, connect

pytestmark = pytest.mark.mlflow

CONFIG = {
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "trainer": {"steps": 2, "batch_size": 16},
    "evaluation": {"samples": 20, "nfe": [1]},
    "evidence": {"sweep": "tiny", "trial": "3", "metric": "eval/fid_1nfe", "value": 4.25},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    folder = home.root / "final" / "best"
    config = load_config(CONFIG)
    trainer = Trainer(config)
    trainer.train(2)
    trainer.export(folder / "weights.safetensors")
    return home, FinalResult(folder=folder, steps=2, metrics={}, picture=None, reproduction=None), config


def test_the_run_is_linked_to_the_sweep_and_keeps_each_point_once(trained, monkeypatch):
    home, result, config = trained
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store.of(home)
    for _ in range(2):  # the second time as after an interruption: rows are passed on again
        logger = FinalRunLogger(result.folder, store, name="best", config=config)
        logger.report(1, {"train/loss": 0.5}, {})
        logger.report(2, {"train/loss": 0.25, "eval/fid_1nfe": 7.0}, {})
        logger.ended("finished")
        assert logger.close() == 0
    client = connect(store)
    (experiment,) = [e for e in client.search_experiments() if "tiny" in e.name]
    (run,) = client.search_runs([experiment.experiment_id], "tags.`meansweep.kind` = 'final'")
    assert (run.data.tags["meansweep.trial"], run.info.status) == ("3", "FINISHED")
    assert run.data.params["optimizer.lr"] == "0.0001"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 0.5), (2, 0.25)]


def test_a_registered_model_loads_as_pyfunc_and_samples_in_one_step(trained, monkeypatch):
    home, result, config = trained
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store.of(home)
    address = register_model(store, name="best", result=result, config=config)
    assert address == "models:/best/1"
    import mlflow

    model = mlflow.pyfunc.load_model(address)
    asked = pd.DataFrame({"seed": [5, 5, 6], "nfe": [1, 1, 1], "label": [2, 2, 2]})
    samples = model.predict(asked)
    assert samples.shape == (3, 1, 8, 8)
    assert np.array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])
    assert model.metadata.signature.inputs.input_names() == ["seed", "nfe", "label"]
    assert resolve(store, address).read_bytes() == result.weights.read_bytes()
    version = connect(store).get_model_version("best", "1")
    assert version.tags["meansweep.sweep"] == "tiny"
    assert version.run_id == result_run(store, result)


def result_run(store, result):
    from orchestrator.delivery import Delivery
    from orchestrator.outbox import Outbox

    return Delivery(Outbox(result.folder / "outbox"), store).sent.runs[FINAL]


def test_a_model_that_is_not_there_is_named(trained, monkeypatch):
    home, _, _ = trained
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="models:/nothing/7"):
        resolve(Store.of(home), "models:/nothing/7")
