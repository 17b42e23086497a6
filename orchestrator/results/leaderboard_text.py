"""The leaderboard on paper: its cells in words, and the table for a terminal of any width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import count, join, number, plus_minus, short_names
from orchestrator.results.effect_text import effect_cell
from orchestrator.results.leaderboard_rows import Row
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from orchestrator.spec import SweepSpec

Column = tuple[str, list[str]]
"""A title and its cells."""
INSEPARABLE, BRIEFLY = "not separable", "n.s."
LEFT = ("steps", "vs best")
"""Columns of words, which begin at their left."""


def varying(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the swept keys that do not have one and the same value everywhere, in their order."""
    every = list(configs)
    names = list(dict.fromkeys(name for config in every for name in config))
    return [name for name in names if len({repr(config.get(name)) for config in every}) > 1]


def interval_text(row: Row) -> str:
    """Return `12.3 ± 0.4`, or the value alone; where a seed collapsed `2.1 to 87`, as no mean speaks for both."""
    if row.collapsed:
        values = row.seeds.values()
        low, high = min(values), max(values)
        return f"{number(low, 3)} to {number(high, 3)}"
    return plus_minus(row.mean, row.interval.half_width if row.interval else None)


def bad_seeds_text(row: Row) -> str:
    """Return `seed 2 collapsed (86.9)`; empty for a stable configuration."""
    return join(
        [
            f"seed {bad.seed} {bad.kind}" + ("" if bad.value is None else f" ({number(bad.value, 3)})")
            for bad in row.bad_seeds
        ]
    )


def against_best(row: Row, *, brief: bool = False) -> str:
    """Return how much worse than the best one a row is; empty where no test is possible. `brief`: no interval."""
    if row.bad_seeds:
        return "unstable"
    if row.vs_best is None or row.p_value_vs_best is None:
        return "best" if row.tied_with_best else ""
    if row.tied_with_best:
        return BRIEFLY if brief else INSEPARABLE
    return effect_cell(row.vs_best, brief=brief)


def overruled(spec: SweepSpec, rows: Sequence[Row]) -> str:
    """Return why the first row is not that of the best observed value; empty where it is."""
    sound = [row for row in rows if row.expected is not None]
    if not sound or sound[0] is not rows[0]:
        return ""
    sign = 1.0 if spec.metric.goal == "minimize" else -1.0
    lucky = min(sound, key=lambda row: sign * (row.metric or 0.0))
    if lucky is sound[0]:
        return ""
    return (
        f"trial {lucky.trial} had the best value, {number(lucky.metric)}, but another seed of it is expected to give "
        f"{number(lucky.expected)}, and one of trial {sound[0].trial} {number(sound[0].expected)}"
    )


def state_text(row: Row) -> str:
    """Return the state of a row, of a failed one its failure class."""
    return row.failure.kind if row.failure else row.state.value


def leaderboard_table(
    spec: SweepSpec,
    rows: Sequence[Row],
    *,
    limit: int | None = None,
    width: int = 100,
    footer: Iterable[str] = (),
) -> RenderableType:
    """Return the table for a terminal; where it is too narrow for all columns, the parameters are in tables below.

    Args:
        spec: the sweep.
        rows: of `leaderboard`.
        limit: how many rows are shown.
        width: columns of the terminal.
        footer: lines below it, e.g. of `audit_warnings`.
    """
    from rich.console import Group
    from rich.text import Text

    shown = list(rows[:limit])
    names = varying(row.config for row in rows)
    short = short_names(names)
    results = _results(spec, rows, shown)
    brief = _breadth(results, 1) > width
    if brief:
        results = _results(spec, rows, shown, brief=True)
    parameters = [(short[name], [_setting(row.config.get(name)) for row in shown]) for name in names]
    tables: list[RenderableType] = []
    for block in _blocks(results, parameters, width):
        tables += [*([""] if tables else []), _table(shown, block, gap=2 if _breadth(block, 2) <= width else 1)]
    return Group(*tables, *(Text(line, style="dim") for line in (*_caption(spec, rows, shown, brief=brief), *footer)))


