"""Networks, data and metrics of one's own in a sweep file: which keys they may have, and what is sent along."""

import json
import sys

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.cluster.packaging import staged
from orchestrator.engine.environment_check import environment
from orchestrator.planning.preflight import missing_here
from orchestrator.source_files import own_packages
from orchestrator.spec.sweep import SweepSpec, read_spec

SWEEP = """\
base: {model: {name: "mine:Net", width: 8}, data: {name: "mine:rows"}, evaluation: {metrics: ["mine:spread", mmd]}}
method: random
run_cap: 2
metric: {name: eval/spread_1nfe}
parameters: {model.width: {values: [4, 8]}, data.count: {min: 10, max: 20}}
"""
MODULE = """\
def Net(width=3, depth=2):
    raise RuntimeError("not called")
def rows(count=9):
    raise RuntimeError("not called")
def spread(judged):
    return 0.0
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("mine", None)
    yield tmp_path / "sweep.yaml"
    sys.modules.pop("mine", None)


def test_arguments_of_one_s_own_classes_are_varied_like_any_key(sweep):
    spec = read_spec(sweep)
    config = spec.config_for({"model.width": 4, "data.count": 12})
    assert config["model"] == {"name": "mine:Net", "width": 4}
    assert config["data"] == {"name": "mine:rows", "count": 12}
    other = spec.config_for({"model.width": 8, "data.count": 12})
    assert spec.config_hash(config) != spec.config_hash(other)
    assert missing_here(spec) == []
    again = SweepSpec.from_source(json.loads(json.dumps(spec.source)))
    assert again.config_for({"model.width": 4, "data.count": 12}) == config


def test_an_argument_that_a_class_does_not_take_is_named_before_a_start(sweep):
    words = ["parameters.model.widht={values: [1, 2]}", "data.cuont=3"]
    problems = missing_here(read_spec(sweep, words))
    assert {(problem.key, problem.nearest) for problem in problems} == {
        ("model.widht", "width"),
        ("data.cuont", "count"),
    }


def test_a_module_that_is_not_there_or_breaks_is_named(sweep):
    (problem,) = missing_here(read_spec(sweep, ["model.name=nowhere.nets:Net"]))
    assert problem.key == "model.name"
    assert "no module 'nowhere.nets'" in problem.rule
    (sweep.parent / "broken.py").write_text("import math\nmath.nothing\n")
    (problem,) = missing_here(read_spec(sweep, ["model.name=broken:Net"]))
    assert "cannot be imported (AttributeError" in problem.rule


def test_a_metric_that_is_not_logged_has_its_nearest(sweep):
    with pytest.raises(ConfigError, match=r"eval/spraed_1nfe.*did you mean 'spread'"):
        read_spec(sweep, ["metric.name=eval/spraed_1nfe"])
    read_spec(sweep, ["evaluation.metrics=null", "metric.name=eval/sliced_wasserstein_1nfe"])
    with pytest.raises(ConfigError, match="is not logged by trials: those of mine:rows are sliced_wasserstein, mmd"):
        read_spec(sweep, ["evaluation.metrics=null"])


def test_a_network_of_the_package_keeps_its_keys(sweep):
    words = ["model.name=mlp", "parameters.model.widht={values: [1, 2]}"]
    with pytest.raises(ConfigError, match=r"model.widht: unknown key.*did you mean 'model.width'"):
        read_spec(sweep, words)


def test_the_own_code_travels_and_is_remembered(sweep):
    spec = read_spec(sweep, ["evaluation.features=torch.nn:Flatten"])
    assert own_packages(spec.named_code) == ["mine"]
    with staged(packages=own_packages(spec.named_code)) as folder:
        assert (folder / "mine.py").read_text() == MODULE
        assert not (folder / "torch").exists()
    before = environment(spec)["own_code"]
    (sweep.parent / "mine.py").write_text(MODULE.replace("0.0", "1.0"))
    assert environment(spec)["own_code"] != before
