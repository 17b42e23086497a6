"""The block `parameters` of a sweep file, in the vocabulary of W&B sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meanflow_core.errors import nearest
from orchestrator.space import Kind, Parameter, on_lattice, same
from orchestrator.spec.read_prior import with_prior
from orchestrator.spec.reader import LARGEST, Path, Reader

RANGE = ("min", "max")
# distribution -> (needed keys, keys it may have)
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ("probabilities",)),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (RANGE, ()),
    "uniform": (RANGE, ()),
    "q_uniform": (RANGE, ("q",)),
    "log_uniform_values": (RANGE, ()),
    "inv_log_uniform_values": (RANGE, ()),
    "q_log_uniform_values": (RANGE, ("q",)),
    "normal": ((), ("mu", "sigma", *RANGE)),
    "q_normal": ((), ("mu", "sigma", "q", *RANGE)),
    "log_normal": ((), ("mu", "sigma", *RANGE)),
    "q_log_normal": ((), ("mu", "sigma", "q", *RANGE)),
    "beta": (("a", "b"), ()),
    "q_beta": (("a", "b"), ("q",)),
}
# Names under which W&B reads `min` and `max` as natural exponents: whoever writes values would get e^value.
EXPONENTS = {
    "log_uniform": "log_uniform_values",
    "inv_log_uniform": "log_uniform_values",
    "q_log_uniform": "q_log_uniform_values",
}
PARAMETER_KEYS = (
    "distribution",
    "value",
    "values",
    "probabilities",
    *RANGE,
    "mu",
    "sigma",
    "q",
    "a",
    "b",
    "when",
    "prior",
)


@dataclass
class SpaceDraft:
    """What has been read so far, before conditions are resolved."""

    parameters: dict[str, Parameter] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    """Where each parameter stands, by dotted key (also those that were read wrong)."""
    whens: dict[str, Any] = field(default_factory=dict)


def read_parameters(reader: Reader, content: Any) -> SpaceDraft:
    """Read the block `parameters`, nested or dotted."""
    draft = SpaceDraft()
    path: Path = ("parameters",)
    if content is None:
        reader.wrong(path, "is missing: which keys are varied?")
        return draft
    _walk(reader, draft, path, reader.mapping(path, content), "")
    if not draft.paths and isinstance(content, Mapping):
        reader.wrong(path, "is empty: which keys are varied?")
    return draft


def _walk(reader: Reader, draft: SpaceDraft, path: Path, content: Mapping[str, Any], prefix: str) -> None:
    for name, definition in content.items():
        key, here = f"{prefix}{name}", (*path, name)
        if not isinstance(definition, Mapping):
            shape = "{values: [...]}" if isinstance(definition, list) else "{value: ...}"
            reader.wrong(here, f"must be a mapping; write {shape}", definition)
            draft.paths[key] = here
        elif "parameters" in definition:
            for other in definition:
                if other != "parameters":
                    reader.wrong((*here, other), "cannot be combined with `parameters`, which makes this a group")
            inner = (*here, "parameters")
            _walk(reader, draft, inner, reader.mapping(inner, definition["parameters"]), f"{key}.")
        elif key in draft.paths:
            reader.wrong(here, "duplicate key (once dotted, once nested)")
        else:
            draft.paths[key] = here
            parameter = _parameter(reader, here, key, definition)
            if parameter:
                draft.parameters[key] = parameter
            if definition.get("when") is not None:
                draft.whens[key] = definition["when"]


def _parameter(reader: Reader, path: Path, key: str, definition: Mapping[str, Any]) -> Parameter | None:
    before = len(reader.problems)
    for word, value in definition.items():
        if isinstance(value, Mapping) and word not in PARAMETER_KEYS:
            reader.wrong((*path, word), "nested keys need `parameters:` between them")
            return None
    reader.keys(path, definition, PARAMETER_KEYS)
    # an empty key says nothing, as everywhere in the file; only a `value` may be null
    definition = {word: value for word, value in definition.items() if value is not None or word == "value"}
    name = _distribution(reader, path, definition)
    if name is None:
        return None
    needed, allowed = DISTRIBUTIONS[name]
    for missing in [word for word in needed if word not in definition]:
        reader.wrong(path, f"`{name}` needs `{missing}`")
    for word in definition:
        if word in PARAMETER_KEYS and word not in (*needed, *allowed, "distribution", "when", "prior"):
            reader.wrong((*path, word), f"is not a key of `{name}`, which has {', '.join((*needed, *allowed))}")
    if len(reader.problems) > before:
        return None
    if name in ("constant", "categorical", "categorical_w_probabilities"):
        parameter = _choices(reader, path, key, name, definition)
    elif name in ("beta", "q_beta") or "normal" in name:
        parameter = _shaped(reader, path, key, name, definition)
    else:
        parameter = _range(reader, path, key, name, definition)
    if parameter is not None and len(reader.problems) == before and "prior" in definition:
        parameter = with_prior(reader, (*path, "prior"), parameter, definition["prior"], _parameter)
    return parameter if len(reader.problems) == before else None


def _distribution(reader: Reader, path: Path, definition: Mapping[str, Any]) -> str | None:
    """The distribution's name, given or inferred by W&B's rules."""
    given = definition.get("distribution")
    if given is None:
        if "value" in definition:
            return "constant"
        if "values" in definition:
            return "categorical"
        if "min" in definition and "max" in definition:
            whole = all(isinstance(definition[end], int) and not isinstance(definition[end], bool) for end in RANGE)
            return "int_uniform" if whole else "uniform"
        reader.wrong(path, "needs `value`, `values`, `min` and `max`, or a `distribution`")
        return None
    if isinstance(given, str) and given in EXPONENTS:
        reader.wrong((*path, "distribution"), _exponents(given, definition), given, close=EXPONENTS[given])
        return None
    if not isinstance(given, str) or given not in DISTRIBUTIONS:
        rule = f"must be one of {', '.join(DISTRIBUTIONS)}"
        reader.wrong((*path, "distribution"), rule, given, close=nearest(str(given), list(DISTRIBUTIONS)))
        return None
    return given


def _exponents(name: str, definition: Mapping[str, Any]) -> str:
    low, high = definition.get("min"), definition.get("max")
    instead = f"`distribution: {EXPONENTS[name]}` with the values themselves"
    if isinstance(low, int | float) and isinstance(high, int | float) and max(abs(low), abs(high)) < 700:
        ends = sorted(
            (math.exp(-low), math.exp(-high)) if name == "inv_log_uniform" else (math.exp(low), math.exp(high))
        )
        step = f", q: {definition['q']}" if "q" in definition else ""
        instead = (
            f"`{{distribution: {EXPONENTS[name]}, min: {ends[0]:.4g}, max: {ends[1]:.4g}{step}}}` if they are that here"
        )
        if min(low, high) > 0:
            instead += (
                f", or `{{distribution: {EXPONENTS[name]}, min: {low:g}, max: {high:g}{step}}}` if they are the values"
            )
    return f"W&B reads `min` and `max` of `{name}` as natural exponents, which few expect; write {instead}"


def _bucket(value: Any) -> Any:
    """Return a key that is equal for all values that are the same: thousands are not compared with one another."""
    if isinstance(value, list | tuple):
        return tuple(map(_bucket, value))
    return len(value) if isinstance(value, dict | set) else value


def _choices(reader: Reader, path: Path, key: str, name: str, definition: Mapping[str, Any]) -> Parameter | None:
    if name == "constant":
        return Parameter(name=key, kind="constant", distribution=name, choices=(definition["value"],))
    values = reader.sequence((*path, "values"), definition["values"])
    if not values and isinstance(definition["values"], list):
        reader.wrong((*path, "values"), "needs at least one value")
    if not values:
        return None
    before: dict[Any, list[Any]] = {}
    for index, value in enumerate(values):
        alike = before.setdefault(_bucket(value), [])
        if any(same(value, other) for other in alike):
            reader.wrong((*path, "values", str(index)), "duplicate value", value)
        alike.append(value)
    weights: tuple[float, ...] | None = None
    if "probabilities" in definition:
        where = (*path, "probabilities")
        given = reader.sequence(where, definition["probabilities"])
        if not all(_positive(reader, where, weight) for weight in given):
            return None
        weights = tuple(float(weight) for weight in given)
        if len(weights) != len(values):
            reader.wrong(where, f"must have one number for each of the {len(values)} values", list(weights))
        elif abs(sum(weights) - 1) > 1e-6:
            reader.wrong(where, f"must add up to 1 (they add up to {sum(weights):g})", list(weights))
    return Parameter(
        name=key, kind="categorical", distribution="categorical", choices=tuple(values), probabilities=weights
    )


def _range(reader: Reader, path: Path, key: str, name: str, definition: Mapping[str, Any]) -> Parameter | None:
    log = "log" in name
    if name == "int_uniform":
        low: float | None = reader.whole((*path, "min"), definition["min"], low=-(2**53))
        high: float | None = reader.whole((*path, "max"), definition["max"], low=-(2**53))
    else:
        above = 0.0 if log else -math.inf
        low = reader.number((*path, "min"), definition["min"], above=above)
        high = reader.number((*path, "max"), definition["max"], above=above)
    if low is None or high is None:
        return None
    if low >= high:
        reader.wrong((*path, "min"), f"`min < max` must hold (max is {high:g}); for one value write `value`", low)
        return None
    step = _step(reader, path, name, definition)
    if step is None:
        kind: Kind = "int" if name == "int_uniform" else "float"
        ends = (low, high) if kind == "int" else (float(low), float(high))
        return Parameter(name=key, kind=kind, distribution=name, low=ends[0], high=ends[1], log=log)
    first, last = _cells(low, high, step)
    if first is None or last is None or last < first:
        reader.wrong((*path, "q"), f"no multiple of q lies between {low:g} and {high:g}", step)
        return None
    return Parameter(
        name=key,
        kind="int" if isinstance(step, int) else "float",
        distribution=name,
        low=on_lattice(first, step),
        high=on_lattice(last, step),
        log=log,
        step=step,
    )


def _shaped(reader: Reader, path: Path, key: str, name: str, definition: Mapping[str, Any]) -> Parameter | None:
    """normal, log_normal, beta and their q_ forms."""
    step = _step(reader, path, name, definition)
    if "beta" in name:
        a, b = (reader.number((*path, word), definition[word], above=0) for word in ("a", "b"))
        if a is None or b is None:
            return None
        top = 1.0 if step is None else on_lattice(math.floor(1 / step + 1e-9), step)
        return Parameter(name=key, kind="beta", distribution=name, a=a, b=b, step=step, low=top * 0, high=top)
    log = "log" in name
    mu = reader.number((*path, "mu"), definition.get("mu", 0.0))
    sigma = reader.number((*path, "sigma"), definition.get("sigma", 1.0), above=0)
    floor = 0.0 if log else -math.inf
    low, high = (reader.number((*path, end), definition.get(end), low=floor) for end in RANGE)
    if mu is None or sigma is None:
        return None
    if low is not None and high is not None and low >= high:
        reader.wrong((*path, "min"), f"`min < max` must hold (max is {high:g})", low)
        return None
    if step is not None:
        first, last = _cells(low, high, step)
        if first is not None and last is not None and last <= first:
            rule = f"at least two multiples of q must lie between {low:g} and {high:g}"
            reader.wrong((*path, "q"), rule, step)
            return None
        low, high = (None if index is None else on_lattice(index, step) for index in (first, last))
    found = Parameter(
        name=key, kind="normal", distribution=name, log=log, mu=mu, sigma=sigma, step=step, low=low, high=high
    )
    if not found.sound:
        of = "the logarithm is " if log else ""
        rule = (
            f"leaves almost nothing of the distribution ({of}mu {mu:g}, sigma {sigma:g}) within what a number can hold"
        )
        reader.wrong(path, rule, str(found))
        return None
    return found


def _positive(reader: Reader, path: Path, value: Any) -> bool:
    if value is None:
        reader.wrong(path, "must be numbers", value)
    return reader.number(path, value, above=0) is not None


def _step(reader: Reader, path: Path, name: str, definition: Mapping[str, Any]) -> float | None:
    """The q of a q_ distribution; 1 by default, as in W&B."""
    if not name.startswith("q_"):
        return None
    step = reader.number((*path, "q"), definition.get("q", 1), above=0)
    ends = [abs(end) for end in (1, definition.get("min"), definition.get("max")) if isinstance(end, int | float)]
    if step is not None and max(ends) / step > LARGEST:
        reader.wrong((*path, "q"), f"is too small: {max(ends):g} is more than {LARGEST:,} times as much", step)
        return None
    return step


def _cells(low: float | None, high: float | None, step: float | None) -> tuple[int | None, int | None]:
    """The first and last whole multiple of `step` within [low, high]."""
    if step is None:
        return None, None
    first = None if low is None else math.ceil(low / step - 1e-9)
    return first, None if high is None else math.floor(high / step + 1e-9)
