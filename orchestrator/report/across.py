"""One HTML file about several sweeps: their bests, curves, costs, what differs, and one leaderboard of all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from orchestrator.formatting import join
from orchestrator.report.charts import Figure, View, log_axis
from orchestrator.report.html import write_page
from orchestrator.report.parts import Facts, chart_place, html_table, nothing
from orchestrator.report.sections_results import leaderboard_section
from orchestrator.results import (
    Importance,
    SweepComparison,
    curve_of,
    interval_text,
    rows_of_sweeps,
    sweeps_verdict,
)

COLOURS = ("var(--good)", "var(--pruned)", "var(--failed)", "var(--finished)", "var(--muted)")
"""Of the sweeps, in their order; from the sixth on they repeat."""
DASHES = ("solid", "dash", "dot", "dashdot")
"""So that colour is not all that tells them apart."""


def write_sweeps_report(found: SweepComparison, out: Path, *, now: float | None = None) -> Path:
    """Write the report of several sweeps and return its file.

    Args:
        found: of `compare_sweeps`.
        out: the file; its folder is made if missing.
        now: unix seconds that are printed as the date; None: the present.
    """
    names = [side.name for side in found.sides]
    return write_page(
        out,
        title=f"{join(names)}: report of {len(names)} sweeps",
        name=" · ".join(names),
        meta=f"{found.spec.metric.words} · {len(found.trials)} trials",
        parts=list(_sections(found)),
        now=time.time() if now is None else now,
    )


def _sections(found: SweepComparison) -> Iterator[tuple[str, str, str]]:
    """Yield (id, title, HTML) of each section, in order."""
    yield "verdict", "Summary", f'<p class="sentence">{escape(sweeps_verdict(found))}</p>{_tiles(found)}'
    yield "sweeps", "Side by side", _side_by_side(found)
    yield "curves", "Curves of the bests", _chart(_curves(found), "curves of the bests", "No trial has reported yet.")
    caption = (
        "The best value so far against the time that workers had spent on the whole sweep until then, replicates and "
        "stopped trials included."
    )
    yield (
        "cost",
        "What it cost",
        f'<p class="caption">{caption}</p>'
        + _chart(_costs(found), "best value so far against cost", "Nothing was reported."),
    )
    nothing_known = Importance(sweep=found.spec.name, metric=found.metric, trials=0, best=0, shares=())
    facts = Facts(
        spec=found.spec,
        trials=found.trials,
        rows=found.rows,
        view=View(found.spec, [row.group for row in found.rows], nothing_known),
    )
    yield "leaderboard", "Leaderboard of all", leaderboard_section(facts)


def _tiles(found: SweepComparison) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{escape(interval_text(row))}</b><span>{escape(name)}, trial '
        f"{escape(row.trial.partition('/')[2])}, {row.n} seed{'' if row.n == 1 else 's'}</span></div>"
        for name, row in found.bests.items()
        if row
    )
    return f'<div class="tiles">{tiles}</div>'


def _side_by_side(found: SweepComparison) -> str:
    heads = ["", *(side.name for side in found.sides)]
    parts = []
    for title, lines in rows_of_sweeps(found):
        body = [("", [escape(what), *map(escape, cells)]) for what, cells in lines]
        if body:
            head = f"<h3>{escape(title[:1].upper() + title[1:])}</h3>" if title else ""
            parts.append(head + html_table(heads, body, (), wrap=range(1, len(heads))))
    return "".join(parts)


def _curves(found: SweepComparison) -> Figure | None:
    curves = {name: curve_of(row.group, found.metric) if row else {} for name, row in found.bests.items()}
    traces = [
        _line(name, place, sorted(curve), [curve[step] for step in sorted(curve)])
        for place, (name, curve) in enumerate(curves.items())
        if curve
    ]
    return _figure(found, traces, "step") if traces else None


def _costs(found: SweepComparison) -> Figure | None:
    traces = []
    for place, side in enumerate(found.sides):
        if side.path:
            total = sum(trial.busy_seconds for trial in side.trials)
            times = [*(point.seconds for point in side.path), max(total, side.path[-1].seconds)]
            values = [*(point.value for point in side.path), side.path[-1].value]
            line = _line(side.name, place, [seconds / 60 for seconds in times], values)
            traces.append({**line, "line": {**line["line"], "shape": "hv"}, "mode": "lines"})
    return _figure(found, traces, "minutes of workers") if traces else None


def _line(name: str, place: int, x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    line = {"color": COLOURS[place % len(COLOURS)], "width": 2.5, "dash": DASHES[place % len(DASHES)]}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": list(x),
        "y": list(y),
        "line": line,
        "marker": {"color": line["color"], "size": 6},
        "hovertemplate": "%{y:.4g} at %{x:.4g}",
    }


def _figure(found: SweepComparison, traces: list[dict[str, Any]], axis: str) -> Figure:
    values = [y for trace in traces for y in trace["y"]]
    layout = {
        "xaxis": {"title": {"text": axis}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": found.metric}, **log_axis(values)},
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}


def _chart(figure: Figure | None, label: str, otherwise: str) -> str:
    return chart_place(figure, 420, label) if figure else nothing(otherwise)
