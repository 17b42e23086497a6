"""What a network is told besides z: the two times and the label."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meanflow_core.config import TimeEmbedding

SLOWEST = 10_000.0


class TimeEmbedder(nn.Module):
    """Embeds the times that `kind` names: sinusoids -> two-layer MLP (sec. 4.3, Table 1c).

    The times go into the sinusoids as they are, in [0, 1]: a factor of 1000 would multiply du/dt's share of the
    embedding by 1000. Whatever the network sees, it is a function of (r, t): `dt` is formed here, so the total
    derivative needs no special case.

    Args:
        width: of the embedding.
        kind: `t_dt`, `t_r`, `t_r_dt` or `dt`, with dt = t - r.
        frequencies: number of sinusoids of each time, even.
        joined: one MLP of all sinusoids side by side (the CIFAR-10 U-Net) instead of one MLP each, summed (DiT).
    """

    frequency: Tensor

    def __init__(self, width: int, kind: TimeEmbedding, *, frequencies: int = 256, joined: bool = False) -> None:
        super().__init__()
        self.times = tuple(kind.split("_"))
        self.joined = joined
        half = frequencies // 2
        # The fastest turns once in 2 pi, the slowest never within [0, 1]; float32 whatever the default dtype.
        # In float64 first: in float32 processors disagree about the last bit of exp, and would train other networks.
        frequency = torch.exp(-math.log(SLOWEST) * torch.arange(half, dtype=torch.float64) / half).float()
        self.register_buffer("frequency", frequency, persistent=False)
        inputs = [2 * half * len(self.times)] if joined else [2 * half] * len(self.times)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width)) for size in inputs
        )

    def forward(self, r: Tensor, t: Tensor) -> Tensor:
        """Return the embedding [B, width] of r and t, both [B]."""
        waves = []
        for name in self.times:
            time = t if name == "t" else r if name == "r" else t - r
            angle = time.unsqueeze(-1) * self.frequency
            waves.append(torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1))
        if self.joined:
            waves = [torch.cat(waves, dim=-1)]
        total: Tensor = self.mlps[0](waves[0])
        for mlp, wave in zip(self.mlps[1:], waves[1:], strict=True):
            total = total + mlp(wave)
        return total


class LabelEmbedder(nn.Module):
    """One learned row a class, and a last one for the null label `num_classes`.

    Args:
        num_classes: number of real classes.
        width: of the embedding.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.null_label = num_classes
        self.weight = nn.Parameter(torch.empty(num_classes + 1, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Return [B, width], or [1, width] where labels is None: the null label for every row."""
        return self.weight[-1:] if labels is None else F.embedding(labels, self.weight)


class ScaleEmbedder(nn.Module):
    """Embeds a scale of guidance w >= 1 as 1 - 1/w, which lies in [0, 1) like a time; 0 is no guidance (iMF).

    Args:
        width: of the embedding.
        frequencies: number of sinusoids, even.
    """

    def __init__(self, width: int, *, frequencies: int = 256) -> None:
        super().__init__()
        self.share = TimeEmbedder(width, "dt", frequencies=frequencies)

    def forward(self, scale: Tensor | None) -> Tensor:
        """Return [B, width]; scale is [B]. None: [1, width], of the scale 1."""
        if scale is None:
            scale = self.share.frequency.new_ones(1)
        embedding: Tensor = self.share(torch.zeros_like(scale), 1 - 1 / scale)
        return embedding


class Conditioning(nn.Module):
    """The sum of the embeddings of the times and, where the network has them, of the label and the scale of guidance.

    Args:
        width: of the embedding.
        kind: which times are embedded.
        num_classes: None for an unlabelled network, which then refuses labels.
        frequencies: as in `TimeEmbedder`.
        joined: as in `TimeEmbedder`.
        guided: whether the scale of guidance is an input; only with labels.
    """

    def __init__(
        self,
        width: int,
        kind: TimeEmbedding,
        num_classes: int | None,
        *,
        frequencies: int = 256,
        joined: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.times = TimeEmbedder(width, kind, frequencies=frequencies, joined=joined)
        self.labels = None if num_classes is None else LabelEmbedder(num_classes, width)
        self.scale = ScaleEmbedder(width, frequencies=frequencies) if guided else None

    def forward(self, r: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """Return [B, width]. r and t are [B]; labels is int64 [B], or None for the null label.

        Where the scale of guidance is an input, labels may be [B, 2], the class and the scale; otherwise that is 1.

        Raises:
            ValueError: labels given to an unlabelled network, or a scale to one that does not take it.
        """
        embedding: Tensor = self.times(r, t)
        scale = None
        if labels is not None and labels.dim() == 2:
            labels, scale = labels[:, 0].long(), labels[:, 1]
        if self.scale is not None:
            embedding = embedding + self.scale(scale)
        elif scale is not None:
            raise ValueError("this network takes no scale of guidance (trained without objective.guidance.input)")
        if self.labels is not None:
            embedding = embedding + self.labels(labels)
            return embedding
        if labels is not None:
            raise ValueError("this network has no labels (built with num_classes=None), but labels were given")
        return embedding


def initialise_linear(net: nn.Module) -> None:
    """Give every linear layer below `net` Xavier-uniform weights and zero biases, and the time MLPs N(0, 0.02)."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in net.modules():
        if isinstance(module, TimeEmbedder):
            for layer in module.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)


def zero_(*layers: nn.Linear | nn.Conv2d) -> None:
    """Set weights and biases to zero: the layer then adds nothing until it has learnt something."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def randomise_(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values, zero-initialised ones too, and return the network.

    A freshly built network answers u = 0 with du/dt = 0, so any wrong derivative passes a test on it.

    Args:
        net: changed in place.
        seed: of the values, which depend on nothing else.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(values / fan_in**0.5)
    return net
