"""The MLP by hand."""

import torch
import torch.nn.functional as F

from meanflow_core.config import MLPConfig
from meanflow_core.nets.embedding import randomise_
from meanflow_core.nets.mlp import MLP, MLPBlock


def test_a_block_by_hand():
    block = randomise_(MLPBlock(4, 0.0).double(), seed=5)
    generator = torch.Generator().manual_seed(0)
    x, condition = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    shift, scale, gate = (condition @ block.modulation.weight.T + block.modulation.bias).split(4, dim=1)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    inner = F.silu(block.inner(normed * (1 + scale) + shift))
    torch.testing.assert_close(block(x, condition), x + gate * block.outer(inner), rtol=1e-10, atol=1e-10)


def test_depth_and_width_count():
    def count(**sizes):
        return sum(p.numel() for p in MLP(MLPConfig(**sizes), (2,), None).parameters())

    w = 16
    block = (w + 1) * 3 * w + 2 * (w + 1) * w
    assert count(width=w, depth=3) - count(width=w, depth=1) == 2 * block


def test_images_and_their_flattened_rows_are_the_same_input():
    image = randomise_(MLP(MLPConfig(width=8, depth=1), (1, 2, 3), None), seed=1)
    vector = MLP(MLPConfig(width=8, depth=1), (6,), None)
    vector.load_state_dict(image.state_dict())
    z, r, t = torch.randn(4, 1, 2, 3), torch.rand(4), torch.rand(4)
    assert torch.equal(image(z, r, t).flatten(1), vector(z.flatten(1), r, t))
