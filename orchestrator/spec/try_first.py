"""`try_first`: configurations that a search begins with, or that somebody asks for while it runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, nearest
from orchestrator.space import Parameter, Space
from orchestrator.spec.reader import Path, Reader, flat

if TYPE_CHECKING:
    from orchestrator.spec.sweep import SweepSpec

KEY = "try_first"
DRAWS = 100
"""Combinations drawn to complete one that is given in part, so that nothing forbids it."""


def read_try_first(reader: Reader, content: Mapping[str, Any], space: Space) -> tuple[dict[str, Any], ...]:
    """Read the list, each entry as dotted keys; one that is no combination of this sweep is noted."""
    given = content.get(KEY)
    entries = [given] if isinstance(given, Mapping) else [] if given is None else reader.sequence((KEY,), given)
    found: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        path: Path = (KEY, str(index))
        values = flat(reader.mapping(path, entry))
        problems = space.problems(completed(space, values, index)) if values else []
        unknown = [key for key in values if key not in space.names]
        if not values:
            reader.wrong(path, "must map parameters to values, e.g. {optimizer.lr: 0.001}", entry)
        for key in unknown:
            rule = f"is no parameter of this sweep: they are {', '.join(space.names)}"
            reader.wrong((*path, key), rule, values[key], close=nearest(key, list(space.names)))
        for problem in () if unknown else problems:
            reader.wrong(path, problem, entry)
        found.append(values)
    return tuple(found)


def completed(space: Space, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a whole combination: the values that are given, the others drawn so that nothing forbids it.

    A function of its arguments: drawn again it is the same one. What is given and does not exist there is kept, for
    `Space.problems` to name.
    """
    chance = random.Random(f"{KEY} {seed}")

    def choose(parameter: Parameter) -> Any:
        if all(key in given for key in parameter.keys):
            return tuple(given[key] for key in parameter.members) or given[parameter.name]
        drawn = parameter.from_unit(chance.random())
        fixed = [index for index, key in enumerate(parameter.members) if key in given]
        if not fixed:
            return drawn
        rows = [row for row in parameter.choices if all(row[at] == given[parameter.members[at]] for at in fixed)]
        return rows[0] if rows else drawn

    values: dict[str, Any] = {}
    for _ in range(DRAWS):
        values = {**space.suggest(choose), **given}
        if space.allowed(values):
            break
    return values


def check_try_first(reader: Reader, spec: SweepSpec) -> None:
    """Note an entry that breaks a rule of the training configuration, and more of them than trials."""
    for index, given in enumerate(spec.try_first):
        try:
            spec.config_for(completed(spec.space, given, index))
        except ConfigError as error:
            for problem in error.problems:
                reader.wrong((KEY, str(index)), f"`{problem.key}`: {problem.rule}", problem.value)
    if spec.run_cap is not None and len(spec.try_first) > spec.run_cap:
        reader.wrong((KEY,), f"has {len(spec.try_first)} configurations, and `run_cap` is {spec.run_cap}")
