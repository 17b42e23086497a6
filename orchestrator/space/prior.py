"""Where the best value of a parameter is believed to be: a density over its quantiles, which fades as results come in.

piBO (Hvarfner et al., arXiv 2204.11051, Eq. 6) multiplies an acquisition function by prior ^ (beta / n) after n
results. `moved` is the same for draws that look at no results: they have the density prior ^ power.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

FLOOR = 0.01
"""The share of the belief that is spread evenly: nothing that may be chosen is ever left out."""


@dataclass(frozen=True)
class Prior:
    """A density over the quantiles of a parameter, constant on each of a number of cells.

    Args:
        edges: of the cells, from 0 to 1, ascending; of a list, those of its values.
        density: of each cell, relative to the parameter's own distribution; above zero.
        text: as the sweep file says it.
    """

    edges: tuple[float, ...]
    density: tuple[float, ...]
    text: str

    @classmethod
    def of(cls, edges: Sequence[float], masses: Sequence[float], text: str) -> Prior:
        """Return the prior with these masses of its cells, which need not add up to 1; a cell may be empty."""
        widths, total = [b - a for a, b in itertools.pairwise(edges)], math.fsum(masses)
        density = ((1 - FLOOR) * m / total / width + FLOOR for m, width in zip(masses, widths, strict=True))
        return cls(tuple(edges), tuple(density), text)

    def log_density(self, u: float) -> float:
        """Return the logarithm of the density at a quantile in [0, 1]."""
        return math.log(self.density[self._cell(self.edges, u)])

    def moved(self, u: float, power: float) -> float:
        """Return the quantile below which lies the share `u` of density ^ power: evenly drawn `u` have that density."""
        below = _below(self, power)
        cell = self._cell(below, u)
        inside = (u - below[cell]) / (below[cell + 1] - below[cell])
        return min(self.edges[cell] + inside * (self.edges[cell + 1] - self.edges[cell]), 1.0)

    @property
    def mode(self) -> float:
        """The middle of the densest cell."""
        at = max(range(len(self.density)), key=self.density.__getitem__)
        return (self.edges[at] + self.edges[at + 1]) / 2

    @staticmethod
    def _cell(edges: Sequence[float], u: float) -> int:
        return min(max(bisect.bisect_right(edges, u) - 1, 0), len(edges) - 2)


@lru_cache(maxsize=4096)
def _below(prior: Prior, power: float) -> tuple[float, ...]:
    """The share of density ^ power below each edge."""
    widths = (b - a for a, b in itertools.pairwise(prior.edges))
    masses = [density**power * width for density, width in zip(prior.density, widths, strict=True)]
    total = math.fsum(masses)
    return (0.0, *(min(found / total, 1.0) for found in itertools.accumulate(masses)))
