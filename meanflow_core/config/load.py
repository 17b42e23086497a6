"""Reading a training configuration with OmegaConf: every mistake at once, before anything starts.

It needs neither torch nor Ray.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meanflow_core.config.custom import CustomSection, is_named
from meanflow_core.config.defaults import FIRST, VERSION, meant_by, version_of
from meanflow_core.config.section import Section, hints_of
from meanflow_core.config.train_config import TrainConfig
from meanflow_core.config.yaml_file import YamlFile, parse_value, read_yaml
from meanflow_core.errors import ConfigError, Problem, nearest

HALF = ("fp16", "float16", "half", "16")
"""Names people give to the precision that is refused with its reason."""


OBJECTIVES_OWN = ("split", "direction", "teacher")
"""What of `objective` belongs to its name; times, guidance and weight serve every one."""


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), *, defaults: int | None = None
) -> TrainConfig:
    """Read a training configuration.

    Args:
        source: a YAML file, or nested dicts (dotted keys are allowed). What it leaves out has its default.
        overrides: `key=value` words, e.g. `objective.time.ratio=0.5`; later ones win.
        defaults: the version of the defaults where the source does not say; None: the present one. What this program
            has stored itself without saying is of version `FIRST`.

    Raises:
        ConfigError: listing every unknown key (with the nearest valid one), wrong type and broken rule.
    """
    document = None if isinstance(source, Mapping) else read_yaml(source)
    raw = _nest(source if document is None else document.content)  # type: ignore[arg-type]
    for word in overrides:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ConfigError([Problem(key=word, rule="an override must look like `key=value`")])
        _put(raw, key, parse_value(value))
    problems: list[Problem] = []
    version = raw["defaults"] = version_of(raw, defaults)
    if isinstance(version, int) and FIRST <= version < VERSION:
        meant_by(version, raw, TrainConfig())
    config = _build(TrainConfig, raw, "", problems, raw)
    if config is None or problems:
        raise ConfigError(problems if document is None else [_placed(p, document) for p in problems])
    return typing.cast(TrainConfig, config)


def _placed(problem: Problem, document: YamlFile) -> Problem:
    line = document.line_of(*problem.key.split(".")) or document.line_of(problem.key)
    return dataclasses.replace(problem, file=str(document.path), line=line)


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return `config` with dotted keys replaced: `with_values(c, {"objective.time.ratio": 0.5})`.

    Raises:
        ConfigError: as `load_config`.
    """
    raw = config.as_given()
    if values.get("objective.name", config.objective.name) != config.objective.name:
        for key in OBJECTIVES_OWN:  # they mean another thing to this one
            raw["objective"].pop(key, None)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if name == "name" and section in ("model", "data"):
            other = {k: v for k, v in values.items() if k.startswith(f"{section}.")}
            if raw[section]["name"] != value:  # the fields of another model mean nothing to this one
                raw[section] = {k.partition(".")[2]: v for k, v in other.items()}
    for key, value in values.items():
        _put(raw, key, value)
    return load_config(raw)


