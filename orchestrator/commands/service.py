"""Around the sweeps: MLflow's pages, sending what is waiting, the sweep file's schema, the health of a set-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.commands.common import (
    CommandFailed,
    HomeOption,
    JsonOption,
    SweepArgument,
    console,
    find_sweep,
    home_at,
    print_json,
)

REMOTE = (
    "status",
    "logs",
    "stop",
    "pause",
    "resume",
    "leaderboard",
    "best",
    "compare",
    "importance",
    "export",
    "trial",
)
"""Commands that `--address` runs on the cluster, where the sweep's folder is."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (ui, sync, schema, doctor):
        app.command(rich_help_panel="Service")(command)


def remote_address(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take `--address URL` out of a command line that is to run on a cluster.

    Returns:
        The address, None for a command that runs here; and the words without it.
    """
    rest = list(words)
    if not rest or rest[0] not in REMOTE:
        return None, rest
    for index, word in enumerate(rest):
        if word == "--address":
            if index + 1 == len(rest):
                raise ConfigError(
                    [Problem(key="--address", rule="needs the cluster's URL, e.g. http://127.0.0.1:8265")]
                )
            return rest[index + 1], rest[:index] + rest[index + 2 :]
        if word.startswith("--address="):
            return word.partition("=")[2], rest[:index] + rest[index + 1 :]
    return None, rest


def run_on_cluster(address: str, words: Sequence[str]) -> int:
    """Run a command line on a cluster; returns its exit code."""
    from orchestrator.cluster import ClusterError, run_remotely

    try:
        return int(run_remotely(address, list(words)))
    except ClusterError as error:
        raise CommandFailed(str(error)) from error


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 5000,
    home: HomeOption = None,
) -> int:
    """Serve MLflow's pages over the sweeps."""
    from orchestrator.ui import serve

    return serve(home_at(home), host, port, say=typer.echo)


def sync(
    sweep: SweepArgument = None,
    check: Annotated[
        bool, typer.Option("--check", help="Send nothing; prove that MLflow holds every point once.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Send to MLflow what is left in the outbox. After an outage, or a killed driver."""
    from orchestrator.store import Store
    from orchestrator.sync import check as check_store
    from orchestrator.sync import sync as send

    place = home_at(home)
    paths = find_sweep(place, sweep)
    store = Store.of(place)
    try:
        if not check:
            count = send(paths.outbox, store)
            typer.echo(f"{count} events sent to {store.name}")
            return
        report = check_store(paths.outbox, store)
    except BlockingIOError as error:
        raise CommandFailed(f"{paths.name}: a running sweep is sending; try again when it has ended") from error
    except OSError as error:
        raise CommandFailed(f"{store.name} cannot be reached: {error}") from error
    typer.echo(report)
    if not report.complete:
        raise typer.Exit(1)


def schema(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write (default: standard output).")] = None,
) -> None:
    """Print the JSON Schema of the sweep file. Editors complete and check with it."""
    import json

    from orchestrator.schema import sweep_schema

    text = json.dumps(sweep_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(out)


def doctor(
    address: Annotated[str | None, typer.Option(help="A Ray cluster (default: $RAY_ADDRESS, or this machine).")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Check that what a sweep needs is there. Before it costs money."""
    from orchestrator.doctor import check_all, checks_table
    from orchestrator.store import Store

    place = home_at(home)
    checks = check_all(place, address=address, mlflow=Store.of(place).ping)
    if json:
        print_json([check.to_dict() for check in checks])
    else:
        console().print(checks_table(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
