"""`method: cmaes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.search.optuna_method import OptunaMethod
from orchestrator.search.sweep import Sweep

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class CmaEs(OptunaMethod):
    """Optuna's CMA-ES. Its generations are found again in what it notes with each trial."""

    name = "cmaes"
    about = "CMA-ES, for numeric parameters"
    several_metrics = False

    @classmethod
    def notes(cls, sweep: Sweep) -> Iterator[str]:
        """It passes over parameters that are not numbers, or not always there."""
        passed = [p.name for p in sweep.space.parameters if p.kind == "categorical" or p.when]
        if passed:
            yield f"cmaes moves numbers that are always there; drawn at random: {', '.join(passed)}"

    def sampler(self, seed: int) -> BaseSampler:
        """See `OptunaMethod`."""
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
