"""Reading a sweep: leaderboard, status, compare, importance, export, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import (
    HomeOption,
    JsonOption,
    SweepArgument,
    console,
    home_at,
    json_text,
    print_json,
    read_sweep,
)

if TYPE_CHECKING:
    from orchestrator.paths import Home
    from orchestrator.report import FinalTraining
    from orchestrator.trials import TrialRecord


def leaderboard(
    sweep: SweepArgument = None,
    json: JsonOption = False,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="Show the best N only.")] = None,
    home: HomeOption = None,
) -> None:
    """Rank the configurations, best first. With intervals where there are several seeds."""
    from orchestrator.results import audit_lines, leaderboard_table
    from orchestrator.results import leaderboard as rank
    from orchestrator.tracking import run_ids

    paths, _, spec, trials = read_sweep(home, sweep)
    rows = rank(spec, trials, run_ids(paths))
    if json:
        print_json([row.to_json() for row in rows[:limit]])
    else:
        out = console()
        footer = audit_lines(spec, trials)
        out.print(leaderboard_table(spec, rows, limit=limit, width=out.width, footer=footer))


def compare(
    first: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another trial.")],
    sweep: SweepArgument = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare two trials. What differs in their configurations, their curves, and whether the difference is real."""
    from orchestrator.results import compare as compare_trials
    from orchestrator.results import compare_table

    _, _, spec, trials = read_sweep(home, sweep)
    result = compare_trials(spec, trials, first, second)
    if json:
        print_json(result.to_json())
    else:
        console().print(compare_table(spec, result))


def importance(sweep: SweepArgument = None, json: JsonOption = False, home: HomeOption = None) -> None:
    """Say which parameters decide the metric."""
    from orchestrator.results import importance as measure
    from orchestrator.results import importance_table

    _, _, spec, trials = read_sweep(home, sweep)
    result = measure(spec, trials)
    if json:
        print_json(result.to_json())
    else:
        console().print(importance_table(spec, result))


def export(
    sweep: SweepArgument = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", "--csv", help="File to write (default: standard output).")
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write every trial as CSV, or with --json as JSON. With its values, seeds, states and results."""
    from orchestrator.results import to_csv

    _, _, spec, trials = read_sweep(home, sweep)
    text = json_text([trial.to_dict() for trial in trials]) if json else to_csv(spec, trials)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        typer.echo(out)


def report(
    sweep: SweepArgument = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write (default: report.html in the sweep's folder).")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Write one HTML file with everything about a sweep. It opens without a server or network."""
    from orchestrator.report import find_images, write_report
    from orchestrator.results import leaderboard as rank
    from orchestrator.tracking import run_ids

    paths, ledger, spec, trials = read_sweep(home, sweep)
    ids = run_ids(paths)
    file = paths.root / "report.html" if out is None else out
    write_report(
        spec,
        trials,
        out=file,
        plan=ledger.fact("plan"),
        images=find_images(paths, rank(spec, trials)),
        environment=ledger.environment(),
        run_ids=ids,
        state=ledger.state().state,
        wall_seconds=ledger.wall_seconds,
        finals=list(_final_trainings(home_at(home), spec.name, trials)),
    )
    typer.echo(file)


def _final_trainings(home: Home, sweep: str, trials: Sequence[TrialRecord]) -> Iterator[FinalTraining]:
    from meanflow_core.config import load_config
    from orchestrator.final import result_of, trainings_of
    from orchestrator.report import FinalTraining as Final

    hashes = {trial.id: trial.config_hash for trial in trials}
    for trial, folder in trainings_of(home.root / "final", sweep, hashes):
        found = result_of(load_config(folder / "config.yaml"), folder)
        yield Final(
            name=folder.name,
            trial=trial,
            curve=found.curve,
            steps=found.steps,
            told=str(found.reproduction or "it carries no curve of the trial"),
            picture=found.picture,
        )
