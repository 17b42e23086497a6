"""The sections of the report about results. Every text from a user is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from orchestrator.formatting import count, duration, number, short_names
from orchestrator.report import charts, charts_parameters
from orchestrator.report.parallel import parallel_coordinates
from orchestrator.report.parts import Facts, chart_place, colour_keys, data_of, html_table, nothing, picture, untitled
from orchestrator.results import (
    Row,
    against_best,
    audit_rungs,
    bad_seeds_text,
    interval_text,
    notes,
    state_text,
    varying,
    verdict,
)
from orchestrator.trials import TrialState

SHOWN = 15
"""Rows of the leaderboard that are open at once; the others can be unfolded."""


# ------------------------------------------------------------------------------------------------ summary


def summary_section(facts: Facts) -> str:
    """Return the result in a sentence, what to know before relying on it, and the figures people ask for first."""
    remarks = "".join(
        f"<li>{escape(note)}</li>" for note in notes(facts.spec, facts.trials, facts.rows, facts.view.importance)
    )
    text = f'<p class="sentence">{escape(verdict(facts.spec, facts.rows, facts.view.importance))}</p>'
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in _tiles(facts)
    )
    notes_ = f"<ul>{remarks}</ul>" if remarks else ""
    return f'{text}{notes_}<div class="tiles">{tiles}</div>{_next_commands(facts)}'


def _next_commands(facts: Facts) -> str:
    """Return the way from the result to the final training."""
    if not facts.ranked or facts.ranked[0].state is not TrialState.FINISHED:
        return ""
    commands = f"meansweep best {facts.spec.name} -o best.yaml\nmeansweep train best.yaml"
    title = f"Train trial {facts.ranked[0].trial} at full length:"
    return f'<p class="caption next">{escape(title)}</p><pre>{escape(commands)}</pre>'


def _tiles(facts: Facts) -> Iterable[tuple[str, str]]:
    if facts.ranked:
        best = facts.ranked[0]
        yield interval_text(best), f"{facts.spec.metric.name} of trial {best.trial}, {count(best.n, 'seed')}"
    states = {name: sum(row.state.value == name for row in facts.rows) for name in ("finished", "pruned", "failed")}
    words = {"finished": "finished", "pruned": "stopped early", "failed": "failed"}
    yield (
        count(len(facts.rows), "configuration"),
        ", ".join(f"{n} {words[name]}" for name, n in states.items() if n) or "none has ended",
    )
    gpu, busy = sum(t.gpu_seconds for t in facts.trials), sum(t.busy_seconds for t in facts.trials)
    yield (f"{number(gpu / 3600, 3)} GPU-hours", f"{duration(busy)} of work") if gpu else (duration(busy), "of work")
    if facts.view.importance.shares:
        top = facts.view.importance.shares[0]
        interval = f"{top.low:.0%} to {top.high:.0%}"
        yield (
            facts.view.short.get(top.parameter, top.parameter),
            f"most important ({top.importance:.0%}, {interval})",
        )


# -------------------------------------------------------------------------------------------- leaderboard


def leaderboard_section(facts: Facts) -> str:
    """Return the ranking with intervals, the Pareto front for several metrics."""
    if not facts.rows:
        return nothing("No trial has run yet.")
    caption = (
        "Best first. A trial that was stopped early never outranks one that finished, and a failed one has no rank."
    )
    if any(row.ci95 for row in facts.rows):
        caption += (
            " ± and the bars are 95 % intervals of the mean over seeds (Student t). “vs best” says how much worse a "
            "configuration is on the seeds it shares with the best one, with its 95 % interval"
            + (", as a ratio (of logarithms: the metric is above zero)" if _by_ratio(facts) else "")
            + "; “not separable”: with these seeds a paired t-test, corrected for the number of comparisons (Holm), "
            "cannot tell the two apart."
        )
    if any(row.bad_seeds for row in facts.rows):
        caption += (
            " “Unstable”: a seed diverged or collapsed (it ended more than three times worse than the best seed, and "
            "worse than that one ever was); such configurations rank below the stable ones."
        )
    fronts = {row.trial: row.front for row in facts.rows if row.front}
    label = f"{' against '.join(metric.name for metric in facts.spec.metrics[:2])}, with the Pareto front"
    front = chart_place(charts.pareto(facts.view, fronts), 380, label)
    return f'<p class="caption">{escape(caption)} A click on a head sorts.</p>{front}{_rows_table(facts, facts.rows)}'


def _rows_table(facts: Facts, rows: Sequence[Row]) -> str:
    names = varying(row.config for row in rows)
    short = short_names(names)
    tested = any(row.p_value_vs_best is not None for row in rows)
    scale = _scale([row for row in facts.ranked if row.state is TrialState.FINISHED and not row.collapsed])
    heads = ["rank", "trial", "state", facts.spec.metric.name, "", *(m.name for m in facts.spec.metrics[1:]), "seeds"]
    heads += [*(["vs best"] if tested else []), "steps", *(short[name] for name in names)]
    right = {"rank", "trial", "seeds", "steps", *(metric.name for metric in facts.spec.metrics)}
    right |= {short[name] for name in names if all(_plain(row.config.get(name)) for row in rows)}
    body: list[tuple[str, list[str]]] = []
    behind: list[list[object]] = []
    for row in rows:
        state = f'<span class="state {escape(row.state.value)}">{escape(state_text(row))}</span>'
        if row.bad_seeds:
            state = f'<span class="state failed" title="{escape(bad_seeds_text(row))}">unstable</span>'
        cells = [number(row.rank), row.trial, state, escape(interval_text(row)), _range(row, scale)]
        cells += [escape(number(row.metrics.get(metric.name))) for metric in facts.spec.metrics[1:]]
        cells += [str(row.n or "-"), *([escape(against_best(row))] if tested else []), str(row.steps)]
        cells += [escape(number(row.config.get(name), 3)) for name in names]
        plain: list[object] = [row.rank, row.trial, "unstable" if row.bad_seeds else row.state.value, row.metric, None]
        plain += [row.metrics.get(metric.name) for metric in facts.spec.metrics[1:]]
        plain += [row.n, *([row.p_value_vs_best] if tested else []), row.steps, *map(row.config.get, names)]
        kind = "none" if row.rank is None else "first" if row.rank == 1 else ""
        kind += " early" if row.state is not TrialState.FINISHED else ""
        body.append((kind.strip(), cells))
        behind.append(plain)
    places = {index for index, head in enumerate(heads) if head in right}
    return html_table(heads, body, places, sorted_by=behind, shown=SHOWN if len(rows) > SHOWN else None)


def _by_ratio(facts: Facts) -> bool:
    return any(row.vs_best and row.vs_best.ratio for row in facts.rows)


def _plain(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _scale(rows: Sequence[Row]) -> tuple[float, float, bool] | None:
    """Return low, high and whether it is logarithmic, of the axis on which the intervals are drawn."""
    values = [value for row in rows for value in (row.mean, *(row.ci95 or ())) if value is not None]
    if not values or min(values) == max(values):
        return None
    log = min(values) > 0 and max(values) / min(values) > 5
    return min(values), max(values), log


def _range(row: Row, scale: tuple[float, float, bool] | None) -> str:
    if scale is None or row.mean is None or row.state is not TrialState.FINISHED or row.collapsed:
        return ""
    low, high, log = scale

    def place(value: float) -> float:
        if log:
            return 100 * math.log(value / low) / math.log(high / low)
        return 100 * (value - low) / (high - low)

    bar = ""
    if row.ci95:
        left, right = (place(end) for end in row.ci95)
        bar = f'<i style="left:{left:.1f}%;width:{max(right - left, 1):.1f}%"></i>'
    return f'<span class="range">{bar}<b style="left:{place(row.mean):.1f}%"></b></span>'


# ------------------------------------------------------------------------------------------------- charts


def curves_section(facts: Facts) -> str:
    """Return the learning curves and how well early values predicted final ones."""
    best = next((group.searched for group in facts.view.groups if group.finished), None)
    rungs = facts.spec.rungs_before(best.steps, best.values) if best else []
    figure = charts.learning_curves(facts.view, rungs)
    if figure is None:
        return nothing("No trial has reported yet.")
    caption = (
        "The best configurations in blue, the best of all with the 95 % band of its mean over seeds; the others are "
        "thin lines. Circles mark where a trial was stopped early, crosses where one failed or a seed collapsed"
        + (", dotted lines the rungs at which stopping is decided." if rungs else ".")
    )
    label = f"{facts.view.metric} against step, a curve for each trial"
    told = audit_rungs(facts.spec, facts.trials)
    words = "; ".join(map(str, told))
    tail = (
        '<p class="caption">Did the rungs predict the end? Rank correlation of the value there with the final one, '
        f"over the trials that finished: {escape(words)}. 1 is a perfect prediction, 0 none.</p>"
        if told
        else ""
    )
    return f'<p class="caption">{escape(caption)}</p>{chart_place(figure, 460, label)}{tail}'


def parallel_section(facts: Facts) -> str:
    """Return the parallel coordinates."""
    content = parallel_coordinates(facts.view)
    if content is None:
        return nothing("This chart needs two configurations with a result, and a parameter that differs.")
    caption = (
        "One line for each configuration that ended with a result, from its metric through its values; the strongest "
        "line is the best one. Drag along an axis to keep the lines that pass there (a double click frees it), and an "
        "axis by its name to move it."
    )
    label = f"{len(content['lines'])} configurations as lines through {facts.view.metric} and their values"
    place = f'<div class="parallel" data-parallel data-label="{escape(label)}"></div>{data_of(content)}'
    return f'<p class="caption">{escape(caption)}</p><div class="scroll">{place}</div>'


def importance_section(facts: Facts) -> str:
    """Return which parameters decide."""
    found = facts.view.importance
    figure = charts.importance_bars(facts.view)
    if figure is None:
        return nothing(f"{found.message}.")
    caption = (
        f"How much each parameter decides whether a configuration is among the best {found.best} of "
        f"{found.trials} (PED-ANOVA, shares of 1), with 90 % bootstrap intervals: where they overlap widely, the "
        "order is not sure."
    )
    label = "Importance: " + ", ".join(f"{share.parameter} {share.importance:.0%}" for share in found.shares)
    return f'<p class="caption">{escape(caption)}</p>{chart_place(figure, 90 + 38 * len(found.shares), label)}'


def slices_section(facts: Facts) -> str:
    """Return the metric against each parameter."""
    figures = charts_parameters.slices(facts.view)
    if not figures:
        return nothing("No parameter differs among the configurations with a result.")
    legend = colour_keys(
        [
            ("var(--good)", "best"),
            ("var(--finished)", "finished"),
            ("var(--pruned)", "stopped early (at its last value)"),
            ("var(--failed)", "diverged (at the edge)"),
        ]
    )
    places = "".join(
        f"<div><h3>{escape(name)}</h3>{chart_place(untitled(figure), 250, f'{facts.view.metric} against {name}')}</div>"
        for name, figure in figures
    )
    caption = escape(f"{facts.view.metric} against each parameter, the most important first.")
    return f'<p class="caption">{caption}</p>{legend}<div class="grid">{places}</div>'


def contours_section(facts: Facts) -> str:
    """Return the metric over pairs of parameters."""
    figures = charts_parameters.contours(facts.view)
    if not figures:
        return nothing("Six configurations with a result, and two parameters that most of them have, are needed here.")
    good = "low" if facts.view.minimise else "high"
    caption = (
        f"{facts.view.metric} over pairs of the most important parameters, interpolated between the configurations "
        f"(dots; the star is the best). Good ({good}) is dark blue on a light page and bright blue on a dark one; the "
        "worst quarter shares one colour."
    )
    places = "".join(
        f"<div>{chart_place(figure, 330, f'{facts.view.metric} over {name}')}</div>" for name, figure in figures
    )
    ranked = "".join(
        f"<div>{chart_place(figure, 330, f'ranks over {name}')}</div>"
        for name, figure in charts_parameters.ranks(facts.view)
    )
    told = (
        "The same pairs without interpolation: each configuration in the colour of its rank; diamonds were stopped "
        "early, and are ranked below those that finished."
    )
    ranks = f'<h3>Ranks</h3><p class="caption">{told}</p><div class="grid two">{ranked}</div>' if ranked else ""
    return f'<p class="caption">{escape(caption)}</p><div class="grid two">{places}</div>{ranks}'


# ------------------------------------------------------------------------------------------------ samples


def samples_section(facts: Facts) -> str:
    """Return the sample grids of the best configurations, and of the worst ones beside them."""
    rows = [row for row in facts.ranked if row.trial in facts.images]
    if not rows:
        return nothing("There are no pictures of samples.")
    half = (len(rows) + 1) // 2
    names = varying(row.config for row in facts.rows)
    short = short_names(names)
    parts = []
    for title, some in (("The best", rows[:half]), ("The worst", rows[half:])):
        figures = "".join(_picture(row, facts.images[row.trial], names, short) for row in some)
        parts.append(f"<h3>{title}</h3><div class='grid two'>{figures}</div>" if figures else "")
    same = " at the same step" if len({row.steps for row in rows}) == 1 else ""
    caption = (
        f"The last pictures each trial drew, all from the same noise{same}. The worst are those of the trials that "
        "finished, as far as there are enough; of an unstable configuration its bad seed is shown."
    )
    return f'<p class="caption">{escape(caption)}</p>' + "".join(parts)


def _picture(row: Row, file: Path, names: Sequence[str], short: Mapping[str, str]) -> str:
    values = ", ".join(f"{short[name]} {number(row.config[name], 3)}" for name in names if name in row.config)
    early = "" if row.state is TrialState.FINISHED else f", {row.state.value} at step {row.steps}"
    bad = f", {bad_seeds_text(row)}" if row.bad_seeds else ""
    said = escape(f", rank {row.rank}, {interval_text(row)}{early}{bad}")
    caption = f"<b>trial {escape(row.trial)}</b>{said}<br>{escape(values)}"
    return picture(file, f"trial {row.trial}", caption)
