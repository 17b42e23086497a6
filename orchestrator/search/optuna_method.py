"""A search method that asks one of Optuna's samplers, through a study that is made of the recorded trials.

The sampler is made for each draw, with a seed from the sweep's seed and the position. What it notes in the system
attributes of the asked trial (generations, the state of an evolution strategy) is recorded with it and shown again.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.search.draws import Observation, seed_at
from orchestrator.search.method import Method
from orchestrator.search.optuna_space import suggest, value_at
from orchestrator.search.sweep import Sweep
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


class OptunaMethod(Method):
    """One of Optuna's samplers as a search method: `sampler` is all that it needs."""

    learns = True
    tries: ClassVar[int] = 50
    ranks_stopped: ClassVar[bool] = False
    """Whether the sampler ranks trials that were stopped early below the finished ones, by how far they came (TPE). To
    the others a stopped trial counts with its last value."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._cache: dict[int, tuple[Observation, FrozenTrial | None]] = {}

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler."""

    @property
    def startup(self) -> int:
        """Trials that must have ended before the sampler is asked; draws are `free` before."""
        return 0

    def shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of the recorded trials that the sampler is shown."""
        return trials

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        import optuna

        trials = self.recorded(known)
        if sum(trial.state.is_finished() for trial in trials) < self.startup:
            return self.free(position), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental features, used knowingly
            study = optuna.create_study(
                sampler=self.sampler(seed_at(self.sweep.seed, position)),
                directions=[metric.goal for metric in self.sweep.metrics],
            )
            study.add_trials(self.shown(trials))
            trial = study.ask()
            values = self.space.suggest(
                lambda parameter: value_at(
                    parameter, suggest(trial, parameter.name, self.distributions[parameter.name])
                )
            )
        return values, dict(study.get_trials(deepcopy=False)[-1].system_attrs)

    def recorded(self, known: Sequence[Observation]) -> list[FrozenTrial]:
        """Return the trials as a study of Optuna's has them."""
        worst = self._worst(known)
        for index, observation in enumerate(known):
            cached = self._cache.get(index)
            fresh = cached is not None and (cached[0] is observation or cached[0] == observation)
            if not fresh or observation.bad:  # what is bad depends on the others
                self._cache[index] = observation, self._frozen(observation, worst)
        found = (self._cache[index][1] for index in range(len(known)))
        return [trial for trial in found if trial is not None]

    def _frozen(self, seen: Observation, worst: tuple[float, ...] | None) -> FrozenTrial | None:
        """Return one trial as the sampler shall see it; None if it shall not.

        A diverged trial is one that was stopped at once where such are ranked, else one with the worst value of all.
        """
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        if self.space.problems(seen.values):
            return None  # of another sweep, or from before the space was edited
        native, values, steps = Native.RUNNING, None, dict[int, float]()
        ranks_stopped = self.ranks_stopped and len(self.sweep.metrics) == 1
        if seen.bad:
            native, values = (Native.PRUNED, None) if ranks_stopped else (Native.COMPLETE, worst)
        elif seen.state is TrialState.FINISHED:
            native, values = Native.COMPLETE, seen.metrics
        elif seen.state in (TrialState.PRUNED, TrialState.AT_RUNG):
            native, values = (Native.PRUNED, None) if ranks_stopped else (Native.COMPLETE, seen.metrics)
            steps = {seen.step: seen.metrics[0]} if ranks_stopped and seen.metrics else {}
        failed_otherwise = seen.state.ended and native is Native.RUNNING
        if failed_otherwise or (native is Native.COMPLETE and values is None):
            return None
        params = self.params(seen.values)
        return create_trial(
            state=native,
            values=None if values is None else list(values),
            params={name: value for name, (value, _) in params.items()},
            distributions={name: axis for name, (_, axis) in params.items()},
            intermediate_values=steps,
            system_attrs=dict(seen.sampler),
        )

    def _worst(self, known: Sequence[Observation]) -> tuple[float, ...] | None:
        """The worst value of each metric so far."""
        seen = [observation.metrics for observation in known if observation.metrics is not None]
        if not seen:
            return None
        worst = [max if metric.goal == "minimize" else min for metric in self.sweep.metrics]
        return tuple(pick(column) for pick, column in zip(worst, zip(*seen, strict=True), strict=True))
