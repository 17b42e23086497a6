"""The charts of the report, as plain data for plotly.js.

Colours are names that the page fills in, so that one chart suits a light and a dark page: `var(--name)` is a colour
of the page, `mix(0.3)` lies at that place between its good and its bad colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import number, short_names
from orchestrator.results import Importance
from orchestrator.statistics import mean_ci, wants_log
from orchestrator.trials import Group, TrialRecord, TrialState, value_of

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

Figure = dict[str, Any]
"""`{data, layout}` of plotly.js."""

HIGHLIGHTED = 5
"""Curves that are drawn one by one, the best ones."""
DRAWN = 300
"""Most curves of each other kind: more would be a blot, and a large file."""


@dataclass(frozen=True)
class View:
    """What every chart needs: the sweep and its configurations, best first."""

    spec: SweepSpec
    groups: Sequence[Group]
    importance: Importance

    @property
    def metric(self) -> str:
        """Name of the ranking metric."""
        return self.spec.metric.name

    @property
    def minimise(self) -> bool:
        """Whether small values are good."""
        return self.spec.metric.goal == "minimize"

    @property
    def short(self) -> dict[str, str]:
        """Short names of the swept keys."""
        names = (name for group in self.groups for name in group.searched.values)
        return short_names(dict.fromkeys([*self.spec.space.names, *names]))

    def with_value(self) -> list[TrialRecord]:
        """The searched trials that ended with a value, best first."""
        return [g.searched for g in self.groups if g.searched.state.ended and value_of(g.searched) is not None]

    def collapsed(self, group: Group) -> list[TrialRecord]:
        """The runs of a configuration that collapsed although another seed did not."""
        bad = {seed.trial for seed in group.bad_seeds(self.metric, self.spec.metric.goal)}
        return [run for run in group.runs if run.id in bad]

    def by_importance(self) -> list[str]:
        """The parameters that vary, most important first."""
        known = [share.parameter for share in self.importance.shares]
        records = self.with_value()
        names = dict.fromkeys([*known, *(name for record in records for name in record.values)])
        return [name for name in names if len({repr(r.values[name]) for r in records if name in r.values}) > 1]


# ------------------------------------------------------------------------------------------------- curves


def learning_curves(view: View, rungs: Sequence[int] = ()) -> Figure | None:
    """Return metric against step: the best ones with intervals over their seeds, the others behind, stops marked."""
    ranked = [group for group in view.groups if group.interval() is not None]
    front = [group for group in ranked if group.finished][:HIGHLIGHTED]
    chosen = {group.searched.id for group in front}
    behind = [group.searched for group in view.groups if group.searched.id not in chosen]
    traces = []
    kinds: tuple[tuple[str, str, Callable[[TrialRecord], bool]], ...] = (
        ("finished", "var(--finished)", lambda r: r.state is TrialState.FINISHED),
        ("stopped early", "var(--pruned)", lambda r: r.state is TrialState.PRUNED),
        ("failed", "var(--failed)", lambda r: r.state is TrialState.FAILED),
        ("not ended", "var(--muted)", lambda r: not r.state.ended),
    )
    for name, colour, belongs in kinds:
        records = [record for record in behind if belongs(record) and _points(record, view.metric)][:DRAWN]
        if records:
            traces += _bundle(records, view.metric, name, colour)
    collapsed = [run for group in ranked for run in view.collapsed(group)]
    if collapsed:
        traces += _bundle(collapsed, view.metric, "collapsed seed", "var(--failed)")
    for place, group in reversed(list(enumerate(front))):
        traces += _highlighted(group, place, view.metric)
    if not traces:
        return None
    values = [y for trace in traces for y in trace["y"] if y is not None]
    shapes = [
        {
            "type": "line",
            "x0": rung,
            "x1": rung,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": "var(--muted)", "width": 1, "dash": "dot"},
        }
        for rung in rungs
    ]
    yaxis = {"title": {"text": view.metric}, **log_axis(values)}
    layout = {"xaxis": {"title": {"text": "step"}, "rangemode": "tozero"}, "yaxis": yaxis, "shapes": shapes}
    return {"data": traces, "layout": {**layout, "showlegend": True}}


def _bundle(records: Sequence[TrialRecord], metric: str, name: str, colour: str) -> list[dict[str, Any]]:
    """Return many curves as one line with gaps, and a mark at the end of each that did not get to its full length."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for record in records:
        points = _points(record, metric)
        x += [step for step, _ in points] + [None]
        y += [value for _, value in points] + [None]
        text += [f"trial {record.id}"] * len(points) + [None]
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "x": x,
        "y": y,
        "text": text,
        "opacity": 0.45,
        "line": {"color": colour, "width": 1},
        "hovertemplate": "%{text}, step %{x}: %{y}<extra></extra>",
    }
    if name not in ("stopped early", "failed", "collapsed seed"):
        return [line]
    ends = [(*_points(record, metric)[-1], record) for record in records]
    reasons = [f": {plain_text(r.failure.kind)}" if r.failure else "" for _, _, r in ends]
    marks = {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} (end)",
        "legendgroup": name,
        "showlegend": False,
        "x": [step for step, _, _ in ends],
        "y": [value for _, value, _ in ends],
        "text": [f"trial {r.id} {name}{why}" for (_, _, r), why in zip(ends, reasons, strict=True)],
        "marker": {
            "color": colour,
            "size": 7,
            "symbol": "circle-open" if name == "stopped early" else "x-thin",
            "line": {"color": colour, "width": 1.5},
        },
        "hovertemplate": "%{text} at step %{x}: %{y}<extra></extra>",
    }
    return [line, marks]


