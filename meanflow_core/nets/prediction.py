"""A network that answers with an image instead of a velocity (pMF, arXiv 2601.22158)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 0.05
"""Times below it are taken for it in the division."""


class ImagePrediction(nn.Module):
    """u = (z - x) / max(t, 0.05), where x is what the inner network answers.

    Where t >= 0.05 and the path is straight, x is the data itself, so the network need not reproduce noise. Objectives,
    derivative and sampler see u, as of any other network.

    Args:
        inner: the network, called as x(z, r, t, labels).
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return u like z; arguments as of the inner network."""
        time = F.relu(t - FLOOR) + FLOOR  # max(t, 0.05), by operations whose tangents cost nothing
        u: Tensor = (z - self.inner(z, r, t, labels)) / time.reshape(-1, *[1] * (z.dim() - 1))
        return u
