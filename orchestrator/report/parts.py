"""What the sections of the report are made of: the facts, and pieces of HTML."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.report.charts import Figure, View, plain_data
from orchestrator.results import Row
from orchestrator.trials import TrialRecord

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the sections are made of."""

    spec: SweepSpec
    trials: Sequence[TrialRecord]
    rows: Sequence[Row]
    view: View
    plan: Mapping[str, Any] | None = None
    images: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    state: str | None = None
    wall_seconds: float | None = None

    @property
    def ranked(self) -> list[Row]:
        """The rows that have a rank."""
        return [row for row in self.rows if row.rank is not None]


def chart_place(figure: Figure | None, height: int, *, wide: bool = False) -> str:
    """Return the place of a chart followed by its data; plotly.js joins them in the page."""
    if figure is None:
        return ""
    # "<" is escaped so that no text of a user can end the script element.
    data = json.dumps(plain_data(figure), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    kind = "chart wide" if wide else "chart"
    place = f'<div class="{kind}" data-chart data-height="{height}" style="height:{height}px"></div>'
    return f'{place}<script type="application/json">{data}</script>'


def untitled(figure: Figure) -> Figure:
    """Return a figure without the title of its x axis: a heading says it already."""
    layout = figure["layout"]
    return {**figure, "layout": {**layout, "xaxis": {**layout["xaxis"], "title": {"text": ""}}}}


def html_table(
    heads: Sequence[str],
    body: Iterable[tuple[str, Sequence[str]]],
    right: Collection[int],
    wrap: Collection[int] = (),
) -> str:
    """Return a table that scrolls sideways where it is too wide; cells are HTML, `right` and `wrap` columns."""

    def kind(index: int) -> str:
        return ' class="r"' if index in right else ' class="wrap"' if index in wrap else ""

    head = "".join(f"<th{kind(i)}>{escape(text)}</th>" for i, text in enumerate(heads))
    rows = "".join(
        f'<tr class="{style}">' + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(cells)) + "</tr>"
        for style, cells in body
    )
    shown = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="scroll"><table>{shown}<tbody>{rows}</tbody></table></div>'


def colour_keys(items: Iterable[tuple[str, str]]) -> str:
    """Return a legend of (colour, text)."""
    keys = "".join(f'<span><i style="background:{colour}"></i>{escape(text)}</span>' for colour, text in items)
    return f'<div class="keys">{keys}</div>'


def nothing(text: str) -> str:
    """Return why there is nothing to show."""
    return f'<p class="caption">{escape(text[:1].upper() + text[1:])}</p>'
