"""The `meansweep` command: its parser, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer

from meanflow_core.errors import ConfigError
from meanflow_core.training import CheckpointError
from orchestrator.api import SweepFailed
from orchestrator.cli import control, lifecycle, logs, models, results, running, samples, service
from orchestrator.cli.common import CommandFailed, register_commands
from orchestrator.cli.examples import epilog
from orchestrator.cluster import HELP, REMOTE, remote_address
from orchestrator.ledger import LedgerError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
# Typer carries its own copy of click and does not name this class, the base of all usage errors.
UsageProblem: Any = typer.BadParameter.mro()[2]

app = typer.Typer(
    name="meansweep",
    help="Find good hyper-parameters for MeanFlow models, and train the winner.",
    epilog=f"On a Ray cluster with --address http://HEAD:8265 (docs/cluster.md): {', '.join(REMOTE)}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in (
    ("Sweeps", (running.plan, running.run, running.submit, running.resume, control.stop, control.pause)),
    ("Sweeps", (logs.status, logs.logs)),
    ("Changes", (control.extend, control.edit, control.retry, running.rerun)),
    ("Results", (results.leaderboard, results.compare, results.importance, results.export, results.report)),
    ("Models", (models.best, models.train, samples.sample)),
    ("Lifecycle", (lifecycle.remove, lifecycle.prune, lifecycle.archive, lifecycle.restore)),
    ("Service", (service.ui, service.sync, service.schema, service.doctor)),
):
    register_commands(app, panel, *commands)
app.command(name="list", rich_help_panel="Sweeps", epilog=epilog("list", HELP))(lifecycle.list_sweeps)
app.command(name="try", rich_help_panel="Changes", epilog=epilog("try", HELP))(control.try_)
app.add_typer(control.trial_commands(), name="trial", rich_help_panel="Changes")


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"meansweep {version('meansweep')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and leave.")
    ] = False,
) -> None:
    """Find good hyper-parameters for MeanFlow models, and train the winner."""


@cache
def parser() -> Any:
    """The parser of all commands: reading their signatures takes most of the time of a short one."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 done, 1 failed, 2 the input is wrong, 130 interrupted."""
    # Before torch is loaded: threads that spin while they wait are up to 30 times slower beside another process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A trainer may be in the current folder, as with `python -m`; last, so that no file there hides a package.
    sys.path.append(os.getcwd())
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = run(words)
    gc.freeze()  # the interpreter's last collection would go through all objects of torch and Ray: seconds
    sys.exit(code)


def run(words: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        address, remote_home, words = remote_address(words)
        if address is not None:
            return service.run_on_cluster(address, words, remote_home)
        result = parser()(words, standalone_mode=False, prog_name="meansweep")
        return result if isinstance(result, int) else DONE
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        if count > 1:
            print(f"{count} problems; nothing was started", file=sys.stderr)
        return WRONG_INPUT
    except UsageProblem as error:
        error.show(sys.stderr)
        return WRONG_INPUT
    except (CommandFailed, SweepFailed, CheckpointError, LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `meansweep leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)  # cannot be written, mostly
        return FAILED
