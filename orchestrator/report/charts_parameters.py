"""The charts of the report that show parameters: Optuna's own, in the report's colours, and slices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.formatting import number
from orchestrator.report.charts import Figure, View, axis_value, dots, log_axis, log_ticks, plain_text
from orchestrator.results import distributions_of, rebuild_study
from orchestrator.trials import TrialRecord, TrialState, value_of

DRAWN = 300
"""Most lines of the parallel coordinates: more would be a blot, and a large file."""
SLICES = 12
PAIRS = 3
SURFACE = 80
"""Most configurations a surface is drawn through: its grid has their number squared."""


def parallel_coordinates(view: View) -> Figure | None:
    """Return Optuna's parallel coordinates: a line for each configuration, the best ones drawn strongest."""
    from optuna.visualization import plot_parallel_coordinate

    records = list(reversed(view.with_value()))[-DRAWN:]  # the best ones last: on top
    names = view.by_importance()[:10]
    if len(records) < 2 or not names:
        return None
    places = {record.id: place for place, record in enumerate(reversed(records))}
    short = view.short
    study = rebuild_study(
        [_renamed(record, short, names) for record in records],
        {short[name]: law for name, law in distributions_of(view.spec, records).items() if name in names},
        lambda record: value_of(record) or 0.0,
    )
    leaf = plain_text(view.metric.rpartition("/")[2][:17])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plot_parallel_coordinate(study, params=[short[name] for name in names], target_name=leaf)
    drawn = figure.to_plotly_json()
    lines = [trace for trace in drawn["data"] if trace.get("mode") == "lines" and trace.get("customdata") is not None]
    if len(lines) != len(records):
        return None
    for trace in lines:
        trace["customdata"] = _escaped(trace["customdata"])
    ordered = sorted(lines, key=lambda trace: trace["y"][0], reverse=view.minimise)
    by_value = sorted(records, key=lambda record: value_of(record) or 0.0, reverse=view.minimise)
    for trace, record in zip(ordered, by_value, strict=True):
        shade = places[record.id] / max(len(records) - 1, 1)
        trace["line"] = {"color": f"mix({shade:.2f})", "width": 3 if shade == 0 else 1.5}
        trace["opacity"] = 1.0 if shade == 0 else 0.9 - 0.3 * shade
        trace["hovertemplate"] = f"trial {record.id}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>"
    layout = {
        key: value for key, value in drawn["layout"].items() if key in ("annotations", "shapes", "xaxis", "yaxis")
    }
    layout = _escaped(_recoloured(layout))
    layout["annotations"] = _logarithmic(ordered, [value_of(r) or 0.0 for r in by_value], layout.get("annotations", []))
    ordered.sort(key=lambda trace: trace["opacity"])
    for label in layout["annotations"]:  # readable on top of the lines
        label |= {"bgcolor": "fade(--surface)", "borderpad": 1}
    return {"data": ordered, "layout": {**layout, "showlegend": False}}


def _logarithmic(
    lines: Sequence[dict[str, Any]], values: Sequence[float], labels: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Make the first axis, the metric's, logarithmic where its values differ a lot; return the labels of all axes.

    On a linear one the good configurations, which matter, would all lie in one point.
    """
    axis = log_axis(values)
    if not axis:
        return list(labels)
    low, high = math.log10(min(values)), math.log10(max(values))

    def place(value: float) -> float:
        return (math.log10(value) - low) / (high - low)

    for line, value in zip(lines, values, strict=True):
        line["y"] = [place(value), *line["y"][1:]]
    kept = [label for label in labels if label["x"] != 0]
    shape = next(label for label in labels if label["x"] == 0)
    ticks = [tick for tick in axis["tickvals"] if -0.02 <= place(tick) <= 1.02]
    return [*kept, *({**shape, "text": number(tick), "y": place(tick)} for tick in ticks)]


def slices(view: View) -> list[tuple[str, Figure]]:
    """Return for each parameter, the most important first, the metric against its value."""
    records = view.with_value()
    laws = distributions_of(view.spec, [group.searched for group in view.groups])
    return [(name, _slice(view, name, records, laws[name])) for name in view.by_importance()[:SLICES]]


def _slice(view: View, name: str, records: Sequence[TrialRecord], law: Any) -> Figure:
    having = [record for record in records if name in record.values]
    values = [value_of(record) or 0.0 for record in having]
    best = having[0] if having and having[0] is records[0] else None
    kinds = (
        (
            "finished",
            [r for r in having if r.state is TrialState.FINISHED and r is not best],
            "var(--finished)",
            "circle",
        ),
        ("stopped early", [r for r in having if r.state is TrialState.PRUNED], "var(--pruned)", "circle-open"),
        ("best", [best] if best else [], "var(--good)", "star"),
    )
    traces = [
        dots(some, label, colour, symbol, [axis_value(r.values[name]) for r in some], [value_of(r) for r in some])
        for label, some, colour, symbol in kinds
        if some
    ]
    diverged = [
        group.searched
        for group in view.groups
        if group.searched.failure and group.searched.failure.kind == "diverged" and name in group.searched.values
    ]
    worst = (max if view.minimise else min)(values, default=0.0)
    if diverged and values:
        x = [axis_value(r.values[name]) for r in diverged]
        traces.append(dots(diverged, "diverged", "var(--failed)", "x", x, [worst] * len(diverged)))
    xaxis: dict[str, Any] = {"title": {"text": plain_text(name)}}
    if hasattr(law, "choices"):
        choices = [axis_value(choice) for choice in law.choices]
        xaxis |= {"type": "category", "categoryorder": "array", "categoryarray": choices}
    elif law.log:
        xaxis |= log_ticks(law.low, law.high)
    return {
        "data": traces,
        "layout": {"xaxis": xaxis, "yaxis": {**log_axis(values)}, "showlegend": False},
    }


def contours(view: View) -> list[tuple[str, Figure]]:
    """Return Optuna's contour plots of the pairs among the three most important parameters that most trials have."""
    records = view.with_value()
    names = [name for name in view.by_importance() if sum(name in r.values for r in records) * 2 > len(records)][:3]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:PAIRS]
    found = [(f"{a} and {b}", _contour(view, records, a, b)) for a, b in pairs]
    return [(name, figure) for name, figure in found if figure is not None]


