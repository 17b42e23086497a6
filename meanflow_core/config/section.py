"""A part of the training configuration: constructing one checks it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from meanflow_core.errors import ConfigError, Problem

INF = math.inf


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the configuration. Constructing one checks it: a wrong value never exists."""

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ConfigError(problems)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with this section's values, keys relative to the section."""
        yield from ()

    def usual(self) -> Self:
        """Return the section of the same kind (`name`) whose other values are the defaults."""
        kind = {"name": name} if (name := getattr(self, "name", None)) is not None else {}
        return type(self)(**kind)

    def _bounds(self, **rules: tuple[float, float, str]) -> Iterator[Problem]:
        """Yield a problem for each field outside [low, high]; a bracket "(" or ")" in `kind` excludes that end."""
        for key, (low, high, kind) in rules.items():
            value = getattr(self, key)
            if value is None:
                continue
            above = value > low if kind[0] == "(" else value >= low
            below = value < high if kind[1] == ")" else value <= high
            if not (math.isfinite(value) and above and below):
                left = "" if low == -math.inf else f"{low:g} {'<' if kind[0] == '(' else '<='} "
                right = "" if high == math.inf else f" {'<' if kind[1] == ')' else '<='} {high:g}"
                rule = f"`{left}{key}{right}` must hold" if left or right else "must be finite"
                yield Problem(key=key, value=value, rule=rule)
