"""Learning curves of MeanFlow on the digits as a function of the configuration: a model of the recorded trainings.

One Gaussian process over the configuration, the network and the logarithm of the step, for the logarithm of the Frechet
distance, fitted to benchmarks/data/digits_curves.json (benchmarks/record_curves.py). Searches run on it in seconds.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
from record_curves import STEPS, TABLE, point_of, values_at
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

FITTED = 500
"""Reports to which lengths and noise are fitted; the process itself is conditioned on all of them."""
DRAWN = 20_000


TRAININGS: int | None = None
"""How many of the recorded trainings count; None: all."""


def recorded() -> list[dict[str, Any]]:
    """Return the recorded trainings, in the order in which they were made."""
    found: list[dict[str, Any]] = json.loads(TABLE.read_text())
    return found[:TRAININGS]


def features(values: dict[str, Any], network: int, steps: tuple[int, ...] = STEPS) -> np.ndarray[Any, Any]:
    """Return [steps, 9]: the configuration in the unit cube, the network, the logarithm of the step."""
    row = [*point_of(values), float(network)]
    return np.array([[*row, math.log2(step / STEPS[-1]) / 3] for step in steps])


class World:
    """What a training of a configuration reports.

    Args:
        network: 0, the smaller one, or 1, the shipped one.
    """

    def __init__(self, network: int) -> None:
        self.network = network
        self._model, self.noise = fitted(), seed_noise()

    def curve(self, values: dict[str, Any]) -> dict[int, float]:
        """Return the metric without noise at each step."""
        found = self._model.predict(features(values, self.network))
        return {step: math.exp(value) for step, value in zip(STEPS, found, strict=True)}

    def reported(self, values: dict[str, Any], run: str) -> dict[int, float]:
        """Return the metric as a training reports it; `run` seeds the noise."""
        chance = random.Random(run)
        return {step: value * math.exp(chance.gauss(0, self.noise[step])) for step, value in self.curve(values).items()}

    def goals(self, shares: tuple[float, ...]) -> list[float]:
        """Return the final values that these shares of the space reach, without noise."""
        chance = random.Random(7)
        rows = [[chance.random() for _ in range(7)] for _ in range(DRAWN)]
        ends = np.vstack([features(values_at(row), self.network, STEPS[-1:]) for row in rows])
        final = np.sort(np.concatenate([self._model.predict(part) for part in np.array_split(ends, 20)]))
        return [math.exp(final[round(share * DRAWN)]) for share in shares]


def _table() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Features, log metric, configuration and step of every report."""
    rows, targets, owners, steps = [], [], [], []
    for entry in recorded():
        at = tuple(int(step) for step in entry["curve"])
        if at:
            rows.append(features(entry["values"], entry["model"], at))
            targets += [math.log(value) for value in entry["curve"].values()]
            owners += [entry["config"]] * len(at)
            steps += at
    return np.vstack(rows), np.array(targets), np.array(owners), np.array(steps)


@cache
def fitted() -> GaussianProcessRegressor:
    """Return the process, conditioned on all reports."""
    x, y, _, _ = _table()
    shape = ConstantKernel(1.0, (1e-2, 1e2)) * Matern([1.0] * x.shape[1], (0.05, 30), nu=2.5)
    kernel = shape + WhiteKernel(0.02, (1e-4, 0.3))
    part = np.random.default_rng(0).permutation(len(x))[:FITTED]
    chosen = GaussianProcessRegressor(kernel, normalize_y=True).fit(x[part], y[part]).kernel_
    return GaussianProcessRegressor(chosen, optimizer=None, normalize_y=True).fit(x, y)


@cache
def seed_noise() -> dict[int, float]:
    """Return the standard deviation of the log metric between seeds of a configuration, at each step."""
    runs: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for entry in recorded():
        for step, value in entry["curve"].items():
            runs[int(step), entry["config"], entry["model"]].append(math.log(value))
    found = {}
    for step in STEPS:
        repeated = [values for (at, *_), values in runs.items() if at == step and len(values) > 1]
        found[step] = math.sqrt(
            sum(np.var(v, ddof=1) * (len(v) - 1) for v in repeated) / sum(len(v) - 1 for v in repeated)
        )
    return found


def held_out(folds: int = 6) -> dict[str, float]:
    """Return how well configurations that the process has not seen are ranked at their end, and how far off it is."""
    x, y, owners, steps = _table()
    kernel, found = fitted().kernel_, np.empty_like(y)
    fold = np.random.default_rng(1).permutation(owners.max() + 1)[owners] % folds
    for number in range(folds):
        out = fold == number
        model = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True).fit(x[~out], y[~out])
        found[out] = model.predict(x[out])
    end = steps == STEPS[-1]
    quality = {"reports": float(len(y)), "rms of log metric": float(np.sqrt(np.mean((found - y) ** 2)))}
    for network, name in ((0, "smaller"), (1, "shipped")):
        own = end & (x[:, 7] == network)
        quality[f"Spearman at the end, {name} network"] = float(spearmanr(found[own], y[own]).statistic)
        best = own & (y <= np.median(y[own]))
        quality[f"Spearman of its better half, {name} network"] = float(spearmanr(found[best], y[best]).statistic)
    return quality