def _contour(view: View, records: Sequence[TrialRecord], first: str, second: str) -> Figure | None:
    from optuna.visualization import plot_contour

    having = _thinned([r for r in records if first in r.values and second in r.values], SURFACE)
    if len(having) < 6:
        return None
    short = view.short
    values = sorted(value_of(r) or 0.0 for r in having)
    # A few terrible trials would leave one colour for all the good ones.
    cap = values[round(0.75 * (len(values) - 1))] if view.minimise else values[round(0.25 * (len(values) - 1))]
    limit = min if view.minimise else max
    laws = {short[name]: law for name, law in distributions_of(view.spec, having).items() if name in (first, second)}
    study = rebuild_study(
        [_renamed(r, short, (first, second)) for r in having], laws, lambda r: limit(value_of(r) or 0.0, cap)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = plot_contour(study, params=[short[first], short[second]], target_name="metric").to_plotly_json()
    surface = next((trace for trace in drawn["data"] if trace["type"] == "contour"), None)
    if surface is None or surface.get("z") is None or len(surface["z"]) < 2:
        return None
    surface |= {
        "colorscale": [[i / 4, f"mix({(i if view.minimise else 4 - i) / 4})"] for i in range(5)],
        "reversescale": False,
        "line": {"color": "var(--surface)", "width": 0.5, "smoothing": 1.0},
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 1.0, "tickfont": {"size": 11}},
        "hoverinfo": "skip",
    }
    layout = {key: _recoloured(value) for key, value in drawn["layout"].items() if key in ("xaxis", "yaxis")}
    x_name = str(layout["xaxis"]["title"]["text"])
    across, up = (first, second) if x_name == short[first] else (second, first)
    layout = _escaped(layout)
    surface |= {key: _escaped(surface[key]) for key in ("x", "y")}
    for axis, name in (("xaxis", across), ("yaxis", up)):
        layout[axis]["title"] = {"text": plain_text(name)}
        law: Any = laws[short[name]]
        if getattr(law, "log", False):
            layout[axis] |= log_ticks(law.low, law.high)
    x = [axis_value(r.values[across]) for r in having]
    y = [axis_value(r.values[up]) for r in having]
    marks = dots(having, "finished", "var(--ink)", "circle", x, y)
    marks["text"] = [f"trial {r.id}: {number(value_of(r))}" for r in having]
    marks["marker"]["size"] = [14 if place == 0 else 5 for place in range(len(having))]
    marks["marker"]["symbol"] = ["star" if place == 0 else "circle" for place in range(len(having))]
    marks["marker"]["color"] = ["var(--star)" if place == 0 else "var(--ink)" for place in range(len(having))]
    return {"data": [surface, marks], "layout": {**layout, "showlegend": False}}


# ------------------------------------------------------------------------------------------------ helpers


def _renamed(record: TrialRecord, short: Mapping[str, str], names: Iterable[str]) -> TrialRecord:
    return replace(record, values={short[name]: record.values[name] for name in names if name in record.values})


def _thinned(records: Sequence[TrialRecord], most: int) -> Sequence[TrialRecord]:
    """Return at most so many of the records: the best half of them, the others evenly spaced over the rest."""
    if len(records) <= most:
        return records
    best, rest = records[: most // 2], records[most // 2 :]
    wanted = most - len(best)
    return [*best, *(rest[(index * len(rest)) // wanted] for index in range(wanted))]


def _escaped(value: Any) -> Any:
    """Return a part of an Optuna figure in whose texts plotly.js finds no markup."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        return [_escaped(item) for item in value]
    return plain_text(value) if isinstance(value, str) else value


def _recoloured(value: Any) -> Any:
    """Return a part of an Optuna layout with the page's colours in place of its own."""
    if isinstance(value, Mapping):
        return {
            key: "var(--muted)"
            if key in ("color", "linecolor", "gridcolor") and isinstance(item, str)
            else _recoloured(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_recoloured(item) for item in value]
    return value
