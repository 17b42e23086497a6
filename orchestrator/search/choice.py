"""Which of the finished configurations is truly best, where every reported value is off by the luck of its seed.

The lowest of many noisy values is mostly a lucky one. What is asked instead is the value that another training would
come to in the mean: from other seeds of the same configuration where there are any, else from the model of all learning
curves, which has seen what its neighbours came to.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.search.curve_model import CurveModel
from orchestrator.search.draws import Observation
from orchestrator.space import Space
from orchestrator.statistics import ALPHA, holm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST = 8
"""Finished configurations from which on the model is asked."""
DRAWS = 4000
"""Joint draws from the model by which the loss of a choice is counted."""
SPREADS = 60
"""Grid of the spread between configurations, from none to three times what is seen."""


@dataclass(frozen=True)
class Estimate:
    """What a configuration is expected to come to with another seed, in units of the metric."""

    value: float
    """The expected value."""
    loss: float
    """By how much it is expected to be worse than the truly best of those that it was compared with."""


@dataclass(frozen=True)
class Estimates:
    """Estimates of those configurations that may be the best one, by number."""

    by: Literal["model", "seeds"]
    """What they were made from."""
    configurations: Mapping[int, Estimate]


def by_model(
    space: Space, goal: str, known: Sequence[Observation], contenders: Mapping[int, Mapping[str, Any]]
) -> Estimates:  # fmt: skip
    """Return what the model of the learning curves expects of finished configurations.

    Args:
        space: of the sweep.
        goal: "minimize" or "maximize".
        known: the recorded trials; each seed of a configuration is one.
        contenders: the values of those that may be best, by number.
    """
    draws = CurveModel(space, goal, known).drawn_at_the_end(list(contenders.values()), DRAWS)
    return Estimates("model", _counted(goal, list(contenders), draws))


def by_seeds(goal: str, values: Mapping[int, Mapping[int, float]]) -> Estimates | None:
    """Return what the means over seeds say, drawn together as the noise demands; None where no noise is seen.

    The hierarchical normal model (Gelman et al., Bayesian Data Analysis, 5.4) with the noise of `seed_noise`: the
    spread of the configurations has a flat prior, so that one that the noise hides is not taken for none. Of positive
    values the logarithms are modelled.

    Args:
        goal: "minimize" or "maximize".
        values: the metric by seed of each configuration.
    """
    import numpy as np

    logs = all(value > 0 for seeds in values.values() for value in seeds.values())
    noise = seed_noise(values)
    if noise is None:
        return None
    means = np.array([statistics.fmean(_scaled(seeds, logs).values()) for seeds in values.values()])
    errors = np.array([max(noise[0], 1e-18) / len(seeds) for seeds in values.values()])
    wide = 3 * float(means.std()) + math.sqrt(float(errors.max()))
    spreads = np.linspace(0, wide, SPREADS)[:, None]
    precision = 1 / (spreads**2 + errors)
    total = precision.sum(axis=1)
    middle = (precision * means).sum(axis=1) / total
    likelihood = 0.5 * (np.log(precision) - precision * (means - middle[:, None]) ** 2).sum(axis=1) - 0.5 * np.log(
        total
    )
    weights = np.exp(likelihood - likelihood.max())
    chance = np.random.default_rng(0)
    at = chance.choice(SPREADS, DRAWS, p=weights / weights.sum())
    centre = middle[at] + chance.standard_normal(DRAWS) / np.sqrt(total[at])
    kept = spreads[at] ** 2 * precision[at]  # of a mean's distance from the centre
    draws = centre[:, None] + kept * (means - centre[:, None])
    draws += np.sqrt(kept * errors) * chance.standard_normal(draws.shape)
    return Estimates("seeds", _counted(goal, list(values), np.exp(draws) if logs else draws))


def seed_noise(values: Mapping[int, Mapping[int, float]]) -> tuple[float, int] | None:
    """Return the variance of a single value between seeds, and its degrees of freedom; None where none can be seen.

    What a seed does to all configurations alike is no noise between them: it is the residual of a two-way layout
    (configuration + seed) over the seeds that all share, else that within the configurations. Of positive values the
    logarithms are taken.

    Args:
        values: the metric by seed of each configuration.
    """
    logs = all(value > 0 for seeds in values.values() for value in seeds.values())
    rows = [_scaled(seeds, logs) for seeds in values.values()]
    shared = sorted(set.intersection(*(set(row) for row in rows))) if rows else []
    if len(rows) > 1 and len(shared) > 1:
        grand = statistics.fmean(row[seed] for row in rows for seed in shared)
        effects = {seed: statistics.fmean(row[seed] for row in rows) - grand for seed in shared}
        off = [row[s] - statistics.fmean(row[t] for t in shared) - effects[s] for row in rows for s in shared]
        free = (len(rows) - 1) * (len(shared) - 1)
    else:
        off = [value - statistics.fmean(row.values()) for row in rows for value in row.values()]
        free = sum(len(row) - 1 for row in rows)
    return (sum(value**2 for value in off) / free, free) if free else None


def tied_with_first(values: Sequence[Mapping[int, float]]) -> list[bool]:
    """Return for each configuration whether a test cannot tell it from the first one, which ties with itself.

    Two-sided t-tests of the differences of means over the seeds that all share, with `seed_noise` of all of them (the
    contrasts of a two-way layout), corrected by Holm. Where nothing can be tested, all are tied.

    Args:
        values: the metric by seed of each, the best first.
    """
    numbered = dict(enumerate(values))
    noise, shared = seed_noise(numbered), set.intersection(*(set(seeds) for seeds in values)) if values else set()
    if noise is None or len(shared) < 2 or len(values) < 2:
        return [True] * len(values)
    from scipy.special import stdtr

    logs = all(value > 0 for seeds in values for value in seeds.values())
    means = [statistics.fmean(_scaled({s: seeds[s] for s in shared}, logs).values()) for seeds in values]
    error = math.sqrt(2 * noise[0] / len(shared))
    p_values = []
    for mean in means[1:]:
        off = abs(mean - means[0])
        p_values.append(float(2 * stdtr(noise[1], -off / error)) if error > 1e-12 * off else float(off == 0))
    return [True, *((p or 0.0) >= ALPHA for p in holm(p_values))]


def _scaled(seeds: Mapping[int, float], logs: bool) -> dict[int, float]:
    return {seed: math.log(value) if logs else value for seed, value in seeds.items()}


def _counted(goal: str, numbers: Sequence[int], draws: NDArray[np.float64]) -> dict[int, Estimate]:
    sign = 1.0 if goal == "minimize" else -1.0
    signed = sign * draws
    losses = (signed - signed.min(axis=1, keepdims=True)).mean(axis=0)
    expected = draws.mean(axis=0)
    return {number: Estimate(float(expected[at]), float(losses[at])) for at, number in enumerate(numbers)}
