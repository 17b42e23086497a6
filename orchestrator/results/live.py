"""The display of a running sweep: a table that is redrawn in a terminal, one line per trial everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import duration, number
from orchestrator.results.leaderboard_rows import Row
from orchestrator.results.sweep_status import Status, best_text, counts_text, status, steps_of
from orchestrator.trials import TrialRecord, TrialState, value_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from orchestrator.results.notebook import NotebookDisplay
    from orchestrator.spec import SweepSpec

ROWS = 14
"""Most trials shown at once: those that run, then those that ended last."""
COLOURS = {
    "running": "cyan",
    "finished": "green",
    "pruned": "yellow",
    "failed": "red",
    "waiting": "dim",
    "at-rung": "blue",
}


@dataclass(frozen=True, kw_only=True)
class LiveRow:
    """A trial as the table shows it."""

    trial: str
    state: str
    failure: str | None
    step: int
    total: int | None
    """Steps of its full length, if the configuration says so."""
    metric: float | None
    best: float | None
    """The best value it has reported."""
    seconds_left: float | None


@dataclass(frozen=True)
class View:
    """The picture of a sweep: where it stands, and the trials worth showing."""

    status: Status
    metric: str
    rows: list[LiveRow]


def view(spec: SweepSpec, trials: Sequence[TrialRecord], *, rows: int = ROWS, **known: Any) -> View:
    """Return the picture of a sweep.

    Args:
        spec: the sweep.
        trials: every trial so far.
        rows: the most trials shown.
        known: what `status` takes: `state`, `wall_seconds`, `concurrency`.
    """
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    others = [trial for trial in trials if trial.state is not TrialState.RUNNING and trial.steps + trial.busy_seconds]
    others.sort(key=lambda trial: trial.ended or trial.started, reverse=True)
    shown = [*running[:rows], *others[: max(rows - len(running), 0)]]
    metric = spec.metric
    lines = [_row(trial, metric.name, metric.goal, steps_of(spec, trial.values)) for trial in shown]
    return View(status(spec, trials, **known), metric.name, lines)


def render(view: View, *, width: int = 80) -> RenderableType:
    """Return what `view` says, for rich.

    Args:
        view: of `view`.
        width: columns there are; where they are few, the bar is left out and the titles are shorter.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, justify, _ in (columns := _columns(view, width)):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for index, row in enumerate(view.rows):
        cells = [
            Text(column[index], style=COLOURS.get(row.state, "") if title == "state" else "")
            for title, _, column in columns
        ]
        table.add_row(*cells, style="" if row.state == "running" else "dim")
    found = view.status
    foot = [_best(found.best)]
    if found.eta_seconds:
        foot.append(f"about {duration(found.eta_seconds)} left")
    head = Text.assemble((found.sweep, "bold"), f"  {counts_text(found)}")
    return Group(head, table, Text("; ".join(foot), style="bold"))


Column = tuple[str, str, list[str]]
"""A title, where its cells stand, and the cells."""


def _columns(view: View, width: int) -> list[Column]:
    """Return the columns of the table, as much of them as there is room for."""
    rows, metric = view.rows, view.metric.removeprefix("eval/")
    steps = [str(row.step) if row.total is None else f"{row.step}/{row.total}" for row in rows]
    left = [duration(row.seconds_left) if row.state == "running" else "" for row in rows]
    columns: list[Column] = [
        ("trial", "right", [row.trial for row in rows]),
        ("state", "left", [row.failure or row.state for row in rows]),
        ("step", "right", steps),
        ("", "left", [_bar(row.step, row.total) for row in rows]),
        (metric, "right", [number(row.metric) for row in rows]),
        ("best so far", "right", [number(row.best) for row in rows]),
        ("time left", "right", left),
    ]

    def excess() -> int:
        return sum(max(map(len, (title, *cells))) + 2 for title, _, cells in columns) - 1 - width

    if excess() > 0:
        del columns[3]  # the bar: the step says it too
    if excess() > 0:
        columns[-2:] = [("best", *columns[-2][1:]), ("left", *columns[-1][1:])]
    if (over := excess()) > 0:
        columns[3] = (f"{metric[: max(len(metric) - over - 1, 5)]}…", *columns[3][1:])
    return columns


Trials = Sequence[TrialRecord] | Callable[[], Sequence[TrialRecord]]


