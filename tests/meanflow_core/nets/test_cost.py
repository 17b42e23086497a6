"""What is counted of a network is what its layers do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meanflow_core.config import Cifar10Config, DigitsConfig, ImageFolderConfig, Toy2dConfig, UNetConfig
from meanflow_core.data import build_dataset, row_shape
from meanflow_core.nets import build_net, forward_flops
from meanflow_core.nets.unet import Attention, Smooth
from tests.meanflow_core.small_nets import REAL


@pytest.mark.parametrize("name", REAL)
def test_operations_are_those_of_its_linear_layers_convolutions_and_attention(name: str) -> None:
    config, shape = REAL[name]
    net = build_net(config, shape, 3)
    counted = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        if isinstance(layer, nn.Linear):
            counted += 2 * layer.in_features * output.numel()
        elif isinstance(layer, nn.Conv2d):
            counted += 2 * layer.weight[0].numel() * output.numel()
        elif isinstance(layer, Smooth):
            counted += 2 * 9 * output.numel()
        else:  # attention over N pixels: q k^T and its product with v
            _, channels, height, width = output.shape
            counted += 2 * 2 * channels * (height * width) ** 2

    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | Smooth | Attention):
            layer.register_forward_hook(count)
    if config.name == "dit":
        counted += 2 * 2 * config.depth * config.width * (shape[1] * shape[2] // config.patch**2) ** 2
    net(torch.zeros(1, *shape), torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.long))
    assert forward_flops(config, shape, 3) == counted


def test_counting_a_large_network_needs_none_of_its_memory() -> None:
    config = UNetConfig(channels=4096, blocks=1, channel_mult=[1, 2])  # some 4 billion weights
    assert forward_flops(config, (3, 32, 32)) > 10**12


@pytest.mark.parametrize("config", [DigitsConfig(), Toy2dConfig(rows=10)], ids=lambda config: config.name)
def test_the_shape_of_a_row_is_that_of_the_data(config: DigitsConfig | Toy2dConfig) -> None:
    assert row_shape(config) == build_dataset(config).shape


def test_the_shape_of_a_row_is_known_where_the_data_are_not_there() -> None:
    assert row_shape(Cifar10Config(path="nowhere")) == (3, 32, 32)
    assert row_shape(ImageFolderConfig(path="nowhere", size=24)) == (3, 24, 24)
