"""Plain keys of a sweep file: its trainer's class, method, seed, warm start."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.search import ALIASES, METHODS, Method
from orchestrator.spec.reader import Reader
from orchestrator.spec.sweep_file import BUILTIN_TRAINERS, DEFAULT_TRAINER

_TRAINER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def read_trainer(reader: Reader, content: Mapping[str, Any]) -> str:
    """Return the name of the trainer's class."""
    trainer = reader.text(("trainer",), content.get("trainer"), DEFAULT_TRAINER)
    if not _TRAINER.fullmatch(trainer):
        close = f"{{command: {shlex.split(trainer)}}}" if re.search(r"\s|\.py$", trainer) else None
        reader.wrong(("trainer",), "must look like package.module:Class", trainer, close=close)
    return DEFAULT_TRAINER if trainer in BUILTIN_TRAINERS else trainer


def default_to(value: int | None, default: int) -> int:
    """Return a number, the default where there is none."""
    return default if value is None else value


def read_seed(reader: Reader, content: Mapping[str, Any], settings: Mapping[str, Any], base: Mapping[str, Any]) -> int:
    """Return the sweep's seed, which is that of every trial too; by default the training configuration's."""
    inherited = settings.get("seed", base.get("seed", 0))
    if "seed" not in content:
        return inherited if isinstance(inherited, int) else 0
    seed = default_to(reader.whole(("seed",), content["seed"]), 0)
    if "seed" in settings and settings["seed"] != seed:
        reader.wrong(
            ("set", "seed"), f"differs from the sweep's `seed` ({seed}), which every trial has", settings["seed"]
        )
    return seed


def read_warm_start(reader: Reader, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of other sweeps."""
    path, given = ("warm_start",), content.get("warm_start")
    names = [] if given is None else [given] if isinstance(given, str) else reader.sequence(path, given)
    for name in names:
        if name is None:
            reader.wrong(path, "must be names of sweeps", name)
        yield reader.text(path, name, "")


def read_method(reader: Reader, content: Mapping[str, Any]) -> type[Method]:
    """Return the search method, the first there is where the file has none that is known."""
    given, default = content.get("method"), next(iter(METHODS))
    if given is None:
        reader.wrong(("method",), f"is missing: one of {', '.join(METHODS)}")
    elif given == "custom":
        reader.wrong(("method",), f"unknown search method; write one of {', '.join(METHODS)}", given)
    else:
        chosen = reader.choice(("method",), given, (*METHODS, *ALIASES), default)
        return METHODS[ALIASES.get(chosen, chosen)]
    return METHODS[default]
