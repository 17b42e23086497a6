"""`method: nsga2`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.search.optuna_method import OptunaMethod

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Nsga2(OptunaMethod):
    """Optuna's NSGA-II, for a Pareto front. Its generations are found again in what it notes with each trial."""

    name = "nsga2"
    believes = False
    about = "genetic search for several metrics"

    def sampler(self, seed: int) -> BaseSampler:
        """See `OptunaMethod`."""
        from optuna.samplers import NSGAIISampler

        population = max(4, min(50, (self.sweep.run_cap or 200) // 4))
        return NSGAIISampler(seed=seed, population_size=population)