def _highlighted(group: Group, place: int, metric: str) -> list[dict[str, Any]]:
    """Return the mean curve of a configuration over its seeds, with its 95 % band where several seeds have a value."""
    by_step: dict[int, list[float]] = {}
    for run in group.runs:
        for step, value in _points(run, metric):
            by_step.setdefault(step, []).append(value)
    complete = {step: mean_ci(v) for step, v in sorted(by_step.items()) if len(v) == len(group.runs)}
    steps = list(complete)
    name = f"trial {group.searched.id}" + (" (best)" if place == 0 else "")
    colour = f"mix({place / HIGHLIGHTED * 0.75:.2f})"
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendrank": place,
        "x": steps,
        "y": [interval.mean for interval in complete.values()],
        "line": {"color": colour, "width": 3 if place == 0 else 2},
        "marker": {"size": 5},
        "hovertemplate": f"{name}, step %{{x}}: %{{y}}<extra></extra>",
    }
    if place > 0 or len(group.runs) < 2:
        return [line]
    low = [interval.low for interval in complete.values()]
    high = [interval.high for interval in complete.values()]
    if min(v for v in low if v is not None) <= 0:  # a band that crosses zero cannot be drawn on a logarithmic axis
        low = [max(v or 0.0, 1e-3 * i.mean) for v, i in zip(low, complete.values(), strict=True)]
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": [*steps, *reversed(steps)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": "fade(--good)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, line]


def _points(record: TrialRecord, metric: str) -> list[tuple[int, float]]:
    return [
        (step, report[metric])
        for step, report in sorted(record.reports.items())
        if math.isfinite(report.get(metric, math.nan))
    ]


# --------------------------------------------------------------------------------------------- parameters


def importance_bars(view: View) -> Figure | None:
    """Return the importance of each parameter as bars with their bootstrap intervals."""
    rows = view.importance.shares[::-1]
    if not rows:
        return None
    short = view.short
    shares = [row.importance for row in rows]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": shares,
        "y": [plain_text(short.get(row.parameter, row.parameter)) for row in rows],
        "customdata": [[plain_text(row.parameter), row.low, row.high] for row in rows],
        "marker": {"color": "var(--finished)"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(row.high - row.importance, 0) for row in rows],
            "arrayminus": [max(row.importance - row.low, 0) for row in rows],
            "color": "var(--ink)",
            "thickness": 1.2,
            "width": 4,
        },
        "hovertemplate": "%{customdata[0]}: %{x:.0%} (%{customdata[1]:.0%} to %{customdata[2]:.0%})<extra></extra>",
    }
    return {
        "data": [bars],
        "layout": {"xaxis": {"tickformat": ".0%", "range": [0, 1]}, "yaxis": {"type": "category"}, "bargap": 0.4},
    }


def pareto(view: View, fronts: Mapping[str, int]) -> Figure | None:
    """Return the first two metrics against each other, the Pareto front as a line."""
    if len(view.spec.metrics) < 2:
        return None
    first, second = view.spec.metrics[:2]
    points = [
        (x.mean, y.mean, group.searched)
        for group in view.groups
        if group.finished and (x := group.interval(first.name)) and (y := group.interval(second.name))
    ]
    front = sorted((x, y, r) for x, y, r in points if fronts.get(r.id) == 1) if points else []
    rest = [point for point in points if fronts.get(point[2].id) != 1]
    traces = []
    if rest:
        traces.append(dots([r for *_, r in rest], "finished", "var(--finished)", "circle", *_columns(rest)))
    if front:
        marks = dots([r for *_, r in front], "Pareto front", "var(--good)", "circle", *_columns(front))
        traces.append({**marks, "mode": "lines+markers", "line": {"color": "var(--good)", "width": 2}})
    axes = {"xaxis": {"title": {"text": first.name}}, "yaxis": {"title": {"text": second.name}}}
    return {"data": traces, "layout": {**axes, "showlegend": True}} if traces else None


# ------------------------------------------------------------------------------------------------ helpers


def dots(
    records: Sequence[TrialRecord], label: str, colour: str, symbol: str, x: Sequence[Any], y: Sequence[Any]
) -> dict[str, Any]:
    """Return one mark for each trial, named when pointed at."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": list(x),
        "y": list(y),
        "text": [f"trial {record.id} ({label})" for record in records],
        "marker": {
            "color": colour,
            "symbol": symbol,
            "size": 14 if label == "best" else 8,
            "opacity": 1 if label == "best" else 0.8,
            "line": {
                "color": colour if symbol == "circle-open" else "var(--surface)",
                "width": 1.5 if symbol == "circle-open" else 1,
            },
        },
        "hovertemplate": "%{text}<br>%{x}: %{y}<extra></extra>",
    }


def plain_data(value: Any) -> Any:
    """Return what JSON can hold: numbers of six digits, arrays as lists, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain_data(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


def _columns(points: Iterable[tuple[float, float, TrialRecord]]) -> tuple[list[float], list[float]]:
    xy = [(x, y) for x, y, _ in points]
    return [x for x, _ in xy], [y for _, y in xy]


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis for positive values that differ a lot."""
    if wants_log(values):
        return log_ticks(min(values), max(values))
    return {}


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis whose ticks are whole numbers: plotly.js writes 2 for 20, 200 and 0.002 alike."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
        every = [step * 10.0**power for power in powers[::stride] for step in steps]
        ticks = [tick for tick in every if low * 0.7 <= tick <= high * 1.4]
        if len(ticks) <= 6:
            break
    names = [number(tick) for tick in ticks]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": names, "tickangle": 0}


def axis_value(value: Any) -> Any:
    """Return a value for an axis; plotly.js reads markup in text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return plain_text(number(value) if value is not None else "none")


def plain_text(text: str) -> str:
    """Return text in which plotly.js finds no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
