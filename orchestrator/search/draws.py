"""Input and output of a search: recorded trials, combinations to try, and draws that need no model."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from orchestrator.space import Space


@dataclass(frozen=True)
class Observation:
    """What the search may know of one trial."""

    number: int
    values: Mapping[str, Any]
    state: TrialState
    metrics: tuple[float, ...] | None
    """The metrics at the last report, in the order of the sweep's metrics."""
    step: int = 0
    """Of the last report."""
    bad: bool = False
    """Diverged or out of memory: as bad as anything seen."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[int, float] = field(default_factory=dict)
    """The first metric by step, where it was finite."""
    arrivals: Mapping[int, int] = field(default_factory=dict)
    """The position of each report among all reports of the sweep."""
    length: int = 0
    """Steps of the whole trial; 0: not known, and the last report is its end."""


@dataclass(frozen=True)
class Draw:
    """One combination to try."""

    position: int
    values: dict[str, Any]
    sampler: dict[str, Any] = field(default_factory=dict)
    """What the method wants to find in the trial's observation again."""


@dataclass(frozen=True)
class Member:
    """A trial of a population that trains together, at the report that all of them have reached."""

    trial: str
    number: int
    values: dict[str, Any]
    value: float
    """Of the metric; may be NaN."""
    checkpoint: str | None


@dataclass(frozen=True)
class Exploit:
    """One member goes on from another's checkpoint with new values."""

    trial: str
    donor: str
    step: int
    values: dict[str, Any]
    checkpoint: str
    """Of the donor, at `step`."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict, an entry of the trial's `lineage`."""
        return asdict(self)


Accept = Callable[[dict[str, Any]], bool]
"""Whether a combination may be tried: it is none that was tried before, and the training configuration allows it."""


def seed_at(seed: int, position: int) -> int:
    """Return 31 bits that differ for every draw of every sweep."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{position}".encode()).digest()[:4], "big") >> 1


def independent(space: Space, seed: int, position: int, power: float = 0.0) -> dict[str, Any]:
    """Return an allowed combination, each value drawn by itself: from its distribution times prior ^ power."""
    return space.draw(random.Random(seed_at(seed, position)).random, power=power)


class Sobol:
    """A scrambled Sobol sequence over a space: draws that leave no gaps.

    Args:
        space: what may be chosen; a combination may be a forbidden one.
        seed: of the sweep.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed_at(seed, -1)
        self._names = [parameter.name for parameter in space.parameters if parameter.kind != "constant"]

    def at(self, position: int, power: float = 0.0) -> dict[str, Any]:
        """Return the combination at a position of the sequence, moved to where the priors ^ power say."""
        unit = dict(zip(self._names, self._point(position), strict=True))
        return self._space.suggest(lambda parameter: parameter.believed(unit[parameter.name], power))

    def _point(self, position: int) -> list[float]:
        from scipy.stats import qmc

        if not self._names:
            return []
        engine = qmc.Sobol(len(self._names), scramble=True, rng=self._seed)
        if position:
            engine.fast_forward(position)
        return [float(u) for u in engine.random(1)[0]]


def finite(metrics: Iterable[float | None]) -> tuple[float, ...] | None:
    """Return the metrics if there are all of them and all are finite."""
    found = tuple(metrics)
    kept = tuple(value for value in found if value is not None and math.isfinite(value))
    return kept if len(kept) == len(found) else None
