"""A residual MLP with adaptive layer norm, for vectors and small images."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from meanflow_core.config import MLPConfig
from meanflow_core.nets.embedding import Conditioning, initialise_linear, zero_
from meanflow_core.nets.recomputing import apply_block


class MLPBlock(nn.Module):
    """x + gate * MLP(scale * norm(x) + shift), the three modulations linear in the conditioning (adaLN-Zero)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.dropout = dropout
        self.modulation = nn.Linear(width, 3 * width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the new x; x and the (activated) condition are [B, width]."""
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        hidden = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift
        hidden = F.silu(self.inner(hidden))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        x = x + gate * self.outer(hidden)
        return x


class MLP(nn.Module):
    """The average velocity u(z, r, t, labels) as an MLP on the flattened row.

    Args:
        config: width, depth, time embedding, dropout.
        shape: of one row of z, e.g. (2,) or (1, 8, 8).
        num_classes: None for an unlabelled network.
        guided: whether it is told the scale of guidance, in labels [B, 2].
    """

    def __init__(
        self, config: MLPConfig, shape: tuple[int, ...], num_classes: int | None, *, guided: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.num_classes, self.width = shape, num_classes, config.width
        self.again = config.checkpoint_activations
        size = math.prod(shape)
        self.condition = Conditioning(config.width, config.time_embedding, num_classes, guided=guided)
        self.inlet = nn.Linear(size, config.width)
        self.blocks = nn.ModuleList(MLPBlock(config.width, config.dropout) for _ in range(config.depth))
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.outlet = nn.Linear(config.width, size)
        initialise_linear(self)
        zero_(self.modulation, self.outlet)
        for block in self.blocks:
            zero_(block.modulation)  # type: ignore[arg-type]

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return u like z.

        Args:
            z: [B, *shape].
            r: [B], the earlier time.
            t: [B], the later time; 1 is noise, 0 is data.
            labels: int64 [B]; None is the null label; [B, 2] with the scale of guidance, where the network takes it.
        """
        condition = F.silu(self.condition(r, t, labels))
        x = self.inlet(z.flatten(1))
        for block in self.blocks:
            x = apply_block(block, x, condition, self.again)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        x = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift
        u: Tensor = self.outlet(x).reshape(-1, *self.shape)
        return u
