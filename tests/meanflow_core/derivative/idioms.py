"""What networks are written in, each as a module on tokens [B, 3, 4], with a network around it."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from meanflow_core.nets.embedding import randomise_

TOKENS, WIDTH = 3, 4


class Network(nn.Module):
    """u(z, r, t, labels) of vectors [B, 6]: a linear layer, an idiom on tokens [B, 3, 4], a linear layer."""

    def __init__(self, idiom):
        super().__init__()
        self.inlet, self.time = nn.Linear(6, TOKENS * WIDTH), nn.Linear(3, TOKENS * WIDTH)
        self.middle = idiom()
        self.label = nn.Embedding(5, WIDTH)
        self.outlet = nn.Linear(TOKENS * WIDTH, 6)

    def forward(self, z, r, t, labels=None):
        h = self.inlet(z) + self.time(torch.stack([t, r, (t - r) * t], dim=-1))
        h = torch.tanh(h).reshape(-1, TOKENS, WIDTH)
        if labels is not None:
            h = h + self.label(labels)[:, None]
        return self.outlet(self.middle(h).flatten(1))


def network(idiom):
    """Return the network around an idiom, random weights, float64, in training mode."""
    torch.manual_seed(11)
    return randomise_(Network(IDIOMS[idiom] if isinstance(idiom, str) else idiom).double()).train()


class Function(nn.Module):
    """A function of the tokens, with a linear layer before it."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(WIDTH, WIDTH), function

    def forward(self, h):
        return h + self.function(self.layer(h))


def of(function):
    return lambda: Function(function)


class Checkpointed(nn.Module):
    """torch.utils.checkpoint in one of its forms."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.SiLU(), nn.Linear(8, WIDTH))

    def forward(self, h):
        return h + checkpoint(self.layers, h, **self.options)


class Softplus(torch.autograd.Function):
    """A function with a backward of its own, and no forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(torch.exp(x))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(x)


def unet_habit(h):
    hs = [h]
    h = F.silu(h)
    hs.append(h)
    h += 0.5  # the tensor kept for the skip connection changes with it
    h = torch.tanh(torch.cat([h, hs.pop()], dim=1))
    return h[:, :3] * h[:, 3:] + hs.pop()


def aliased_scaling(h):
    skip = h
    h *= 2
    return torch.sin(h) * skip


def written_through_a_view(h):
    h, other = h * 1.5, torch.sin(h)
    first = h[:, 0]
    first += other[:, 1] ** 2
    first.mul_(other[:, 2])
    return h + other


