"""The U-Net: its size, its resampling filter."""

import pytest
import torch
import torch.nn.functional as F

from meanflow_core.config import UNetConfig, load_config
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.nets.unet import Attention, Resample, UNetBlock, group_norm
from tests import ROOT

CONFIG = ROOT / "sweeps" / "configs" / "cifar10_unet.yaml"


def test_the_cifar10_set_up_has_about_55_million_parameters():
    with torch.device("meta"):
        net = build_net(load_config(CONFIG).model, (3, 32, 32), None)
        u = net(torch.empty(2, 3, 32, 32), torch.empty(2), torch.empty(2))
    assert abs(sum(p.numel() for p in net.parameters()) / 55e6 - 1) < 0.02
    assert u.shape == (2, 3, 32, 32)


FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])


def test_halving_is_the_filter_1331():
    x = torch.randn(2, 3, 6, 8)
    kernel = (FILTER[:, None] * FILTER / 64).expand(3, 1, 4, 4)
    expected = F.conv2d(x, kernel, stride=2, padding=1, groups=3)
    torch.testing.assert_close(Resample(3, "down")(x), expected)


def test_doubling_is_the_filter_1331():
    x = torch.randn(2, 3, 4, 6)
    kernel = (FILTER[:, None] * FILTER / 16).expand(3, 1, 4, 4)
    expected = F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=3)
    torch.testing.assert_close(Resample(3, "up")(x), expected)


def test_attention_by_hand():
    layer = randomise_(Attention(6).double(), seed=2)
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = layer.norm(x).reshape(2, 6, 6).transpose(1, 2)
    q, k, v = layer.qkv(tokens).split(6, dim=-1)
    mixed = torch.softmax(q @ k.transpose(1, 2) / 6**0.5, dim=-1) @ v
    expected = layer.projection(mixed).transpose(1, 2).reshape(2, 6, 2, 3)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("direction", "size"), [("same", (4, 6)), ("down", (2, 3)), ("up", (8, 12))])
def test_a_block_s_shapes(direction, size):
    block = UNetBlock(4, 8, 5, 0.0, direction=direction)
    assert block(torch.randn(3, 4, 4, 6), torch.randn(3, 5)).shape == (3, 8, *size)


def test_attention_stands_at_the_resolutions_named():
    config = UNetConfig(channels=8, channel_mult=[1, 1, 1], blocks=2, attention=[8], dropout=0.0)
    net = build_net(config, (1, 16, 16), None)
    encoder = [block.attention is not None for block in net.encoder]
    decoder = [block.attention is not None for block in net.decoder]
    assert encoder == [False, False, False, True, True, False, False, False]
    assert decoder == [False, False, False, False, False, False, True, False, False, False, False]
    assert [block.attention is not None for block in net.middle] == [True, False]


@pytest.mark.parametrize("channels", [1, 4, 6, 10, 128, 256])
def test_groups_divide_the_channels(channels):
    assert channels % group_norm(channels).num_groups == 0
