"""Whether a file is that of the sweep that is there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.api.granting import wants_default

if TYPE_CHECKING:
    from orchestrator.paths import Home
    from orchestrator.spec import SweepSpec


def checked_id(given: str | None) -> str | None:
    """Return a sweep's id if it may be one.

    Raises:
        ConfigError: it may not.
    """
    if given is not None and not re.fullmatch("[0-9a-f]{16}", given):
        raise ConfigError([Problem(key="--id", value=given, rule="must be 16 hexadecimal digits")])
    return given


def demand_same(home: Home, source: Path | str | Mapping[str, Any], words: Sequence[str], spec: SweepSpec) -> None:
    """Refuse to go on with a sweep by a file that says something else than its own does.

    Args:
        home: where the sweep is.
        source: the file that was read, or its content.
        words: `key=value`, which replaced keys of it.
        spec: what it says.

    Raises:
        ConfigError: with what differs.
    """
    from orchestrator.engine import control, edits
    from orchestrator.ledger import Ledger
    from orchestrator.spec import read_spec

    ledger = Ledger.open(home.sweep(spec.name))
    known = ledger.spec()
    try:
        revised = edits.revised(ledger, control.edit(read_spec(source, words, defaults=known.defaults)))
    except ConfigError as error:
        differs = [f"{problem.key}: {problem.rule}" for problem in error.problems]
    else:
        free = wants_default(spec)  # where there are GPUs the sweep has one a worker, though its file does not say so
        differs = [line for line in revised.changes if not (free and line.startswith("resources.gpu:"))]
        if not differs and revised.spec.base != known.base:
            differs = ["base: another configuration"]
    if differs:
        rule = (
            f"there is a sweep of this name, and this file differs from its own: {'; '.join(differs)}; `meansweep edit "
            f"FILE {spec.name}` makes it go by this one, another --name starts a new sweep"
        )
        file = None if isinstance(source, Mapping) else str(source)
        raise ConfigError([Problem(key="resume", value=spec.name, rule=rule, file=file)])