class Attention(nn.Module):
    """Self-attention in timm's idiom."""

    def __init__(self, dropout=0.0, causal=False, mask=None, fused=True):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout, self.causal, self.mask, self.fused = dropout, causal, mask, fused

    def forward(self, h):
        b, n, c = h.shape
        q, k, v = self.qkv(h).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mask = None if self.mask is None else self.mask(b, n)
            x = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout, is_causal=self.causal)
        else:
            weights = (q * (c // 2) ** -0.5) @ k.transpose(-2, -1)
            x = F.dropout(weights.softmax(dim=-1), self.dropout, self.training) @ v
        return h + self.proj(x.transpose(1, 2).reshape(b, n, c))


class Stock(nn.Module):
    """One of torch's own layers of tokens."""

    def __init__(self, layer, call=None):
        super().__init__()
        self.layer, self.call = layer(), call or (lambda layer, h: layer(h))

    def forward(self, h):
        return h + self.call(self.layer, h)


class DropPath(nn.Module):
    """Stochastic depth, as timm has it."""

    def forward(self, h):
        keep = h.new_empty((h.shape[0],) + (1,) * (h.ndim - 1)).bernoulli_(0.6)
        keep.div_(0.6)
        return h + torch.sin(3 * h) * keep


class CrossAttention(nn.Module):
    """Attention to learned tokens, the same for every row."""

    def __init__(self):
        super().__init__()
        self.memory = nn.Parameter(torch.zeros(1, 2, WIDTH))
        self.keys = nn.Linear(WIDTH, WIDTH)

    def forward(self, h):
        memory = self.memory.expand(h.shape[0], -1, -1)
        return h + F.scaled_dot_product_attention(h, self.keys(memory), memory)


class ClassToken(nn.Module):
    """A token in front of the others, made for the batch's size."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def forward(self, h):
        h = torch.cat((self.token.expand(h.shape[0], -1, -1), h), dim=1)
        return F.scaled_dot_product_attention(h, h, h)[:, 1:]


class UNet1d(nn.Module):
    """A small U-Net with the habits of ADM's."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv1d(3, 6, 3, stride=2, padding=1), nn.ConvTranspose1d(6, 3, 2, stride=2)
        self.norm, self.out = nn.GroupNorm(3, 6), nn.Conv1d(6, 3, 1)

    def forward(self, h):
        skip = h
        low = F.silu(self.norm(self.down(h)), inplace=True)
        high = F.interpolate(low, scale_factor=2, mode="nearest")[:, :3] + self.up(low)
        return self.out(torch.cat([high, skip], axis=1))


def rotary(h):
    position = torch.arange(h.shape[1], dtype=h.dtype)[:, None]
    angle = position / 10.0 ** torch.arange(2, dtype=h.dtype)
    cos, sin = angle.cos()[None], angle.sin()[None]
    a, b = h[..., 0::2], h[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def masked(h):
    mask = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).tril()
    scores = torch.matmul(h, h.transpose(1, 2)).masked_fill(~mask, -math.inf)
    return torch.softmax(scores, dim=-1) @ h


def overwritten(h):
    h = h.clone()
    h[:, 0] = 0
    h[:, 1] = h[:, 2] * 2
    return h**2


def buffer(h):
    out = torch.zeros(h.shape[0], 3, 4, dtype=h.dtype)
    out[:, 1:] = torch.sin(h[:, :2])
    return out * h


def merged_heads(h):
    b, n, c = h.shape
    heads = h.view(b, n, 2, c // 2).transpose(1, 2).reshape(b * 2, n, c // 2)
    scores = torch.baddbmm(
        torch.empty(heads.shape[0], n, n, dtype=h.dtype), heads, heads.transpose(1, 2), beta=0, alpha=0.3
    )
    return torch.bmm(scores.softmax(-1), heads).reshape(b, 2, n, c // 2).transpose(1, 2).reshape(b, n, c)


IDIOMS = {
    "checkpoint, its default": lambda: Checkpointed(),
    "checkpoint, reentrant": lambda: Checkpointed(use_reentrant=True),
    "checkpoint, not reentrant": lambda: Checkpointed(use_reentrant=False),
    "autograd.Function": of(Softplus.apply),
    "the U-Net habit": of(unet_habit),
    "scaled in place with an alias": of(aliased_scaling),
    "written through a view": of(written_through_a_view),
    "timm's qkv": Attention,
    "timm's qkv, by hand": lambda: Attention(fused=False),
    "causal attention": lambda: Attention(causal=True),
    "a mask": lambda: Attention(mask=lambda b, n: torch.ones(n, n, dtype=torch.bool).tril()),
    "a mask for each row": lambda: Attention(mask=lambda b, n: (torch.arange(b * n * n) % 5).view(b, 1, n, n).double()),
    "masked_fill": of(masked),
    "merged heads": of(merged_heads),
    "einsum": of(lambda h: torch.einsum("bnc,bmc,bmd->bnd", h, h.sin(), h)),
    "einsum to unpatchify": of(
        lambda h: torch.einsum("nhwpqc->nchpwq", h.reshape(h.shape[0], 3, 1, 2, 2, 1)).reshape(h.shape)
    ),
    "normalize": of(lambda h: F.normalize(h, dim=-1) * 3),
    "zeros_like": of(lambda h: torch.where(h > 0, h * h, torch.zeros_like(h))),
    "h[None]": of(lambda h: (h[None] * torch.ones(2, 1, 1, 1).double()).sum(0)),
    "cross-attention to a constant": CrossAttention,
    "a class token": ClassToken,
    "MultiheadAttention": lambda: Stock(
        lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True), lambda f, h: f(h, h, h, need_weights=False)[0]
    ),
    "TransformerEncoderLayer": lambda: Stock(
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.0, batch_first=True, activation="gelu")
    ),
    "TransformerEncoderLayer, norm first": lambda: Stock(
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.0, batch_first=True, norm_first=True)
    ),
    "GRU": lambda: Stock(lambda: nn.GRU(WIDTH, WIDTH, batch_first=True), lambda f, h: f(h)[0]),
    "LSTM": lambda: Stock(lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True), lambda f, h: f(h)[0]),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "a U-Net": UNet1d,
    "comparison": of(lambda h: (h > 0) * h**3),
    "2**h": of(lambda h: 2**h),
    "abs(h)": of(lambda h: abs(h)),
    "overwritten entries": of(overwritten),
    "a buffer made in the forward": of(buffer),
    "cat(axis=)": of(lambda h: torch.cat([h, torch.sin(h)], axis=1)[:, 2:5]),
    "add(alpha=)": of(lambda h: torch.add(h, h * h, alpha=2)),
    "permute(dims=)": of(lambda h: h.permute(dims=(0, 2, 1)).tanh().permute(0, 2, 1)),
    "isinstance": of(lambda h: h.sin() if isinstance(h, torch.Tensor) and torch.is_tensor(h) else None),
    "rotary embedding": of(rotary),
    "cumsum": of(lambda h: torch.cumsum(h, dim=1)),
    "sort and gather": of(lambda h: torch.gather(h, 1, h.argsort(dim=1)) * h),
    "norms": of(lambda h: h / (1 + h.norm(dim=-1, keepdim=True)) - h.var(-1, keepdim=True)),
    "maximum": of(lambda h: h.amax(dim=1, keepdim=True) + h.max(dim=2, keepdim=True)[0] + h.clamp(-0.5, 0.5)),
    "repeat and flip": of(lambda h: h.repeat(1, 2, 1)[:, 1:4] + h.flip(1) * h.roll(1, 2)),
    "outer first": of(lambda h: torch.tanh(h.transpose(0, 1).contiguous() ** 2).transpose(0, 1)),
    "rows in a loop": of(lambda h: torch.stack([torch.sin(token) for token in h.unbind(1)], dim=1)),
    "detached": of(lambda h: h.detach() * h),
    "chunks": of(lambda h: torch.cat([a * b.sigmoid() for a, b in [h.chunk(2, dim=-1)] * 2], -1)),
    "fft": of(lambda h: torch.fft.irfft(torch.fft.rfft(h, dim=-1) * 0.5, n=4, dim=-1)),
    "unfold": of(lambda h: F.unfold(h[:, None], 2, padding=1)[:, :3, :4]),
    "linalg": of(lambda h: torch.linalg.vector_norm(h, dim=(1, 2), keepdim=True) * h),
}
"""What is a function of the rows, each for itself, without random numbers."""


