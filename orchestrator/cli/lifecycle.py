"""What becomes of sweeps: every one at a glance; removed, pruned, put away as one file, brought back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.api import sweep_rows
from orchestrator.cli.common import (
    CommandFailed,
    HomeOption,
    JsonOption,
    SweepArgument,
    TrialArgument,
    ask,
    console,
    find_sweep,
    home_at,
    print_json,
    trial_and_sweep,
)
from orchestrator.formatting import count, duration, number, size
from orchestrator.provenance import user_name

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.paths import Home, SweepPaths

SureOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]
AGE = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def list_sweeps(json: JsonOption = False, home: HomeOption = None) -> None:
    """List every sweep of the home: state, trials, the best, whose it is, its age, its disk here and in a store."""
    rows = sweep_rows(home_at(home))
    if json:
        print_json(rows)
        return
    if not rows:
        typer.echo(f"there is no sweep in {home_at(home).root} yet; `meansweep run FILE`")
        return
    show_rows(rows)


def show_rows(rows: list[dict[str, Any]]) -> None:
    """Print the rows of `sweep_rows` as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("sweep", "state", "ended", "best", "trial", "owner", "age", "here", "in store"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        if "trials" not in row:
            table.add_row(row["sweep"], row["state"])
            continue
        counts, best, owner = row["trials"], row["best"], row["owner"] or {}
        ended = sum(counts.get(state, 0) for state in ("finished", "pruned", "failed"))
        total = counts.get("total")
        table.add_row(
            row["sweep"], row["state"], f"{ended} of {total}" if total else str(ended),
            number(best["metric"]) if best else "-", best["trial"] if best else "-", owner.get("user") or "-",
            duration(row["age_seconds"]), size(row["disk"]["here"]), size(row["disk"]["stored"]),
        )  # fmt: skip
    console().print(table)
    for row in rows:
        if "reason" in row:
            typer.echo(f"{row['sweep']}: {row['reason']}", err=True)


# ----------------------------------------------------------------------------------------------- changing


def remove(
    sweep: SweepArgument = None,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="Keep the record, the best trial with all it has, and the models.")
    ] = False,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Leave MLflow's runs and models as they are.")] = False,
    dry_run: DryOption = False,
    json: JsonOption = False,
    home: HomeOption = None,
    yes: SureOption = False,
) -> None:
    """Remove a sweep with its checkpoints, final trainings, MLflow runs and models. Says first what and how much."""
    from orchestrator.lifecycle import keep_only, others_than_best, survey
    from orchestrator.lifecycle import remove as remove_sweep
    from orchestrator.tracking import Store

    place, store = home_at(home), None
    with _closed(_named(place, sweep, "remove")) as ledger:
        name, store = ledger.paths.name, Store.of(place)
        if keep_best:
            best, others, freed = others_than_best(ledger)
            told = "" if keep_runs else ", their runs"
            lines = [f"of {count(len(others), 'trial')} all but the numbers: {size(freed)} in the home{told}"]
            lines.append(f"trial {best}, the record and the models stay")
        else:
            found = survey(place, ledger, store, mlflow=not keep_runs)
            lines = found.lines()
            if json and dry_run:
                print_json(found.to_json())
                return
        typer.echo(f"{name} ({ledger.state().state}{_owned(ledger)}):", err=json)
        for line in lines:
            typer.echo(f"  {line}", err=json)
        for line in [] if keep_best else found.kept_lines():
            typer.echo(f"  note: {line}", err=json)
        if dry_run:
            return
        told = "goes for good: --yes removes it"
        ask(name, "Remove all but the best?" if keep_best else "Remove all this?", told, yes=yes)
        if keep_best:
            keep_only(ledger, others, runs=not keep_runs)
            left = []
        else:
            left = remove_sweep(ledger, found)
    for line in left:
        typer.echo(f"not deleted: {line}", err=True)
    if keep_best:
        _send(place, name)
    if json:
        print_json({"sweep": name, "removed": True, **({} if keep_best else found.to_json()), "not_deleted": left})
    else:
        typer.echo(f"{name}: all but trial {best} is removed" if keep_best else f"{name} is removed")