def valid_keys(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return every dotted leaf key with its type annotation.

    Args:
        config: nested or dotted values; a `model.name` or `data.name` in it narrows that section to its kind. A class
            of the user's own has the keys that are given.
    """
    raw = _nest(config or {})
    found: dict[str, Any] = {}

    def walk(cls: type, prefix: str) -> None:
        for name, annotation in hints_of(cls).items():
            key = f"{prefix}{name}"
            kinds = _sections(annotation)
            given = raw.get(name)
            chosen = given.get("name") if isinstance(given, Mapping) and not prefix else None
            if len(kinds) > 1 and isinstance(given, Mapping) and is_named(chosen):
                found.update(dict.fromkeys(_leaves(given, f"{key}."), Any))
                continue
            kinds = [kind for kind in kinds if not issubclass(kind, CustomSection)] if len(kinds) > 1 else kinds
            if len(kinds) > 1 and chosen in [_default_name(kind) for kind in kinds]:
                kinds = [kind for kind in kinds if _default_name(kind) == chosen]
            for kind in kinds:
                walk(kind, f"{key}.")
            if not kinds:
                found[key] = annotation

    walk(TrainConfig, "")
    return found


def _leaves(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _sections(annotation: Any) -> list[type]:
    """The section classes an annotation names; empty for a leaf."""
    options = typing.get_args(annotation) or (annotation,)
    return [option for option in options if isinstance(option, type) and issubclass(option, Section)]


def _default_name(cls: type) -> str:
    return str(next(f.default for f in dataclasses.fields(cls) if f.name == "name"))


def _nest(source: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in source.items():
        free = key == "evidence"  # a record, not configuration: its keys may hold dots
        _put(nested, str(key), _nest(value) if isinstance(value, Mapping) and not free else value)
    return nested


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    head, _, rest = key.partition(".")
    if rest:
        below = target.get(head)
        if not isinstance(below, dict):
            below = target[head] = {}
        _put(below, rest, value)
    elif isinstance(value, dict) and isinstance(target.get(head), dict) and head != "evidence":
        for name, item in value.items():
            _put(target[head], name, item)
    else:
        target[head] = value


def _build(cls: type, raw: Any, prefix: str, problems: list[Problem], root: Mapping[str, Any]) -> Any:
    """Build a section from plain values, adding to `problems`; None where it cannot be built."""
    if raw is None:
        raw = {}
    if issubclass(cls, CustomSection):
        return _build_custom(cls, raw, prefix, problems)
    if not isinstance(raw, Mapping):
        problems.append(Problem(key=prefix.rstrip("."), value=raw, rule="must be a mapping of keys"))
        return None
    hints = hints_of(cls)  # type: ignore[arg-type]
    found_before = len(problems)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if name not in hints:
            valid = [*valid_keys(root), *(f"{prefix}{hint}" for hint in hints)]
            here = [k for k in valid if k.startswith(prefix)]
            close = nearest(key, here) or nearest(key, valid)
            rule = "unknown key" if close else f"unknown key; valid here: {', '.join(hints)}"
            if key in valid_keys():  # of another kind: model.heads is a DiT's, not an MLP's
                rule, close = f"{_default_name(cls)} has no such key; valid here: {', '.join(hints)}", None
            problems.append(Problem(key=key, rule=rule, nearest=close))
        elif kinds := _sections(hints[name]):
            kind: type | None = kinds[0]
            if len(kinds) > 1:
                kind = _choose(kinds, value, getattr(cls(), name).name, key, problems)
            values[name] = _build(kind, value, f"{key}.", problems, root) if kind else None
        else:
            values[name] = _leaf(cls, name, value, key, hints[name], problems)
    if len(problems) > found_before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(problem.within(prefix.rstrip(".")) if prefix else problem for problem in error.problems)
        return None


def _build_custom(cls: type[CustomSection], raw: Mapping[str, Any], prefix: str, problems: list[Problem]) -> Any:
    """A class of the user's own: whatever stands beside its name is an argument."""
    arguments = {name: copy.deepcopy(value) for name, value in raw.items() if name != "name"}
    try:
        return cls(name=raw["name"], arguments=arguments)
    except ConfigError as error:
        problems.extend(problem.within(prefix.rstrip(".")) for problem in error.problems)
        return None


def _choose(kinds: list[type], raw: Any, default: str, key: str, problems: list[Problem]) -> type | None:
    names = {_default_name(kind): kind for kind in kinds if not issubclass(kind, CustomSection)}
    name = raw.get("name", default) if isinstance(raw, Mapping) else default
    if is_named(name):
        return next(kind for kind in kinds if issubclass(kind, CustomSection))
    if not isinstance(name, str) or name not in names:
        rule = f"must be one of {', '.join(names)}, or package.module:Class"
        problems.append(Problem(key=f"{key}.name", value=name, rule=rule, nearest=nearest(str(name), list(names))))
        return None
    return names[name]


def _leaf(cls: type, name: str, value: Any, key: str, annotation: Any, problems: list[Problem]) -> Any:
    """Convert one value with OmegaConf's rules (an int is a float, "3" is 3; 2.5 is not an int, True not a number)."""
    if _fits(value, annotation):  # most values: OmegaConf takes a millisecond for each, a whole config 0.1 s
        return copy.copy(value)
    try:
        schema = OmegaConf.structured(dataclasses.make_dataclass(cls.__name__, [(name, annotation)]))
        found = OmegaConf.to_container(OmegaConf.merge(schema, {name: value}), resolve=True)[name]  # type: ignore[call-overload, index]
        if isinstance(found, list) and any(isinstance(item, list | dict) for item in found):
            raise TypeError("OmegaConf looks at the items of a list no further")
        return found
    except (OmegaConfBaseException, TypeError):  # TypeError: a mapping in the place of a list
        choices = _choices(annotation)
        rule = f"must be one of {', '.join(choices)}" if choices else f"must be {_spoken(annotation)}"
        if name == "precision" and str(value) in HALF:
            rule += "; fp16 is refused: du/dt leaves its range (at most 65504) and training ends in NaN, bf16 does not"
        problems.append(Problem(key=key, value=value, rule=rule, nearest=nearest(str(value), choices)))
        return None


def _choices(annotation: Any) -> list[str]:
    """The words an annotation allows; empty where it is not a list of words (with or without null)."""
    kinds = [kind for kind in (typing.get_args(annotation) or ()) if kind is not type(None)]
    literal = annotation if typing.get_origin(annotation) is Literal else kinds[0] if len(kinds) == 1 else None
    return [str(word) for word in typing.get_args(literal)] if typing.get_origin(literal) is Literal else []


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value has the annotated type as it is, with nothing to convert."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return bool(value == {})
    if isinstance(value, str) and "${" in value:
        return False  # an interpolation, for OmegaConf to resolve
    return any(_fits(value, arg) for arg in args) if args else type(value) is annotation


def _spoken(annotation: Any) -> str:
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if annotation in words:
        return words[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return f"a list, each item {_spoken(args[0])}"
    return " or ".join(_spoken(arg) for arg in args) if args else str(annotation)
