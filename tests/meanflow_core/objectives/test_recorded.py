"""`meanflow` gives the numbers it gave before it had a family: recorded from that code, with the same inputs."""

import json

import pytest
import torch

from meanflow_core.config import GuidanceConfig, ObjectiveConfig, WeightConfig, load_config
from meanflow_core.objectives import meanflow_loss
from meanflow_core.training import Trainer
from tests import ROOT
from tests.meanflow_core.small_nets import batch, real_net

RECORDED = json.loads((ROOT / "tests/meanflow_core/objectives/meanflow_recorded.json").read_text())
GUIDANCE = {"plain": GuidanceConfig(), "guided": GuidanceConfig(omega=1.5, kappa=0.4, start=0.2, end=0.8)}


@pytest.mark.parametrize("case", [case for case in RECORDED if case != "digits"])
def test_a_batch_has_the_recorded_loss_and_gradient(case):
    """To the last digits of float64: other processors add up in another order."""
    name, guidance = case.split()
    net, shape = real_net(name)
    x, noise, r, t = batch(shape)
    chosen = ObjectiveConfig(weight=WeightConfig(power=0.75), guidance=GUIDANCE[guidance], derivative="dual")
    labels, dropped = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([0, 1, 0, 0, 0, 1, 0]).bool()
    result = meanflow_loss(net, x, noise, r, t, labels=labels, dropped=dropped, null_label=3, objective=chosen)
    gradients = torch.autograd.grad(result.loss, list(net.parameters()))
    assert result.loss.item() == pytest.approx(RECORDED[case]["loss"], rel=1e-13)
    assert result.squared_error.tolist() == pytest.approx(RECORDED[case]["squared_error"], rel=1e-12)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(RECORDED[case]["gradient_norm"], rel=1e-12)


def test_a_training_has_the_recorded_metrics():
    config = {
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.1},
        "objective": {"guidance": {"scale": 1.5, "kappa": 0.5}},
        "optimizer": {"lr": 3e-3},
        "trainer": {"steps": 30, "batch_size": 64, "log_every": 10, "device": "cpu"},
        "evaluation": {"samples": 64, "nfe": [1]},
    }
    trainer = Trainer(load_config(config))
    found = {**trainer.train(30)[-1][1], **trainer.evaluate()}
    assert {name: found[name] for name in RECORDED["digits"]} == pytest.approx(RECORDED["digits"], rel=2e-4)
