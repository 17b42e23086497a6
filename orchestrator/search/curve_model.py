"""A model of learning curves: a Gaussian process over the configuration and the share of the training that is done.

All reports are in it, of trials that were stopped early too: a stopped trial says what its curve was, and is never
taken for a finished one. The kernels and the linear algebra are scikit-learn's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.search.draws import Observation
from orchestrator.space import Parameter, Space, same

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sklearn.gaussian_process import GaussianProcessRegressor

    Array = NDArray[np.float64]

ROWS = 300
"""Most reports that the model is given: the last ones of each trial first."""
FIRST, REFIT = 8, 1.25
"""Lengths and noise are fitted to the first `FIRST` reports, and anew whenever there are `REFIT` times more: a function
of the record, and not of when it was asked."""
EARLY = -4.0
"""log2 of the share of the training before which all is as early."""
MIDDLE = {"length": (0.0, 0.9), "amplitude": (0.0, 0.5), "noise": (-3.5, 1.0)}
"""Mean and standard deviation of the logarithm of each, before anything is seen (of standardised values)."""


def encoded(space: Space, values: Mapping[str, Any]) -> list[float]:
    """Return a configuration as numbers: quantiles of ordered parameters, one-hot categories; what is absent is 0.5."""
    found: list[float] = []
    for parameter in space.parameters:
        if parameter.kind == "constant":
            continue
        there = all(key in values for key in parameter.keys)
        value: Any = tuple(values[k] for k in parameter.keys) if parameter.members else values.get(parameter.name)
        if parameter.kind == "categorical" and not _ordered(parameter):
            found += [math.sqrt(0.5) * (there and same(choice, value)) for choice in parameter.choices]
        else:
            found.append(parameter.to_unit(value) if there else 0.5)
    return found


def _ordered(parameter: Parameter) -> bool:
    """Whether the choices are numbers in ascending order."""
    numbers = [
        choice for choice in parameter.choices if isinstance(choice, int | float) and not isinstance(choice, bool)
    ]
    return len(numbers) == len(parameter.choices) and numbers == sorted(numbers)


class CurveModel:
    """The model of one sweep's learning curves after what is recorded.

    Args:
        space: of the sweep.
        goal: "minimize" or "maximize".
        known: the recorded trials.
        fits: kernels by the data that they were fitted to, to be found again.
    """

    def __init__(
        self, space: Space, goal: str, known: Sequence[Observation], fits: dict[bytes, Any] | None = None
    ) -> None:  # fmt: skip
        import numpy as np

        self._space = space
        self._sign = 1.0 if goal == "minimize" else -1.0
        rows = rows_of(known)
        values = np.array([value for _, _, value in rows])
        self._log = bool((values > 0).all())
        y = self._sign * (np.log(values) if self._log else values)
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        x = np.array([[*encoded(space, seen.values), _share(step, seen.length)] for seen, step, _ in rows])
        y = (y - self._mean) / self._scale
        self.kernel = _fitted(x, y, {} if fits is None else fits)
        """With its fitted lengths and noise."""
        bad = [[*encoded(space, seen.values), 0.0] for seen in known if seen.bad]
        if bad:  # it has no end: as bad as anything seen
            x, y = np.vstack([x, bad]), np.concatenate([y, np.full(len(bad), y.max())])
        self._x, self._y = x, y
        self._process = _conditioned(self.kernel, x, y)

    def at_the_end(self, configurations: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
        """Return mean and standard deviation [n] of what configurations come to at their end, without noise.

        In the model's own units, smaller being better; `metric` turns a mean back.
        """
        import numpy as np

        x = np.array([[*encoded(self._space, values), 0.0] for values in configurations])
        mean, spread = self._process.predict(x, return_std=True)
        noise = math.exp(self.kernel.theta[-1])
        return mean, np.sqrt(np.maximum(spread**2 - noise, 1e-12))

    def drawn_at_the_end(self, configurations: Sequence[Mapping[str, Any]], draws: int) -> Array:
        """Return so many joint draws [draws, n] of what configurations truly come to, in units of the metric."""
        import numpy as np

        x = np.array([[*encoded(self._space, values), 0.0] for values in configurations])
        mean, covariance = self._process.predict(x, return_cov=True)
        covariance = covariance - math.exp(self.kernel.theta[-1]) * np.eye(len(x))
        found = np.random.default_rng(0).multivariate_normal(
            mean, covariance, draws, method="eigh", check_valid="ignore"
        )
        values = self._sign * (found * self._scale + self._mean)
        return np.exp(values) if self._log else values

    def metric(self, mean: float) -> float:
        """Return a mean of `at_the_end` in units of the metric."""
        value = self._sign * (mean * self._scale + self._mean)
        return math.exp(value) if self._log else value

    def believing(self, configurations: Sequence[Mapping[str, Any]]) -> CurveModel:
        """Return the model as if these configurations had come to what is expected of them (trials that run)."""
        import copy

        import numpy as np

        if not configurations:
            return self
        other = copy.copy(self)
        x = np.array([[*encoded(self._space, values), 0.0] for values in configurations])
        other._x, other._y = np.vstack([self._x, x]), np.concatenate([self._y, self._process.predict(x)])
        other._process = _conditioned(self.kernel, other._x, other._y)
        return other


def _fitted(x: Array, y: Array, fits: dict[bytes, Any]) -> Any:
    """Return the kernel, fitted to the first rows: again only when there are `REFIT` times more."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    count = following = min(len(y), FIRST)
    while following <= len(y):
        count, following = following, max(following + 1, int(following * REFIT))
    first = y[:count]
    first = (first - first.mean()) / (first.std() or 1.0)
    mark = x[:count].tobytes() + first.round(9).tobytes()
    if mark not in fits:
        shape = ConstantKernel(1.0, (1e-2, 1e2)) * Matern([1.0] * x.shape[1], (0.05, 50.0), nu=2.5)
        kernel = shape + WhiteKernel(math.exp(MIDDLE["noise"][0]), (1e-4, 1.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # at a bound: no noise, or a parameter without effect
            fits[mark] = GaussianProcessRegressor(kernel, optimizer=_most_probable).fit(x[:count], first).kernel_
    return fits[mark]


def _conditioned(kernel: Any, x: Array, y: Array) -> GaussianProcessRegressor:
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(kernel, optimizer=None).fit(x, y)


def rows_of(known: Sequence[Observation]) -> list[tuple[Observation, int, float]]:
    """Return (trial, step, value) of the reports that the model is given, in the order of their arrival.

    Of a long sweep it is given the last report of each trial, and of the others the latest.
    """
    rows = [(seen, step, value) for seen in known for step, value in _reports(seen).items()]
    rows.sort(key=lambda row: (row[0].arrivals.get(row[1], -1), row[0].number, row[1]))
    if len(rows) <= ROWS:
        return rows
    last = [step == max(_reports(seen)) for seen, step, _ in rows]
    ranked = sorted(range(len(rows)), key=lambda at: (not last[at], -at))[:ROWS]
    return [rows[at] for at in sorted(ranked)]


def _reports(seen: Observation) -> dict[int, float]:
    if seen.reports:
        return {step: value for step, value in seen.reports.items() if math.isfinite(value)}
    return {seen.step: seen.metrics[0]} if seen.metrics and not seen.bad else {}


def _share(step: int, length: int) -> float:
    """The logarithm of the share of a training, 0 at its end and -1 at `EARLY`."""
    return max(math.log2(step / length), EARLY) / -EARLY if 0 < step < length else 0.0


def _most_probable(
    objective: Callable[..., tuple[float, Array]], start: Array, bounds: Array
) -> tuple[Array, float]:  # fmt: skip
    """Return the most probable logarithms of amplitude, lengths and noise: their likelihood times `MIDDLE`."""
    import numpy as np
    from scipy.optimize import minimize

    kinds = ["amplitude", *["length"] * (len(start) - 2), "noise"]
    middle = np.array([MIDDLE[kind][0] for kind in kinds])
    width = np.array([MIDDLE[kind][1] for kind in kinds])

    def penalised(theta: Array) -> tuple[float, Array]:
        value, gradient = objective(theta, eval_gradient=True)
        off = (theta - middle) / width
        return value + 0.5 * float(off @ off), gradient + off / width

    found = minimize(penalised, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    return found.x, float(found.fun)
