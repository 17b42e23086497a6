"""Small networks with random weights: a zero-initialised one has u = du/dt = 0 and passes with any tangent."""

import torch
import torch.nn.functional as F
from torch import nn

from meanflow_core.config import DiTConfig, MLPConfig, UNetConfig
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_

UNET = {"channels": 8, "blocks": 1, "channel_mult": [1, 2], "attention": [4], "dropout": 0.0}
REAL = {
    "mlp": (MLPConfig(width=8, depth=2), (2,)),
    "mlp t_r_dt": (MLPConfig(width=8, depth=2, time_embedding="t_r_dt"), (1, 8, 8)),
    "dit": (DiTConfig(width=8, depth=2, heads=2, patch=2), (1, 8, 8)),
    "dit t_r": (DiTConfig(width=8, depth=1, heads=2, patch=4, time_embedding="t_r"), (3, 8, 8)),
    "dit t_r_dt": (DiTConfig(width=8, depth=1, heads=2, patch=4, time_embedding="t_r_dt"), (3, 8, 8)),
    "dit dt": (DiTConfig(width=8, depth=1, heads=2, patch=4, time_embedding="dt"), (3, 8, 8)),
    "unet": (UNetConfig(**UNET), (3, 8, 8)),
    "unet dt": (UNetConfig(**UNET, time_embedding="dt"), (3, 8, 8)),
}
"""The package's networks, small, each with the shape of a row."""


def real_net(name, *, classes=3, dropout=0.0):
    """Return one of them with random weights in float64, and the shape of a row."""
    config, shape = REAL[name]
    config = type(config)(**{**vars(config), "dropout": dropout})
    return randomise_(build_net(config, shape, classes)).double().train(), shape


class AdaptiveMLP(nn.Module):
    """Vectors [B, 3]; layer norm with and without affine, dropout, labels."""

    def __init__(self, *, classes=None, dropout=0.0, size=3, width=8):
        super().__init__()
        self.inlet = nn.Linear(size, width)
        self.time = nn.Linear(4, width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 2 * width)
        self.hidden = nn.Linear(width, width)
        self.outlet = nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        self.calls = []

    def forward(self, z, r, t, labels=None):
        self.calls.append((len(z), self.training, torch.is_grad_enabled(), None if labels is None else labels.tolist()))
        gap = t - r
        times = torch.stack([torch.sin(3 * t), torch.cos(t), gap, (1 - gap) / (2 + t)], dim=-1)
        condition = self.time(times)
        if self.labels is not None and labels is not None:
            condition = condition + self.labels(labels)
        scale, shift = self.mix(F.silu(condition)).chunk(2, dim=-1)
        x = self.inlet(z)
        x = x + F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        x = x + self.dropout(torch.tanh(self.hidden(self.norm(x))))
        return self.outlet(F.gelu(x))


class Transformer(nn.Module):
    """Images [B, 2, 4, 4] as 4 patches; one block of attention."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.width, self.heads = width, heads
        self.inlet = nn.Linear(8, width)
        self.time = nn.Linear(2, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.outlet = nn.Linear(width, 8)

    def forward(self, z, r, t, labels=None):
        x = z.reshape(-1, 2, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 8)
        x = self.inlet(x) + self.time(torch.cat([t[:, None], r[:, None] ** 2], dim=1))[:, None]
        shape = (len(z), 4, self.heads, self.width // self.heads)  # spells out the batch, as much public code does
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.projection(F.rms_norm(mixed, (self.width,)))
        x = F.gelu(x, approximate="tanh") - torch.softmax(x, dim=-1)
        return self.outlet(x).reshape(-1, 2, 2, 2, 2, 2).permute(0, 3, 1, 4, 2, 5).flatten(1).unflatten(1, (2, 4, 4))


class ConvNet(nn.Module):
    """Images [B, 2, 4, 4]; group norm with affine, pooling, interpolation, skip connections."""

    def __init__(self, channels=8):
        super().__init__()
        self.inlet = nn.Conv2d(2, channels, 3, padding=1)
        self.time = nn.Linear(2, channels)
        self.norm = nn.GroupNorm(2, channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outlet = nn.Conv2d(2 * channels, 2, 1)

    def forward(self, z, r, t, labels=None):
        x = self.inlet(z)
        times = torch.stack([torch.exp(-t), torch.sqrt(1 + t - r)], dim=1)
        x = x + self.time(times).unsqueeze(-1).unsqueeze(-1)
        low = F.avg_pool2d(F.silu(self.norm(x)), 2)
        high = F.interpolate(self.inner(low), scale_factor=2.0, mode="nearest")
        return self.outlet(torch.cat([x, torch.sigmoid(high) * x.mean(dim=(2, 3), keepdim=True)], dim=1))


SHAPES = {"mlp": (3,), "transformer": (2, 4, 4), "conv": (2, 4, 4)}


def small_net(name, **options):
    """Return one of the networks above in float64."""
    torch.manual_seed(5)
    net = {"mlp": AdaptiveMLP, "transformer": Transformer, "conv": ConvNet}[name](**options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return net


def batch(shape, n=7, rows=3, seed=1, dtype=torch.float64):
    """Return x, noise, r, t; the first `rows` rows have r < t."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, *shape, generator=generator, dtype=dtype)
    t = 0.3 + 0.6 * torch.rand(n, generator=generator, dtype=dtype)
    r = torch.where(torch.arange(n) < rows, t * torch.rand(n, generator=generator, dtype=dtype), t)
    return x, noise, r, t