class LiveDisplay:
    """Shows a sweep while it runs; call `update` whenever something has happened.

    In a terminal or a notebook the table is redrawn at most `per_second` times a second. Elsewhere, and in the file
    `log`, a trial is a line when it ends and when it comes to rest: at a rung, or paused.

    Args:
        spec: the sweep.
        console: where it is shown.
        per_second: see above.
        clock: seconds that never jump.
        log: a file that gets the lines too.
        before: the trials as they were when this driver began; their states then are not printed again.
    """

    def __init__(
        self,
        spec: SweepSpec,
        console: Console | None = None,
        *,
        per_second: float = 4.0,
        clock: Callable[[], float] = time.monotonic,
        log: Path | None = None,
        before: Sequence[TrialRecord] = (),
    ) -> None:
        from rich.console import Console

        self._spec = spec
        self._console = console or Console(highlight=False)
        self._interval = 1 / per_second
        self._clock = clock
        self._shown = float("-inf")
        self._pending: tuple[Trials, dict[str, Any]] | None = None
        self._told = {trial.id: _standing(trial) for trial in before}
        self._drawn: list[Any] | None = None
        self._live: Live | NotebookDisplay | None = None
        self._log = log

    @property
    def _width(self) -> int:
        return 100 if self._console.is_jupyter else self._console.width

    @property
    def redraws(self) -> bool:
        """Whether the table is redrawn: in a terminal, and in a notebook."""
        return self._console.is_terminal or self._console.is_jupyter

    def __enter__(self) -> LiveDisplay:
        if self._console.is_jupyter:
            from orchestrator.results.notebook import NotebookDisplay

            self._live = NotebookDisplay()
        elif self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()  # the last change may have come too soon after the one before it
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def update(self, trials: Trials, *, spec: SweepSpec | None = None, **known: Any) -> None:
        """Take note of a change.

        Args:
            trials: every trial so far, or a function that returns them and is called only when they are to be shown.
            spec: the sweep, if it has been edited or extended.
            known: what `status` takes: `state`, `wall_seconds`, `concurrency`.
        """
        self._pending, self._spec = (trials, known), spec or self._spec
        if self._clock() - self._shown >= self._interval:
            self._show()

    def _show(self) -> None:
        if self._pending is None:
            return
        given, known = self._pending
        self._pending, self._shown = None, self._clock()
        trials = given() if callable(given) else given
        if self._live is not None:
            picture = view(self._spec, trials, **known)
            now = picture.status
            drawn = [now.counts, now.left, picture.rows, now.best, duration(now.eta_seconds)]
            if drawn != self._drawn:  # the same picture again would only flicker
                self._drawn = drawn
                self._live.update(render(picture, width=self._width), refresh=True)
        for trial in trials:
            standing = _standing(trial)
            if standing != self._told.get(trial.id):
                self._told[trial.id] = standing
                if standing is not None:
                    self._tell(line(self._spec, trial, trials, **known))

    def _tell(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, markup=False, soft_wrap=True)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def _standing(trial: TrialRecord) -> tuple[TrialState, int, float | None] | None:
    """How a trial rests or has ended; None while it is under way."""
    rests = trial.state.ended or trial.state in (TrialState.AT_RUNG, TrialState.PAUSED)
    return (trial.state, trial.steps, trial.ended) if rests else None


def line(spec: SweepSpec, trial: TrialRecord, trials: Sequence[TrialRecord], **known: Any) -> str:
    """Return what is said about a trial that rests or has ended, where there is no terminal."""
    if trial.failure is not None:
        told, kind = trial.failure.reason, trial.failure.kind
        what = told if told.startswith(kind) else f"{kind}: {told}"
    else:
        what = f"{trial.state.value} at step {trial.steps}: {spec.metric.name} {number(trial.metric)}"
        origin = trial.labels.get("reused")
        what += f", reused from {origin}" if origin else ""
    found = status(spec, trials, **known)
    parts = [f"trial {trial.id} {what} ({duration(trial.busy_seconds)})", _best(found.best)]
    parts.append(counts_text(found))
    if found.eta_seconds:
        parts.append(f"about {duration(found.eta_seconds)} left")
    return "; ".join(parts)


def _best(best: Row | None) -> str:
    return f"best {best_text(best)}" if best else best_text(best)


def _row(trial: TrialRecord, metric: str, goal: str, total: int | None) -> LiveRow:
    values = [report[metric] for report in trial.reports.values() if metric in report]
    choose = min if goal == "minimize" else max
    unknown = not trial.steps or total is None
    return LiveRow(
        trial=trial.id,
        state=trial.state.value,
        failure=trial.failure.kind if trial.failure else None,
        step=trial.steps,
        total=total,
        metric=value_of(trial),
        best=choose(values) if values else None,
        seconds_left=None if unknown else trial.busy_seconds / trial.steps * max((total or 0) - trial.steps, 0),
    )


def _bar(step: int, total: int | None, width: int = 12) -> str:
    if not total:
        return ""
    full = min(round(step / total * width), width)
    return "━" * full + "─" * (width - full)
