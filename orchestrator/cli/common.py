"""What the commands share: options, finding a sweep, printing. Light to import, so that `--help` answers at once."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.api import find_sweep as find_sweep
from orchestrator.api import finish_sending as finish_sending
from orchestrator.api import home_at as home_at
from orchestrator.cli.examples import epilog
from orchestrator.cluster import HELP, REMOTE
from orchestrator.paths import SweepPaths, valid_name
from orchestrator.provenance import user_name

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.ledger import Ledger
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of all state (default: $MEANSWEEP_HOME, or ./meansweep-data).", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def sweeps_here(incomplete: str) -> list[str]:
    """Return the names of the sweeps of this home that begin so, for the shell's completion."""
    names = (folder.name for folder in sorted((home_at(None).root / "sweeps").glob("*")) if folder.is_dir())
    return [name for name in names if name.startswith(incomplete)]


SweepArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[SWEEP]",
        help="The sweep's name; may be left out where there is only one.",
        show_default=False,
        autocompletion=sweeps_here,
    ),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A sweep file.")]
TrialArgument = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL",
        help="A trial's id, e.g. 7, or 7.2 for a replicate.",
        autocompletion=sweeps_here,  # the two are taken in either order
    ),
]
TRIAL_ID = re.compile(r"[0-9]+(\.[0-9]+)?")


YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to change another person's sweep.")]


class CommandFailed(Exception):
    """The command did not succeed, for a reason that is not the user's input; exit code 1."""


def register_commands(app: typer.Typer, panel: str, *commands: Callable[..., Any]) -> None:
    """Add commands to a panel of the help; each help ends with examples, and with how it runs on a cluster."""
    for command in commands:
        end = epilog(command.__name__, HELP if command.__name__ in REMOTE else None)
        app.command(rich_help_panel=panel, epilog=end)(command)


def trial_and_sweep(trial: str, sweep: str | None) -> tuple[str, str | None]:
    """Take the two in either order: `7 digits` and `digits 7`."""
    turned = sweep is not None and TRIAL_ID.fullmatch(sweep) and not TRIAL_ID.fullmatch(trial)
    return (str(sweep), trial) if turned else (trial, sweep)


def check_name(name: str) -> str:
    """Return the name of a sweep or training if it may be one.

    Raises:
        ConfigError: it may not.
    """
    if not valid_name(name):
        rule = "must begin with a letter or digit and hold only letters, digits, '.', '_' and '-'"
        raise ConfigError([Problem(key="name", value=name, rule=rule)])
    return name


def confirm_owner(ledger: Ledger, *, yes: bool) -> None:
    """Ask before another person's sweep is changed; where nobody can answer it must be said with `--yes`.

    Raises:
        ConfigError: nobody was there to ask.
        typer.Abort: the answer was no.
    """
    user = ledger.owner.get("user", "")
    if yes or not user or user == user_name():
        return
    name, told = ledger.paths.name, f"belongs to {user} (started on {ledger.owner.get('host', '?')})"
    ask(name, f"{name} {told}. Change it?", f"{told}; --yes changes it all the same", yes=yes)


def ask(sweep: str, question: str, unasked: str, *, yes: bool) -> None:
    """Ask a question that may be answered before with `--yes`.

    Args:
        sweep: its name.
        question: what is asked.
        unasked: said where nobody can answer.
        yes: whether `--yes` was given.

    Raises:
        ConfigError: nobody was there to ask.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError([Problem(key="SWEEP", value=sweep, rule=unasked)])
    typer.confirm(question, abort=True, err=True)


def read_sweep(home: Path | None, name: str | None) -> tuple[SweepPaths, Ledger, SweepSpec, list[TrialRecord]]:
    """Open a sweep's ledger for reading; the trials as they stand now."""
    from orchestrator.api import read_sweep as read

    return read(home_at(home), name)


def console(*, stderr: bool = False) -> Console:
    """Return rich's console; where the output is no terminal lines are not broken, and $COLUMNS or 100 is its width."""
    from rich.console import Console

    plain = not (sys.stderr if stderr else sys.stdout).isatty()
    width = 100 if plain and not os.environ.get("COLUMNS") else None
    return Console(stderr=stderr, soft_wrap=plain, width=width, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as `json_text` writes it."""
    typer.echo(json_text(value), nl=False)


def json_text(value: Any) -> str:
    """Return a value as JSON, its last line ended; a number that JSON does not know (NaN, infinity) becomes null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value
