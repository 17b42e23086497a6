"""`method: tpe` (also called bayes)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.search.methods.qmc import Quasirandom
from orchestrator.search.optuna_method import OptunaMethod

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
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
        return max(4, min(10, (self.sweep.run_cap or 40) // 4))

    def sampler(self, seed: int) -> BaseSampler:
        """Each parameter by itself: the joint model (Optuna's default) gets stuck after few trials, and does not know
        conditional parameters (measured: benchmarks/search_quality.py)."""
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=self.startup, multivariate=False)

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
