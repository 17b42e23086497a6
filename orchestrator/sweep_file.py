"""The content of a sweep file as plain values: overrides applied, its base configuration read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meanflow_core.config import load_config, valid_keys
from meanflow_core.errors import ConfigError, nearest
from meanflow_core.yamlfile import YamlFile, parse_value, read_yaml
from orchestrator.reading import Reader, flat, put

DEFAULT_TRAINER = "meanflow_core.trainer:Trainer"
KEYS: dict[str, str] = {
    "name": "Of the sweep: its folder, and what commands call it. Default: the file's name.",
    "description": "Free text.",
    "base": "The training configuration that trials start from: a file (relative to this one), or keys.",
    "set": "Keys of the training configuration that differ from `base` in every trial.",
    "trainer": "The class that trains, as package.module:Class. Default: the MeanFlow trainer.",
    "method": "How combinations are chosen.",
    "metric": "What is optimised.",
    "metrics": "Several metrics: the sweep looks for their Pareto front.",
    "parameters": "What is varied.",
    "zip": "Lists of keys whose values move together.",
    "forbid": "Combinations that are never tried.",
    "run_cap": "Number of trials. Default for a grid: all of it.",
    "early_terminate": "When a trial is stopped early.",
    "replicates": "More seeds for the best configurations.",
    "resources": "What one trial needs.",
    "budget": "What the sweep may spend.",
    "retries": "How often a trial is started again after a fault that is not its own.",
    "seed": "Of the search, and of the first seed of each trial.",
    "warm_start": "Other sweeps whose results the search starts from.",
    "on_duplicate": "What happens to a configuration that was trained before: reuse, skip or run.",
    "max_concurrent": "Most trials at once. Default: as many as fit.",
}


def read_content(reader: Reader, document: YamlFile, overrides: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the file's content without `base`, and the resolved nested base configuration.

    Args:
        reader: takes the problems.
        document: the sweep file.
        overrides: see `read_spec`.
    """
    content: dict[str, Any] = reader.plain(document.content)
    for word in overrides:
        _override(reader, content, word)
    return content, _read_base(reader, content, document.path)


def _override(reader: Reader, content: dict[str, Any], word: str) -> None:
    key, sign, text = word.partition("=")
    head, _, rest = key.partition(".")
    if not sign or not key:
        reader.wrong((word,), "an override must look like `key=value`")
        return
    try:
        value = parse_value(text)
    except ConfigError as error:
        reader.wrong((key,), error.problems[0].rule, text)
        return
    if head in ("set", "parameters") and rest:
        block = content.setdefault(head, {})
        content[head] = {**(block if isinstance(block, dict) else {}), rest: value}
    elif head in KEYS and not (rest and head == "trainer"):
        put(content, key, value)
    elif rest or key in valid_keys():
        content["set"] = {**(content.get("set") or {}), key: value}
    else:
        reader.wrong((key,), "unknown key of an override", value, close=nearest(key, [*KEYS, *valid_keys()]))


def _read_base(reader: Reader, content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the nested base configuration, without what is wrong in it; take `base` out of the content."""
    given = content.pop("base", None)
    own = content.get("trainer") in (None, DEFAULT_TRAINER)
    document: YamlFile | None = None
    try:
        if isinstance(given, str) and not (path.parent / given).is_file():
            files = sorted(str(file.relative_to(path.parent)) for file in (path.parent / given).parent.glob("*.yaml"))
            reader.wrong(("base",), "no such file (it is relative to this one)", given, close=nearest(given, files))
            given = {}
        elif isinstance(given, str):
            document = read_yaml(path.parent / given)
            given = document.content
    except ConfigError as error:
        reader.problems += error.problems
        given = {}
    if given is not None and not isinstance(given, dict):
        reader.wrong(("base",), "must be a file, relative to this one, or keys of the training configuration", given)
        given = {}
    place = Reader(str(document.path), document) if document else reader
    prefix = () if document else ("base",)
    values = flat(place.plain(given or {}, prefix))
    resolved = _checked(place, prefix, values) if own else _nested(values)
    if document:
        reader.problems += place.problems
    return resolved


def _checked(reader: Reader, prefix: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Return the complete training configuration of dotted values; those that are wrong are noted and taken out."""
    while True:
        try:
            return load_config(values).to_dict()
        except ConfigError as error:
            broken = set[str]()
            for problem in error.problems:
                reader.wrong((*prefix, problem.key), problem.rule, problem.value, close=problem.nearest)
                broken |= {key for key in values if f"{key}.".startswith(f"{problem.key}.")}
            values = {key: value for key, value in values.items() if key not in broken} if broken else {}


def _nested(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in flat(content).items():
        put(found, key, value)
    return found
