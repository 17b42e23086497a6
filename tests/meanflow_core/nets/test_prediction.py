"""A network that answers with an image is one of velocities to everybody else."""

from dataclasses import replace

import pytest
import torch

from meanflow_core.config import ObjectiveConfig, WeightConfig, load_config
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.objectives import meanflow_loss
from meanflow_core.sampling.sampler import sample
from meanflow_core.training.exported import load_network
from meanflow_core.training.trainer import Trainer
from tests.meanflow_core.small_nets import REAL, batch

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def image_net(name):
    config, shape = REAL[name]
    return randomise_(build_net(replace(config, prediction="x"), shape, 3)).double(), shape


@pytest.mark.parametrize("name", ["mlp", "dit", "unet"])
def test_the_velocity_leads_to_the_image_that_the_network_answers_with(name):
    net, shape = image_net(name)
    z, _, r, t = batch(shape)
    t[0], r[0] = 0.02, 0.01
    with torch.no_grad():
        u, image = net(z, r, t, LABELS), net.inner(z, r, t, LABELS)
    time = t.clamp(min=0.05).reshape(-1, *[1] * len(shape))
    torch.testing.assert_close(z - time * u, image, rtol=1e-12, atol=1e-12)
    noise = torch.randn(7, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, zero = torch.ones(7).double(), torch.zeros(7).double()
        drawn = net.inner(noise, zero, one, LABELS)  # one step from noise is the image itself
    torch.testing.assert_close(sample(net, noise, labels=LABELS), drawn, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("objective", ["meanflow", "lsd"])
@pytest.mark.parametrize("name", ["mlp", "dit", "unet"])
def test_its_derivative_beside_the_pass_is_the_exact_one_below_the_floor_too(name, objective):
    net, shape = image_net(name)
    x, noise, r, t = batch(shape)
    t[0], r[0] = 0.02, 0.01
    both = [
        meanflow_loss(
            net, x, noise, r, t, labels=LABELS,
            objective=ObjectiveConfig(name=objective, derivative=way, weight=WeightConfig(power=0)),
        )
        for way in ("dual", "jvp")
    ]  # fmt: skip
    assert both[0].du_dt[0].abs().max() > 1e-3
    torch.testing.assert_close(both[0].du_dt, both[1].du_dt, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both[0].loss, both[1].loss, rtol=1e-10, atol=0)


def test_it_trains_is_written_and_is_read_back(tmp_path):
    words = ["model.name=mlp", "model.width=16", "model.depth=1", "model.prediction=x", "trainer.batch_size=16"]
    trainer = Trainer(load_config({"optimizer.lr": 1e-3, "trainer.device": "cpu"}, words))
    rows = trainer.train(20)
    assert rows[-1][1]["train/velocity_error"] > 0
    trainer.export(tmp_path / "w.safetensors", "raw")
    net, _, _ = load_network(tmp_path / "w.safetensors")
    torch.testing.assert_close(net.state_dict(), trainer.net.state_dict(), rtol=0, atol=0)
