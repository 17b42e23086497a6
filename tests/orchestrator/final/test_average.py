"""The length of the average is chosen after the final training: what its result, samples and MLflow say of it."""

import pytest

from meanflow_core.config import load_config
from meanflow_core.training import load_metadata
from orchestrator.cli import main as cli
from orchestrator.final.training import is_complete, train_final
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_views import final_description

CONFIG = {
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "optimizer": {"lr": 0.01},
    "ema": {"decays": [0.9], "lengths": [0.05, 0.1], "snapshot_every": 5},
    "trainer": {"steps": 20, "batch_size": 16, "log_every": 10, "eval_every": 20, "device": "cpu"},
    "evaluation": {"samples": 20, "nfe": [1]},
    "evidence": {"metric": "eval/accuracy_1nfe", "goal": "maximize", "curve": {10: 0.1}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


class Heard:
    def __init__(self):
        self.metrics = {}

    def report(self, step, metrics, images):
        assert self.metrics.keys().isdisjoint({(step, name) for name in metrics}) or not metrics
        self.metrics |= {(step, name): value for name, value in metrics.items()}


def test_a_final_training_leaves_the_best_average_by_the_metric_of_its_sweep(home):
    config, folder, heard = load_config(CONFIG, ["ema.length=best"]), home.final("digits"), Heard()
    result = train_final(config, folder, logger=heard)
    scores = {name: value for name, value in result.metrics.items() if name.endswith("/accuracy_1nfe")}
    lengths = {name: value for name, value in scores.items() if "/length_" in name}
    assert result.scores["eval/accuracy_1nfe"] == max(lengths.values())
    assert result.average == f"length_{result.length:g}" == load_metadata(result.weights)["weights"]
    assert {name for step, name in heard.metrics if step == 20} >= scores.keys()
    assert set(result.curve) == {10, 20}  # of the primary weights, as the trial's was
    assert is_complete(config, folder)

    other = load_config(CONFIG, ["ema.length=0.07"])
    assert not is_complete(other, folder)
    again = train_final(other, folder)
    assert (again.length, again.steps) == (0.07, 20)
    assert again.scores.keys() == {"eval/fid_1nfe", "eval/accuracy_1nfe"}

    plain = train_final(load_config(CONFIG), folder)
    assert (plain.average, plain.length) == ("ema_0.9", None)
    assert plain.scores["eval/fid_1nfe"] == result.metrics["eval/fid_1nfe"]


def test_a_length_is_sampled_that_nobody_had_chosen(home, tmp_path, capsys):
    pictures = {}
    for length in ((), ("--ema-length", "0.05"), ("--ema-length", "0.2")):
        out = tmp_path / "samples.png"
        assert cli.run(["sample", "digits", "-o", str(out), "-n", "4", "--home", str(home.root), *length]) == 0
        pictures[length] = out.read_bytes()
        said = capsys.readouterr().err
        assert ("average of length 0.2" in said) == ("0.2" in length)
    assert len(set(pictures.values())) == 3


@pytest.mark.parametrize(
    ("model", "length", "rule"),
    [
        ("digits", "0.3", "--ema-length: must be above 0 and below 0.28"),
        ("models:/digits/1", "0.1", "a registered model is one average"),
        ("alone.safetensors", "0.1", "stored no averages to choose a length from"),
    ],
)
def test_a_length_that_cannot_be_had_is_refused(home, tmp_path, monkeypatch, capsys, model, length, rule):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.safetensors").write_bytes((home.final("digits") / "weights.safetensors").read_bytes())
    assert cli.run(["sample", model, "--home", str(home.root), "--ema-length", length]) == 2
    assert rule in capsys.readouterr().err


def test_mlflow_says_which_average_a_model_is():
    evidence = {"sweep": "digits", "trial": "7", "metric": "eval/fid_1nfe", "value": 2.5}
    for known in ({}, evidence):
        assert "the average of length 0.12, chosen after the training" in final_description(known, 100, 0.12)
        assert "average" not in final_description(known, 100)
