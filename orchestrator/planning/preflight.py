"""What the trials of a sweep need on the machine that runs them: files, a trainer, metrics; asked before a start.

The sweep file itself may be read anywhere, also where neither data nor trainer is: `plan` on a laptop.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meanflow_core.config import DataConfig, ImageFolderConfig, ill_fitting, is_named, load_config
from meanflow_core.data import image_faults, image_notes, missing
from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.planning.probe import drawn_configs
from orchestrator.planning.programs import broken_files, missing_program
from orchestrator.provenance import c_compiler
from orchestrator.source_files import own_files

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

METHODS = ("train", "evaluate", "state_dict", "load_state_dict")
"""What a trainer must have."""
PATIENCE = 120.0
"""Seconds for which a start waits for a store of checkpoints that does not answer: an outage ends no sent sweep."""
DRAWS = 32
"""Configurations that are looked at: data and features are seldom varied."""


@dataclass(frozen=True)
class Here:
    """What `look_here` has found."""

    missing: list[Problem]
    """What trials would not find, each thing once."""
    notes: list[str]
    """What to know of the data that they would read: images that are left out."""


def missing_here(spec: SweepSpec) -> list[Problem]:
    """Return what trials would not find here, each thing once."""
    return look_here(spec).missing


def look_here(spec: SweepSpec, *, store: bool = True) -> Here:
    """Look at what trials would need on this machine.

    Nothing is read but the images of a folder, and nothing imported but networks and data of the user's own, to see
    whether they take their arguments.

    Args:
        spec: the sweep.
        store: look at the store of checkpoints too.
    """
    found: list[Problem] = []
    folders: dict[str, ImageFolderConfig] = {}
    if spec.program is not None:
        found += missing_program(spec.program)
    elif not spec.builtin_trainer:
        found += _trainer_module(spec.trainer)
    else:
        looked_at: list[DataConfig] = []
        configs = drawn_configs(spec, DRAWS)
        if any(config["trainer"]["compile"] for config in configs) and c_compiler() is None:
            rule = "needs a C compiler (cc, gcc or clang; $CC names another) where trials run, and none is here"
            found.append(Problem(key="trainer.compile", value=True, rule=rule))
        for config in configs:
            whole = load_config(config)
            problems = list(missing(whole)) or [*ill_fitting(whole), *_broken(whole.data, looked_at)]
            found += [problem for problem in problems if problem not in found]
            if isinstance(whole.data, ImageFolderConfig):
                folders[whole.data.path] = whole.data
    notes = [told for folder in folders.values() if (told := image_notes(folder)) is not None]
    stored = missing_storage() if store else []
    return Here([*(replace(problem, file=spec.file) for problem in found), *stored], notes)


def missing_storage() -> list[Problem]:
    """Return what keeps checkpoints from where $MEANSWEEP_STORAGE sends them: a small file is written there."""
    try:
        demand_storage()
    except ConfigError as error:
        return error.problems
    return []


def demand_storage(told: Callable[[str], None] | None = None) -> None:
    """Refuse to start what could keep no checkpoint.

    Args:
        told: is given a sentence where a store that does not answer is waited for, `PATIENCE` seconds; None: no wait.

    Raises:
        StoreAway: it was waited for, and did not answer.
        ConfigError: waiting would not help, with the reason.
    """
    from orchestrator.worker import StorageError, StoreAway, check_writable

    def tell(reason: str) -> None:
        if told is not None:
            told(f"waiting for the store of checkpoints, at most {PATIENCE:g} s (Ctrl-C ends the wait): {reason}")

    url = os.environ.get("MEANSWEEP_STORAGE", "").strip()
    try:
        if url:
            check_writable(url, patience=0.0 if told is None else PATIENCE, told=tell)
    except StorageError as error:
        if told is not None and isinstance(error, StoreAway):
            raise
        raise ConfigError([Problem(key="MEANSWEEP_STORAGE", rule=f"takes no checkpoint: {error}")]) from error


def demand_ready(spec: SweepSpec, told: Callable[[str], None] | None = None) -> None:
    """Refuse to start what cannot work here. Imports the trainer, or the metrics: seconds.

    Args:
        spec: the sweep.
        told: see `demand_storage`.

    Raises:
        StoreAway: see `demand_storage`.
        ConfigError: with everything that is missing.
    """
    problems = look_here(spec, store=False).missing
    if not problems:
        problems = [replace(problem, file=spec.file) for problem in _unknown(spec)]
    if problems:
        raise ConfigError([*problems, *missing_storage()])
    demand_storage(told)


def _broken(data: DataConfig, looked_at: list[DataConfig]) -> Iterator[Problem]:
    """Read the images of a folder, once for each folder and size."""
    if isinstance(data, ImageFolderConfig) and data not in looked_at:
        looked_at.append(data)
        yield from image_faults(data)


def _trainer_module(trainer: str) -> Iterator[Problem]:
    module = trainer.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package above it
        found = None
    if found is None:
        rule = f"there is no module {module!r}; it is looked for in the current folder and among installed packages"
        yield Problem(key="trainer", value=trainer, rule=rule)
    yield from broken_files("trainer", trainer, own_files(module))


def _unknown(spec: SweepSpec) -> Iterator[Problem]:
    if spec.program is not None:
        return
    if not spec.builtin_trainer:
        from orchestrator.worker import import_trainer

        try:
            made = import_trainer(spec.trainer)
        except ConfigError as error:
            yield from error.problems
        except Exception as error:  # its own code runs
            rule = f"cannot be imported here: {type(error).__name__}: {error}"
            yield Problem(key="trainer", value=spec.trainer, rule=rule)
        else:
            lacking = [name for name in METHODS if not hasattr(made, name)] if isinstance(made, type) else []
            if lacking and not hasattr(made, "__getattr__"):
                rule = f"has no {', '.join(lacking)}; a trainer has {', '.join(METHODS)} (docs/extending.md)"
                yield Problem(key="trainer", value=spec.trainer, rule=rule)
        return
    from meanflow_core.metrics import METRICS

    named = spec.set.get("evaluation.metrics", spec.base_config.evaluation.metrics) or ()
    for name in named:
        if name not in METRICS and not is_named(name):
            rule = f"unknown metric; known: {', '.join(METRICS)}, and package.module:function"
            yield Problem(key="evaluation.metrics", value=name, rule=rule, nearest=nearest(name, list(METRICS)))
