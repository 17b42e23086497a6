"""The maximum mean discrepancy with Gaussian kernels."""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = (0.25, 0.5, 1.0, 2.0)
ROWS = 1024


def median_distance(rows: Tensor) -> float:
    """Return the median distance between rows [n, d] (at most 1,000 of them are looked at)."""
    return max(torch.pdist(rows[:1000].double()).median().item(), 1e-12)


def mmd(samples: Tensor, reference: Tensor, *, limit: int = ROWS) -> float:
    """Return the unbiased estimate of the squared MMD: 0 in the mean for equal distributions, so sometimes negative.

    The kernel is the mean of Gaussians whose widths are multiples of the reference's median distance: it depends on
    the reference alone, so figures of different samples are comparable.

    Args:
        samples: rows [n, d].
        reference: rows [m, d].
        limit: at most so many leading rows of each are used.
    """
    first, second = samples[:limit].double(), reference[:limit].double()
    widths = [scale * median_distance(reference) for scale in SCALES]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return sum((torch.exp(-squared / (2 * w * w)) for w in widths), torch.zeros(())) / len(widths)

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return (within(first) + within(second) - 2 * kernel(first, second).mean()).item()
