"""What is asked of a network: a batch, and the direction along which its first rows are differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Direction = tuple[Tensor, float, float]
"""Tangents of (z, r, t): of z on the first m rows, [m, ...]; of the times a number, the same for every row."""


@dataclass(frozen=True)
class Query:
    """The batch, and where and along what the derivative is wanted: the first m rows.

    `dz` is the tangent of z there, [m, ...]; those of r and t are numbers, the same for every row. `others` gives the
    tangent of z on the rest of the batch from the prediction there; it matters only where rows influence each other.
    """

    z: Tensor
    r: Tensor
    t: Tensor
    labels: Tensor | None
    dz: Tensor
    dr: float
    dt: float
    others: Callable[[Tensor], Tensor] | None = None

    @property
    def rows(self) -> int:
        """The number m of rows whose derivative is wanted."""
        return len(self.dz)

    def head(self) -> Query:
        """Return the query without the rows that need no derivative."""
        m = self.rows
        labels = None if self.labels is None else self.labels[:m]
        return replace(self, z=self.z[:m], r=self.r[:m], t=self.t[:m], labels=labels, others=None)

    def whole(self, prediction: Tensor) -> Query:
        """Return the query about every row of the batch: the others move as `others` says, or not at all in z."""
        m = self.rows
        if m == len(self.z):
            return self
        with torch.no_grad():
            rest = torch.zeros_like(self.z[m:]) if self.others is None else self.others(prediction[m:].detach())
        return replace(self, dz=torch.cat([self.dz, rest.to(self.dz.dtype)]), others=None)
