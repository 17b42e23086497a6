"""A JSON Schema (draft 2020-12) of the sweep file, for editors: completion, descriptions, red underlines.

The schema shows shapes and words. What needs arithmetic or the base configuration is checked by `read_spec` alone.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from meanflow_core.config import RECORDS, CustomSection, Section, TrainConfig, valid_keys
from orchestrator.limits import Limits
from orchestrator.search import ALIASES, METHODS, RULES, Replicates
from orchestrator.spec.program import SOURCES
from orchestrator.spec.read_parameters import DISTRIBUTIONS
from orchestrator.spec.read_settings import NOT_NEEDED, keys_of
from orchestrator.spec.settings import Budget, Metric, Resources
from orchestrator.spec.sweep_file import BUILTIN_TRAINERS, KEYS
from orchestrator.trials import MEAN

Schema = dict[str, Any]

_NEEDED = ("method", "metric", "metrics", "parameters")
"""Keys that may not be empty."""

_ARGUMENT: Schema = {"pattern": r"^(model|data)\."}
"""Of a class of the user's own."""
_NAMED: Schema = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"}
"""package.module:Class."""
_COMMAND: Schema = {"type": ["array", "string"], "minItems": 1, "items": {"type": ["string", "number", "boolean"]}}
_NUMBER: Schema = {"type": "number"}
_TEXT: Schema = {"type": "string", "pattern": r"\S"}
_ABOVE_ZERO: Schema = {"exclusiveMinimum": 0}
_DURATION: Schema = {
    "type": ["number", "string"],
    "pattern": r"^(\d+(\.\d+)?\s*[smhd]\s*)+$",
    "exclusiveMinimum": 0,
}
_SCALARS = {float: "number", int: "integer", bool: "boolean", str: "string", type(None): "null"}
_PARAMETER_DOCS: dict[str, str] = {
    "value": "One fixed value.",
    "values": "A list of values; the distribution is `categorical`.",
    "probabilities": "Probabilities of the values; they add up to 1.",
    "min": "Smallest value, inclusive. Whole `min` and `max` make `int_uniform`, others `uniform`.",
    "max": "Largest value, inclusive.",
    "distribution": "How values are drawn; inferred from the other keys where it is left out.",
    "mu": "Mean of a normal distribution (of the logarithm for log_normal).",
    "sigma": "Standard deviation of a normal distribution.",
    "q": "Values are whole multiples of q (of the q_ distributions).",
    "a": "First shape parameter of a beta distribution.",
    "b": "Second shape parameter of a beta distribution.",
    "when": "The parameter exists only where these keys have these values.",
    "parameters": "Parameters below this key.",
    "prior": "Where the best value is thought to be: center and spread, a distribution, or `published`.",
}
_LAW = ("probabilities", "min", "max", "distribution", "mu", "sigma", "q", "a", "b")
"""Keys of a prior that is a distribution."""


def sweep_schema() -> Schema:
    """Return the schema of a sweep file."""
    shapes = {key: shape if key in _NEEDED else _or_empty(shape) for key, shape in _top_level().items()}
    properties = {key: {**shapes[key], "description": text} for key, text in KEYS.items()}
    unused = {key: {"deprecated": True, "description": f"Not needed here: {why}."} for key, why in NOT_NEEDED.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "meansweep sweep",
        "type": "object",
        "properties": {**properties, **unused},
        "required": ["method", "parameters"],
        "oneOf": [{"required": ["metric"]}, {"required": ["metrics"]}],
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        # a trainer of the user's own has keys of its own, and values
        "if": {
            "properties": {"trainer": {"enum": [None, *BUILTIN_TRAINERS]}},
            "not": {"required": ["program"]},
        },
        "then": {"properties": _of_the_meanflow_trainer()},
        "$defs": _definitions(),
    }


def _top_level() -> dict[str, Schema]:
    return {
        "name": {"type": "string", "pattern": "[A-Za-z0-9]"},
        "description": _TEXT,
        "base": {**_TEXT, "type": ["string", "object"]},
        "set": {"type": "object", "properties": {key: _described(key) for key in _keys()}},
        "trainer": {"anyOf": [_NAMED, {"$ref": "#/$defs/program"}]},
        "program": _TEXT,
        "command": _COMMAND,
        "method": {
            "oneOf": [_word(name, method.about) for name, method in METHODS.items()]
            + [_word(word, f"the same as {name}") for word, name in ALIASES.items()]
        },
        "metric": {"$ref": "#/$defs/metric"},
        "metrics": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/metric"}},
        "parameters": {
            "type": "object",
            "minProperties": 1,
            "properties": {key: {**_described(key), "$ref": "#/$defs/parameter"} for key in _keys()},
            "additionalProperties": {"$ref": "#/$defs/parameter"},
        },
        "zip": {"type": "array", "items": {"type": ["array", "string"]}},
        "forbid": {
            "oneOf": [
                {"$ref": "#/$defs/conditions"},
                {"type": "array", "items": {"$ref": "#/$defs/conditions"}},
            ]
        },
        "try_first": {"type": "array", "items": {"type": "object", "minProperties": 1}},
        "run_cap": {"type": "integer", "minimum": 1},
        "early_terminate": {"$ref": "#/$defs/early_terminate"},
        "replicates": {"$ref": "#/$defs/replicates"},
        "resources": {"$ref": "#/$defs/resources"},
        "budget": {"$ref": "#/$defs/budget"},
        "retries": {"type": "integer", "minimum": 0, "default": 2},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "warm_start": {**_TEXT, "type": ["array", "string"], "items": _TEXT},
        "on_duplicate": {"enum": ["reuse", "skip", "run"], "default": "reuse"},
        "select": {"enum": ["expected", "observed"], "default": "expected"},
        "max_concurrent": {"type": "integer", "minimum": 1},
        "report_timeout": _DURATION,
    }


