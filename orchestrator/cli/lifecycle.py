"""Every sweep of a home at a glance."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.api import home_at, sweep_rows
from orchestrator.cli.common import HomeOption, JsonOption, console, print_json
from orchestrator.formatting import duration, number, size


def list_sweeps(json: JsonOption = False, home: HomeOption = None) -> None:
    """List every sweep of the home: state, trials, the best, whose it is, its age, its checkpoints."""
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
    for title in ("sweep", "state", "ended", "best", "trial", "owner", "age", "checkpoints"):
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
            duration(row["age_seconds"]), size(row["disk"]["bytes"]),
        )  # fmt: skip
    console().print(table)
    for row in rows:
        if "reason" in row:
            typer.echo(f"{row['sweep']}: {row['reason']}", err=True)
