"""The core as a library: what a notebook imports, and what it is told when something is wrong."""

import subprocess
import sys

import pytest
import torch

import meanflow_core
from meanflow_core import ObjectiveConfig, TrainConfig, load_config, meanflow_loss, sample_times
from meanflow_core.errors import ConfigError

OBJECTIVE = {"derivative": "jvp", "guidance.scale": 1.0, "time": {"law": "uniform"}}


def net(z, r, t, labels=None):
    return torch.tanh(z) * (1 + t * r).unsqueeze(-1)


def batch():
    x, noise = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.9, 0.2, 0.5, 0.7, 0.3, 1.0])
    return x, noise, t * torch.tensor([1, 0.5, 1, 0.5, 1, 0]), t


def test_importing_it_loads_no_torch_and_every_name_is_there():
    code = "import sys, meanflow_core; meanflow_core.load_config({}); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    wanted = {"load_config", "TrainConfig", "ObjectiveConfig", "Trainer", "meanflow_loss", "sample_times", "sample"}
    assert wanted | {"load_network", "__version__"} <= set(meanflow_core.__all__)
    assert all(getattr(meanflow_core, name) for name in meanflow_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = meanflow_core.nothing


def test_keys_are_taken_where_a_configuration_is():
    config = load_config({"objective": OBJECTIVE}).objective
    one, other = (meanflow_loss(net, *batch(), objective=given) for given in (OBJECTIVE, config))
    assert torch.equal(one.loss, other.loss)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    laws = ({"law": "uniform", "ratio": 0.5}, load_config({"objective.time": {"law": "uniform", "ratio": 0.5}}))
    drawn = sample_times(8, laws[0], generator=generators[0])
    assert torch.equal(drawn[0], sample_times(8, laws[1].objective.time, generator=generators[1])[0])


@pytest.mark.parametrize(
    "write",
    [
        lambda: ObjectiveConfig(derivative="jpv"),
        lambda: meanflow_loss(net, *batch(), objective={"derivative": "jpv"}),
        lambda: TrainConfig(objective=ObjectiveConfig(derivative="jpv")),
    ],
)
def test_a_misspelt_value_is_refused_where_it_is_written(write):
    with pytest.raises(ConfigError, match=r"derivative: must be one of auto, .*did you mean 'jvp'"):
        write()


def test_a_misspelt_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"objective\.derivativ: unknown key; did you mean 'objective.derivative'"):
        meanflow_loss(net, *batch(), objective={"derivativ": "jvp"})


@pytest.mark.parametrize(
    ("r", "t", "said"),
    [
        ([0.1, 0.6], [0.3, 0.5], "row 1 has r = 0.6, t = 0.5"),
        ([-0.1, 0.2], [0.3, 0.5], "row 0 has r = -0.1, t = 0.3"),
        ([0.1, 0.2], [0.3, 1.5], "row 1 has r = 0.2, t = 1.5"),
        ([0.1, float("nan")], [0.3, 0.5], "row 1 has r = nan"),
    ],
)
def test_times_outside_of_their_order_or_interval_get_a_sentence(r, t, said):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"0 <= r <= t <= 1.*{said}"):
        meanflow_loss(net, x, x, torch.tensor(r), torch.tensor(t), objective=ObjectiveConfig())


@pytest.mark.parametrize("rows", [1, 7, -1])
def test_rows_that_do_not_fit_the_times_get_a_sentence(rows):
    with pytest.raises(
        ValueError, match=rf"`rows` = {rows}, but the rows with r != t must be the first {rows} of the 6"
    ):
        meanflow_loss(net, *batch(), objective=ObjectiveConfig(), rows=rows)
