"""Laws on the plane with known shapes: the quickest way to see whether a change of the method works."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from meanflow_core.config import Toy2dConfig
from meanflow_core.data.base import REFERENCE_BATCH, Pictures, digest, scatter
from meanflow_core.rng import stable_seed

Labelled = tuple[Tensor, Tensor | None]

GAUSSIAN_MEAN = (0.3, -0.2)
GAUSSIAN_FACTOR = ((0.5, 0.0), (0.3, 0.4))
"""x = mean + factor @ n: the one distribution whose average velocity is known in closed form."""

HELD_ROWS = 8192


def _gaussian(count: int, generator: torch.Generator) -> Labelled:
    noise = torch.randn(count, 2, generator=generator)
    return torch.tensor(GAUSSIAN_MEAN) + noise @ torch.tensor(GAUSSIAN_FACTOR).T, None


def _gaussians(count: int, generator: torch.Generator) -> Labelled:
    """Eight on a ring of radius 0.8, standard deviation 0.06."""
    labels = torch.randint(8, (count,), generator=generator)
    angle = labels * (2 * math.pi / 8)
    centre = 0.8 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return centre + 0.06 * torch.randn(count, 2, generator=generator), labels


def _moons(count: int, generator: torch.Generator) -> Labelled:
    labels = torch.randint(2, (count,), generator=generator)
    angle = math.pi * torch.rand(count, generator=generator)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    x = torch.where(labels[:, None] == 0, upper, -upper) * 0.65
    return x + 0.04 * torch.randn(count, 2, generator=generator), labels


def _checkerboard(count: int, generator: torch.Generator) -> Labelled:
    """Uniform on the eight dark squares of a 4x4 board over [-1, 1]^2."""
    across = torch.rand(count, generator=generator) * 4
    row = torch.randint(2, (count,), generator=generator) * 2 + across.floor() % 2
    up = row + torch.rand(count, generator=generator)
    return torch.stack([across, up], dim=1) / 2 - 1, None


def _spiral(count: int, generator: torch.Generator) -> Labelled:
    turn = torch.rand(count, generator=generator).sqrt()  # even along the arc, about
    angle = 3 * math.pi * turn
    x = turn[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return x + 0.02 * torch.randn(count, 2, generator=generator), None


LAWS: dict[str, tuple[Callable[[int, torch.Generator], Labelled], int | None]] = {
    "gaussian": (_gaussian, None),
    "gaussians": (_gaussians, 8),
    "moons": (_moons, 2),
    "checkerboard": (_checkerboard, None),
    "spiral": (_spiral, None),
}


class Toy2d:
    """A fixed training sample of a distribution on the plane, and a fixed sample to compare with.

    Args:
        config: which law, and how many training rows.
    """

    def __init__(self, config: Toy2dConfig) -> None:
        draw, self.num_classes = LAWS[config.law]
        self.name = f"toy2d-{config.law}"
        self.shape: tuple[int, ...] = (2,)

        def rows(purpose: str, count: int) -> Labelled:
            return draw(count, torch.Generator().manual_seed(stable_seed("toy2d", config.law, purpose)))

        self._x, self._labels = rows("train", config.rows)
        self._held = rows("held-out", HELD_ROWS)
        self.reference_rows = f"{HELD_ROWS} held-out rows"
        self.fingerprint = digest(self.name, self._x)

    def __len__(self) -> int:
        return len(self._x)

    def batch(self, indices: Tensor, *, generator: torch.Generator) -> Labelled:
        """Return training rows; nothing is random."""
        return self._x[indices], None if self._labels is None else self._labels[indices]

    def held_out(self) -> Labelled:
        """Return 8,192 rows of another draw, with labels where the distribution has them."""
        return self._held

    def reference(self) -> Iterator[Tensor]:
        """Yield the held-out rows."""
        yield from torch.split(self._held[0], REFERENCE_BATCH)

    def to_images(self, x: Tensor) -> Pictures:
        """Return one scatter plot [1, 320, 320, 3] of all rows over [-1.5, 1.5]^2; rows outside are left out."""
        return scatter(x)
