"""`method: cmaes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.search.optuna_method import OptunaMethod
from orchestrator.search.optuna_space import coordinate
from orchestrator.search.sweep import Sweep
from orchestrator.space import Parameter

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

        numbers = [p for p in self.varied if p.kind != "categorical" and not p.when] if self.space.believes else []
        start = {p.name: _start(p) for p in numbers}
        return CmaEsSampler(seed=seed, warn_independent_sampling=False, x0=start or None)


def _start(parameter: Parameter) -> Any:
    """Where it begins: at the densest place of the prior, else in the middle."""
    value = parameter.from_unit(0.5 if parameter.prior is None else parameter.prior.mode)
    place = coordinate(parameter, {parameter.name: value})
    assert place is not None
    return place.value
