"""Did the final training do again what its trial did, and did the short runs predict the long ones? Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.statistics import rank_correlation as spearman


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The final training's curve against its trial's, at the steps both were evaluated at."""

    steps: tuple[int, ...]
    """Those steps; empty: the final training has not reached any of the trial's."""
    largest_difference: float
    """The largest relative difference |final - trial| / |trial| over them."""
    tolerance: float

    @property
    def reproduced(self) -> bool | None:
        """Whether every difference is within the tolerance; None: nothing to compare yet."""
        return self.largest_difference <= self.tolerance if self.steps else None

    def __str__(self) -> str:
        if not self.steps:
            return "not compared with the trial yet: no step in common"
        where = f"at {len(self.steps)} steps up to {self.steps[-1]}"
        if self.largest_difference == 0.0:
            return f"reproduced the trial exactly {where}"
        verdict = "reproduced the trial" if self.reproduced else "did NOT reproduce the trial"
        return f"{verdict} {where}: largest difference {self.largest_difference:.2%} (tolerance {self.tolerance:.0%})"


def compare_curves(trial: Mapping[int, float], final: Mapping[int, float], *, tolerance: float = 0.05) -> Reproduction:
    """Compare two curves of one metric.

    On the same kind of machine the two are equal, bit for bit: same seed, same data order, same code. Another device,
    another number of workers or another torch adds up in another order, hence the tolerance.

    Args:
        trial: value by step of the sweep's trial.
        final: value by step of the final training.
        tolerance: largest relative difference that still counts as reproduced.
    """
    steps = tuple(sorted(set(trial) & set(final)))
    differences = [_relative(final[step], trial[step]) for step in steps]
    return Reproduction(steps=steps, largest_difference=max(differences, default=0.0), tolerance=tolerance)


def _relative(value: float, reference: float) -> float:
    if value == reference:
        return 0.0
    if not (math.isfinite(value) and math.isfinite(reference)):
        return math.inf
    return abs(value - reference) / max(abs(reference), 1e-12)


def rank_correlation(short: Sequence[float], long: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation between short and long runs of the same configurations (1: perfect proxy).

    None for fewer than two configurations, or where one side is constant: there is no order to predict then.

    Raises:
        ValueError: the two differ in length.
    """
    if len(short) != len(long):
        raise ValueError(f"{len(short)} short runs against {len(long)} long ones")
    return spearman(short, long, least=2)
