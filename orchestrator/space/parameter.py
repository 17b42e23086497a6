"""One dimension of a search space: what it may be, and how a number in (0, 1) becomes a value of it."""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

from orchestrator.space.condition import Predicate, same
from orchestrator.space.prior import Prior

Kind = Literal["constant", "categorical", "int", "float", "normal", "beta"]

_EDGE = 1e-6
"""Unbounded distributions are cut at these quantiles (4.75 sigma): u = 0 and 1 have no finite value there."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One thing to choose: a swept key, or several that are zipped together.

    Args:
        name: the dotted key; of a zipped parameter, its keys joined with `+`.
        kind: `constant` (one choice), `categorical`, `int`, `float`, `normal` or `beta`.
        distribution: the name it has in the sweep file.
        low: smallest value, inclusive, on the lattice of `step`; for `normal` an optional cut.
        high: largest value, inclusive, likewise.
        log: the distribution is that of the logarithm (`float`, `int`: log-uniform; `normal`: log-normal).
        step: values are whole multiples of it (the file's q); whole numbers if it is one.
        choices: of `constant` and `categorical`; of a zipped parameter, its rows (tuples).
        probabilities: of the choices; None: all alike.
        mu: of `normal` (with `log`, of the logarithm).
        sigma: of `normal`, likewise.
        a: first shape of `beta`.
        b: second shape of `beta`.
        when: it exists only where this holds.
        members: the keys of a zipped parameter; empty for others.
        prior: where its best value is believed to be; None: nothing is known.
    """

    name: str
    kind: Kind
    distribution: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] | None = None
    mu: float = 0.0
    sigma: float = 1.0
    a: float = 1.0
    b: float = 1.0
    when: Predicate = ()
    members: tuple[str, ...] = ()
    prior: Prior | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys it gives values to."""
        return self.members or (self.name,)

    @property
    def native(self) -> bool:
        """Whether a float, int or categorical range with optional `log` or `step` describes it.

        A searcher that knows nothing else searches u in (0, 1) for the others, and `from_unit` gives the value.
        """
        if self.kind in ("int", "float"):
            return not (self.log and self.step is not None and (self.kind == "float" or self.step != 1))
        return self.kind == "categorical" and self.probabilities is None

    @property
    def discrete(self) -> bool:
        """Whether its values can be listed."""
        return self.kind in ("constant", "categorical", "int") or (
            self.step is not None and self.low is not None and self.high is not None
        )

    @property
    def size(self) -> int:
        """How many values it has, when it is discrete.

        Raises:
            ValueError: it is continuous.
        """
        if not self.discrete:
            raise ValueError(f"{self.name} is continuous")
        return len(self.choices) or self._cells

    def values(self) -> Sequence[Any]:
        """Return all values of a discrete parameter, in order.

        Raises:
            ValueError: it is continuous.
        """
        size = self.size
        return self.choices or tuple(self._at(index) for index in range(size))

    def assign(self, value: Any) -> dict[str, Any]:
        """Return the chosen value as `key -> value`: one entry, or one for each zipped key."""
        return dict(zip(self.members, value, strict=True)) if self.members else {self.name: value}

    # ----------------------------------------------------------------------------------- (0, 1) to values

    def from_unit(self, u: float) -> Any:
        """Return the value at quantile `u`: the inverse of the distribution function, monotone in u.

        Args:
            u: in [0, 1].
        """
        if self.choices:
            return self.choices[min(bisect.bisect_right(self._cumulative, u), len(self.choices) - 1)]
        if self.kind in ("int", "float"):
            return self._from_range(u)
        u = min(max(u, _EDGE), 1 - _EDGE)
        if self.kind == "normal":
            x = self._normal.inv_cdf(self._cut[0] + u * (self._cut[1] - self._cut[0]))
            return self._clip(math.exp(x) if self.log else x)
        from scipy.special import betaincinv  # here alone: it takes half a second to import

        return self._clip(float(betaincinv(self.a, self.b, u)))

    def believed(self, u: float, power: float) -> Any:
        """Return the value at quantile `u` of what is believed: of its distribution times prior ^ power."""
        return self.from_unit(u if self.prior is None else self.prior.moved(u, power))

    def log_prior(self, value: Any) -> float:
        """Return the logarithm of the prior's density at a value, relative to its distribution; 0 without a prior."""
        return 0.0 if self.prior is None else self.prior.log_density(self.to_unit(value))

    def to_unit(self, value: Any) -> float:
        """Return a quantile of `value`: `from_unit(to_unit(v))` is v again (the middle of a discrete cell).

        Raises:
            ValueError: it is none of the parameter's values.
        """
        if not self.contains(value):
            raise ValueError(f"{value!r} is not a value of {self.name}")
        if self.choices:
            index = next(i for i, choice in enumerate(self.choices) if same(choice, value))
            edges = (0.0, *self._cumulative)
            return (edges[index] + edges[index + 1]) / 2
        if self.kind in ("int", "float"):
            return self._to_range(value)
        if self.kind == "normal":
            low, high = self._cut
            x = value if not self.log else math.log(value) if value > 0 else -math.inf
            u = (self._normal.cdf(x) - low) / (high - low)
        else:
            from scipy.special import betainc

            u = float(betainc(self.a, self.b, value))
        return min(max(u, _EDGE), 1 - _EDGE)

    def contains(self, value: Any) -> bool:
        """Whether it may have this value (bounds inclusive, on the lattice)."""
        if self.choices:
            return any(same(choice, value) for choice in self.choices)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return False
        step = self.step or (1 if self.kind == "int" else None)
        slack = 1e-9 * max(abs(value), abs(step or 0.0))
        if step is not None and abs(value - round(value / step) * step) > slack:
            return False
        low = 0.0 if self.kind == "beta" else self.low
        high = 1.0 if self.kind == "beta" else self.high
        return (low is None or value >= low - slack) and (high is None or value <= high + slack)

    # ---------------------------------------------------------------------------------------------- texts

    @cached_property
    def labels(self) -> tuple[str | float | bool | None, ...]:
        """The choices as plain scalars, for a store without lists: JSON text where a choice is not a scalar."""
        plain = all(choice is None or isinstance(choice, str | int | float | bool) for choice in self.choices)
        return self.choices if plain else tuple(json.dumps(choice) for choice in self.choices)

    def labelled(self, label: Any) -> Any:
        """Return the choice that has this label.

        Raises:
            ValueError: no choice has it.
        """
        for choice, own in zip(self.choices, self.labels, strict=True):
            if same(own, label):
                return choice
        raise ValueError(f"{label!r} is not a label of {self.name}")

    def __str__(self) -> str:
        """One line for people, e.g. `log_uniform_values 0.0001 .. 0.003`."""
        if self.choices:
            shown = ", ".join(_short(choice) for choice in self.choices[:8]) + (", ..." if self.size > 8 else "")
            weights = f"  p = {', '.join(f'{p:g}' for p in self.probabilities)}" if self.probabilities else ""
            return (shown if self.kind != "constant" else f"always {shown}") + weights + self._told
        shape = {"normal": f" mu {self.mu:g} sigma {self.sigma:g}", "beta": f" a {self.a:g} b {self.b:g}"}.get(
            self.kind, ""
        )
        ends = ""
        if self.low is not None or self.high is not None:
            ends = f" {'' if self.low is None else f'{self.low:g} '}..{'' if self.high is None else f' {self.high:g}'}"
        grain = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.distribution}{shape}{ends}{grain}{self._told}"

    @property
    def _told(self) -> str:
        return "" if self.prior is None else f"  prior {self.prior.text}"

    # -------------------------------------------------------------------------------------------- helpers

    @property
    def sound(self) -> bool:
        """Whether the bounds of a normal distribution leave enough of it to draw from, and its values are numbers."""
        low, high = self._cut
        try:
            return high - low >= _EDGE and self.from_unit(0.0) <= self.from_unit(1.0)
        except OverflowError:  # of exp
            return False

    @cached_property
    def _cumulative(self) -> tuple[float, ...]:
        weights = self.probabilities or (1 / len(self.choices),) * len(self.choices)
        return tuple(itertools.accumulate(weights))

    @cached_property
    def _normal(self) -> NormalDist:
        return NormalDist(self.mu, self.sigma)

    @cached_property
    def _cut(self) -> tuple[float, float]:
        """The quantiles of the plain normal distribution between which it is cut off."""

        def quantile(bound: float | None, otherwise: float) -> float:
            if bound is None:
                return otherwise
            if self.log and bound <= 0:
                return 0.0
            return self._normal.cdf(math.log(bound) if self.log else bound)

        return quantile(self.low, 0.0), quantile(self.high, 1.0)

    @property
    def _ends(self) -> tuple[float, float]:
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} has no bounds")
        return self.low, self.high

    @cached_property
    def _grain(self) -> float:
        return self.step or 1

    @cached_property
    def _cells(self) -> int:
        low, high = self._ends
        return round((high - low) / self._grain) + 1

    def _at(self, index: int) -> float:
        """The value of a lattice cell, free of binary noise: the third of 0.1 is 0.3."""
        return on_lattice(round(self._ends[0] / self._grain) + index, self._grain)

    def _from_range(self, u: float) -> float:
        low, high = self._ends
        if self.kind == "float" and self.step is None:
            if self.log:
                value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
            else:
                value = low + u * (high - low)
            return min(max(value, low), high)  # rounding may step over an end
        if self.log:
            half = self._grain / 2  # each value owns the numbers that round to it, the ends too
            start, end = math.log(low - half), math.log(high + half)
            index = round((math.exp(start + u * (end - start)) - low) / self._grain)
        else:
            index = int(u * self._cells)
        return self._at(min(max(index, 0), self._cells - 1))

    def _to_range(self, value: float) -> float:
        low, high = self._ends
        continuous = self.kind == "float" and self.step is None
        if not self.log and not continuous:
            return (round((value - low) / self._grain) + 0.5) / self._cells
        half = 0.0 if continuous else self._grain / 2
        start, end, x = low - half, high + half, value
        if self.log:
            start, end, x = math.log(start), math.log(end), math.log(x)
        return min(max((x - start) / (end - start), 0.0), 1.0)

    def _clip(self, value: float) -> float:
        """Round to the lattice and keep within the bounds, which lie on it."""
        if self.step is not None:
            value = on_lattice(round(value / self.step), self.step)
        if self.low is not None:
            value = max(value, self.low)
        return value if self.high is None else min(value, self.high)


def on_lattice(index: int, step: float) -> float:
    """Return index * step as people write it: 3 * 0.1 is 0.3. An int if the step is one."""
    return index * step if isinstance(step, int) else float(Decimal(repr(step)) * index)


def _short(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)
