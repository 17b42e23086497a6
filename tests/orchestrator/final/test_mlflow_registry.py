"""The final training's run and its model: linked to the sweep, loaded back by MLflow, sampled in one step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from meanflow_core.config import load_config
from meanflow_core.data import unit_images
from meanflow_core.errors import ConfigError
from meanflow_core.flow import ConditionSpec
from meanflow_core.sampling import fixed_noise
from meanflow_core.training import Trainer
from orchestrator.final.mlflow_registry import _save_model, register_model, resolve
from orchestrator.final.samples import draw_samples
from orchestrator.final.training import train_final
from orchestrator.paths import Home
from orchestrator.tracking.final_run import FinalRunLogger
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.tracking.mlflow_sync import check, sync
from orchestrator.tracking.tracker import MlflowTracker
from tests.orchestrator.example_sweep import record, spec
from tests.orchestrator.mlflow_stores import read_back, sqlite_store

pytestmark = pytest.mark.mlflow

EVIDENCE = {"sweep": "digits-guidance", "trial": "7", "metric": "eval/fid_1nfe", "value": 12.5}


def tiny(data="digits", **evidence):
    return load_config(
        {
            "data": {"name": data},
            "model": {"name": "mlp", "width": 16, "depth": 1},
            "optimizer": {"lr": 0.03},  # far enough from its beginning that one step and two differ
            "ema": {"decays": [0.5]},
            "trainer": {"steps": 4, "batch_size": 8, "log_every": 2, "eval_every": 2, "checkpoint_every": 4},
            "evaluation": {"samples": 16, "nfe": [1]},
            "evidence": evidence,
        }
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def store(home):
    return sqlite_store(home.root)


@pytest.fixture(scope="module")
def trained(home, store):
    """A sweep of one trial, and its final training, registered."""
    tracker = MlflowTracker(home.sweep("digits-guidance").outbox, store, interval=0.02, strict=True)
    tracker.sweep_started(spec(), {})
    tracker.trial_started(record("7", None, state="running", values={"optimizer.lr": 2e-3}), {})
    assert tracker.close(30) == 0
    config, folder = tiny(**EVIDENCE), home.root / "final" / "best"
    logger = FinalRunLogger(folder, store, name="best", config=config, interval=0.02)
    result = train_final(config, folder, logger=logger)
    logger.ended("finished")
    assert logger.close(30) == 0
    return result, config, register_model(store, name="best", result=result, config=config)


def test_the_final_run_stands_below_its_sweep_with_its_trials_parameters(home, store, trained):
    result, _, _ = trained
    outbox = result.folder / "outbox"
    assert check(outbox, store).complete
    client = connect(store)
    sweep = read_back(home.sweep("digits-guidance").outbox, store)["sweep"]
    final = client.search_runs(
        [client.get_experiment_by_name("digits-guidance").experiment_id], "tags.`meansweep.kind` = 'final'"
    )
    assert len(final) == 1
    (final,) = final
    parent = client.get_run(final.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == sweep.name == "digits-guidance"
    assert final.info.run_name == "final best"
    assert final.info.status == "FINISHED"
    assert final.data.params == {"optimizer.lr": "0.002", "seed": "0", "trainer.steps": "4"}
    assert "trial 7 of the sweep **digits-guidance**" in final.data.tags["mlflow.note.content"]
    assert {metric.step for metric in client.get_metric_history(final.info.run_id, "eval/fid_1nfe")} == {2, 4}
    assert len(client.list_artifacts(final.info.run_id, "images")) == 4


def test_the_model_is_registered_once_and_says_where_it_comes_from(store, trained):
    result, config, model = trained
    assert model == "models:/best/1"
    assert register_model(store, name="best", result=result, config=config) == model
    version = connect(store).get_model_version("best", "1")
    assert version.tags["meansweep.sweep"] == "digits-guidance"
    assert version.tags["meansweep.trial"] == "7"
    assert float(version.tags["eval/fid_1nfe"]) == pytest.approx(result.metrics["eval/fid_1nfe"], rel=1e-5)
    assert "trial 7" in version.description


def test_an_address_resolves_to_the_weights(store, trained):
    result, _, _ = trained
    connect(store).set_registered_model_alias("best", "champion", "1")
    for address in ("models:/best/1", "models:/best/latest", "models:/best", "models:/best@champion"):
        assert resolve(store, address).read_bytes() == result.weights.read_bytes()
    draw_samples(resolve(store, "models:/best/1"), count=2)


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("models:/other/1", "no such model .* there is best"),
        ("models:/best/9", "no such version; there is 1"),
        ("models:/best@nobody", "no such version"),
        ("models:best", "must look like models:/NAME/VERSION"),
    ],
)
def test_an_address_that_means_nothing_is_explained(store, trained, address, rule):
    with pytest.raises(ConfigError, match=rule):
        resolve(store, address)


def test_mlflow_loads_the_model_and_samples_in_one_step(store, trained):
    import mlflow

    result, _, model = trained
    version = connect(store).get_model_version("best", "1")
    loaded = mlflow.pyfunc.load_model(version.source)
    assert model == f"models:/best/{version.version}"
    assert [column.name for column in loaded.metadata.get_input_schema()] == ["label", "seed"]
    pictures = loaded.predict(pd.DataFrame({"label": [0, 1, 2, 3], "seed": [5] * 4}))
    assert pictures.shape == (4, 8, 8, 3)
    assert pictures.dtype == np.uint8
    from meanflow_core.data.base import unit_images

    two_steps = loaded.predict(pd.DataFrame({"label": [0, 1, 2, 3], "seed": [5] * 4}), params={"nfe": 2})
    for nfe, drawn in ((1, pictures), (2, two_steps)):
        own, *_ = draw_samples(result.weights, count=4, nfe=nfe, labels=[0, 1, 2, 3], seed=5)
        np.testing.assert_array_equal(drawn, unit_images(own))
    assert (two_steps != pictures).any()
    first = loaded.predict(pd.DataFrame({"label": [0], "seed": [5]}))
    np.testing.assert_allclose(first[0].astype(int), pictures[0].astype(int), atol=1)  # another batch rounds otherwise
    with pytest.raises(ValueError, match="labels are 0 to 9"):
        loaded.predict(pd.DataFrame({"label": [10]}))


def test_the_model_brings_its_code_with_it(store, trained, tmp_path):
    version = connect(store).get_model_version("best", "1")
    code = (
        "import sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print(model.predict(pd.DataFrame({'label': [3], 'seed': [0]})).shape)\n"
        "import meanflow_core; print(meanflow_core.__file__)\n"
        "assert 'orchestrator' not in sys.modules\n"
    )
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-c", code, version.source]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shape, place = done.stdout.strip().splitlines()[-2:]
    assert shape == "(1, 8, 8, 3)"
    assert Path(version.source.removeprefix("file://")) in Path(place).parents


CONDITIONED = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.of_z, self.of_condition = torch.nn.Linear(4, 4), torch.nn.Linear(6, 4)
        self.classes = torch.nn.Embedding(3, 4)
        self.null_condition = torch.nn.Parameter(torch.full((2, 3), 0.7))

    def forward(self, z, r, t, labels=None, condition=None):
        return self.of_z(z) + self.of_condition(condition.flatten(1)) + self.classes(labels) + (t - r)[:, None]
"""


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """Weights of a network whose samples depend on a condition [2, 3] beside their class."""
    folder = tmp_path_factory.mktemp("conditioned")
    generator = torch.Generator().manual_seed(1)
    x, condition = (torch.randn(20, *shape, generator=generator) for shape in ((4,), (2, 3)))
    (folder / "conditioned_net.py").write_text(CONDITIONED)
    sys.path.insert(0, str(folder))
    config = {"model": {"name": "conditioned_net:Net"}, "trainer": {"batch_size": 8, "device": "cpu"}}
    trainer = Trainer(load_config(config), data=(x, torch.arange(20) % 2, condition))
    trainer.train(2)
    trainer.export(folder / "weights.safetensors")
    yield trainer, folder / "weights.safetensors", condition
    sys.path.remove(str(folder))


