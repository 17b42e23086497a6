"""`model`: the sizes of each network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from meanflow_core.config.custom import CustomModel
from meanflow_core.config.section import INF, Section
from meanflow_core.errors import Problem

Prediction = Literal["u", "x"]
TimeEmbedding = Literal["t_dt", "t_r", "t_r_dt", "dt"]


@dataclass(frozen=True, kw_only=True)
class MLPConfig(Section):
    """A residual MLP with adaptive layer norm, for vectors and small images (flattened)."""

    name: Literal["mlp"] = "mlp"
    width: int = 512
    depth: int = 4
    """Number of residual blocks."""
    time_embedding: TimeEmbedding = "t_dt"
    """Which times the network sees; dt = t - r. The derivative is always that of u(z, r, t)."""
    prediction: Prediction = "u"
    """What the network answers with: `u`, the average velocity, or `x`, an image: u = (z - x) / max(t, 0.05) (pMF)."""
    dropout: float = 0.0
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass instead of keeping its activations: the same numbers, a third more
    arithmetic, and the memory of one block."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(width=(1, INF, "[)"), depth=(1, INF, "[)"), dropout=(0, 1, "[)"))


@dataclass(frozen=True, kw_only=True)
class DiTConfig(Section):
    """A diffusion transformer with adaLN-Zero (arXiv 2212.09748)."""

    name: Literal["dit"] = "dit"
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 4
    mlp_ratio: float = 4.0
    time_embedding: TimeEmbedding = "t_dt"
    """Which times the network sees; dt = t - r. The derivative is always that of u(z, r, t)."""
    prediction: Prediction = "u"
    """What the network answers with: `u`, the average velocity, or `x`, an image: u = (z - x) / max(t, 0.05) (pMF)."""
    dropout: float = 0.0
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass instead of keeping its activations: the same numbers, a third more
    arithmetic, and the memory of one block."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        ones = dict.fromkeys(("width", "depth", "heads", "patch"), (1, INF, "[)"))
        yield from self._bounds(**ones, mlp_ratio=(0, INF, "()"), dropout=(0, 1, "[)"))
        if self.heads > 0 and self.width % self.heads:
            rule = f"must be a multiple of `heads` ({self.heads})"
            yield Problem(key="width", value=self.width, rule=rule)


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Section):
    """The NCSN++/DDPM++-style U-Net of the CIFAR-10 set-up (about 55 M parameters by default)."""

    name: Literal["unet"] = "unet"
    channels: int = 128
    """Channels at the highest resolution."""
    channel_mult: list[int] = field(default_factory=lambda: [2, 2, 2])
    """Channel multiplier of each resolution; each next one halves the height and width."""
    blocks: int = 4
    """Residual blocks per resolution."""
    attention: list[int] = field(default_factory=lambda: [16])
    """Resolutions (heights) with self-attention."""
    time_embedding: TimeEmbedding = "t_dt"
    """Which times the network sees; dt = t - r. The derivative is always that of u(z, r, t)."""
    prediction: Prediction = "u"
    """What the network answers with: `u`, the average velocity, or `x`, an image: u = (z - x) / max(t, 0.05) (pMF)."""
    dropout: float = 0.2
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass instead of keeping its activations: the same numbers, a third more
    arithmetic, and the memory of one block."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(channels=(1, INF, "[)"), blocks=(1, INF, "[)"), dropout=(0, 1, "[)"))
        if not self.channel_mult or min(self.channel_mult) < 1:
            yield Problem(key="channel_mult", value=self.channel_mult, rule="needs positive whole numbers")


ModelConfig = MLPConfig | DiTConfig | UNetConfig | CustomModel
