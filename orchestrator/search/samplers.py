"""How combinations are chosen: a pure function of the sweep, the position of the draw and the recorded trials.

Every draw has a position: 0, 1, 2, ... over the whole sweep, rejected draws included. grid, random and qmc look at
nothing else. The model-based methods are Optuna's samplers, made anew for each draw with a seed from the sweep's seed
and the position, over a study that is made of the recorded trials. Nothing is remembered between draws, so a resumed
sweep proposes what an uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.search.optuna_space import coordinate, distribution, value_at
from orchestrator.space import Parameter
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from orchestrator.spec import SweepSpec

MODELS = ("tpe", "cmaes", "gp", "nsga2")
"""Methods that learn from results; the others know all their draws beforehand."""
_MODEL_TRIES = {"tpe": 50, "cmaes": 50, "gp": 5, "nsga2": 50}
"""Draws of a model that may be forbidden or known before it is overruled; a second each of a Gaussian process."""
_TRIES = 500
"""Draws after which a space counts as exhausted, unless it is small enough to look."""
_SMALL = 100_000
"""A space of at most this many combinations is searched through for what is left."""
_SHOWN, _BEST = 300, 25
"""Trials that TPE is shown of a longer sweep; the best of them (all that it ever takes for good) are never left out."""
_KEPT = ("cma:", "NSGA")
"""System attributes with which an evolutionary sampler finds its generations again."""


@dataclass(frozen=True)
class Observation:
    """What the search may know of one trial."""

    number: int
    values: Mapping[str, Any]
    state: TrialState
    metrics: tuple[float, ...] | None
    """The metrics at the last report, in the order of the sweep's metrics."""
    step: int = 0
    """Of the last report."""
    bad: bool = False
    """Diverged or out of memory: as bad as anything seen."""
    sampler: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """One combination to try."""

    position: int
    values: dict[str, Any]
    sampler: dict[str, Any] = field(default_factory=dict)


Accept = Callable[[dict[str, Any]], bool]
"""Whether a combination may be tried: it is none that was tried before, and the training configuration allows it."""


