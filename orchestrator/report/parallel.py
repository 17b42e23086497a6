"""Parallel coordinates: a line for each configuration, from its metric through its values. Drawn by parallel.js."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.formatting import number
from orchestrator.report.charts import DRAWN, View, log_axis, log_ticks
from orchestrator.results import distributions_of
from orchestrator.trials import value_of

AXES = 10
"""Most parameters shown, the most important ones."""

Place = Callable[[Any], float]
"""From a value to its place on an axis, 0 at the bottom and 1 at the top."""


def parallel_coordinates(view: View) -> dict[str, Any] | None:
    """Return axes and lines: places lie in [0, 1], None where a parameter does not exist.

    Returns:
        `{axes: [{name, full, ticks: [[place, text]], absent}], lines: [{trial, at, text, shade}]}`, the best line last
        so that it lies on top, `shade` 0 for it and 1 for the worst; None where there is nothing to compare.
    """
    records = view.with_value()[:DRAWN]
    names = view.by_importance()[:AXES]
    if len(records) < 2 or not names:
        return None
    values = [value_of(record) or 0.0 for record in records]
    leaf = view.metric.rpartition("/")[2]
    place, ticks = _numbers(min(values), max(values), log=bool(log_axis(values)))
    axes = [{"name": leaf, "full": view.metric, "ticks": ticks, "absent": False}]
    columns: list[list[float | None]] = [[place(value) for value in values]]
    short, laws = view.short, distributions_of(view.spec, records)
    for name in names:
        law: Any = laws[name]
        if hasattr(law, "choices"):
            place, ticks = _choices(law.choices)
        else:
            place, ticks = _numbers(law.low, law.high, log=law.log)
        column = [place(record.values[name]) if name in record.values else None for record in records]
        axes.append({"name": short[name], "full": name, "ticks": ticks, "absent": None in column})
        columns.append(column)
    last = max(len(records) - 1, 1)
    lines = [
        {
            "trial": record.id,
            "at": [column[index] for column in columns],
            "text": [number(values[index]), *(_text(record.values, name) for name in names)],
            "shade": index / last,
        }
        for index, record in enumerate(records)
    ]
    return {"axes": axes, "lines": lines[::-1]}


def _text(values: dict[str, Any], name: str) -> str:
    return number(values[name], 3) if name in values else "does not exist"


def _numbers(low: float, high: float, *, log: bool) -> tuple[Place, list[tuple[float, str]]]:
    """Return the places of numbers between two ends, and ticks."""
    if low == high:
        return (lambda value: 0.5), [(0.5, number(low, 3))]
    if log:
        span = math.log(high / low)

        def place(value: float) -> float:
            return math.log(value / low) / span

        marks = [tick for tick in log_ticks(low, high)["tickvals"] if low <= tick <= high]
    else:

        def place(value: float) -> float:
            return (value - low) / (high - low)

        marks = _round_steps(low, high)
    ends = [mark for mark in (low, high) if all(abs(place(mark) - place(tick)) > 0.06 for tick in marks)]
    return place, [(place(mark), number(mark)) for mark in sorted([*marks, *ends])]


def _round_steps(low: float, high: float, most: int = 5) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _choices(choices: Sequence[Any]) -> tuple[Place, list[tuple[float, str]]]:
    """Return the places of listed values, evenly spread, and their names."""
    where = {choice: (index + 0.5) / len(choices) for index, choice in enumerate(choices)}

    def place(value: Any) -> float:
        return where[value if isinstance(value, str | int | float | bool) or value is None else repr(value)]

    return place, [(at, number(choice) if choice is not None else "none") for choice, at in where.items()]
