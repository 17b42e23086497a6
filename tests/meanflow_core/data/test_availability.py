"""What is missing is known before torch is loaded, and in the same words in which the data set refuses."""

import subprocess
import sys

import pytest

from meanflow_core.config import load_config
from meanflow_core.data.availability import DEFAULT_METRICS, missing
from meanflow_core.data.build import build_dataset
from meanflow_core.errors import ConfigError
from meanflow_core.metrics.build import default_metrics


def keys(config):
    return [problem.key for problem in missing(load_config(config))]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"name": "cifar10"}, "cifar-10-python.tar.gz"),
        ({"name": "image_folder"}, "one sub-folder per class"),
        ({"name": "latents"}, "meanflow_core.data.encode_latents"),
    ],
)
def test_a_data_set_that_is_not_there_is_said_as_the_data_set_says_it(tmp_path, data, expected):
    config = load_config({"data": {**data, "path": str(tmp_path / "nothing")}, "evaluation": {"features": "os:getcwd"}})
    (problem,) = missing(config)
    assert problem.key == "data.path"
    assert expected in problem.rule
    with pytest.raises(ConfigError) as caught:
        build_dataset(config.data)
    assert caught.value.problems == [problem]


def test_everything_that_is_missing_is_listed_at_once(tmp_path):
    data = {"name": "latents", "path": "no-latents", "vae": str(tmp_path)}
    evaluation = {"features": "inception:weights.pth", "reference": "moments.npz"}
    found = list(missing(load_config({"data": data, "evaluation": evaluation})))
    assert [problem.key for problem in found] == [
        *("data.path", "data.vae", "evaluation.features", "evaluation.reference")
    ]
    assert "the path begins at" in found[0].rule  # a relative one
    assert "the path begins at" not in found[1].rule


def test_data_with_features_of_its_own_miss_nothing_and_images_need_a_network(tmp_path):
    (tmp_path / "net.pt").touch()
    assert keys({"data": {"name": "digits"}}) == keys({"data": {"name": "toy2d"}}) == []
    images = {"name": "image_folder", "path": str(tmp_path)}
    assert keys({"data": images}) == ["evaluation.features"]
    assert keys({"data": images, "evaluation": {"features": str(tmp_path / "net.pt")}}) == []


def test_the_default_metrics_are_known_without_reading_the_data():
    for name in ("digits", "toy2d"):
        dataset = build_dataset(load_config({"data": {"name": name}}).data)
        assert default_metrics(dataset) == list(DEFAULT_METRICS[name])


def test_torch_is_not_needed():
    script = "import sys, meanflow_core.data.availability; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