class Search:
    """Draws combinations for one sweep.

    Args:
        spec: the sweep.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self.space = spec.space
        self._cache: dict[int, tuple[Observation, FrozenTrial | None]] = {}

    def draw(self, position: int, observations: Iterable[Observation], accept: Accept) -> Draw | None:
        """Return the first acceptable combination from `position` on; None when there is none left.

        Args:
            position: draws made so far.
            observations: the recorded trials, by number; those of other sweeps first.
            accept: see `Accept`.
        """
        if self.spec.method == "grid":
            return self._next_of_grid(position, accept)
        models = self.spec.method in MODELS
        known = list(observations) if models else []
        for at in range(position, position + _TRIES):
            # A model that insists on what is known is overruled.
            asked = models and at - position < _MODEL_TRIES[self.spec.method]
            values, sampler = self._modelled(at, known) if asked else (self._free(at), {})
            if self.space.allowed(values) and accept(values):
                return Draw(at, values, sampler)
        return self._leftover(position + _TRIES, accept)

    def params(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, BaseDistribution]]:
        """Return the values as Optuna's parameters, (value, distribution) by name; those out of range are left out."""
        found = {}
        for parameter in self.space.parameters:
            place = coordinate(parameter, values)
            if place is not None:
                found[parameter.name] = (place.value, self._distributions[parameter.name])
        return found

    # ------------------------------------------------------------------------------- without a model

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        return list(self.space.grid())

    def _next_of_grid(self, position: int, accept: Accept) -> Draw | None:
        for at in range(position, len(self._grid)):
            if accept(self._grid[at]):
                return Draw(at, self._grid[at])
        return None

    def _free(self, position: int) -> dict[str, Any]:
        """Draw without a model: the Sobol sequence (qmc, and the first trials of tpe and gp), or independently."""
        if self.spec.method in ("qmc", "tpe", "gp"):
            unit = dict(zip((p.name for p in self._varied), self._sobol(position), strict=True))
            return self.space.suggest(lambda parameter: parameter.from_unit(unit[parameter.name]))
        source = random.Random(_seed(self.spec.seed, position))
        return self.space.draw(source.random)

    @cached_property
    def _varied(self) -> list[Parameter]:
        return [parameter for parameter in self.space.parameters if parameter.kind != "constant"]

    def _sobol(self, position: int) -> list[float]:
        from scipy.stats import qmc

        if not self._varied:
            return []
        engine = qmc.Sobol(len(self._varied), scramble=True, rng=_seed(self.spec.seed, -1))
        if position:
            engine.fast_forward(position)
        return [float(u) for u in engine.random(1)[0]]

    def _leftover(self, position: int, accept: Accept) -> Draw | None:
        """When draws only repeat what is known: the first combination of a small space that is not, if any."""
        if self.space.continuous() or math.prod(p.size for p in self._varied) > _SMALL:
            return None
        values = next((values for values in self.space.grid() if accept(values)), None)
        return None if values is None else Draw(position, values)

    # ---------------------------------------------------------------------------------- with a model

    def _modelled(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask an Optuna sampler, made for this draw alone."""
        import optuna
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        trials = self._study_of(known)
        ended = sum(trial.state != Native.RUNNING for trial in trials)
        if self.spec.method in ("tpe", "gp") and ended < self.startup:
            return self._free(position), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental features, used knowingly
            storage = _storage(self._thinned(trials) if self.spec.method == "tpe" else trials)
            sampler = self._sampler(_seed(self.spec.seed, position))
            directions = [metric.goal for metric in self.spec.metrics]
            study = optuna.create_study(storage=storage, sampler=sampler, directions=directions)
            trial = create_trial(state=Native.RUNNING)
            trial.number = trial._trial_id = len(trials)
            sampler.before_trial(study, trial)
            relative = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))

            def choose(parameter: Parameter) -> Any:
                place = relative.get(parameter.name)
                if place is None:
                    axis = self._distributions[parameter.name]
                    place = sampler.sample_independent(study, trial, parameter.name, axis)
                return value_at(parameter, place)

            values = self.space.suggest(choose)
        return values, {key: value for key, value in storage.noted.items() if key.startswith(_KEPT)}

    @cached_property
    def startup(self) -> int:
        """Trials that a model must have seen before it is asked."""
        return max(4, min(10, (self.spec.run_cap or 40) // 4))

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna import samplers

        match self.spec.method:
            case "tpe":
                # Each parameter by itself: the joint model (Optuna's default) gets stuck after few trials, and does
                # not know conditional parameters (measured: benchmarks/search_quality.py).
                return samplers.TPESampler(seed=seed, n_startup_trials=self.startup, multivariate=False)
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "gp":
                return samplers.GPSampler(
                    seed=seed, n_startup_trials=self.startup, warn_independent_sampling=False,
                )  # fmt: skip
            case _:
                population = max(4, min(50, (self.spec.run_cap or 200) // 4))
                return samplers.NSGAIISampler(seed=seed, population_size=population)

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {parameter.name: distribution(parameter) for parameter in self._varied}

    def _study_of(self, known: Sequence[Observation]) -> list[FrozenTrial]:
        """Return the trials as the sampler shall see them, numbered from 0."""
        worst = self._worst(known)
        trials: list[FrozenTrial] = []
        for index, observation in enumerate(known):
            cached = self._cache.get(index)
            fresh = cached is not None and (cached[0] is observation or cached[0] == observation)
            if cached is None or not fresh or observation.bad:  # what is bad depends on the others
                cached = self._cache[index] = observation, self._frozen(observation, worst)
            trial = cached[1]
            if trial is not None:
                trial.number = trial._trial_id = len(trials)
                trials.append(trial)
        return trials

    def _thinned(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return what TPE is shown: the best, and of the others an even sample over time.

        It weighs a handful of good trials against the density of all others, which a sample shows as well; with all of
        them a draw would take longer and longer.
        """
        if len(trials) <= _SHOWN or len(self.spec.metrics) > 1:
            return trials
        sign = 1.0 if self.spec.metric.goal == "minimize" else -1.0

        def rank(trial: FrozenTrial) -> tuple[float, float]:
            """As TPE ranks: finished ones by value, then stopped ones by how far they came."""
            if trial.values:
                return -math.inf, sign * trial.values[0]
            step, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
            return -step, sign * value

        ended = [trial for trial in trials if trial.state.is_finished()]
        best = {trial.number for trial in sorted(ended, key=rank)[:_BEST]}
        others = [trial for trial in ended if trial.number not in best]
        room = _SHOWN - _BEST
        kept = best | {others[index * len(others) // room].number for index in range(room)}
        return [trial for trial in ended if trial.number in kept]

    def _frozen(self, seen: Observation, worst: tuple[float, ...] | None) -> FrozenTrial | None:
        """Return one trial as the sampler shall see it; None if it shall not.

        TPE ranks trials that were stopped early, or wait at a rung, below the finished ones, by how far they came;
        there a diverged one is stopped at once. The other samplers know finished trials only: a stopped one counts
        with its last value, a diverged one with the worst value of all.
        """
        from optuna.trial import TrialState as Native
        from optuna.trial import create_trial

        if self.space.problems(seen.values):
            return None  # of another sweep, or from before the space was edited
        native, values, steps = Native.RUNNING, None, dict[int, float]()
        ranks_stopped = self.spec.method == "tpe" and len(self.spec.metrics) == 1
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
        worst = [max if metric.goal == "minimize" else min for metric in self.spec.metrics]
        return tuple(pick(column) for pick, column in zip(worst, zip(*seen, strict=True), strict=True))


def _seed(seed: int, position: int) -> int:
    """Return 31 bits that differ for every draw of every sweep."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{position}".encode()).digest()[:4], "big") >> 1


def _storage(trials: list[FrozenTrial]) -> Any:
    """Return an in-memory storage that shows these trials and keeps what a sampler notes on the next one."""
    from optuna.storages import InMemoryStorage

    class Shown(InMemoryStorage):
        def __init__(self) -> None:
            super().__init__()
            self.noted: dict[str, Any] = {}

        def get_all_trials(
            self, study_id: int, deepcopy: bool = True, states: Any = None
        ) -> list[optuna.trial.FrozenTrial]:
            return [trial for trial in trials if states is None or trial.state in states]

        def get_n_trials(self, study_id: int, state: Any = None) -> int:
            states = None if state is None else state if isinstance(state, tuple) else (state,)
            return len(self.get_all_trials(study_id, states=states))

        def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
            self.noted[key] = value

    return Shown()


def finite(metrics: Iterable[float | None]) -> tuple[float, ...] | None:
    """Return the metrics if there are all of them and all are finite."""
    found = tuple(metrics)
    kept = tuple(value for value in found if value is not None and math.isfinite(value))
    return kept if len(kept) == len(found) else None
