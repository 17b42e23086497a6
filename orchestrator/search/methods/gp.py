"""`method: gp`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.search.curve_model import CurveModel, rows_of
from orchestrator.search.draws import Observation, seed_at
from orchestrator.search.method import USUAL
from orchestrator.search.methods.qmc import Quasirandom
from orchestrator.search.optuna_method import OptunaMethod
from orchestrator.search.sweep import Sweep
from orchestrator.space import Parameter

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

CANDIDATES, BEST, NEAR, ROUNDS = 600, 6, 30, 3
"""Candidates over the space; the best configurations so far, the candidates near each; rounds of refinement."""
REACH = 0.15
"""Standard deviation, in quantiles, of a candidate near another; halved with each round."""
ELSEWHERE = 0.15
"""Chance that a parameter of a candidate near another is drawn anew."""


class GaussianProcess(Quasirandom, OptunaMethod):
    """A Gaussian process over all reports (`CurveModel`): next comes what is expected to improve most at its end.

    With several metrics it is Optuna's, over the finished trials.
    """

    name = "gp"
    about = "Gaussian process over all learning curves; best for up to some 200 trials"
    tries = 5  # it would insist

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._fits: dict[bytes, Any] = {}

    @property
    def startup(self) -> int:
        """See `OptunaMethod`: trials that have reported."""
        return max(4, min(8, (self.sweep.run_cap or USUAL) // 4))

    def sampler(self, seed: int) -> BaseSampler:
        """See `OptunaMethod`."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, n_startup_trials=self.startup, warn_independent_sampling=False)

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        if len(self.sweep.metrics) > 1:
            return super().propose(position, known)
        own = [seen for seen in known if not self.space.problems(seen.values)]
        reported = [seen for seen in own if seen.bad or rows_of([seen])]
        if len(reported) < self.startup or not rows_of(reported):
            return self.free(position), {}
        model = CurveModel(self.space, self.sweep.metrics[0].goal, reported, self._fits)
        running = [seen.values for seen in own if not seen.state.ended and not rows_of([seen])]
        tried = [*(seen.values for seen in reported), *running]
        chance = random.Random(seed_at(self.sweep.seed, position))
        power = self.belief(position, len(reported) + 1)
        return self._most_promising(model.believing(running), tried, chance, power), {}

    def forecast(self, known: Sequence[Observation]) -> dict[int, float]:
        """See `Method`: what the model expects once it has seen enough."""
        own = [seen for seen in known if not self.space.problems(seen.values)]
        reported = [seen for seen in own if seen.bad or rows_of([seen])]
        if len(self.sweep.metrics) > 1 or len(reported) < self.startup or not rows_of(reported):
            return {}
        model = CurveModel(self.space, self.sweep.metrics[0].goal, reported, self._fits)
        means, _ = model.at_the_end([seen.values for seen in reported])
        return {seen.number: model.metric(float(mean)) for seen, mean in zip(reported, means, strict=True)}

    def _most_promising(
        self, model: CurveModel, tried: Sequence[Mapping[str, Any]], chance: random.Random, power: float
    ) -> dict[str, Any]:
        """Return the candidate of the highest expected improvement over the best expected end of what was tried.

        With priors it is the improvement times prior ^ power.
        """
        means, _ = model.at_the_end(tried)
        best = float(means.min())
        order = means.argsort()
        pool = [self.space.draw(chance.random, power=power) for _ in range(CANDIDATES)]
        pool += [self._near(tried[at], chance, REACH) for at in order[:BEST] for _ in range(NEAR)]
        for round_ in range(ROUNDS + 1):
            pool = [values for values in pool if self.space.allowed(values)]
            gains = _expected_improvement(*model.at_the_end(pool), best)
            if power:
                gains = gains + [power * self.space.log_prior(values) for values in pool]
            leading = [pool[at] for at in gains.argsort()[::-1][:BEST]]
            if round_ < ROUNDS:
                pool = leading + [
                    self._near(values, chance, REACH / 2**round_) for values in leading for _ in range(NEAR)
                ]
        best_of_all: dict[str, Any] = leading[0]
        return best_of_all

    def _near(self, values: Mapping[str, Any], chance: random.Random, reach: float) -> dict[str, Any]:
        def choose(parameter: Parameter) -> Any:
            known = tuple(values[key] for key in parameter.keys if key in values)
            if len(known) < len(parameter.keys) or chance.random() < ELSEWHERE:
                return parameter.from_unit(chance.random())
            value: Any = known if parameter.members else known[0]
            if parameter.kind == "categorical":
                return value
            u = parameter.to_unit(value) + chance.gauss(0, reach)
            return parameter.from_unit(min(1.0, max(0.0, u)))

        return self.space.suggest(choose)


def _expected_improvement(mean: Any, spread: Any, best: float) -> Any:
    """Return the logarithm of E max(best - f, 0) [n], which does not underflow."""
    import numpy as np
    from scipy.special import log_ndtr

    z = (best - mean) / spread
    density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    # z Phi(z) + phi(z) = phi(z) (1 + z Phi(z) / phi(z))
    inner = np.maximum(1 + z * np.exp(np.minimum(log_ndtr(z) - density, 700)), 1e-12)
    far = -2 * np.log(np.maximum(-z, 1.0))  # its limit far below
    return density + np.log(spread) + np.where(z < -20, far, np.log(inner))
