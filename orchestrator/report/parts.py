"""What the sections of the report are made of: the facts, and pieces of HTML."""

from __future__ import annotations

import base64
import io
import json
import math
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


EMBEDDED = 400_000
"""Largest picture (bytes) that goes into the file as it is; larger ones are made smaller."""


@dataclass(frozen=True, kw_only=True)
class FinalTraining:
    """A final training of one of the sweep's trials."""

    name: str
    trial: str
    curve: Mapping[int, float]
    """The ranking metric by step."""
    steps: int
    told: str
    """Whether it did again what its trial did, in a sentence."""
    picture: Path | None = None


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
    finals: Sequence[FinalTraining] = ()

    @property
    def ranked(self) -> list[Row]:
        """The rows that have a rank."""
        return [row for row in self.rows if row.rank is not None]


def chart_place(figure: Figure | None, height: int, label: str) -> str:
    """Return the place of a chart followed by its data; plotly.js joins them in the page.

    Args:
        figure: None: there is no such chart.
        height: in pixels.
        label: what it shows, for those who do not see it.
    """
    if figure is None:
        return ""
    named = f'role="img" aria-label="{escape(label)}"'
    sized = f'data-height="{height}" style="height:{height}px"'
    return f'<div class="chart" data-chart {sized} {named}></div>{data_of(figure)}'


def data_of(content: Any) -> str:
    """Return what the page draws from, as JSON."""
    # "<" is escaped so that no text of a user can end the script element.
    data = json.dumps(plain_data(content), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json">{data}</script>'


def untitled(figure: Figure) -> Figure:
    """Return a figure without the title of its x axis: a heading says it already."""
    layout = figure["layout"]
    return {**figure, "layout": {**layout, "xaxis": {**layout["xaxis"], "title": {"text": ""}}}}


def html_table(
    heads: Sequence[str],
    body: Iterable[tuple[str, Sequence[str]]],
    right: Collection[int],
    wrap: Collection[int] = (),
    *,
    sorted_by: Sequence[Sequence[object]] | None = None,
    shown: int | None = None,
) -> str:
    """Return a table that scrolls sideways where it is too wide; cells are HTML, `right` and `wrap` columns.

    Args:
        heads: texts of the columns.
        body: (class, cells) of each row.
        right: columns that are flush right.
        wrap: columns whose text may wrap.
        sorted_by: the plain value behind each cell, by which a click on its column's head sorts the rows.
        shown: rows that are open at once; the page unfolds the others.
    """

    def kind(index: int) -> str:
        return ' class="r"' if index in right else ' class="wrap"' if index in wrap else ""

    def head(index: int, text: str) -> str:
        if sorted_by is None or not text:
            return f"<th{kind(index)}>{escape(text)}</th>"
        return f'<th{kind(index)} aria-sort="none"><button type="button">{escape(text)}</button></th>'

    def cell(row: int, index: int, content: str) -> str:
        value = None if sorted_by is None else sorted_by[row][index]
        behind = "" if value is None else f' data-v="{escape(str(value))}"'
        return f"<td{kind(index)}{behind}>{content}</td>"

    rows = "".join(
        f'<tr class="{style}">' + "".join(cell(row, i, content) for i, content in enumerate(cells)) + "</tr>"
        for row, (style, cells) in enumerate(body)
    )
    top = f"<thead><tr>{''.join(head(i, text) for i, text in enumerate(heads))}</tr></thead>" if any(heads) else ""
    marks = "" if sorted_by is None else ' class="sortable"'
    marks += "" if shown is None else f' data-shown="{shown}"'
    return f'<div class="scroll"><table{marks}>{top}<tbody>{rows}</tbody></table></div>'


def colour_keys(items: Iterable[tuple[str, str]]) -> str:
    """Return a legend of (colour, text)."""
    keys = "".join(f'<span><i style="background:{colour}"></i>{escape(text)}</span>' for colour, text in items)
    return f'<div class="keys">{keys}</div>'


def nothing(text: str) -> str:
    """Return why there is nothing to show."""
    return f'<p class="caption">{escape(text[:1].upper() + text[1:])}</p>'


def picture(file: Path, whose: str, caption: str) -> str:
    """Return a picture within the file, with a caption in HTML."""
    try:
        content, width = _embedded(file)
    except OSError as error:
        return f"<figure><figcaption>{escape(whose)}: no picture ({escape(str(error))})</figcaption></figure>"
    small = ' class="small"' if width < 400 else ""
    image = f'<img{small} alt="samples of {escape(whose)}" src="data:image/png;base64,{content}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _embedded(file: Path) -> tuple[str, int]:
    """Return a picture as base64 PNG and its width in pixels, made smaller if it is large."""
    from PIL import Image

    content = file.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        width = image.width
        if len(content) > EMBEDDED:
            shrink = math.sqrt(EMBEDDED / len(content))
            smaller = image.convert("RGB").resize((max(round(width * shrink), 1), max(round(image.height * shrink), 1)))
            out = io.BytesIO()
            smaller.save(out, "PNG", optimize=True)
            content = out.getvalue()
    return base64.b64encode(content).decode(), width
