"""Several sweeps side by side on paper: rows in words, and the table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.formatting import duration, hours, number
from orchestrator.results.across import SweepComparison, sweeps_verdict
from orchestrator.results.comparison import curve_of
from orchestrator.results.leaderboard_text import against_best, interval_text, state_text
from orchestrator.trials import TrialRecord, TrialState

if TYPE_CHECKING:
    from rich.console import RenderableType

Line = tuple[str, list[str]]
"""What it is, and its value for each sweep."""


def rows_of_sweeps(found: SweepComparison) -> Iterator[tuple[str, list[Line]]]:
    """Yield the title and the lines of each part of a comparison: the bests, their cost, what differs."""
    rows = [found.bests[side.name] for side in found.sides]
    yield (
        "",
        [
            ("trials", [_counts(side.trials) for side in found.sides]),
            ("best trial", [row.trial.partition("/")[2] if row else "-" for row in rows]),
            ("state", [state_text(row) if row else "-" for row in rows]),
            (found.metric, [interval_text(row) if row else "-" for row in rows]),
            ("seeds", [str(row.n) if row else "-" for row in rows]),
            ("vs best", [against_best(row) if row else "" for row in rows]),
        ],
    )
    if found.target is not None:
        reached = [found.cost[side.name] for side in found.sides]
        gpu = any(point and point.gpu_hours for point in reached)
        yield (
            f"to reach {number(found.target)}",
            [
                ("trials", [str(point.trials) if point else "not reached" for point in reached]),
                ("time of workers", [duration(point.seconds) if point else "-" for point in reached]),
                *([("GPU", [hours(point.gpu_hours) if point else "-" for point in reached])] if gpu else []),
            ],
        )
    values = [row.config if row else {} for row in rows]
    names = list(dict.fromkeys(name for config in values for name in config))
    yield (
        "values of the bests",
        [(name, [number(config[name]) if name in config else "-" for config in values]) for name in names],
    )
    told = [(what, [value or "-" for value in given]) for what, given in found.differences.items()]
    yield "what differs", told


def sweeps_table(found: SweepComparison, *, width: int = 100, steps: int = 8) -> RenderableType:
    """Return a comparison of sweeps for a terminal.

    Args:
        found: of `compare_sweeps`.
        width: columns of the terminal; longer values are cut.
        steps: the most steps of the curves that are shown, evenly spaced; the last one always is.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=max(width // 3, 16))
    for side in found.sides:
        table.add_column(side.name, overflow="fold", max_width=max((width - width // 3) // len(found.sides) - 1, 12))
    for title, lines in rows_of_sweeps(found):
        if not lines:
            continue
        if title:
            table.add_section()
            table.add_row(Text(title, style="dim"))
        for what, cells in lines:
            table.add_row(what, *cells, style="bold" if what == found.metric else "")
    curves = [curve_of(row.group, found.metric) if row else {} for row in found.bests.values()]
    at = sorted({step for curve in curves for step in curve})
    stride = max(math.ceil(len(at) / steps), 1)
    table.add_section()
    table.add_row(Text("curves of the bests", style="dim"))
    for step in at[(len(at) - 1) % stride :: stride]:
        table.add_row(f"at step {step}", *(number(curve.get(step)) for curve in curves))
    return Group(table, Text(sweeps_verdict(found), style="bold"))


def _counts(trials: Sequence[TrialRecord]) -> str:
    finished = sum(trial.state is TrialState.FINISHED for trial in trials)
    return f"{len(trials)}, {finished} finished"
