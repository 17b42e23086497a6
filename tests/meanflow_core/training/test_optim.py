import math

import pytest
import torch
from torch import nn

from meanflow_core.config import OptimizerConfig
from meanflow_core.training.optim import Optimizer, learning_rate


def test_the_warm_up_rises_linearly_to_the_full_rate():
    config = OptimizerConfig(lr=0.8, warmup_steps=4)
    assert [learning_rate(step, config, 100) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_the_cosine_falls_from_the_full_rate_to_zero_and_stays_there():
    config = OptimizerConfig(lr=2.0, warmup_steps=10, schedule="cosine")
    rates = [learning_rate(step, config, 110) for step in (10, 60, 85, 110, 500)]
    assert rates == pytest.approx([2.0, 1.0, 1 + math.cos(0.75 * math.pi), 0.0, 0.0])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_step_is_that_of_torch(name):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(net.state_dict())
    config = OptimizerConfig(name=name, lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6)
    optimizer = Optimizer(net, config, 10)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    reference = kind(twin.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.0, foreach=False)
    for step in range(3):
        for model in (net, twin):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.5 + step)
        norm = optimizer.step(step)
        reference.step()
        assert norm.item() == pytest.approx((0.5 + step) * math.sqrt(8))
    torch.testing.assert_close(net.weight, twin.weight)
    torch.testing.assert_close(net.bias, twin.bias)


def test_weight_decay_acts_on_matrices_only():
    net = nn.Linear(2, 2)
    nn.init.ones_(net.weight)
    nn.init.ones_(net.bias)
    optimizer = Optimizer(net, OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.5), 10)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0)
    assert net.weight[0, 0].item() == pytest.approx(0.95)
    assert net.bias[0].item() == 1.0


def test_clipping_scales_the_whole_gradient_and_reports_the_norm_before_it():
    net = nn.Linear(1, 1)
    optimizer = Optimizer(net, OptimizerConfig(clip_norm=0.5), 10)
    net.weight.grad, net.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert optimizer.step(0).item() == pytest.approx(5.0)
    assert [net.weight.grad.item(), net.bias.grad.item()] == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_alone(wrong, clip):
    net = nn.Linear(2, 1)
    optimizer = Optimizer(net, OptimizerConfig(clip_norm=clip), 10)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    moments = {name: {k: v.clone() for k, v in state.items()} for name, state in optimizer.state_dict().items()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    net.bias.grad.fill_(wrong)
    assert not optimizer.step(1).isfinite()
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), moments, rtol=0, atol=0)


def test_the_state_goes_by_name_and_another_networks_is_refused():
    net = nn.Linear(2, 1)
    optimizer = Optimizer(net, OptimizerConfig(), 10)
    net.weight.grad, net.bias.grad = torch.ones(1, 2), torch.ones(1)
    optimizer.step(0)
    state = optimizer.state_dict()
    assert set(state) == {"weight", "bias"}
    with pytest.raises(ValueError, match="another network"):
        Optimizer(nn.Sequential(nn.Linear(2, 1)), OptimizerConfig(), 10).load_state_dict(state)
