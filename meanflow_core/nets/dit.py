"""A diffusion transformer with adaLN-Zero (arXiv 2212.09748), with the shapes of the paper's Table 4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meanflow_core.config import DiTConfig
from meanflow_core.nets.embedding import Conditioning, initialise_linear, zero_
from meanflow_core.nets.recomputing import apply_block


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return the layer norm of x [B, N, D], scaled and shifted by [B, 1, D]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def position_grid(height: int, width: int, size: int) -> Tensor:
    """Return fixed 2-D sinusoids [height * width, size] of the token's row and column, half the channels each."""
    quarter = size // 4
    frequency = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    angles = [place.reshape(-1, 1) * frequency for place in (columns, rows)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return F.pad(waves, (0, size - waves.shape[1])).float()


class DiTBlock(nn.Module):
    """Self-attention and an MLP, each modulated and gated by the conditioning."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads, self.dropout = config.heads, config.dropout
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)

    def attention(self, x: Tensor) -> Tensor:
        """Return multi-head self-attention of the tokens x [B, N, D]."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(0, 2, 3, 1, 4)
        q, k, v = parts.unbind(1)  # each [B, heads, N, D / heads]
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the new tokens; x is [B, N, D], the (activated) condition [B, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        hidden = self.attention(modulate(x, shift1, scale1))
        x = torch.addcmul(x, gate1, self._drop(hidden))
        hidden = self.outer(self._drop(F.gelu(self.inner(modulate(x, shift2, scale2)), approximate="tanh")))
        return torch.addcmul(x, gate2, self._drop(hidden))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class DiT(nn.Module):
    """The average velocity u(z, r, t, labels) as a transformer over patches.

    Args:
        config: width, depth, heads, patch, time embedding, dropout.
        shape: of one row of z: (channels, height, width), both multiples of the patch.
        num_classes: None for an unlabelled network.
        guided: whether it is told the scale of guidance, in labels [B, 2].
    """

    position: Tensor

    def __init__(
        self, config: DiTConfig, shape: tuple[int, ...], num_classes: int | None, *, guided: bool = False
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape, self.num_classes, self.patch = shape, num_classes, config.patch
        self.again = config.checkpoint_activations
        self.tokens = (height // config.patch, width // config.patch)
        size = channels * config.patch**2
        self.condition = Conditioning(config.width, config.time_embedding, num_classes, guided=guided)
        self.inlet = nn.Linear(size, config.width)
        self.register_buffer("position", position_grid(*self.tokens, config.width), persistent=False)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.outlet = nn.Linear(config.width, size)
        initialise_linear(self)
        zero_(self.modulation, self.outlet)
        for block in self.blocks:
            zero_(block.modulation)  # type: ignore[arg-type]

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return u like z.

        Args:
            z: [B, C, H, W].
            r: [B], the earlier time.
            t: [B], the later time; 1 is noise, 0 is data.
            labels: int64 [B]; None is the null label; [B, 2] with the scale of guidance, where the network takes it.
        """
        condition = F.silu(self.condition(r, t, labels))
        x = self.inlet(self.to_patches(z)) + self.position
        for block in self.blocks:
            x = apply_block(block, x, condition, self.again)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.from_patches(self.outlet(modulate(x, shift, scale)))

    def to_patches(self, z: Tensor) -> Tensor:
        """Cut images [B, C, H, W] into patches [B, N, C * patch * patch], row by row."""
        (rows, columns), patch, channels = self.tokens, self.patch, self.shape[0]
        z = z.reshape(-1, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
        return z.reshape(-1, rows * columns, channels * patch * patch)

    def from_patches(self, x: Tensor) -> Tensor:
        """Undo `to_patches`."""
        (rows, columns), patch, channels = self.tokens, self.patch, self.shape[0]
        x = x.reshape(-1, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(-1, *self.shape)
