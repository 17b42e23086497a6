"""Looking at a sweep while it runs: status, logs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cli.common import (
    TRIAL_ID,
    HomeOption,
    JsonOption,
    SweepArgument,
    console,
    find_sweep,
    home_at,
    print_json,
    read_sweep,
    sweeps_here,
    trial_and_sweep,
)
from orchestrator.cli.lifecycle import list_sweeps


def status(sweep: SweepArgument = None, json: JsonOption = False, home: HomeOption = None) -> None:
    """Say where a sweep stands. Trials by state, the best so far, time left, what it has cost."""
    from orchestrator.results import status_of, status_table
    from orchestrator.worker import disk_use

    if sweep is None and len(list(home_at(home).all_sweeps())) > 1:
        return list_sweeps(json, home)
    paths, ledger, _, _ = read_sweep(home, sweep)
    found = replace(status_of(ledger), disk=disk_use(paths))
    if json:
        print_json(found.to_json())
    else:
        console().print(status_table(found))


def logs(
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRIAL]", help="A trial's id; without one, the driver's log.", autocompletion=sweeps_here
        ),
    ] = None,
    sweep: SweepArgument = None,
    named: Annotated[str | None, typer.Option("--sweep", hidden=True)] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added.")] = False,
    tail: Annotated[int, typer.Option("-n", help="Last lines to begin with; 0 for all.")] = 50,
    home: HomeOption = None,
) -> None:
    """Print the log of a trial or of the driver. Of a trial: what its workers printed, over all its runs."""
    sweep = sweep or named
    if trial is not None and sweep is None and not TRIAL_ID.fullmatch(trial):
        trial, sweep = None, trial  # `meansweep logs SWEEP`
    elif trial is not None:
        trial, sweep = trial_and_sweep(trial, sweep)
    paths = find_sweep(home_at(home), sweep)
    if trial is not None and not TRIAL_ID.fullmatch(trial):
        raise ConfigError(
            [Problem(key="TRIAL", value=trial, rule="must be a trial's id, e.g. 7, or 7.2 for a replicate")]
        )
    file = paths.driver_log if trial is None else paths.trial(trial).log
    if not file.exists():
        known = sorted((p.parent.name for p in paths.trials.glob("*/log.txt")), key=float)
        rule = f"has no log yet; trials with one: {', '.join(known) or 'none'}"
        raise ConfigError([Problem(key="TRIAL", value=trial or "driver", rule=rule)])
    with file.open(encoding="utf-8", errors="replace") as stream:
        lines = stream.readlines()
        typer.echo("".join(lines[-tail:] if tail else lines), nl=False)
        while follow:
            text = stream.read()
            if text:
                typer.echo(text, nl=False)
            else:
                time.sleep(0.3)
