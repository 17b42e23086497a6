"""The Frechet distance between two distributions, taken as Gaussians of the same mean and covariance (FID)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 4096
"""Rows turned into float64 at once."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features, float64 on the CPU."""

    mean: Tensor
    """[d]."""
    covariance: Tensor
    """[d, d], normalised by count - 1."""
    count: int | None
    """Rows they were taken over; None where a file does not say."""


class MomentSum:
    """Moments gathered in batches, each merged about its own mean, so that nothing cancels."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Add rows [n, d]."""
        if len(features) == 0:
            return
        rows = features.detach().to(device="cpu", dtype=torch.float64)
        count, mean = len(rows), rows.mean(dim=0)
        centred = rows - mean
        scatter = centred.T @ centred
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        total, gap = self.count + count, mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(gap, gap) * (self.count * count / total)
        self._mean = self._mean + gap * (count / total)
        self.count = total

    def moments(self) -> Moments:
        """Return the moments of all rows so far.

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two rows, got {self.count}")
        return Moments(self._mean, self._scatter / (self.count - 1), self.count)


def moments_of(features: Tensor) -> Moments:
    """Return the moments of rows [n, d]."""
    total = MomentSum()
    for part in torch.split(features, BLOCK):
        total.add(part)
    return total.moments()


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in squared units of the features.

    The trace of the root is the sum of the singular values of A1^T A2 with S = A A^T: no root of a product that is not
    symmetric, and nothing imaginary to drop when a covariance is singular.

    Raises:
        ValueError: the two have different dimensions.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"moments of {len(first.mean)} and of {len(second.mean)} features cannot be compared")
    root = torch.linalg.svdvals(_factor(first.covariance).T @ _factor(second.covariance)).sum()
    gap = (first.mean - second.mean).square().sum()
    distance = gap + first.covariance.trace() + second.covariance.trace() - 2 * root
    return max(0.0, float(distance))


def _factor(covariance: Tensor) -> Tensor:
    """Return A with A A^T = covariance; eigenvalues below zero are rounding and count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    factor: Tensor = vectors * values.clamp(min=0).sqrt()
    return factor
