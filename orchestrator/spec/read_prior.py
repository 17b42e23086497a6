"""`prior` of a parameter: a centre with a spread, a law, or what is published."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any

from meanflow_core.errors import nearest
from orchestrator.space import Parameter, Prior, same
from orchestrator.spec.published import PUBLISHED, WORD_SHARE
from orchestrator.spec.reader import Path, Reader

CELLS = 128
"""Cells of the quantiles of a range."""
LEAST = 0.01
"""The least share of a law that must lie within the parameter's range."""
CENTRE = ("center", "spread")
WORD = "published"

ReadLaw = Callable[[Reader, Path, str, Mapping[str, Any]], Parameter | None]


def with_prior(reader: Reader, path: Path, parameter: Parameter, given: Any, read_law: ReadLaw) -> Parameter:
    """Return the parameter with its prior; what is wrong is noted, and the parameter returned as it was.

    Args:
        reader: takes the problems.
        path: of the prior.
        parameter: whose it is.
        given: what the file says.
        read_law: reads a distribution as that of a parameter.
    """
    if parameter.kind == "constant":
        reader.wrong(path, "has no place: there is one value", given)
        return parameter
    if given == WORD:
        prior = _published(reader, path, parameter)
    elif not isinstance(given, Mapping):
        rule = f"must be `{WORD}`, {{center: , spread: }}, or a law such as {{distribution: normal, mu: , sigma: }}"
        reader.wrong(path, rule, given, close=nearest(str(given), [WORD]))
        return parameter
    elif any(key in CENTRE or nearest(key, CENTRE) for key in given) and "distribution" not in given:
        prior = _around(reader, path, parameter, reader.mapping(path, given, CENTRE))
    else:
        prior = _law(reader, path, parameter, given, read_law)
    return parameter if prior is None else replace(parameter, prior=prior)


def _around(reader: Reader, path: Path, parameter: Parameter, given: Mapping[str, Any]) -> Prior | None:
    """The normal distribution around a centre; of a logarithmic range the log-normal one, its spread a factor."""
    if not _numeric(parameter):
        rule = f"needs `probabilities`, one for each of {', '.join(map(str, parameter.choices))}"
        reader.wrong(path, rule, dict(given))
        return None
    before = len(reader.problems)
    for key in CENTRE:
        if given.get(key) is None:
            reader.wrong(path, f"needs `{key}`: {{center: where the best is thought to be, spread: how far off}}")
    center = reader.number((*path, "center"), given.get("center"))
    spread = reader.number((*path, "spread"), given.get("spread"), above=1.0 if parameter.log else 0.0)
    if center is not None and not _inside(parameter, center):
        reader.wrong((*path, "center"), f"lies outside of {parameter}", center)
    if center is None or spread is None or len(reader.problems) > before:
        return None
    factor = "a factor of " if parameter.log else ""
    prior, inside = _made(parameter, [_normal(parameter, center, spread)], f"{center:g} ± {factor}{spread:g}")
    if inside < LEAST:
        reader.wrong((*path, "spread"), f"is so small that none of {parameter} is within it", spread)
        return None
    return prior


def _law(
    reader: Reader, path: Path, parameter: Parameter, given: Mapping[str, Any], read_law: ReadLaw
) -> Prior | None:  # fmt: skip
    before = len(reader.problems)
    for key in ("prior", "when"):
        if key in given:
            reader.wrong((*path, key), "has no place in a prior")
    listed = bool(parameter.choices)
    if listed and set(given) == {"probabilities"}:
        given = {"values": list(parameter.choices), **given}
    law = read_law(reader, path, parameter.name, given)
    if law is None or len(reader.problems) > before:
        return None
    words = law.kind in ("constant", "categorical")
    if words and not (listed and len(law.choices) == len(parameter.choices)):
        reader.wrong(path, "a list's prior is {probabilities: [...]}, a range's a distribution of numbers", dict(given))
        return None
    if not words and not _numeric(parameter):
        reader.wrong(path, f"needs `probabilities`, one for each of {', '.join(map(str, parameter.choices))}")
        return None
    text = f"p = {', '.join(f'{p:g}' for p in law.probabilities)}" if law.probabilities else str(law)
    prior, inside = _made(parameter, [law], text)
    if inside < LEAST:
        reader.wrong(path, f"leaves almost nothing within {parameter}", str(law))
        return None
    return prior


