"""The Frechet distance between two distributions, taken as Gaussians of the same mean and covariance (FID)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-5
"""Largest negative eigenvalue and asymmetry of a covariance, as a share of its largest entry (files may be float32)."""
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


def moments_of_shares(features: Tensor, total: Callable[[Tensor], Tensor]) -> Moments:
    """Return the moments of the rows of several processes; only sums pass between them.

    Args:
        features: this process's rows [n, d].
        total: returns the sum of a tensor over the processes; each calls it equally often.
    """
    rows = features.detach().to(device="cpu", dtype=torch.float64)
    count = int(total(torch.tensor(float(len(rows)), dtype=torch.float64)))
    mean = total(rows.sum(dim=0)) / count
    centred = rows - mean  # about the common mean, so that nothing cancels
    return Moments(mean, total(centred.T @ centred) / (count - 1), count)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in squared units of the features.

    The trace of the root is the sum of the singular values of A1^T A2 with S = A A^T: no root of a product that is not
    symmetric, and nothing imaginary to drop when a covariance is singular.

    Raises:
        ValueError: the two have different dimensions, or are moments of nothing: not finite, or with a covariance that
            is not positive semi-definite.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"moments of {len(first.mean)} and of {len(second.mean)} features cannot be compared")
    root = torch.linalg.svdvals(_factor(first).T @ _factor(second)).sum()
    gap = (first.mean - second.mean).square().sum()
    spread = first.covariance.trace() + second.covariance.trace()
    distance = float(gap + spread - 2 * root)
    if not math.isfinite(distance):  # max(0, nan) would be 0, the best there is
        raise ValueError(f"the Frechet distance is {distance}")
    return max(0.0, distance)


def fault_of(moments: Moments) -> str | None:
    """Say what moments cannot be those of any rows by, or None: what is not finite, symmetric or semi-definite."""
    mean, covariance = moments.mean, moments.covariance
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        return "the mean or the covariance is not finite"
    if float((covariance - covariance.T).abs().max()) > ROUNDING * float(covariance.abs().max()):
        return "the covariance is not symmetric"
    return _negative(covariance, float(torch.linalg.eigvalsh(covariance)[0]))


def _negative(covariance: Tensor, least: float) -> str | None:
    """Say that the least eigenvalue is further below zero than rounding takes it, or None."""
    if least >= -ROUNDING * float(covariance.abs().max()) * len(covariance) ** 0.5:
        return None
    return f"the covariance is not positive semi-definite (it has the eigenvalue {least:.3g})"


def _factor(moments: Moments) -> Tensor:
    """Return A with A A^T = covariance; eigenvalues below zero are rounding and count as zero.

    Raises:
        ValueError: the covariance is none.
    """
    covariance = moments.covariance
    if not covariance.isfinite().all():
        raise ValueError("the covariance is not finite")
    values, vectors = torch.linalg.eigh(covariance)
    if (fault := _negative(covariance, float(values[0]))) is not None:
        raise ValueError(fault)
    factor: Tensor = vectors * values.clamp(min=0).sqrt()
    return factor
