"""Improved precision and recall (arXiv 1904.06991): do samples lie where data lie, and the other way round."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 3
ROWS = 10_000
BLOCK = 1024


def precision_recall(samples: Tensor, reference: Tensor, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return (precision, recall), each a share of rows.

    Precision is the share of samples within reach of the data: in the ball around some reference row that holds its
    `neighbours` nearest reference rows. Recall is the same with the roles exchanged.

    Args:
        samples: features [n, d].
        reference: features [m, d]. The leading min(n, m, 10000) rows of both are used, equally many.
        neighbours: k.

    Raises:
        ValueError: there are no more rows than neighbours.
    """
    count = min(len(samples), len(reference), ROWS)
    if count <= neighbours:
        raise ValueError(f"precision and recall need more than {neighbours} rows, got {count}")
    first, second = samples[:count].double(), reference[:count].double()
    return _covered(first, second, neighbours), _covered(second, first, neighbours)


def _covered(points: Tensor, support: Tensor, neighbours: int) -> float:
    """Return the share of points inside some ball around a row of the support."""
    radii = torch.cat(
        # The nearest row is the row itself, hence one more.
        [torch.cdist(block, support).kthvalue(neighbours + 1, dim=1).values for block in torch.split(support, BLOCK)]
    )
    inside = [(torch.cdist(block, support) <= radii).any(dim=1) for block in torch.split(points, BLOCK)]
    return torch.cat(inside).double().mean().item()
