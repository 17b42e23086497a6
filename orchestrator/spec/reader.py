"""Checked reading of plain YAML values: each helper notes a problem with its line and goes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meanflow_core.config import YamlFile
from meanflow_core.errors import Problem, nearest

Path = tuple[str, ...]
"""The place of a value in the file: the keys on the way to it."""
_MISSING: Any = object()
LARGEST = 2**53
"""Of whole numbers: beyond, neighbours are one number to JSON's readers, to YAML's `1e16` and to MLflow."""


class Reader:
    """Collects every problem and note of one file."""

    def __init__(self, file: str | None = None, document: YamlFile | None = None) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.places: dict[str, Path] = {}  # dotted key of each parameter -> where it stands
        self._done: set[Path] = set()  # nothing more is said of these
        self._file = file
        self._document = document

    def wrong(self, path: Path, rule: str, value: Any = _MISSING, *, close: str | None = None) -> None:
        """Note a problem at `path`; `close` is the nearest valid choice."""
        if path in self._done:
            return
        line = self._line(path)
        shown = {} if value is _MISSING else {"value": value}
        self.problems.append(Problem(key=".".join(path), rule=rule, nearest=close, file=self._file, line=line, **shown))

    def note(self, path: Path, text: str) -> None:
        """Note something that is no mistake, but that the user should know."""
        line = self._line(path)
        place = f"line {line}: " if line else ""
        self.notes.append(f"{place}{'.'.join(path)}: {text}")

    def place(self, key: str) -> Path:
        """Where the parameter of a dotted key stands."""
        return self.places.get(key, ("parameters", key))

    def _line(self, path: Path) -> int | None:
        """The line of a path whose last key may be written dotted or nested."""
        if self._document is None or not path:
            return None
        nested = (*path[:-1], *path[-1].split("."))
        return self._document.line_of(*(nested if nested in self._document.lines else path))

    # ------------------------------------------------------------------------------------------- shapes

    def plain(self, value: Any, path: Path = ()) -> Any:
        """Return a YAML value as JSON knows it, keys as text; what JSON cannot hold is noted once, and left."""
        if isinstance(value, Mapping):
            return {str(key): self.plain(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(item, (*path, str(index))) for index, item in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            self.wrong(path, "must be finite", value)
            self._done.add(path)
        elif isinstance(value, int) and abs(value) > LARGEST:
            self.wrong(path, f"is too large; whole numbers go to {LARGEST:,}", value)
            self._done.add(path)
        elif value is not None and not isinstance(value, str | int | float | bool):
            self.wrong(path, "is neither text, number, true, false, null, list nor mapping", value)
            self._done.add(path)
        return value

    def keys(self, path: Path, value: Mapping[str, Any], valid: Iterable[str]) -> None:
        """Note every key of a mapping that is not valid."""
        choices = list(valid)
        for key in value:
            if key not in choices:
                close = nearest(key, choices)
                rule = "unknown key" if close else f"unknown key; valid here: {', '.join(choices)}"
                self.wrong((*path, key), rule, close=close)

    def mapping(self, path: Path, value: Any, valid: Iterable[str] | None = None) -> dict[str, Any]:
        """Return a mapping (empty where there is none), its unknown keys noted."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.wrong(path, "must be a mapping of keys", value)
            return {}
        if valid is not None:
            self.keys(path, value, valid)
        return dict(value)

    def sequence(self, path: Path, value: Any) -> list[Any]:
        """Return a list (empty where there is none)."""
        if isinstance(value, list):
            return value
        self.wrong(path, "must be a list", value)
        return []

    # ------------------------------------------------------------------------------------------- values

    def text(self, path: Path, value: Any, default: str) -> str:
        """Return text, or the default where there is none."""
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            self.wrong(path, "must be text", value)
            return default
        return value

    def flag(self, path: Path, value: Any, default: bool) -> bool:
        """Return true or false."""
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(path, "must be true or false", value)
        return default

    def choice(self, path: Path, value: Any, valid: Sequence[str], default: str) -> str:
        """Return one of the valid words."""
        if value is None or value in valid:
            return default if value is None else str(value)
        self.wrong(path, f"must be one of {', '.join(valid)}", value, close=nearest(str(value), list(valid)))
        return default

    def number(
        self, path: Path, value: Any, *, low: float = -math.inf, above: float = -math.inf, high: float = math.inf
    ) -> float | None:
        """Return a finite number, `low <= value <= high` and `value > above`; None where there is none, or wrong."""
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.wrong(path, "must be a number", value)
        elif not math.isfinite(value):
            self.wrong(path, "must be finite", value)
        elif value < low or value > high or value <= above:
            left = f"{above:g} < " if above > -math.inf else f"{low:g} <= " if low > -math.inf else ""
            right = f" <= {high:g}" if high < math.inf else ""
            self.wrong(path, f"`{left}{path[-1]}{right}` must hold", value)
        else:
            return value
        return None

    def whole(self, path: Path, value: Any, *, low: int = 0) -> int | None:
        """Return a whole number that is at least `low`; None where there is none, or wrong."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1e3
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            self.wrong(path, "must be a whole number", value)
            return None
        found = self.number(path, value, low=low, high=LARGEST)
        return None if found is None else int(found)


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as `dotted key -> value`."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def put(target: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested dicts."""
    *sections, leaf = key.split(".")
    for section in sections:
        below = target.get(section)
        if not isinstance(below, dict):
            below = target[section] = {}
        target = below
    target[leaf] = value
