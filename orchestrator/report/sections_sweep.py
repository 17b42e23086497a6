"""The sections of the report about the sweep as a whole and about what came after it."""

from __future__ import annotations

from html import escape
from typing import Any

from orchestrator.formatting import number
from orchestrator.report import charts_sweep
from orchestrator.report.charts import Figure, log_axis
from orchestrator.report.parts import Facts, FinalTraining, chart_place, nothing, picture


def history_section(facts: Facts) -> str:
    """Return the value of each configuration as they ended, the best so far, and how the values are spread."""
    figure = charts_sweep.history(facts.view)
    if figure is None:
        return nothing("No configuration has ended with a result yet.")
    metric = facts.view.metric
    shown = chart_place(figure, 380, f"{metric} of each configuration in the order in which they ended")
    caption = "Each configuration in the order in which they ended, at its last value, and the best that had finished."
    spread = charts_sweep.distribution(facts.view)
    more = ""
    if spread is not None:
        told = (
            f"The share of configurations whose {metric} is at least as good as a value (the empirical distribution)."
        )
        more = f'<h3>Distribution</h3><p class="caption">{escape(told)}</p>{chart_place(spread, 300, told)}'
    return f'<p class="caption">{escape(caption)}</p>{shown}{more}'


def timeline_section(facts: Facts) -> str:
    """Return when each trial ran."""
    figure = charts_sweep.timeline(facts.trials)
    if figure is None:
        return nothing("No trial has ended yet.")
    caption = (
        "When each trial ran, from its first step to its last report, in as few rows as there were trials at one time. "
        "A trial that waited at a rung, or for a worker after a failure, is drawn through its wait."
    )
    height = 110 + min(26 * figure.pop("rows"), 900)
    return f'<p class="caption">{escape(caption)}</p>{chart_place(figure, height, "When each trial ran")}'


def final_section(facts: Facts) -> str:
    """Return the final trainings of this sweep's trials: the curve against the trial's, and the samples."""
    if not facts.finals:
        return nothing("No trial of this sweep has had its final training yet.")
    parts = []
    for final in facts.finals:
        figure = _against_trial(facts, final)
        label = f"{facts.view.metric} of the final training {final.name} and of trial {final.trial} against step"
        last = f", {facts.view.metric} {number(final.curve[max(final.curve)])}" if final.curve else ""
        told = f"Trial {final.trial}, {final.steps} steps{last}; {final.told}."
        shown = chart_place(figure, 340, label)
        drawn = (
            ""
            if final.picture is None
            else picture(final.picture, final.name, escape(f"One-step samples at its end, {final.steps} steps"))
        )
        parts.append(f'<h3>{escape(final.name)}</h3><p class="caption">{escape(told)}</p>{shown}{drawn}')
    return "".join(parts)


def _against_trial(facts: Facts, final: FinalTraining) -> Figure | None:
    trial = next((trial for trial in facts.trials if trial.id == final.trial), None)
    metric = facts.view.metric
    of_trial = {} if trial is None else {s: r[metric] for s, r in sorted(trial.reports.items()) if metric in r}
    traces: list[dict[str, Any]] = []
    for name, curve, colour, dash in (
        (f"trial {final.trial}", of_trial, "var(--pruned)", "dot"),
        ("final training", final.curve, "var(--good)", "solid"),
    ):
        if curve:
            traces.append({
                "type": "scatter", "mode": "lines+markers", "name": name, "x": list(curve), "y": list(curve.values()),
                "line": {"color": colour, "width": 2, "dash": dash}, "marker": {"size": 5},
                "hovertemplate": f"{name}, step %{{x}}: %{{y}}<extra></extra>",
            })  # fmt: skip
    if not traces:
        return None
    values = [value for trace in traces for value in trace["y"]]
    axes = {
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": metric}, **log_axis(values)},
    }
    return {"data": traces, "layout": {**axes, "showlegend": True}}