def _of_the_meanflow_trainer() -> dict[str, Schema]:
    """The keys of its configuration, each with the shape of its values."""
    shapes = {key: _merged([_typed(annotation) for annotation, _ in found]) for key, found in _keys().items()}
    shapes |= {key: {"anyOf": [shapes[key], _NAMED]} for key in ("model.name", "data.name")}
    varied = {key: {"properties": {"value": shape, "values": {"items": shape}}} for key, shape in shapes.items()}
    return {
        "set": {"properties": shapes},
        "parameters": {"propertyNames": {"anyOf": [{"enum": _parameter_names()}, _ARGUMENT]}, "properties": varied},
    }


def _definitions() -> dict[str, Schema]:
    parameter: dict[str, Schema] = {key: {"description": text} for key, text in _PARAMETER_DOCS.items()}
    for key in ("min", "max", "mu"):
        parameter[key] |= _or_empty(_NUMBER)
    for key in ("sigma", "q", "a", "b"):
        parameter[key] |= _or_empty(_NUMBER | _ABOVE_ZERO)
    parameter["values"] |= _or_empty({"type": "array", "minItems": 1, "uniqueItems": True})
    parameter["probabilities"] |= _or_empty({"type": "array", "items": _NUMBER | _ABOVE_ZERO})
    parameter["distribution"] |= _or_empty({"enum": list(DISTRIBUTIONS)})
    centre = _object({"center": _NUMBER, "spread": _NUMBER | _ABOVE_ZERO}, required=["center", "spread"])
    law = _object({key: dict(parameter[key]) for key in _LAW}) | {"minProperties": 1}
    parameter["prior"] |= _or_empty({"anyOf": [{"enum": ["published"]}, centre, law]})
    parameter["when"] |= _or_empty({"$ref": "#/$defs/conditions"})
    parameter["parameters"] |= _or_empty({"type": "object", "additionalProperties": {"$ref": "#/$defs/parameter"}})
    needs: list[Schema] = [{"required": list(keys)} for keys in (("value",), ("values",), ("min", "max"))]
    needs += [{"required": ["distribution"]}, {"required": ["parameters"]}]
    return {
        "parameter": {"type": "object", "properties": parameter, "additionalProperties": False, "anyOf": needs},
        "conditions": {
            "type": "object",
            "minProperties": 1,
            "description": "key -> value, [values], a comparison like '> 0.5', {min: , max: } or {not: }.",
        },
        "metric": _record(
            Metric,
            {
                "name": _TEXT,
                "at": {
                    "anyOf": [{"enum": ["last", "best"]}, _object({MEAN: {"type": "integer", "minimum": 1}}, [MEAN])]
                },
                "impute": {"enum": ["worst"], "deprecated": True},
                "impute_while_running": {"enum": [False], "deprecated": True},
            },
            required=["name"],
        ),
        "program": _program(),
        "early_terminate": _early_terminate(),
        "replicates": _record(Replicates),
        "resources": _record(
            Resources, {"custom": {"type": "object", "additionalProperties": _or_empty(_NUMBER | _ABOVE_ZERO)}}
        ),
        "budget": _record(Budget, {"wall_clock": _DURATION}),
    }


def _program() -> Schema:
    """The mapping `trainer`."""
    shapes: dict[str, Schema] = {
        "program": {**_TEXT, "description": KEYS["program"]},
        "command": {**_COMMAND, "description": KEYS["command"]},
        "metrics": {"enum": list(SOURCES), "description": "How the program reports. Default: `orchestrator.report`."},
        "steps": {"type": "integer", "minimum": 1, "description": "The last step that it reports, if that is known."},
        "folder": {**_TEXT, "description": "Its working folder, relative to this file."},
    }
    return _object(shapes) | {"minProperties": 1}