def test_a_model_of_data_with_conditions_is_asked_for_them_by_mlflow_and_by_sample(conditioned, tmp_path):
    import mlflow

    trainer, weights, condition = conditioned
    _save_model(tmp_path / "model", weights)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    labels, asked = [1, 0, 1], condition[4:7]
    rows = pd.DataFrame({"label": labels, "seed": 5})
    drawn = loaded.predict(rows.assign(condition=asked.tolist()))
    own, *_ = draw_samples(weights, count=3, labels=labels, seed=5, conditions=asked.numpy())
    np.testing.assert_array_equal(drawn, own)
    # One step from t = 1 to 0 of the network as it was trained: z - u(z, 0, 1).
    net, z = trainer.net, fixed_noise(5, (4,), 0, 3)
    with torch.no_grad():
        u = net(z, torch.zeros(3), torch.ones(3), ConditionSpec((2, 3)).pack(torch.tensor(labels), asked))
    torch.testing.assert_close(torch.as_tensor(drawn), z - u)
    absent = loaded.predict(rows)  # no condition: the network's own null condition
    null = loaded.predict(rows.assign(condition=[torch.full((2, 3), 0.7).tolist()] * 3))
    assert (absent != drawn).any()
    np.testing.assert_allclose(absent, null, atol=2e-2)  # it was trained for two steps
    with pytest.raises(ConfigError, match=r"of this model has the shape \(2, 3\); row 0 has \(3,\)"):
        draw_samples(weights, count=3, labels=labels, conditions=asked[:, 0].numpy())


