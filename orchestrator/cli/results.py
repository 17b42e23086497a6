"""Reading sweeps: leaderboard, compare, importance, export, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.api import compare_named
from orchestrator.cli.common import (
    TRIAL_ID,
    HomeOption,
    JsonOption,
    SweepArgument,
    console,
    home_at,
    json_text,
    print_json,
    read_sweep,
    sweeps_here,
)

SweepsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SWEEP]...",
        help="Names of sweeps, of several all of them as one; may be left out where there is only one.",
        show_default=False,
        autocompletion=sweeps_here,
    ),
]


def leaderboard(
    sweeps: SweepsArgument = None,
    json: JsonOption = False,
    limit: Annotated[int | None, typer.Option("-n", min=1, help="Show the best N only.")] = None,
    home: HomeOption = None,
) -> None:
    """Rank the configurations, best first. With intervals where there are several seeds."""
    from orchestrator.results import audit_lines, leaderboard_table, row_json
    from orchestrator.results import leaderboard as rank
    from orchestrator.tracking import run_ids

    if sweeps and len(sweeps) > 1:
        found = compare_named(home_at(home), sweeps)
        spec, trials, rows = found.spec, list(found.trials), list(found.rows)
        told = [row_json(row) for row in rows[:limit]]
    else:
        paths, _, spec, trials = read_sweep(home, sweeps[0] if sweeps else None)
        rows = rank(spec, trials, run_ids(paths))
        told = [row.to_json() for row in rows[:limit]]
    if json:
        print_json(told)
    else:
        out = console()
        footer = [] if sweeps and len(sweeps) > 1 else audit_lines(spec, trials)
        out.print(leaderboard_table(spec, rows, limit=limit, width=out.width, footer=footer))


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="TRIAL TRIAL [SWEEP] | SWEEP SWEEP...",
            help="Two trials of a sweep; or two or more sweeps.",
            autocompletion=sweeps_here,
        ),
    ],
    target: Annotated[
        float | None,
        typer.Option(
            "--reach", help="Of sweeps: what it cost to reach this value (default: the worst of their bests)."
        ),
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare two trials, or sweeps. What differs, their curves, and whether the difference is real.

    Of sweeps: the best of each, what differs in space, base, code and budget, and what it cost to reach a value.
    """
    from orchestrator.results import compare as compare_trials
    from orchestrator.results import compare_table, sweeps_table
    from orchestrator.tracking import link_to_runs

    place = home_at(home)
    known = {paths.name for paths in place.all_sweeps()}
    trials_named = [name for name in names if TRIAL_ID.fullmatch(name) and name not in known]
    others = [name for name in names if name not in trials_named]
    if len(trials_named) == 2 and len(others) < 2:
        paths, _, spec, trials = read_sweep(home, others[0] if others else None)
        result = compare_trials(spec, trials, *trials_named)
        link = link_to_runs(paths, spec, [side.group.searched.config_id for side in result.sides])
        if json:
            print_json({**result.to_json(), "mlflow": link})
            return
        console().print(compare_table(spec, result))
        if link is not None:
            typer.echo(f"in MLflow: {link}")
        return
    if trials_named or len(names) < 2:
        rule = "must be two trials (and their sweep), or two or more sweeps"
        raise ConfigError([Problem(key="compare", value=" ".join(names), rule=rule)])
    found = compare_named(place, names, target=target)
    if json:
        print_json(found.to_json())
    else:
        out = console()
        out.print(sweeps_table(found, width=out.width))


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
    sweeps: SweepsArgument = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="File to write (default: report.html in the sweep's folder; of several in this one)."
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Write one HTML file with everything about a sweep, or about several. It opens without a server or network."""
    from orchestrator.api import report_sweep

    if sweeps and len(sweeps) > 1:
        from orchestrator.report import write_sweeps_report

        found = compare_named(home_at(home), sweeps)
        typer.echo(write_sweeps_report(found, out or Path(f"{'-'.join(sweeps)}.html")))
    else:
        typer.echo(report_sweep(home_at(home), sweeps[0] if sweeps else None, out))