def _early_terminate() -> Schema:
    """One shape for the keys of all rules, and for each rule which of them it has, with what they mean to it."""
    records = {name: _record(rule)["properties"] for name, rule in RULES.items()}
    shapes: dict[str, Schema] = {"type": {"oneOf": [_word(name, rule.about) for name, rule in RULES.items()]}}
    for name, rule in RULES.items():
        shapes |= {key: shape for key, shape in records[name].items() if key not in shapes}
        shapes |= {key: {"type": ["boolean", "null"], "deprecated": True} for key in rule.unused}
    return {
        "type": "object",
        "properties": shapes,
        "required": ["type"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {"propertyNames": {"enum": list(keys_of(rule))}, "properties": records[name]},
            }
            for name, rule in RULES.items()
        ],
    }


def _record(cls: type, other: Mapping[str, Schema] | None = None, *, required: list[str] | None = None) -> Schema:
    """The schema of a settings class, its fields' docstrings as descriptions."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        docs |= _docs(base)
    needed, hints = required or [], typing.get_type_hints(cls, include_extras=True)
    own = {key: hint for key, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar}
    shapes = {key: _typed(annotation) for key, annotation in own.items()} | dict(other or {})
    shapes = {key: shape if key in needed else _or_empty(shape) for key, shape in shapes.items()}
    described = {key: {**shape, **({"description": docs[key]} if key in docs else {})} for key, shape in shapes.items()}
    return _object(described, needed) | {"description": inspect.getdoc(cls)}


def _object(shapes: Mapping[str, Schema], required: list[str] | None = None) -> Schema:
    needed = {} if required is None else {"required": required}
    return {"type": "object", "properties": dict(shapes), "additionalProperties": False, **needed}


def _or_empty(shape: Schema) -> Schema:
    """The same shape, or nothing: an empty key is as good as none."""
    match shape:
        case {"enum": words}:
            return {**shape, "enum": [*words, *([] if None in words else [None])]}
        case {"type": kinds}:
            kinds = kinds if isinstance(kinds, list) else [kinds]
            return {**shape, "type": [*kinds, *([] if "null" in kinds else ["null"])]}
        case {"anyOf": shapes}:
            return {**shape, "anyOf": [*shapes, {"type": "null"}]}
        case _:
            return {"anyOf": [shape, {"type": "null"}]}


def _word(name: str, why: str) -> Schema:
    return {"const": name, "description": why}


def _parameter_names() -> list[str]:
    """Every key, dotted, and every group of keys (for nested `parameters`)."""
    names: dict[str, None] = {}
    for key in valid_keys():
        parts = key.split(".")
        names |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return [name for name in names if name not in RECORDS]


def _typed(annotation: Any) -> Schema:
    """The JSON shape of a Python annotation."""
    if annotation in _SCALARS:
        return {"type": _SCALARS[annotation]}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _typed(annotation.__origin__) | _limited(annotation.__metadata__[0])
    if len(arguments) == 2 and arguments[1] is type(None) and typing.get_origin(arguments[0]) is typing.Annotated:
        return _or_empty(_typed(arguments[0]))
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _typed(arguments[0])}
    if arguments and all(argument in _SCALARS for argument in arguments):
        return {"type": [_SCALARS[argument] for argument in arguments]}
    if arguments and isinstance(origin, type) and issubclass(origin, Mapping | dict):
        return {"type": "object"}
    return {"anyOf": [_typed(argument) for argument in arguments]}


def _limited(limits: Limits) -> Schema:
    words = {"minimum": limits.low, "exclusiveMinimum": limits.above, "maximum": limits.high}
    return {word: bound for word, bound in words.items() if bound is not None}


# ----------------------------------------------------------------------------------------- descriptions


def _described(key: str) -> Schema:
    text = key_descriptions().get(key)
    return {"description": text} if text else {}


def key_descriptions() -> dict[str, str]:
    """Return the docstring of every key of the training configuration that has one."""
    return {key: next(text for _, text in found if text) for key, found in _keys().items() if any(t for _, t in found)}


@cache
def _keys() -> dict[str, list[tuple[Any, str]]]:
    """Every key of the training configuration with (annotation, docstring) in each kind of section that has it."""
    found: dict[str, list[tuple[Any, str]]] = {}

    def walk(cls: type, prefix: str) -> None:
        docs = _docs(cls)
        for name, annotation in typing.get_type_hints(cls).items():
            kinds = [k for k in (typing.get_args(annotation) or (annotation,)) if _is_section(k)]
            kinds = [kind for kind in kinds if not issubclass(kind, CustomSection)]
            for kind in kinds:
                walk(kind, f"{prefix}{name}.")
            if not kinds and name not in RECORDS:
                found.setdefault(f"{prefix}{name}", []).append((annotation, docs.get(name, "")))

    walk(TrainConfig, "")
    return found


def _merged(shapes: list[Schema]) -> Schema:
    """One shape for a key that several kinds of section have, e.g. model.name."""
    if all("enum" in shape for shape in shapes):
        return {"enum": list(dict.fromkeys(word for shape in shapes for word in shape["enum"]))}
    different = [shape for index, shape in enumerate(shapes) if shape not in shapes[:index]]
    return different[0] if len(different) == 1 else {"anyOf": different}


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _docs(cls: type) -> dict[str, str]:
    """The string below each field of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(inspect.cleandoc(text).split())
    return found
