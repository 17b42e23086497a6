"""The charts of the report that show the sweep as a whole: its history, its workers, and how its results are spread."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.report.charts import DRAWN, Figure, View, dots, log_axis
from orchestrator.trials import TrialRecord, TrialState, better, value_of

UNITS = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def history(view: View) -> Figure | None:
    """Return the value of each configuration in the order in which they ended, and the best so far."""
    ended = sorted(view.with_value(), key=lambda record: record.ended or 0.0)
    if not ended:
        return None
    place = {record.id: index for index, record in enumerate(ended, start=1)}
    traces = []
    for label, state, colour, symbol in (
        ("finished", TrialState.FINISHED, "var(--finished)", "circle"),
        ("stopped early", TrialState.PRUNED, "var(--pruned)", "circle-open"),
    ):
        some = [record for record in ended if record.state is state]
        if some:
            traces.append(dots(some, label, colour, symbol, [place[r.id] for r in some], [value_of(r) for r in some]))
    x: list[int] = []
    y: list[float] = []
    for record in ended:
        value = value_of(record)
        leads = value is not None and (not y or better(value, y[-1], view.spec.metric.goal))
        if record.state is TrialState.FINISHED and value is not None and leads:
            x.append(place[record.id])
            y.append(value)
    if y:
        line = {"color": "var(--good)", "width": 2, "shape": "hv"}
        shown = {"hovertemplate": "best so far: %{y}<extra></extra>", "name": "best finished so far"}
        traces.append(
            {"type": "scatter", "mode": "lines", "x": [*x, len(ended)], "y": [*y, y[-1]], "line": line, **shown}
        )
    values = [value for record in ended if (value := value_of(record)) is not None]
    layout = {
        "xaxis": {"title": {"text": "configurations that have ended"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": view.metric}, **log_axis(values)},
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}


def timeline(trials: Sequence[TrialRecord]) -> Figure | None:
    """Return when each trial ran, packed into as few rows as there were trials at one time."""
    ran = sorted((t for t in trials if t.started and t.ended), key=lambda t: (t.started, t.id))[-4 * DRAWN :]
    if not ran:
        return None
    began = ran[0].started
    longest = max((t.ended or began) - began for t in ran)
    unit, seconds = next((u for u in UNITS if longest >= 2 * u[1]), UNITS[-1])
    rows = _rows(ran)
    traces: list[dict[str, Any]] = []
    kinds: tuple[tuple[str, str, Callable[[TrialRecord], bool]], ...] = (
        ("finished", "var(--finished)", lambda t: t.state is TrialState.FINISHED and not t.replicate),
        ("another seed", "var(--good)", lambda t: t.state is TrialState.FINISHED and bool(t.replicate)),
        ("stopped early", "var(--pruned)", lambda t: t.state is TrialState.PRUNED),
        ("failed", "var(--failed)", lambda t: t.state is TrialState.FAILED),
    )
    for name, colour, belongs in kinds:
        some = [t for t in ran if belongs(t)]
        if some:
            traces.append({
                "type": "bar", "orientation": "h", "name": name,
                "y": [rows[t.id] for t in some],
                "base": [(t.started - began) / seconds for t in some],
                "x": [((t.ended or began) - t.started) / seconds for t in some],
                "text": [f"trial {t.id} ({name})" for t in some],
                "textposition": "none",
                "marker": {"color": colour, "line": {"color": "var(--surface)", "width": 1}},
                "hovertemplate": f"%{{text}}: %{{x:.3g}} {unit} from %{{base:.3g}}<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "overlay",
        "bargap": 0.15,
        "xaxis": {"title": {"text": f"{unit} since the first trial began"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "tickvals": [], "title": {"text": "at one time"}},
        "showlegend": True,
    }
    return {"data": traces, "layout": layout, "rows": max(rows.values()) + 1}


def _rows(trials: Sequence[TrialRecord]) -> dict[str, int]:
    """Place each trial, in the order of their beginnings, in the lowest row that is free by then."""
    rows: dict[str, int] = {}
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for trial in trials:
        while busy and busy[0][0] <= trial.started:
            heapq.heappush(free, heapq.heappop(busy)[1])
        row = heapq.heappop(free) if free else len(busy)
        rows[trial.id] = row
        heapq.heappush(busy, (trial.ended or trial.started, row))
    return rows


def distribution(view: View) -> Figure | None:
    """Return the share of configurations that are at least as good as a value (the empirical distribution)."""
    every = view.with_value()
    finished = [record for record in every if record.state is TrialState.FINISHED]
    if len(every) < 2:
        return None
    traces: list[dict[str, Any]] = []
    for name, some, colour, dash in (
        ("finished", finished, "var(--good)", "solid"),
        ("all that ended with a value", every, "var(--pruned)", "dot"),
    ):
        values = sorted((v for r in some if (v := value_of(r)) is not None), reverse=not view.minimise)
        if len(values) < 2 or (some is every and len(finished) == len(every)):
            continue
        traces.append({
            "type": "scatter", "mode": "lines", "name": name, "x": values,
            "y": [(index + 1) / len(values) for index in range(len(values))],
            "line": {"shape": "hv", "width": 2, "color": colour, "dash": dash},
            "hovertemplate": "%{y:.0%} are at %{x} or better<extra></extra>",
        })  # fmt: skip
    if not traces:
        return None
    values = [x for trace in traces for x in trace["x"]]
    xaxis = {"title": {"text": view.metric}, **log_axis(values)}
    if not view.minimise:
        xaxis["autorange"] = "reversed"
    layout = {
        "xaxis": xaxis,
        "yaxis": {"title": {"text": "share of them"}, "tickformat": ".0%", "range": [0, 1.02]},
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}
