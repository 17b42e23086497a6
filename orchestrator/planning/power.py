"""What a sweep's seeds can tell: the smallest ratio of two configurations that a test would find."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.formatting import number
from orchestrator.statistics import detectable

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

ASSUMED = 0.1
"""Spread of log(metric) from seed to seed of one configuration, where no earlier sweep tells."""
SUGGESTED = 4
"""Seeds of each configuration, of which a plan speaks where a sweep has one."""
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Power:
    """What the seeds of a sweep can tell of a metric above zero."""

    seeds: int
    """Of each of the best configurations, that of the search included; 1 without `replicates`."""
    ratio: float | None
    """The smallest ratio of two configurations that a paired t-test finds four times of five; None with one seed."""
    spread: float
    """Standard deviation of log(metric) from seed to seed, as far as configurations do not share it."""
    seen_in: str | None
    """The sweep where that was seen; None: assumed."""

    def __str__(self) -> str:
        known = f"seen in {self.seen_in}" if self.seen_in else "assumed"
        spread = f"spread from seed to seed {number(100 * self.spread, 2)} %, {known}"
        if self.ratio is None:
            would = f"{_smallest(SUGGESTED, self.spread):.2f} times"
            text = (
                f"1: no difference can be tested; `replicates: {{top: 3, seeds: {SUGGESTED - 1}}}` would find {would}"
            )
            return f"{text} ({spread})"
        return f"{self.seeds} each of the best: finds that one is {self.ratio:.2f} times worse ({spread})"


def power_of(spec: SweepSpec, seen: tuple[str, float] | None = None) -> Power:
    """Return what a sweep's seeds can tell.

    Args:
        spec: the sweep.
        seen: a sweep where the spread of the same metric was seen, and the deviation of a pair there (see
            `pair_deviation`).
    """
    seeds = 1 + (spec.replicates.seeds if spec.replicates else 0)
    spread = seen[1] / math.sqrt(2) if seen else ASSUMED
    return Power(
        seeds=seeds,
        ratio=_smallest(seeds, spread) if seeds > 1 else None,
        spread=spread,
        seen_in=seen[0] if seen else None,
    )


def _smallest(seeds: int, spread: float) -> float:
    return math.exp(detectable(seeds, spread * math.sqrt(2), power=POWER))
