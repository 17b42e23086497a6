"""A search method: how combinations are chosen, as a function of the sweep, the position and the recorded trials.

Every draw has a position: 0, 1, 2, ... over the whole sweep, rejected draws included. Nothing else is remembered
between draws, so a resumed sweep proposes what an uninterrupted one would have.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from meanflow_core.errors import ConfigError, Problem
from orchestrator.search.draws import Accept, Draw, Exploit, Member, Observation, independent
from orchestrator.search.optuna_space import coordinate, distribution
from orchestrator.search.sweep import Sweep
from orchestrator.space import Parameter

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TRIES = 500
"""Draws after which a space counts as exhausted, unless it is small enough to look."""
SMALL = 100_000
"""A space of at most this many combinations is searched through for what is left."""
USUAL, BEGINS = 40, 4
"""Trials that a sweep counts with that has no `run_cap`; draws in which priors have their full power, at least."""


class Method(ABC):
    """A search method. What the class says holds for every sweep; an object of it is the search of one.

    Args:
        sweep: the sweep.
    """

    name: ClassVar[str]
    """Its word in the sweep file."""
    about: ClassVar[str]
    """What it does, in a line."""
    exhaustive: ClassVar[bool] = False
    """Whether it tries every combination of a finite space and ends with the last."""
    several_metrics: ClassVar[bool] = True
    """Whether it can search by more than one metric."""
    learns: ClassVar[bool] = False
    """Whether its draws depend on results."""
    reuses: ClassVar[bool] = True
    """Whether a result of another sweep can stand for one of its trials."""
    population: ClassVar[bool] = False
    """Whether its trials train together: each waits at every report for the others, and `exploits` is asked."""
    believes: ClassVar[bool] = True
    """Whether it makes use of priors."""
    tries: ClassVar[int] = TRIES
    """Proposals that may be forbidden or known before the method is overruled by a draw without a model."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.space = sweep.space

    # ----------------------------------------------------------------------------- what it asks of a sweep

    @classmethod
    def problems(cls, sweep: Sweep) -> Iterator[Problem]:
        """Yield why a sweep cannot have this method; keys are those of the file, e.g. `parameters.optimizer.lr`."""
        if cls.exhaustive:
            try:
                sweep.space.grid_size()
            except ConfigError as error:  # it has no end, or cannot be counted
                yield from error.problems
        elif not sweep.limited:
            rule = f"is missing: `{cls.name}` has no end of its own (a `budget` would do as well)"
            yield Problem(key="run_cap", rule=rule)

    @classmethod
    def notes(cls, sweep: Sweep) -> Iterator[str]:
        """Yield what is no mistake, but what the user should know of this method and this sweep."""
        yield from ()

    @classmethod
    def repeats(cls, on_duplicate: str) -> bool:
        """Whether it may try a configuration that this sweep has tried already."""
        return on_duplicate == "run"

    # ---------------------------------------------------------------------------------------- its draws

    def draw(self, position: int, observations: Iterable[Observation], accept: Accept) -> Draw | None:
        """Return the first acceptable combination from `position` on; None when there is none left.

        Args:
            position: draws made so far.
            observations: the recorded trials, by number; those of other sweeps first.
            accept: see `Accept`.
        """
        known = list(observations) if self.learns else []
        for at in range(position, position + TRIES):
            values, sampler = self.propose(at, known) if at - position < self.tries else (self.free(at), {})
            if self.space.allowed(values) and accept(values):
                return Draw(at, values, sampler)
        return self._leftover(position + TRIES, accept)

    @abstractmethod
    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the combination of one draw, and what to show again with its trial (`Observation.sampler`).

        Args:
            position: of the draw.
            known: the recorded trials, where the method learns from them.
        """

    def free(self, position: int) -> dict[str, Any]:
        """Return the combination of a draw that looks at no results."""
        return independent(self.space, self.sweep.seed, position, self.belief(position))

    def belief(self, position: int, count: int | None = None) -> float:
        """Return the power of the priors in one draw.

        Every second draw leaves them out, which the paper's do not: a wrong prior costs about half of the draws then,
        and not most of the sweep (measured: benchmarks/priors_on_curves.py).

        Args:
            position: of the draw.
            count: the step of the search by which it fades; None: the position tells.
        """
        return self.fading(position + 1 if count is None else count) if position % 2 == 0 else 0.0

    def fading(self, count: int) -> float:
        """Return the power of the priors at the search's `count`-th step: beta / count, at most 1 (piBO's, Eq. 6).

        beta is a tenth of the trials that the sweep may have, as in the paper's experiments; in a short sweep `BEGINS`.
        """
        beta = max(BEGINS, (self.sweep.run_cap or USUAL) / 10)
        return min(1.0, beta / count) if self.space.believes else 0.0

    def params(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, BaseDistribution]]:
        """Return the values as Optuna's parameters, (value, distribution) by name; those out of range are left out."""
        found = {}
        for parameter in self.varied:
            place = coordinate(parameter, values)
            if place is not None:
                found[parameter.name] = (place.value, self.distributions[parameter.name])
        return found

    @cached_property
    def varied(self) -> list[Parameter]:
        """The parameters that have more than one value."""
        return [parameter for parameter in self.space.parameters if parameter.kind != "constant"]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each of them."""
        return {parameter.name: distribution(parameter) for parameter in self.varied}

    def _leftover(self, position: int, accept: Accept) -> Draw | None:
        """When draws only repeat what is known: the first combination of a small space that is not, if any."""
        if self.space.continuous() or math.prod(p.size for p in self.varied) > SMALL:
            return None
        values = next((values for values in self.space.grid() if accept(values)), None)
        return None if values is None else Draw(position, values)

    def forecast(self, known: Sequence[Observation]) -> dict[int, float]:
        """Return what trials are expected to come to at their end, by number; empty where the method cannot tell.

        Args:
            known: the recorded trials.
        """
        return {}

    # ------------------------------------------------------------------------------------- populations

    def exploits(
        self, members: Sequence[Member], step: int, valid: Callable[[dict[str, Any]], bool]
    ) -> list[Exploit]:  # fmt: skip
        """Return who goes on from whose checkpoint now that all trials have reported at `step`; see `population`.

        Args:
            members: the trials that go on.
            step: where they stand.
            valid: whether the training configuration allows a combination.
        """
        return []
