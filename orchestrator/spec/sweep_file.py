"""The content of a sweep file as plain values: overrides applied, its base configuration read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meanflow_core.config import YamlFile, load_config, parse_value, read_yaml, valid_keys
from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.spec.program import is_program
from orchestrator.spec.reader import Reader, flat, put

DEFAULT_TRAINER = "meanflow_core:Trainer"
BUILTIN_TRAINERS = (DEFAULT_TRAINER, "meanflow_core.trainer:Trainer")
"""The MeanFlow trainer, by its name and by the one that older sweep files have."""
KEYS: dict[str, str] = {
    "name": "Name of the sweep, and of its folder. Default: the file's name.",
    "description": "Free text.",
    "base": "The training configuration that trials start from: a file (relative to this one), or keys.",
    "set": "Keys of the training configuration that differ from `base` in every trial.",
    "trainer": "What trains: package.module:Class, or a mapping for an own program. Default: the MeanFlow trainer.",
    "program": "An own program that each trial runs, with its parameters as arguments.",
    "command": "Its command, a list of words with W&B's macros. Default: the program with `--key=value`.",
    "method": "How combinations are chosen.",
    "metric": "What is optimised.",
    "metrics": "Several metrics: the sweep looks for their Pareto front.",
    "parameters": "What is varied.",
    "zip": "Lists of keys whose values move together.",
    "forbid": "Combinations that are never tried.",
    "try_first": "Configurations to begin with; keys that are left out are drawn.",
    "run_cap": "Number of trials. Default for a grid: all of it.",
    "early_terminate": "When a trial is stopped early.",
    "replicates": "More seeds for the best configurations.",
    "select": "What the best configuration is chosen by: the expected value, or the observed one.",
    "resources": "What one trial needs.",
    "budget": "What the sweep may spend.",
    "retries": "How often a trial is restarted after a failure that is not its own.",
    "seed": "Seed of the search, and first seed of each trial.",
    "warm_start": "Other sweeps whose results the search starts from.",
    "on_duplicate": "What happens to a configuration that was trained before: reuse, skip or run.",
    "max_concurrent": "Maximum number of concurrent trials. Default: as many as fit.",
    "report_timeout": "A trial that reports nothing for this long is ended and restarted. Default: never.",
}

KEY_ALIASES = {
    "learning_rate": "optimizer.lr",
    "wd": "optimizer.weight_decay",
    "epochs": "trainer.steps",
    "iterations": "trainer.steps",
    "num_layers": "model.depth",
    "hidden_size": "model.width",
    "hidden_dim": "model.width",
    "cfg_scale": "objective.guidance.scale",
    "flow_ratio": "objective.time.ratio",
}
"""What is often swept under other names."""


def read_content(
    reader: Reader, document: YamlFile, overrides: Iterable[str], defaults: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the file's content without `base`, and the resolved nested base configuration.

    Args:
        reader: takes the problems.
        document: the sweep file.
        overrides: see `read_spec`.
        defaults: see `read_spec`.
    """
    content: dict[str, Any] = reader.plain(document.content)
    for word in overrides:
        _override(reader, content, word)
    return content, _read_base(reader, content, document.path, defaults)


def refuse_training_configuration(document: YamlFile) -> None:
    """Say so at once if the file is a training configuration: each of its keys would be an unknown one here.

    Raises:
        ConfigError: it is one.
    """
    content = document.content
    sections = {key.partition(".")[0] for key in valid_keys()} - {"seed"}
    foreign = [key for key in content if str(key) in sections and (key != "trainer" or isinstance(content[key], dict))]
    if foreign and not {"method", "parameters"} & set(content):
        name = document.path
        rule = (
            f"is a training configuration, not a sweep: a sweep names it (`base: {name.name}`) beside `method`, "
            f"`metric` and `parameters`; `meansweep train {name}` trains it alone"
        )
        raise ConfigError([Problem(key=str(foreign[0]), rule=rule, file=str(name), line=document.line_of(foreign[0]))])


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
    elif head in KEYS and not (rest and head == "trainer" and not is_program(content)):
        put(content, key, value)
    elif rest or key in valid_keys() or is_program(content):
        content["set"] = {**(content.get("set") or {}), key: value}
        close = (
            nearest(key, list(KEYS)) if is_program(content) and key not in (content.get("parameters") or ()) else None
        )
        if close:
            reader.note((key,), f"is an argument of the program; {close!r} is a key of the file")
    else:
        close = KEY_ALIASES.get(key) or nearest(key, [*KEYS, *valid_keys()])
        reader.wrong((key,), "unknown key of an override", value, close=close)


def _read_base(reader: Reader, content: dict[str, Any], path: Path, defaults: int | None) -> dict[str, Any]:
    """Return the nested base configuration, without what is wrong in it; take `base` out of the content."""
    if not {"base", "trainer", "program", "command"} & content.keys():
        rule = (
            "is missing: what is trained? A training configuration (`base: configs/digits_mlp.yaml`, or its keys: "
            "`base: {data: {name: digits}, model: {name: mlp}}`), a program of your own (`program: train.py`), or a "
            "trainer of your own (`trainer: package.module:Class`)"
        )
        reader.wrong(("base",), rule)
    given = content.pop("base", None)
    trainer = content.get("trainer")
    own = (not isinstance(trainer, str) or trainer.strip() in ("", *BUILTIN_TRAINERS)) and not is_program(content)
    document: YamlFile | None = None
    try:
        if isinstance(given, str) and not (path.parent / given).is_file():
            wanted = path.parent / given
            files = {
                file.stem: file
                for file in sorted(wanted.parent.glob("*.y*ml"))
                if not (path.exists() and file.samefile(path))
            }
            file = files.get(nearest(wanted.stem, list(files)) or "")
            close = None if file is None else os.path.relpath(file, path.parent)
            reader.wrong(("base",), "no such file (it is relative to this one)", given, close=close)
            given = {}
        elif isinstance(given, str):
            document = read_yaml(path.parent / given, reader.problems)
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
    resolved = _checked(place, prefix, values, defaults) if own else _nested(values)
    if document:
        reader.problems += place.problems
    return resolved


def _checked(reader: Reader, prefix: tuple[str, ...], values: dict[str, Any], defaults: int | None) -> dict[str, Any]:
    """Return the complete training configuration of dotted values; those that are wrong are noted and taken out."""
    while True:
        try:
            # what follows the objective's name does so in each trial
            return load_config(values, defaults=defaults).as_given()
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
