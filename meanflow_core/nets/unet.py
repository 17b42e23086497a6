"""The DDPM++-style U-Net of the CIFAR-10 set-up (arXiv 2011.13456 in the form of arXiv 2206.00364)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meanflow_core.config import UNetConfig
from meanflow_core.nets.embedding import Conditioning, initialise_linear, zero_
from meanflow_core.nets.recomputing import apply_block


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm of at most 32 groups and at least 4 channels in each."""
    groups = max(1, min(32, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Smooth(nn.Module):
    """The depthwise filter [1, 2, 1]/4 in both directions.

    After doubling every pixel, and before averaging pairs, it makes the resampling filter [1, 3, 3, 1].
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (line[:, None] * line).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W], smoothed; zero outside."""
        return F.conv2d(x, self.kernel, padding=1, groups=self.channels)


class Resample(nn.Module):
    """Doubles or halves the height and width with the filter [1, 3, 3, 1], or leaves them."""

    def __init__(self, channels: int, direction: str) -> None:
        super().__init__()
        self.direction = direction
        self.smooth = None if direction == "same" else Smooth(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] at the new size."""
        if self.smooth is None:
            return x
        if self.direction == "up":
            return self.smooth(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]
        return F.avg_pool2d(self.smooth(x), 2)


class Attention(nn.Module):
    """Single-head self-attention over the pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return what attention adds to x [B, C, H, W]."""
        size = tuple(x.shape[2:])
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (part.unsqueeze(1) for part in self.qkv(tokens).chunk(3, dim=-1))  # one head: [B, 1, H W, C]
        mixed = F.scaled_dot_product_attention(q, k, v).flatten(1, 2)
        added: Tensor = self.projection(mixed).transpose(1, 2).unflatten(2, size)
        return added


class UNetBlock(nn.Module):
    """Two convolutions with the conditioning added between them; optionally resampling and attention."""

    def __init__(
        self, inputs: int, channels: int, emb: int, dropout: float, *, direction: str = "same", attention: bool = False
    ) -> None:
        super().__init__()
        self.dropout, self.direction = dropout, direction
        self.norm1 = group_norm(inputs)
        self.resample = Resample(inputs, direction)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.condition = nn.Linear(emb, channels)
        self.norm2 = group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        plain = inputs == channels and direction == "same"
        self.skip = None if plain else nn.Conv2d(inputs, channels, 1)
        self.attention = Attention(channels) if attention else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return [B, channels, H', W'] from x [B, inputs, H, W] and the (activated) condition [B, emb]."""
        hidden = self.conv1(self.resample(F.silu(self.norm1(x))))
        hidden = hidden + self.condition(condition).unsqueeze(-1).unsqueeze(-1)
        hidden = F.silu(self.norm2(hidden))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        skip = x if self.skip is None else self.skip(self.resample(x))
        x = (skip + self.conv2(hidden)) * 0.5**0.5  # keeps the variance of the sum of two
        return x if self.attention is None else (x + self.attention(x)) * 0.5**0.5


class UNet(nn.Module):
    """The average velocity u(z, r, t, labels) as a U-Net; about 55 M parameters with the default configuration.

    Args:
        config: channels, multipliers, blocks, attention, time embedding, dropout.
        shape: of one row of z: (channels, height, width).
        num_classes: None for an unlabelled network.
        guided: whether it is told the scale of guidance, in labels [B, 2].
    """

    def __init__(
        self, config: UNetConfig, shape: tuple[int, ...], num_classes: int | None, *, guided: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.num_classes, self.again = shape, num_classes, config.checkpoint_activations
        base, emb = config.channels, 4 * config.channels
        self.condition = Conditioning(
            emb, config.time_embedding, num_classes, frequencies=config.channels, joined=True, guided=guided
        )
        self.inlet = nn.Conv2d(shape[0], base, 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        last = base
        skips = [base]

        def block(inputs: int, channels: int, **kind: object) -> UNetBlock:
            return UNetBlock(inputs, channels, emb, config.dropout, **kind)  # type: ignore[arg-type]

        for level, multiplier in enumerate(config.channel_mult):
            if level:
                self.encoder.append(block(last, last, direction="down"))
                skips.append(last)
            for _ in range(config.blocks):
                attention = (shape[1] >> level) in config.attention
                self.encoder.append(block(last, base * multiplier, attention=attention))
                last = base * multiplier
                skips.append(last)
        self.middle = nn.ModuleList([block(last, last, attention=True), block(last, last)])
        for level, multiplier in reversed(list(enumerate(config.channel_mult))):
            if level < len(config.channel_mult) - 1:
                self.decoder.append(block(last, last, direction="up"))
            for index in range(config.blocks + 1):
                attention = index == config.blocks and (shape[1] >> level) in config.attention
                self.decoder.append(block(last + skips.pop(), base * multiplier, attention=attention))
                last = base * multiplier
        self.norm = group_norm(last)
        self.outlet = nn.Conv2d(last, shape[0], 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        initialise_linear(self)
        zero_(self.outlet)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.outlet:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, Attention):
                zero_(module.projection)
        for module in self.modules():
            if isinstance(module, UNetBlock):
                zero_(module.conv2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return u like z.

        Args:
            z: [B, C, H, W].
            r: [B], the earlier time.
            t: [B], the later time; 1 is noise, 0 is data.
            labels: int64 [B]; None is the null label; [B, 2] with the scale of guidance, where the network takes it.
        """
        condition = F.silu(self.condition(r, t, labels))
        x = self.inlet(z)
        skips = [x]
        for block in self.encoder:
            x = apply_block(block, x, condition, self.again)
            skips.append(x)
        for block in self.middle:
            x = apply_block(block, x, condition, self.again)
        for block in self.decoder:
            if block.direction != "up":
                x = torch.cat([x, skips.pop()], dim=1)
            x = apply_block(block, x, condition, self.again)
        u: Tensor = self.outlet(F.silu(self.norm(x)))
        return u
