"""The order in which training rows are seen: a pure function of (number of rows, seed, position)."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow_core.rng import stable_seed


class IndexStream:
    """Endless row indices, every epoch a new permutation of all rows.

    `position`, the number of indices taken so far, is all there is to save: set it, and the stream goes on from there.

    Args:
        rows: number of training rows.
        seed: of the permutations.
    """

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise ValueError(f"need at least one row, got {rows}")
        self.rows, self.seed, self.position = rows, seed, 0
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> Tensor:
        """Return the next `count` indices, int64 [count], across epochs where needed."""
        parts = []
        while count > 0:
            epoch, offset = divmod(self.position, self.rows)
            part = self._permuted(epoch)[offset : offset + count]
            parts.append(part)
            count -= len(part)
            self.position += len(part)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _permuted(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))
            self._permutation, self._epoch = torch.randperm(self.rows, generator=generator), epoch
        return self._permutation
