"""Defaults over time: what a stored configuration meant, and in what two configurations differ for good.

A configuration says by which version of the defaults it was read (`defaults`). Whoever changes a default raises
`VERSION` and adds a line to `CHANGED`; a new key needs neither, as long as its default trains what was trained before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meanflow_core.config.section import Section

FIRST = 1
"""Version of what was stored before configurations said theirs."""
VERSION = 1
"""The present version of the defaults."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A default that is no longer what it was."""

    since: int
    """The version from which the new default holds."""
    key: str
    """Dotted, e.g. `model.dropout`."""
    was: Any
    """The default before that version."""
    of: str | None = None
    """The `name` of the section it belongs to (`unet`), where kinds of a section share the key; None: of each."""


CHANGED: Sequence[Changed] = ()
"""Every change of a default so far."""

RECORDS = ("evidence", "defaults")
"""Keys that say where a configuration comes from and change no number."""
NOT_IN_IDENTITY = (
    "trainer.device",
    "trainer.sharding",
    "trainer.log_every",
    "trainer.eval_every",
    "trainer.checkpoint_every",
    "ema.snapshot_every",
    "ema.length",
)
"""Keys that say where a training runs, how often it is looked at and which average is taken, and change no weight."""


def meant_by(version: int, raw: dict[str, Any], usual: Section) -> None:
    """Put what has changed since a version into nested values that leave it out.

    Args:
        version: of the defaults that the values were written for.
        raw: nested; changed in place.
        usual: the configuration of the present defaults, for the kinds of its sections.
    """
    for change in _ordered(version):
        path, _, name = change.key.rpartition(".")
        section, default, kind = raw, usual, None
        for part in filter(None, path.split(".")):
            if section.get(part) is None:
                section[part] = {}
            section, default = section[part], getattr(default, part, default)
            if not isinstance(section, dict):
                break  # a mistake that is named where it is read
            kind = section.get("name", getattr(default, "name", kind))
        else:
            if change.of in (None, kind):
                section.setdefault(name, change.was)


def difference(
    section: Section, prefix: str = "", usual: Section | None = None, kind: str | None = None
) -> dict[str, Any]:
    """Return the dotted keys in which a section differs from the first default of each, with their values.

    Neither a key that is added later nor a default that changes later alters it.

    Args:
        section: a configuration or a part of one.
        prefix: its dotted key and a dot; empty for the whole configuration.
        usual: the section with every value at its present default; None: `section.usual()`.
        kind: the `name` of the section it belongs to.
    """
    usual, kind = usual or section.usual(), getattr(section, "name", kind)
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(section):
        key, value = f"{prefix}{entry.name}", getattr(section, entry.name)
        default = getattr(usual, entry.name)
        if isinstance(value, Section):
            named = getattr(value, "name", None)
            if named != _first(f"{key}.name", kind, getattr(default, "name", None)):
                found[f"{key}.name"] = named
            same = type(value) is type(default) and named == getattr(default, "name", None)
            found |= difference(value, f"{key}.", default if same else value.usual(), kind)
        elif entry.name != "name" and value != _first(key, kind, default):
            found[key] = value
    return {key: value for key, value in found.items() if key not in (*RECORDS, *NOT_IN_IDENTITY)}


def _first(key: str, kind: str | None, present: Any) -> Any:
    """Return the default that a key had when it was new, given the present one."""
    changes = [change for change in _ordered(0) if change.key == key and change.of in (None, kind)]
    return changes[0].was if changes else present


def _ordered(version: int) -> list[Changed]:
    """The changes after a version, the oldest first and names of kinds before what belongs to a kind."""
    return sorted((c for c in CHANGED if c.since > version), key=lambda c: (c.of is not None, c.since))


def version_of(raw: Mapping[str, Any], unstated: int | None = None) -> Any:
    """Return the version of the defaults that nested values were written for.

    Args:
        raw: the values.
        unstated: the version where they do not say; None: the first where the values are a sweep's winner, which every
            release has written complete, else the present one.
    """
    stated = raw.get("defaults")
    if stated is not None:
        return stated
    return unstated or (FIRST if raw.get("evidence") else VERSION)