def _results(spec: SweepSpec, rows: Sequence[Row], shown: Sequence[Row], *, brief: bool = False) -> list[Column]:
    columns = [("rank", [number(row.rank) for row in shown]), ("trial", [row.trial for row in shown])]
    for metric in spec.metrics:
        first = metric is spec.metrics[0]
        cells = [interval_text(row) if first else number(row.metrics.get(metric.name)) for row in shown]
        columns.append((metric.name.removeprefix("eval/"), cells))
    if any(row.expected is not None for row in shown):
        columns.append(("expected", [number(row.expected) for row in shown]))
    if len(spec.metrics) > 1:
        columns.append(("front", [number(row.front) for row in shown]))
    if any(row.n > 1 for row in rows):
        columns.append(("n", [str(row.n) for row in shown]))
    notes = [against_best(row, brief=brief) for row in shown]
    if any(note not in ("", "best") for note in notes):
        columns.append(("vs best", notes))
    columns.append(("steps", _steps(shown)))
    return columns


def _steps(rows: Sequence[Row]) -> list[str]:
    """Return `800` for those that finished, `400 pruned` for the others."""
    digits = max((len(str(row.steps)) for row in rows), default=0)
    states = ["" if row.state is TrialState.FINISHED else f" {state_text(row)}" for row in rows]
    return [f"{row.steps:>{digits}}{state}" for row, state in zip(rows, states, strict=True)]


def _blocks(results: Sequence[Column], parameters: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Yield the columns of one table if all fit, otherwise of several: the results, then the parameters."""
    if not parameters or _breadth([*results, *parameters], 1) <= width:
        yield [*results, *parameters]
        return
    yield list(results)
    keys = list(results[:3])
    block = list(keys)
    for column in parameters:
        if len(block) > len(keys) and _breadth([*block, column], 1) > width:
            yield block
            block = list(keys)
        block.append(column)
    yield block


def _table(rows: Sequence[Row], columns: Sequence[Column], *, gap: int) -> Table:
    from rich import box
    from rich.table import Table

    # The box's own separator is one of the blanks between two columns.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for title, cells in columns:
        right = title not in LEFT and all(_numeric(cell) for cell in cells)
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for index, row in enumerate(rows):
        style = "bold green" if row.rank == 1 else "dim" if row.rank is None else ""
        table.add_row(*(cells[index] for _, cells in columns), style=style or ("yellow" if row.bad_seeds else ""))
    return table


def _caption(spec: SweepSpec, rows: Sequence[Row], shown: Sequence[Row], *, brief: bool) -> Iterator[str]:
    parts = [", ".join(metric.words for metric in spec.metrics)]
    if any(row.ci95 for row in rows):
        parts.append("± is the 95 % interval of the mean over n seeds")
    if len(shown) < len(rows):
        parts.append(count(len(rows) - len(shown), "more row"))
    yield "; ".join(parts)
    if any(row.expected is not None for row in shown):
        yield "expected: of another seed, by a model of all trials; it decides the order"
    told = overruled(spec, rows)
    if told:
        yield told
    tested = [row for row in shown if row.vs_best and row.p_value_vs_best is not None and not row.bad_seeds]
    if any(not row.tied_with_best for row in tested):
        scale = "how many times worse" if any(row.vs_best and row.vs_best.ratio for row in tested) else "how much worse"
        yield f"vs best: {scale} on the shared seeds" + ("" if brief else ", with its 95 % interval")
    alike = sorted({row.vs_best.n for row in tested if row.vs_best and row.tied_with_best})
    if alike:
        word, seeds = f"{BRIEFLY}: {INSEPARABLE}," if brief else f"{INSEPARABLE}:", join([str(n) for n in alike], "or")
        yield f"{word} with {seeds} shared seeds a paired test cannot tell it from the best"
    asked = [row.trial for row in shown if row.asked]
    if asked:
        yield f"asked for, not drawn by the search: {', '.join(asked)}"
    for row in shown:
        if row.reused:
            yield f"trial {row.trial} was not trained here: it is the result of {row.reused}"
        if row.bad_seeds:
            yield f"trial {row.trial} is unstable: {bad_seeds_text(row)}"


def _setting(value: Any) -> str:
    small = isinstance(value, float) and abs(value) < 1
    return number(value, 2 if small else 3)


def _breadth(columns: Sequence[Column], gap: int) -> int:
    return sum(max(map(len, (title, *cells))) + gap for title, cells in columns) - gap


def _numeric(cell: str) -> bool:
    return cell in ("-", "") or cell[:1].isdigit() or (cell[:1] == "-" and cell[1:2].isdigit())