class LabelDrop(nn.Module):
    """Rows chosen by torch.rand lose what they know."""

    def forward(self, h):
        drop = torch.rand(h.shape[0], dtype=h.dtype) < 0.4
        return torch.where(drop[:, None, None], torch.ones_like(h), h * h)


DRAWING = {
    "dropout": of(lambda h: F.dropout(h * h, 0.4)),
    "nn.Dropout in place": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.4, inplace=True)),
    "dropout of channels": of(lambda h: F.dropout1d(h * h, 0.4)),
    "alpha dropout": of(lambda h: F.alpha_dropout(h * h, 0.4, True)),
    "dropout in attention": lambda: Attention(dropout=0.4),
    "dropout in attention, by hand": lambda: Attention(dropout=0.4, fused=False),
    "MultiheadAttention with dropout": lambda: Stock(
        lambda: nn.MultiheadAttention(WIDTH, 2, dropout=0.4, batch_first=True), lambda f, h: f(h, h, h)[0]
    ),
    "TransformerEncoderLayer with dropout": lambda: Stock(
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.3, batch_first=True)
    ),
    "DropPath": DropPath,
    "label drop by torch.rand": LabelDrop,
    "rand_like": of(lambda h: h * h * torch.rand_like(h)),
    "noise of the batch's size": of(lambda h: h * torch.randn(h.shape, dtype=h.dtype)),
    "noise and dropout": of(lambda h: F.dropout(h.sin(), 0.3) * torch.rand(h.shape[0], 1, 1).double()),
}
"""What draws random numbers in training mode."""
MIXING = {
    "softmax over the batch": of(lambda h: h.softmax(0)),
    "BatchNorm in training mode": lambda: nn.BatchNorm1d(3),
    "centred over the batch": of(lambda h: (h - h.mean(0, keepdim=True)) ** 2),
}
"""Where rows influence each other."""
