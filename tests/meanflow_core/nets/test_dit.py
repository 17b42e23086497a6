"""The transformer: its sizes, its patches, its attention."""

import math

import pytest
import torch

from meanflow_core.config import DiTConfig, load_config
from meanflow_core.nets.build import build_net
from meanflow_core.nets.dit import DiT, DiTBlock, position_grid
from meanflow_core.nets.embedding import randomise_
from tests import ROOT

SIZES = {"b4": 131, "b2": 131, "m2": 308, "l2": 459, "xl2": 676}
CONFIGS = ROOT / "sweeps" / "configs"


@pytest.mark.parametrize("name", SIZES)
def test_the_paper_s_sizes(name):
    config = load_config(CONFIGS / f"imagenet256_{name}.yaml").model
    with torch.device("meta"):
        net = build_net(config, (4, 32, 32), 1000)
        count = sum(p.numel() for p in net.parameters())
        u = net(torch.empty(2, 4, 32, 32), torch.empty(2), torch.empty(2), torch.zeros(2, dtype=torch.int64))
    assert abs(count / 1e6 / SIZES[name] - 1) < 0.01
    assert u.shape == (2, 4, 32, 32)


def test_patches_are_cut_row_by_row_and_put_back():
    net = DiT(DiTConfig(width=8, depth=1, heads=2, patch=2), (3, 4, 6), None)
    z = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = net.to_patches(z)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4], z[1, :, 2:4, 2:4].flatten())
    assert torch.equal(net.from_patches(patches), z)


def test_positions_differ_and_are_sinusoids_of_column_and_row():
    grid = position_grid(3, 5, 16)
    assert grid.shape == (15, 16)
    assert torch.pdist(grid).min() > 0.1
    row, column = 2, 4
    expected = torch.tensor([math.sin(column), math.sin(column / 10), math.sin(column / 100), math.sin(column / 1000)])
    torch.testing.assert_close(grid[row * 5 + column, :4], expected)
    torch.testing.assert_close(grid[row * 5 + column, 8], torch.tensor(math.sin(row)))


def test_attention_by_hand():
    block = randomise_(DiTBlock(DiTConfig(width=6, heads=2)).double(), seed=1)
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k, v = block.qkv(x).split(6, dim=-1)
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        weights = torch.softmax(q[..., head] @ k[..., head].transpose(1, 2) / math.sqrt(3), dim=-1)
        heads.append(weights @ v[..., head])
    torch.testing.assert_close(block.attention(x), block.projection(torch.cat(heads, dim=-1)), rtol=1e-9, atol=1e-9)


def test_a_new_block_changes_nothing():
    net = DiT(DiTConfig(width=8, depth=1, heads=2, patch=2), (1, 4, 4), None)
    x = torch.randn(2, 4, 8)
    assert torch.equal(net.blocks[0](x, torch.randn(2, 8)), x)


def test_position_matters():
    net = randomise_(DiT(DiTConfig(width=8, depth=1, heads=2, patch=2), (1, 4, 4), None), seed=0)
    z, times = torch.randn(1, 1, 4, 4), torch.full((1,), 0.5)
    moved = net(z.roll(2, dims=-1), times, times)
    assert (moved.roll(2, dims=-1) - net(z, times, times)).abs().max() > 1e-3
