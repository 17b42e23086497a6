"""A parameter as Optuna sees it: an axis with a distribution, and the place of a value on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.space import Parameter, same

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Coordinate:
    """A place on an axis: what Optuna calls the parameter's value."""

    value: Any


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return Optuna's distribution; a distribution that Optuna lacks is searched over its quantiles."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not parameter.native:
        return FloatDistribution(0.0, 1.0)
    if parameter.kind == "categorical":
        return CategoricalDistribution(parameter.labels)
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.kind == "int":
        step = 1 if parameter.log else int(parameter.step or 1)
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def coordinate(parameter: Parameter, values: Mapping[str, Any]) -> Coordinate | None:
    """Return where a combination lies on a parameter's axis; None if it has no place there."""
    if parameter.kind == "constant" or not all(key in values for key in parameter.keys):
        return None
    value: Any = tuple(values[key] for key in parameter.members) if parameter.members else values[parameter.name]
    if not parameter.contains(value):
        return None
    if not parameter.native:
        return Coordinate(parameter.to_unit(value))
    if parameter.kind != "categorical":
        return Coordinate(value)
    pairs = zip(parameter.choices, parameter.labels, strict=True)
    return Coordinate(next(label for choice, label in pairs if same(choice, value)))


def value_at(parameter: Parameter, place: Any) -> Any:
    """Return the value at a place on a parameter's axis."""
    if not parameter.native:
        return parameter.from_unit(place)
    if parameter.kind == "categorical":
        return parameter.labelled(place)
    return place


def suggest(trial: Trial, name: str, axis: BaseDistribution) -> Any:
    """Return the place on an axis that Optuna's sampler chooses for a trial that was asked for."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match axis:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, axis.choices)
        case IntDistribution():
            return trial.suggest_int(name, axis.low, axis.high, step=axis.step, log=axis.log)
        case FloatDistribution():
            return trial.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.log)
    raise TypeError(f"no kind of axis: {axis!r}")
