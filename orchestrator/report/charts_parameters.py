"""The charts of the report that show parameters: slices, Optuna's contours in the report's colours, and ranks."""

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

SLICES = 12
PAIRS = 3
LEAST = 6
"""Fewest configurations that a chart of a pair is drawn of."""
SURFACE = 80
"""Most configurations a surface is drawn through: its grid has their number squared."""


def slices(view: View) -> list[tuple[str, Figure]]:
    """Return for each parameter, the most important first, the metric against its value."""
    records = view.with_value()
    laws = distributions_of(view.spec, [group.searched for group in view.groups])
    if not records:
        return []
    axis = _shared_axis([value for record in records if (value := value_of(record)) is not None])
    return [(name, _slice(view, name, records, laws[name], axis)) for name in view.by_importance()[:SLICES]]


def _shared_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return the metric's axis, with limits: the same in every slice, so that heights can be compared between them."""
    axis = log_axis(values)
    low, high = min(values), max(values)
    if axis:
        low, high = math.log10(low), math.log10(high)
    margin = 0.06 * (high - low) or 0.5
    return {**axis, "range": [low - margin, high + margin]}


def _slice(view: View, name: str, records: Sequence[TrialRecord], law: Any, metric_axis: Mapping[str, Any]) -> Figure:
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
    return {
        "data": traces,
        "layout": {"xaxis": _axis(name, law), "yaxis": metric_axis, "showlegend": False},
    }


def contours(view: View) -> list[tuple[str, Figure]]:
    """Return Optuna's contour plots of the pairs of parameters that matter most."""
    records = view.with_value()
    found = [(f"{a} and {b}", _contour(view, records, a, b)) for a, b in _pairs(view)]
    return [(name, figure) for name, figure in found if figure is not None]


def ranks(view: View) -> list[tuple[str, Figure]]:
    """Return for the same pairs each configuration at its values, coloured by its place in the ranking."""
    records = view.with_value()
    laws = distributions_of(view.spec, records)
    place = {record.id: index / max(len(records) - 1, 1) for index, record in enumerate(records)}
    found = []
    for a, b in _pairs(view):
        having = [record for record in records if a in record.values and b in record.values][::-1]
        if len(having) < LEAST:
            continue
        x, y = ([axis_value(record.values[name]) for record in having] for name in (a, b))
        marks = dots(having, "configuration", "var(--ink)", "circle", x, y)
        marks["text"] = [
            f"trial {r.id}: {number(value_of(r))}" + ("" if r.state is TrialState.FINISHED else " (stopped early)")
            for r in having
        ]
        marks["marker"] |= {
            "size": 12,
            "opacity": 1,
            "color": [f"mix({place[record.id]:.3f})" for record in having],
            "symbol": ["circle" if r.state is TrialState.FINISHED else "diamond" for r in having],
            "line": {"color": "var(--muted)", "width": 0.5},
        }
        layout = {"xaxis": _axis(a, laws[a]), "yaxis": _axis(b, laws[b]), "showlegend": False}
        found.append((f"{a} and {b}", {"data": [marks], "layout": layout}))
    return found


def _pairs(view: View) -> list[tuple[str, str]]:
    """Return the pairs among the three most important parameters that most configurations have."""
    records = view.with_value()
    names = [name for name in view.by_importance() if sum(name in r.values for r in records) * 2 > len(records)][:3]
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:PAIRS]


def _contour(view: View, records: Sequence[TrialRecord], first: str, second: str) -> Figure | None:
    from optuna.visualization import plot_contour

    having = _thinned([r for r in records if first in r.values and second in r.values], SURFACE)
    if len(having) < LEAST:
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
    if str(drawn["layout"]["xaxis"]["title"]["text"]) == short[first]:
        across, up = first, second
    else:
        across, up = second, first
    surface |= {key: _escaped(surface[key]) for key in ("x", "y")}
    layout = {
        axis: _axis(name, laws[short[name]], drawn["layout"][axis].get("range"))
        for axis, name in (("xaxis", across), ("yaxis", up))
    }
    x = [axis_value(r.values[across]) for r in having]
    y = [axis_value(r.values[up]) for r in having]
    marks = dots(having, "finished", "var(--ink)", "circle", x, y)
    marks["text"] = [f"trial {r.id}: {number(value_of(r))}" for r in having]
    marks["marker"]["size"] = [14 if place == 0 else 5 for place in range(len(having))]
    marks["marker"]["symbol"] = ["star" if place == 0 else "circle" for place in range(len(having))]
    marks["marker"]["color"] = ["var(--star)" if place == 0 else "var(--ink)" for place in range(len(having))]
    return {"data": [surface, marks], "layout": {**layout, "showlegend": False}}


# ------------------------------------------------------------------------------------------------ helpers


def _axis(name: str, law: Any, limits: Any = None) -> dict[str, Any]:
    """Return a parameter's axis, the same in every chart: listed values in their order, logarithmic as it is drawn."""
    axis: dict[str, Any] = {"title": {"text": plain_text(name)}, **({} if limits is None else {"range": limits})}
    if hasattr(law, "choices"):
        choices = [axis_value(choice) for choice in law.choices]
        return axis | {"type": "category", "categoryorder": "array", "categoryarray": choices}
    return axis | (log_ticks(law.low, law.high) if law.log else {})


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