def test_a_training_again_goes_on_with_its_run(home, store):
    config, folder = tiny("toy2d"), home.root / "final" / "again"
    for state in ("interrupted", "finished"):
        logger = FinalRunLogger(folder, store, name="again", config=config, interval=0.02)
        result = train_final(config, folder, logger=logger)
        logger.ended(state)
        assert logger.close(30) == 0
    assert check(folder / "outbox", store).complete
    runs = read_back(folder / "outbox", store)
    assert set(runs) == {"final"}
    assert runs["final"].status == "FINISHED"
    model = register_model(store, name="again", result=result, config=config)
    import mlflow

    loaded = mlflow.pyfunc.load_model(connect(store).get_model_version("again", "1").source)
    assert loaded.predict(pd.DataFrame({"label": [0, 1, 2]})).shape == (3, 2)
    assert model == "models:/again/1"


def test_a_store_that_is_down_costs_the_training_nothing(tmp_path, caplog):
    down = Store("http://somebody:secret@127.0.0.1:9")
    config, folder = tiny("toy2d"), tmp_path / "final" / "offline"
    logger = FinalRunLogger(folder, down, name="offline", config=config, interval=0.02)
    result = train_final(config, folder, logger=logger)
    logger.ended("finished")
    assert logger.close(1.0) > 0
    assert register_model(down, name="offline", result=result, config=config) is None
    assert "secret" not in caplog.text
    with pytest.raises(ConnectionError):
        resolve(down, "models:/offline/1")
    store = sqlite_store(tmp_path)
    sync(folder / "outbox", store)
    assert check(folder / "outbox", store).complete
    assert register_model(store, name="offline", result=result, config=config) == "models:/offline/1"


def test_a_model_that_is_told_its_scale_takes_it_as_a_parameter(tmp_path):
    import mlflow

    words = ["objective.guidance.input=true", "evaluation.guidance=[1, 3]", "optimizer.lr=0.1", "ema.decays=[]"]
    small = {"model": {"name": "mlp", "width": 16, "depth": 1}, "trainer": {"batch_size": 16, "device": "cpu"}}
    trainer = Trainer(load_config(small, words))
    trainer.train(6)
    weights = tmp_path / "weights.safetensors"
    trainer.export(weights)
    _save_model(tmp_path / "model", weights)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    rows = pd.DataFrame({"label": [0, 1, 2], "seed": [5] * 3})
    for scale in (None, 1.0, 3.0):
        drawn = loaded.predict(rows, params={} if scale is None else {"guidance": scale})
        own, *_ = draw_samples(weights, count=3, labels=[0, 1, 2], seed=5, guidance=scale)
        np.testing.assert_array_equal(drawn, unit_images(own))
    assert (drawn != loaded.predict(rows)).any()
    with pytest.raises(ConfigError, match="guidance: must be 1"):
        loaded.predict(rows, params={"guidance": 0.5})