def prune(
    sweep: SweepArgument = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="best, last: of each trial this one stays. May be given twice.", show_default=False),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="The K best configurations keep all they have.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only of trials that failed.")] = False,
    older_than: Annotated[
        str | None, typer.Option(help="Only of trials that ended longer ago, e.g. 12h, 7d.", show_default=False)
    ] = None,
    dry_run: DryOption = False,
    json: JsonOption = False,
    home: HomeOption = None,
    yes: SureOption = False,
) -> None:
    """Delete checkpoints of trials that have ended, by rule. The best configuration keeps its own, the record all."""
    from orchestrator.lifecycle import Rule, choose
    from orchestrator.lifecycle import prune as prune_sweep
    from orchestrator.tracking import Store

    if not (keep or top or failed or older_than):
        rule = "say what goes: --keep best, --keep last, --top K, --failed, --older-than 7d (docs/lifecycle.md)"
        raise ConfigError([Problem(key="prune", rule=rule)])
    for word in keep or ():
        if word not in ("best", "last"):
            raise ConfigError([Problem(key="--keep", value=word, rule="must be best or last")])
    wanted = Rule(keep=keep or (), top=top or 1, failed=failed, older_than=_age(older_than))
    place = home_at(home)
    with _closed(_named(place, sweep, "prune")) as ledger:
        gone, name = choose(ledger, wanted), ledger.paths.name
        freed, trials = sum(kept.bytes for kept in gone), len({kept.trial for kept in gone})
        told = {"sweep": name, "checkpoints": len(gone), "bytes": freed}
        said = f"{count(len(gone), 'checkpoint')} of {count(trials, 'trial')}, {size(freed)}"
        if gone and not dry_run:
            typer.echo(f"{name}{_owned(ledger)}: {said}", err=True)
            ask(name, "Delete them?", f"{said} go for good: --yes deletes them", yes=yes)
            prune_sweep(ledger, gone, Store.of(place))
    if json:
        print_json({**told, "deleted": bool(gone) and not dry_run})
    else:
        typer.echo(f"{name}: {said} {'would go' if dry_run else 'deleted'}" if gone else f"{name}: nothing to delete")


def archive(
    sweep: SweepArgument = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write (default: SWEEP.tar.gz).", show_default=False)
    ] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="With the checkpoints.")] = False,
    home: HomeOption = None,
) -> None:
    """Write a sweep into one file. Nothing of it changes; `remove` frees its disk, `restore` brings it back."""
    from orchestrator.lifecycle import archive as archive_sweep

    with _closed(find_sweep(home_at(home), sweep)) as ledger:
        file = out or Path(f"{ledger.paths.name}.tar.gz")
        amount = archive_sweep(ledger, file, checkpoints=checkpoints)
        typer.echo(f"{file}: {size(amount)}, {'with' if checkpoints else 'without'} checkpoints")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `meansweep archive` has written.")],
    home: HomeOption = None,
) -> None:
    """Bring an archived sweep back, under its name and its id. Where a sweep of its name is, nothing is done."""
    from orchestrator.lifecycle import restore as restore_sweep
    from orchestrator.worker import StorageError

    try:
        paths = restore_sweep(home_at(home), file)
    except StorageError as error:
        raise CommandFailed(f"{error}; nothing was restored") from error
    typer.echo(f"{paths.name} is back in {paths.root}; `meansweep sync {paths.name}` shows it in MLflow")


def trial_delete(
    trial: TrialArgument, sweep: SweepArgument = None, home: HomeOption = None, yes: SureOption = False
) -> None:
    """Delete a trial and its seeds for good. With checkpoints, pictures and runs; no other comes in its place."""
    from orchestrator.lifecycle import delete_trial

    trial, sweep = trial_and_sweep(trial, sweep)
    place = home_at(home)
    with _closed(_named(place, sweep, "trial delete")) as ledger:
        name = ledger.paths.name
        question = f"Delete trial {trial} of {name}{_owned(ledger)} with its checkpoints, pictures and runs?"
        ask(name, question, f"trial {trial}{_owned(ledger)} would go for good: --yes deletes it", yes=yes)
        gone = delete_trial(ledger, trial)
    _send(place, name)
    typer.echo(f"{name}: {', '.join(gone)} deleted")


def _named(home: Home, sweep: str | None, command: str) -> SweepPaths:
    """Return a sweep that was named: what destroys takes none for granted."""
    if sweep is None:
        known = ", ".join(paths.name for paths in home.all_sweeps())
        raise ConfigError(
            [Problem(key="SWEEP", rule=f"`{command}` wants the sweep's name; there is {known or 'none'}")]
        )
    return find_sweep(home, sweep)


@contextmanager
def _closed(paths: SweepPaths) -> Iterator[Ledger]:
    from orchestrator.lifecycle import LifecycleError, closed
    from orchestrator.worker import StorageError

    try:
        with closed(paths) as ledger:
            yield ledger
    except (LifecycleError, StorageError, ConnectionError) as error:
        raise CommandFailed(str(error)) from error


def _owned(ledger: Ledger) -> str:
    """Say whose a sweep is, where that is somebody else."""
    user = ledger.owner.get("user", "")
    return f", of {user} on {ledger.owner.get('host', '?')}" if user and user != user_name() else ""


def _send(home: Home, name: str) -> None:
    """Send to MLflow what was deleted; what is left is sent by `sync`."""
    from orchestrator.tracking import Store, sync

    try:
        sync(home.sweep(name).outbox, Store.of(home))
    except FileNotFoundError:
        return
    except (BlockingIOError, ConnectionError) as error:
        typer.echo(f"MLflow does not know yet: {error}; `meansweep sync {name}` tells it", err=True)


def _age(text: str | None) -> float:
    if text is None:
        return 0.0
    number_, unit = text[:-1], text[-1:]
    if unit not in AGE or not number_.isdecimal() or int(number_) < 1:
        raise ConfigError([Problem(key="--older-than", value=text, rule="must be like 30m, 12h, 7d or 2w")])
    return int(number_) * AGE[unit]
