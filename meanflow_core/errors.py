"""The errors a user can cause or must act on; each names what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

_MISSING: Any = object()
LONGEST = 300
"""Characters of a value that a message shows."""
MOST_LISTED = 100
"""Mistakes that one message lists."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in a user's input: where it stands, what it is, and the nearest valid choice."""

    key: str
    rule: str
    value: Any = _MISSING
    nearest: str | None = None
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        got = "" if self.value is _MISSING else f" (got {_short(self.value)})"
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return ": ".join(part for part in (place, self.key) if part) + f": {self.rule}{got}{hint}"

    def within(self, prefix: str) -> Problem:
        """Return this problem with its key placed below `prefix`."""
        return replace(self, key=f"{prefix}.{self.key}" if self.key else prefix)


class ConfigError(ValueError):
    """The input is wrong. `problems` lists every mistake found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = list(problems)
        lines = [str(problem) for problem in self.problems[:MOST_LISTED]]
        more = len(self.problems) - MOST_LISTED
        super().__init__("\n".join([*lines, f"and {more} more"] if more > 0 else lines))


class DataError(RuntimeError):
    """Data are there and not what they should be; the message names the file or row, and what was expected."""


class TrainingDiverged(RuntimeError):
    """Training has left the finite numbers (or exploded). A result of the configuration, not a bug.

    Args:
        step: the optimiser step at which it was noticed.
        reason: what was seen, e.g. "the loss is nan".
        last_finite: the last logged metrics that were finite, with their step under `step`.
    """

    def __init__(self, step: int, reason: str, last_finite: dict[str, float] | None = None) -> None:
        self.step = step
        self.reason = reason
        self.last_finite = dict(last_finite or {})
        super().__init__(step, reason, self.last_finite)  # all of them, so that it pickles

    def __str__(self) -> str:
        last = self.last_finite.get("step")
        return f"diverged at step {self.step}: {self.reason}" + (
            "" if last is None else f"; last finite at step {int(last)}"
        )


def _short(value: Any) -> str:
    """Return the representation of a value, without its middle where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 60]} ... {text[-40:]}"


def nearest(word: str, valid: Sequence[str]) -> str | None:
    """Return the valid word closest to `word`; one with the same last part of a dotted name comes first.

    The last part of what is no name (a trial's 10.2) says nothing.
    """
    leaf = word.rsplit(".", 1)[-1]
    named = leaf.isidentifier()
    if named and leaf in valid:
        return leaf
    same = [name for name in valid if named and name.rsplit(".", 1)[-1] == leaf]
    if same:
        return max(same, key=lambda name: difflib.SequenceMatcher(None, word, name).ratio())
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return close[0]
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in valid}
    close = difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.7)
    return by_leaf[close[0]] if close else None
