"""Around the sweeps: MLflow's pages, sending what is waiting, the sweep file's schema, the health of a set-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import (
    CommandFailed,
    HomeOption,
    JsonOption,
    console,
    find_sweep,
    home_at,
    print_json,
    sweeps_here,
)


def run_on_cluster(address: str, words: Sequence[str], home: str | None = None) -> int:
    """Run a command line on a cluster; returns its exit code."""
    from orchestrator.cluster import ClusterError, run_remotely

    try:
        return int(run_remotely(address, list(words), home))
    except ClusterError as error:
        raise CommandFailed(str(error)) from error


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 5000,
    home: HomeOption = None,
) -> int:
    """Serve MLflow's pages over the sweeps."""
    from orchestrator.tracking import serve

    return serve(home_at(home), host, port, say=typer.echo)


def sync(
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP|TRAINING]",
            help="May be left out where there is one sweep.",
            show_default=False,
            autocompletion=sweeps_here,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Send nothing; prove that MLflow holds every point once.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Send to MLflow what is left in the outbox. After an outage, or a killed driver."""
    from orchestrator.tracking import Store
    from orchestrator.tracking import check as check_store
    from orchestrator.tracking import sync as send

    place = home_at(home)
    training = place.final(sweep) if sweep is not None else None
    if training is not None and training.is_dir() and not place.sweep(training.name).journal.exists():
        name, outbox = training.name, training / "outbox"
    else:
        paths = find_sweep(place, sweep)
        name, outbox = paths.name, paths.outbox
    store = Store.of(place)
    try:
        if not check:
            count = send(outbox, store)
            typer.echo(f"{count} events sent to {store.name}")
            return
        report = check_store(outbox, store)
    except BlockingIOError as error:
        raise CommandFailed(f"{name}: what runs is sending; try again when it has ended") from error
    except FileNotFoundError as error:
        raise CommandFailed(f"{name}: nothing has been tracked yet") from error
    except ConnectionError as error:
        raise CommandFailed(str(error)) from error
    typer.echo(report)
    if not report.complete:
        raise typer.Exit(1)


def schema(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write (default: standard output).")] = None,
) -> None:
    """Print the JSON Schema of the sweep file. Editors complete and check with it."""
    import json

    from orchestrator.spec import sweep_schema

    text = json.dumps(sweep_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(out)


def doctor(
    address: Annotated[str | None, typer.Option(help="A Ray cluster (default: $RAY_ADDRESS, or this machine).")] = None,
    remote_home: Annotated[
        str | None, typer.Option(help="The home there, as for `submit` (with http://...).", show_default=False)
    ] = None,
    repair: Annotated[
        str | None,
        typer.Option("--repair", metavar="SWEEP", help="Save a damaged ledger: all but the damaged lines."),
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Check that what a sweep needs is there. Before it costs money."""
    if repair is not None:
        return _repair(home, repair)
    from orchestrator.cli.doctor import check_all, checks_table
    from orchestrator.tracking import Store

    place = home_at(home)
    checks = check_all(place, address=address, mlflow=Store.of(place).ping, remote_home=remote_home)
    if json:
        print_json([check.to_dict() for check in checks])
    else:
        console().print(checks_table(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _repair(home: Path | None, sweep: str) -> None:
    from orchestrator.ledger import Ledger, repair

    paths = find_sweep(home_at(home), sweep)
    lines, rebuilt, aside = repair(paths)
    if aside is None:
        typer.echo(f"{paths.name}: its ledger is not damaged")
        return
    trials = len(Ledger.open(paths).trials())
    said = ", ".join(map(str, lines))
    taken = f"line {said} taken out, " if lines else ""
    typer.echo(f"{paths.name}: {taken}{trials} trials are there; the damaged file is {aside}")
    for what in rebuilt:
        typer.echo(f"made again: {what}")
