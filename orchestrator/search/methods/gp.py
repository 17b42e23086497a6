"""`method: gp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.search.methods.qmc import Quasirandom
from orchestrator.search.optuna_method import OptunaMethod

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class GaussianProcess(Quasirandom, OptunaMethod):
    """Optuna's Gaussian process, after a few draws of the Sobol sequence."""

    name = "gp"
    about = "Gaussian process"
    tries = 5  # a second each

    @property
    def startup(self) -> int:
        """See `OptunaMethod`."""
        return max(4, min(10, (self.sweep.run_cap or 40) // 4))

    def sampler(self, seed: int) -> BaseSampler:
        """See `OptunaMethod`."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, n_startup_trials=self.startup, warn_independent_sampling=False)
