import copy

import pytest
import torch
from torch import nn

from meanflow_core.config import EMAConfig
from meanflow_core.training.ema import EMA, decay_at, ema_name


def net_with(value: float) -> nn.Module:
    net = nn.Linear(2, 1)
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def test_a_plain_average_follows_its_recursion():
    net = net_with(1.0)
    ema = EMA(net, EMAConfig(decays=[0.9], rampup=None))
    expected = 1.0
    for step, value in enumerate([2.0, 5.0, -3.0], start=1):
        ema.update(net_with(value), step)
        expected = 0.9 * expected + 0.1 * value
    assert ema.averages["ema_0.9"]["weight"][0, 0].item() == pytest.approx(expected)


def test_the_ramp_up_limits_the_half_life_to_a_share_of_the_steps():
    assert decay_at(1000, 0.9999, 0.05) == pytest.approx(0.5 ** (1 / 50))
    assert decay_at(10**9, 0.9999, 0.05) == 0.9999
    assert decay_at(1, 0.9999, None) == 0.9999


def test_with_ramp_up_the_initial_weights_are_soon_forgotten():
    ema = EMA(net_with(1.0), EMAConfig(decays=[0.9999]))
    for step in range(1, 101):
        ema.update(net_with(0.0), step)
    assert ema.averages["ema_0.9999"]["bias"].item() < 1e-4


def test_several_averages_are_kept_at_once_and_come_back_from_their_state():
    config = EMAConfig(decays=[0.5, 0.9], rampup=None)
    ema = EMA(net_with(0.0), config)
    ema.update(net_with(1.0), 1)
    assert [ema.averages[ema_name(d)]["bias"].item() for d in (0.5, 0.9)] == pytest.approx([0.5, 0.1])
    other = EMA(net_with(7.0), config)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    assert other.averages["ema_0.9"]["bias"].item() == pytest.approx(0.1)


def test_buffers_that_are_no_numbers_with_a_fraction_are_copied():
    net = nn.BatchNorm1d(2)
    ema = EMA(net, EMAConfig(decays=[0.9]))
    net(torch.randn(4, 2))
    ema.update(net, 1)
    assert ema.averages["ema_0.9"]["num_batches_tracked"].item() == 1


def test_averages_of_other_decays_are_refused():
    saved = EMA(net_with(0.0), EMAConfig(decays=[0.9])).state_dict()
    with pytest.raises(ValueError, match=r"ema_0\.9.*ema_0\.99"):
        EMA(net_with(0.0), EMAConfig(decays=[0.99])).load_state_dict(saved)
