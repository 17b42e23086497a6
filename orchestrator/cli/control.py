"""Speaking to a sweep, running or not: stop, pause, extend, edit, retry, and the same for one of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cli.common import (
    CommandFailed,
    FileArgument,
    HomeOption,
    SweepArgument,
    TrialArgument,
    YesOption,
    confirm_owner,
    find_sweep,
    home_at,
    sweeps_here,
    trial_and_sweep,
)
from orchestrator.cli.examples import epilog
from orchestrator.cli.lifecycle import trial_delete
from orchestrator.cluster import HELP


def stop(sweep: SweepArgument = None, home: HomeOption = None, yes: YesOption = False) -> None:
    """End a running sweep. What runs stops at its next report; `resume` can go on with it."""
    _request(home, sweep, "stop", yes=yes)


def pause(sweep: SweepArgument = None, home: HomeOption = None, yes: YesOption = False) -> None:
    """Pause a running sweep. Its workers are freed, its driver waits for `resume`."""
    _request(home, sweep, "pause", yes=yes)


def extend(
    more: Annotated[
        str, typer.Argument(metavar="N", help="How many more trials: 8 or +8.", autocompletion=sweeps_here)
    ],
    sweep: SweepArgument = None,
    home: HomeOption = None,
    yes: YesOption = False,
) -> None:
    """Let a sweep run more trials than it was to. Also a finished one: then `resume` runs them."""
    more, sweep = trial_and_sweep(more.removeprefix("+"), sweep and sweep.removeprefix("+"))  # in either order too
    if not more.isdecimal() or int(more) < 1:
        raise ConfigError([Problem(key="N", value=more, rule="must be a number of trials, 1 or more")])
    _request(home, sweep, "extend", int(more), yes=yes)


def try_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SWEEP] key=value...", help="Parameters; others are drawn.", autocompletion=sweeps_here
        ),
    ],
    home: HomeOption = None,
    yes: YesOption = False,
) -> None:
    """Have a sweep try a configuration of yours next, beside those of its search: try digits optimizer.lr=0.002"""
    from meanflow_core.config import parse_value

    sweeps, pairs = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if len(sweeps) > 1 or not pairs:
        rule = (
            "needs key=value words" if not pairs else f"takes one sweep and key=value words; {sweeps[1]!r} is neither"
        )
        raise ConfigError([Problem(key="try", rule=rule)])
    values = {key: parse_value(text) for key, _, text in (pair.partition("=") for pair in pairs)}
    _request(home, sweeps[0] if sweeps else None, "try_values", values, yes=yes)


def edit(
    file: FileArgument,
    sweep: SweepArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    home: HomeOption = None,
    yes: YesOption = False,
) -> None:
    """Replace a sweep's file. Shows the differences, and refuses what would falsify the trials there are."""
    from meanflow_core.config import read_yaml
    from orchestrator.engine import control, edits
    from orchestrator.ledger import Ledger
    from orchestrator.spec import read_spec

    spec = read_spec(file)
    paths = find_sweep(home_at(home), sweep or spec.name)
    ledger = Ledger.open(paths)
    now = ledger.spec()
    # a file that names no sweep is of any that was started from it with `--name`
    words = [] if sweep is None or read_yaml(file).content.get("name") is not None else [f"name={now.title}"]
    command = control.edit(read_spec(file, words, defaults=now.defaults))
    revised = edits.revised(ledger, command)
    for line in [*revised.changes, *revised.notes]:
        typer.echo(f"  {line}")
    if not revised.changes:
        typer.echo("nothing would change")
    elif not dry_run:
        confirm_owner(ledger, yes=yes)
        said = control.request(paths, command)
        typer.echo(said.replace(f": {revised.said}", ""))  # that was printed above


def retry(
    sweep: SweepArgument = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every failed trial.")] = False,
    home: HomeOption = None,
    yes: YesOption = False,
) -> None:
    """Take up failed trials again. One alone: `trial retry ID`. Without a running driver, `resume` runs them."""
    if not failed:
        rule = f"give --failed, or use `meansweep trial retry ID {sweep or 'SWEEP'}` for one trial"
        raise ConfigError([Problem(key="retry", rule=rule)])
    _request(home, sweep, "retry_failed", yes=yes)


def trial_stop(
    trial: TrialArgument, sweep: SweepArgument = None, home: HomeOption = None, yes: YesOption = False
) -> None:
    """End one trial for good."""
    trial, sweep = trial_and_sweep(trial, sweep)
    _request(home, sweep, "stop_trial", trial, yes=yes)


def trial_pause(
    trial: TrialArgument, sweep: SweepArgument = None, home: HomeOption = None, yes: YesOption = False
) -> None:
    """Have one trial free its worker at its next report and wait until it is retried."""
    trial, sweep = trial_and_sweep(trial, sweep)
    _request(home, sweep, "pause_trial", trial, yes=yes)


def trial_retry(
    trial: TrialArgument,
    sweep: SweepArgument = None,
    afresh: Annotated[bool, typer.Option("--afresh", help="From its beginning; also one that has finished.")] = False,
    home: HomeOption = None,
    yes: YesOption = False,
) -> None:
    """Take up a trial that failed, was stopped or is paused; with --afresh any that does not run."""
    trial, sweep = trial_and_sweep(trial, sweep)
    _request(home, sweep, "retry_trial", trial, afresh, yes=yes)


def trial_commands() -> typer.Typer:
    """Return the commands about one trial: `meansweep trial stop`, and others."""
    about = "Stop, pause, retry or delete one trial of a sweep."
    trial = typer.Typer(help=about, epilog=HELP, no_args_is_help=True)
    trial.command("stop", epilog=epilog("trial stop", HELP))(trial_stop)
    trial.command("pause", epilog=epilog("trial pause", HELP))(trial_pause)
    trial.command("retry", epilog=epilog("trial retry", HELP))(trial_retry)
    trial.command("delete", epilog=epilog("trial delete", HELP))(trial_delete)
    return trial


def _request(home: Path | None, sweep: str | None, command: str, *arguments: Any, yes: bool) -> None:
    from orchestrator.engine import control
    from orchestrator.ledger import Ledger, LedgerError

    make: Mapping[str, Any] = vars(control)
    try:
        paths = find_sweep(home_at(home), sweep)
        confirm_owner(Ledger.open(paths), yes=yes)
        typer.echo(control.request(paths, make[command](*arguments)))
    except LedgerError as error:
        raise CommandFailed(str(error)) from error
