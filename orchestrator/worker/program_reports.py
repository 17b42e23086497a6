"""What an own program reports: lines of JSON, in the file of `orchestrator.report` and on its standard output."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Metrics = dict[str, float]


@dataclass
class Lines:
    """Follows a file line by line. What stands there without a newline is not whole yet."""

    file: Path
    offset: int = 0
    rest: bytes = b""

    def read(self) -> list[str]:
        """Return the lines that are new."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                found = stream.read()
        except FileNotFoundError:
            return []
        self.offset += len(found)
        *whole, self.rest = (self.rest + found).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def end_line(file: Path) -> int:
    """Close the last line of a file, which a killed process may have torn, and return the file's length."""
    if not file.exists():
        return 0
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        with file.open("ab") as stream:
            stream.write(b"\n")
        return len(content) + 1
    return len(content)


def parse(line: str) -> tuple[int | None, Metrics] | None:
    """Return step (None: not said) and numbers of a line; None where it is no JSON object with a number in it.

    Groups are joined by dots. Null is what JSON makes of a number that is not finite.
    """
    text = line.strip()
    if not text.startswith("{"):
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return _read(content) if isinstance(content, dict) else None


def last_object(text: str) -> tuple[int | None, Metrics] | None:
    """Return what the last JSON object in a text reports, one written over several lines; None where there is none."""
    decoder, found = json.JSONDecoder(), None
    at = text.find("{")
    while at >= 0:
        try:
            content, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            found = _read(content) or found
        at = text.find("{", end)
    return found


def _read(content: Mapping[str, Any]) -> tuple[int | None, Metrics] | None:
    step = content.get("step")
    if isinstance(step, bool) or not isinstance(step, int | float) or not float(step).is_integer() or step < 0:
        step = None
    metrics = {name: value for name, value in _numbers(content, "").items() if name != "step"}
    return (None if step is None else int(step), metrics) if metrics else None


def _numbers(content: Mapping[str, Any], prefix: str) -> Metrics:
    found: Metrics = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{name}.")
        elif value is None or isinstance(value, int | float):
            found[name] = math.nan if value is None else float(value)
    return found


@dataclass
class Collected:
    """Puts what a program reports in order: each step once, ascending; the rest are rows beside the curve.

    Args:
        wanted: the sweep's metrics; a step that has all of them is a report.
        last: the last step that is recorded: what comes up to there is a repetition.
    """

    wanted: Collection[str]
    last: int
    rows: list[tuple[int, Metrics]] = field(default_factory=list)
    """What was reported besides, since the last report."""
    names: set[str] = field(default_factory=set)
    """Everything that was reported."""
    numbered: int = 0
    """Lines without a step, each of which counts as the next."""
    _ready: deque[tuple[int, Metrics]] = field(default_factory=deque)
    _open: tuple[int, Metrics] | None = None
    _at_zero: Metrics = field(default_factory=dict)

    def add(self, step: int | None, metrics: Metrics) -> None:
        """Take in one line."""
        self.names |= metrics.keys()
        if step is None:
            if not set(self.wanted) <= metrics.keys():
                return
            self.numbered += 1
            step = self.numbered
        if step == 0:  # before anything was trained
            self._at_zero |= metrics
        if step <= self.last:
            return
        if self._open is not None and self._open[0] == step:
            metrics = {**self._open[1], **metrics}
        elif self._open is not None:
            self.rows.append(self._open)
        self._open = None
        if set(self.wanted) <= metrics.keys():
            self._ready.append((step, metrics))
            self.last = step
        else:
            self._open = (step, metrics)

    def next(self) -> tuple[int, Metrics] | None:
        """Return the next report, None where none is ready."""
        return self._ready.popleft() if self._ready else None

    def take_rows(self) -> list[tuple[int, Metrics]]:
        """Return the rows so far, once."""
        found, self.rows = self.rows, []
        return found

    def at_the_end(self) -> tuple[int, Metrics] | None:
        """Return what a program that has ended is judged by if it has reported nothing from step 1 on."""
        whole = self.last == 0 and set(self.wanted) <= self._at_zero.keys()
        return (1, self._at_zero) if whole else None