def _published(reader: Reader, path: Path, parameter: Parameter) -> Prior | None:
    known = PUBLISHED.get(parameter.name)
    if known is None:
        rule = f"nothing is published of {parameter.name}; known are {', '.join(PUBLISHED)}"
        reader.wrong(path, rule, WORD, close=nearest(parameter.name, list(PUBLISHED)))
        return None
    values = [value for value in known.values if _inside(parameter, value)]
    said = ", ".join(map(str, known.values))
    if not values:
        reader.wrong(path, f"the published values ({said}) lie outside of {parameter}", WORD)
        return None
    text = f"published: {', '.join(map(str, values))}"
    if _numeric(parameter):
        return _made(parameter, [_normal(parameter, value, known.spread) for value in values], text)[0]
    chosen = [any(same(choice, value) for value in values) for choice in parameter.choices]
    others = (1 - WORD_SHARE) / max(len(chosen) - sum(chosen), 1)
    return Prior.of(_edges(parameter), [WORD_SHARE / sum(chosen) if each else others for each in chosen], text)


# --------------------------------------------------------------------------------------------------- masses


def _normal(parameter: Parameter, center: float, spread: float) -> Parameter:
    log = parameter.log
    mu, sigma = (math.log(center), math.log(spread) if spread > 1 else spread / center) if log else (center, spread)
    return Parameter(name=parameter.name, kind="normal", distribution="normal", log=log, mu=mu, sigma=sigma)


def _made(parameter: Parameter, laws: Sequence[Parameter], text: str) -> tuple[Prior, float]:
    """Return the prior that is the even mixture of these laws, and the share of them within the range."""
    edges = _edges(parameter)
    if laws[0].choices:  # a law over the same list
        return Prior.of(edges, laws[0].probabilities or [1.0] * len(laws[0].choices), text), 1.0
    if parameter.choices:
        masses = [math.fsum(_density(law, float(choice)) for law in laws) for choice in parameter.choices]
        total = math.fsum(masses)
        return Prior.of(edges, masses if total > 0 else [1.0] * len(masses), text), float(total > 0)
    if parameter.step is not None or parameter.kind == "int":
        half = (parameter.step or 1) / 2
        values = [parameter.from_unit((a + b) / 2) for a, b in pairwise(edges)]
        once = sorted(set(values))  # a value may have several cells, or a cell several values
        between = [once[0] - half, *((a + b) / 2 for a, b in pairwise(once)), once[-1] + half]
        own = {value: (*ends, values.count(value)) for value, ends in zip(once, pairwise(between), strict=True)}
        ends = [own[value] for value in values]
    else:
        values = [parameter.from_unit(edge) for edge in edges]
        ends = [(a, b, 1) for a, b in pairwise(values)]
    masses = [math.fsum(_below(law, b) - _below(law, a) for law in laws) / len(laws) / n for a, b, n in ends]
    inside = math.fsum(masses)
    return Prior.of(edges, masses if inside > 0 else [1.0] * len(masses), text), inside


def _edges(parameter: Parameter) -> list[float]:
    if parameter.choices:
        weights = parameter.probabilities or [1 / len(parameter.choices)] * len(parameter.choices)
        return [0.0, *(math.fsum(weights[: at + 1]) for at in range(len(weights) - 1)), 1.0]
    cells = parameter.size if parameter.discrete and not parameter.log and parameter.size <= CELLS else CELLS
    return [at / cells for at in range(cells + 1)]


def _below(law: Parameter, x: float) -> float:
    """Return the share of a law below a value."""
    if law.log and x <= 0:
        return 0.0
    if law.kind == "normal":
        found = NormalDist(law.mu, law.sigma).cdf(math.log(x) if law.log else x)
        low = 0.0 if law.low is None else _below(replace(law, low=None, high=None), law.low)
        high = 1.0 if law.high is None else _below(replace(law, low=None, high=None), law.high)
        return min(max((found - low) / (high - low), 0.0), 1.0)
    if law.kind == "beta":
        from scipy.special import betainc

        return float(betainc(law.a, law.b, min(max(x, 0.0), 1.0)))
    assert law.low is not None
    assert law.high is not None
    low, high, x = (math.log(law.low), math.log(law.high), math.log(x)) if law.log else (law.low, law.high, x)
    return min(max((x - low) / (high - low), 0.0), 1.0)


def _density(law: Parameter, x: float) -> float:
    """Return a law's density at a value, on its own (linear or logarithmic) axis, by a small difference."""
    if law.log:
        return 0.0 if x <= 0 else _below(law, x * 1.001) - _below(law, x / 1.001)
    width = 1e-3 * ((law.sigma if law.kind == "normal" else 1.0) if law.low is None else abs(law.high or 1.0) or 1.0)
    return _below(law, x + width) - _below(law, x - width)


def _numeric(parameter: Parameter) -> bool:
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in parameter.choices)


def _inside(parameter: Parameter, value: Any) -> bool:
    """Whether a value lies within the parameter's range, between the values of its lattice or list too."""
    if not parameter.choices:
        ends = parameter.from_unit(0.0), parameter.from_unit(1.0)
        return isinstance(value, int | float) and bool(ends[0] <= value <= ends[1])
    if _numeric(parameter) and isinstance(value, int | float):
        return bool(min(parameter.choices) <= value <= max(parameter.choices))
    return any(same(choice, value) for choice in parameter.choices)
