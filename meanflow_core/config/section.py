"""A part of the training configuration: constructing one checks it."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

from meanflow_core.errors import ConfigError, Problem, nearest

INF = math.inf


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a section's fields by name (not to be changed): Python works them out anew each time,
    which is most of the time of reading a configuration."""
    return typing.get_type_hints(cls)


@cache
def _choices(cls: type) -> dict[str, tuple[Any, ...]]:
    """Return the values that each field of a section may have where they are words."""
    hints = hints_of(cls)
    return {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is Literal}


def _misspelt(section: Section) -> Iterator[Problem]:
    for name, choices in _choices(type(section)).items():  # type: ignore[arg-type]
        value = getattr(section, name)
        if value not in choices:
            rule = f"must be one of {', '.join(str(choice) for choice in choices)}"
            close = nearest(str(value), [str(choice) for choice in choices])
            yield Problem(key=name, value=value, rule=rule, nearest=close)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the configuration. Constructing one checks it: a wrong value never exists."""

    def __post_init__(self) -> None:
        problems = list(_misspelt(self)) or list(self.problems())
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
