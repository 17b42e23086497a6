"""`method: tpe` (also called bayes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.search.draws import Observation
from orchestrator.search.method import USUAL
from orchestrator.search.methods.qmc import Quasirandom
from orchestrator.search.optuna_method import OptunaMethod
from orchestrator.search.optuna_space import distribution, value_at
from orchestrator.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler, TPESampler
    from optuna.trial import FrozenTrial

SHOWN, BEST = 300, 25
"""Trials that it is shown of a longer sweep; the best of them (all that it ever takes for good) are never left out."""


class Tpe(Quasirandom, OptunaMethod):
    """Optuna's tree-structured Parzen estimator, after a few draws of the Sobol sequence."""

    name = "tpe"
    about = "tree-structured Parzen estimator (also called bayes)"
    ranks_stopped = True

    @property
    def startup(self) -> int:
        """See `OptunaMethod`."""
        return max(4, min(10, (self.sweep.run_cap or USUAL) // 4))

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        told = sum(seen.bad or bool(seen.reports) or bool(seen.metrics) for seen in known)
        self._power = self.belief(position, told + 1)
        return super().propose(position, known)

    def sampler(self, seed: int) -> BaseSampler:
        """Each parameter by itself: the joint model (Optuna's default) gets stuck after few trials, and does not know
        conditional parameters (measured: benchmarks/search_quality.py)."""
        from optuna.samplers import TPESampler

        made = believing_tpe(self.space, self._power) if self.space.believes else TPESampler
        return made(seed=seed, n_startup_trials=self.startup, multivariate=False)

    def shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the best, and of the others an even sample over time.

        It weighs a handful of good trials against the density of all others, which a sample shows as well; with all of
        them a draw would take longer and longer.
        """
        if len(trials) <= SHOWN or len(self.sweep.metrics) > 1:
            return trials
        sign = 1.0 if self.sweep.metrics[0].goal == "minimize" else -1.0

        def rank(index: int) -> tuple[float, float]:
            """As TPE ranks: finished ones by value, then stopped ones by how far they came."""
            if trials[index].values:
                return -math.inf, sign * trials[index].values[0]
            step, value = max(trials[index].intermediate_values.items(), default=(-1, 0.0))
            return -step, sign * value

        ended = [index for index, trial in enumerate(trials) if trial.state.is_finished()]
        best = set(sorted(ended, key=rank)[:BEST])
        others = [index for index in ended if index not in best]
        room = SHOWN - BEST
        kept = best | {others[at * len(others) // room] for at in range(room)}
        return [trials[index] for index in ended if index in kept]


def believing_tpe(space: Space, power: float) -> type[TPESampler]:
    """Return Optuna's estimator with its ratio of densities times prior ^ power.

    Args:
        space: whose priors.
        power: of them.
    """
    import numpy as np
    from optuna.samplers import TPESampler

    laws = {parameter.name: (parameter, distribution(parameter)) for parameter in space.believes}

    class BelievingTpe(TPESampler):
        def _compute_acquisition_func(self, samples: Any, below: Any, above: Any) -> Any:
            found = super()._compute_acquisition_func(samples, below, above)
            for name, places in samples.items():
                if name in laws:
                    parameter, law = laws[name]
                    values = [value_at(parameter, law.to_external_repr(place)) for place in places]
                    found = found + power * np.array([parameter.log_prior(value) for value in values])
            return found

    return BelievingTpe
