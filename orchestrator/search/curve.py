"""What one trial has reported, as rules of early stopping look at it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class Curve:
    """What one trial has reported.

    Args:
        number: the trial's number in the sweep; it decides the bracket.
        length: the trial's last step.
        rungs: the rungs' steps for a trial of this length, all brackets' together.
        group: rules compare it with trials of the same group alone (their `by`).
        first: index of the first rung that judges it.
    """

    number: int
    length: int
    rungs: tuple[int, ...] = ()
    steps: list[int] = field(default_factory=list)
    """Ascending."""
    values: list[float] = field(default_factory=list)
    """The trial's score after each report: what it is judged by."""
    order: list[int] = field(default_factory=list)
    """The position of each report among all reports of the sweep."""
    group: Hashable = None
    first: int = 0
    reported: list[float] = field(default_factory=list)
    """The value in each report; left out: the same as `values`."""

    def __post_init__(self) -> None:
        self.reported = self.reported or list(self.values)

    def add(self, step: int, value: float, order: int) -> None:
        """Append the next report, its value for its score too."""
        self.steps.append(step)
        self.reported.append(value)
        self.values.append(value)
        self.order.append(order)

    def first_from(self, step: int, before: int | None = None) -> int | None:
        """Return the index of the first report at or past `step`, None if there is none (up to position `before`)."""
        index = bisect_left(self.steps, step)
        there = index < len(self.steps) and (before is None or self.order[index] <= before)
        return index if there else None

    def at_rung(self, index: int, before: int | None = None) -> float | None:
        """Return the value that counts at a rung: of the first report at or past it, if the next rung was not reached.

        A trial under other rungs (the sweep was edited) or of another sweep may have no value there: one from much
        later would be compared with what others had early.

        Args:
            index: the rung's number.
            before: only reports up to this position count.
        """
        if index >= len(self.rungs):
            return None
        found = self.first_from(self.rungs[index], before)
        end = self.rungs[index + 1] if index + 1 < len(self.rungs) else self.length
        return self.values[found] if found is not None and self.steps[found] < end else None

    def last_until(self, step: int, before: int) -> int | None:
        """Return the index of the last report up to `step` and up to position `before`."""
        index = bisect_left(self.steps, step + 1) - 1
        while index >= 0 and self.order[index] > before:
            index -= 1
        return index if index >= 0 else None
