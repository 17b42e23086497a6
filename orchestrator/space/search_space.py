"""The search space: the one form that `parameters`, `when`, `forbid` and `zip` of a sweep file are brought to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.space.condition import Predicate, holds
from orchestrator.space.parameter import Parameter

GRID_LIMIT = 1_000_000
"""Largest number of combinations that is listed one by one."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be chosen.

    Args:
        parameters: in the order of choice: a parameter stands after those that its `when` names.
        fixed: values of keys that are not chosen but that `when` and `forbid` may look at.
        forbid: combinations that must not be chosen: each a tuple of conditions that hold together.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    forbid: tuple[Predicate, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every dotted key that may be given a value, in the order of choice."""
        return tuple(key for parameter in self.parameters for key in parameter.keys)

    def suggest(self, chooser: Callable[[Parameter], Any]) -> dict[str, Any]:
        """Choose every parameter that exists, one after the other, and return `key -> value`.

        The result may be a forbidden combination: ask `allowed`, and choose again.

        Args:
            chooser: returns the value of a parameter (of a zipped one, one of its `choices`). It is not asked for
                constants, nor for parameters whose `when` does not hold.
        """
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._exists(parameter, values):
                constant = parameter.kind == "constant"
                values |= parameter.assign(parameter.choices[0] if constant else chooser(parameter))
        return values

    def draw(self, uniform: Callable[[], float], attempts: int = 10_000, *, power: float = 0.0) -> dict[str, Any]:
        """Choose at random among the allowed combinations.

        Args:
            uniform: returns the next number in [0, 1).
            power: of the priors; 0 leaves them out.
            attempts: draws after which it is given up.

        Raises:
            ConfigError: `forbid` left nothing in `attempts` draws.
        """
        for _ in range(attempts):
            values = self.suggest(lambda parameter: parameter.believed(uniform(), power))
            if self.allowed(values):
                return values
        raise ConfigError([Problem(key="forbid", rule=f"forbids all of {attempts} combinations drawn at random")])

    def log_prior(self, values: Mapping[str, Any]) -> float:
        """Return the logarithm of the density that the priors give a combination; what has none counts as 0."""
        told = (p for p in self.parameters if p.prior is not None and p.name in values)
        return math.fsum(parameter.log_prior(values[parameter.name]) for parameter in told)

    @property
    def believes(self) -> tuple[Parameter, ...]:
        """The parameters that have a prior."""
        return tuple(parameter for parameter in self.parameters if parameter.prior is not None)

    def allowed(self, values: Mapping[str, Any]) -> bool:
        """Whether no `forbid` matches. A condition on a key without a value never holds."""
        return not self.forbid or not any(holds(predicate, {**self.fixed, **values}) for predicate in self.forbid)

    def problems(self, values: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a combination: out of bounds, missing, not there, forbidden; empty if nothing."""
        found: list[str] = []
        expected: set[str] = set()
        for parameter in self.parameters:
            if not self._exists(parameter, values):
                continue
            expected.update(parameter.keys)
            missing = [key for key in parameter.keys if key not in values]
            found += [f"{key} is missing" for key in missing]
            if not missing:
                value: Any = tuple(values[key] for key in parameter.members) or values[parameter.name]
                if not parameter.contains(value):
                    found.append(f"{parameter.name} = {value!r} is outside of {parameter}")
        for key in values:
            if key not in expected:
                reason = "does not exist here (its `when` does not hold)" if key in self.names else "is no parameter"
                found.append(f"{key} {reason}")
        return found if self.allowed(values) else [*found, "the combination is forbidden"]

    # ----------------------------------------------------------------------------------------------- grid

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every allowed combination once, the last parameter fastest.

        Raises:
            ConfigError: naming each continuous parameter, and what to do.
        """
        self._check_grid()
        return (values for values in self._walk(self.parameters) if self.allowed(values))

    def grid_size(self) -> int:
        """Return the exact number of combinations that `grid` yields.

        Parameters that no condition involves only multiply the count; the others are walked through.

        Raises:
            ConfigError: naming each continuous parameter, and what to do; or that the grid is too large to count.
        """
        self._check_grid()
        named = {key for predicate in self._predicates() for condition in predicate for key in condition.keys}
        free = [p for p in self.parameters if not p.when and not named.intersection(p.keys)]
        bound = [p for p in self.parameters if p not in free]
        if math.prod(p.size for p in bound) > GRID_LIMIT * 100:
            raise ConfigError([Problem(key="parameters", rule="the grid is too large even to be counted")])
        count = sum(1 for values in self._walk(bound) if self.allowed(values))
        return count * math.prod(p.size for p in free)

    def continuous(self) -> tuple[Parameter, ...]:
        """The parameters whose values cannot be listed."""
        return tuple(parameter for parameter in self.parameters if not parameter.discrete)

    def _check_grid(self) -> None:
        rule = "is continuous, so a grid has no end; list `values`, or give it steps: `distribution: q_...` with `q`"
        problems = [
            Problem(key=f"parameters.{parameter.name}", value=str(parameter), rule=rule)
            for parameter in self.continuous()
        ]
        if problems:
            raise ConfigError(problems)

    def _walk(self, parameters: Iterable[Parameter]) -> Iterator[dict[str, Any]]:
        """Yield every combination of these parameters, forbidden ones too, without recursion into the stack's limit."""
        todo: list[tuple[int, dict[str, Any]]] = [(0, {})]
        ordered = tuple(parameters)
        while todo:
            index, values = todo.pop()
            while index < len(ordered) and not self._exists(ordered[index], values):
                index += 1
            if index == len(ordered):
                yield values
                continue
            parameter = ordered[index]
            choices = reversed(parameter.values())
            todo += [(index + 1, {**values, **parameter.assign(choice)}) for choice in choices]

    def _exists(self, parameter: Parameter, values: Mapping[str, Any]) -> bool:
        return not parameter.when or holds(parameter.when, {**self.fixed, **values})

    def _predicates(self) -> Iterator[Predicate]:
        yield from self.forbid
        yield from (parameter.when for parameter in self.parameters)
