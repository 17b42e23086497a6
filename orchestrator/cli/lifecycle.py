"""Every sweep of a home at a glance."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from orchestrator.cli.common import HomeOption, JsonOption, console, home_at, print_json
from orchestrator.formatting import duration, number, size


def list_sweeps(json: JsonOption = False, home: HomeOption = None) -> None:
    """List every sweep of the home: state, trials, the best, whose it is, its age, its checkpoints."""
    rows = sweep_rows(home)
    if json:
        print_json(rows)
        return
    if not rows:
        typer.echo(f"there is no sweep in {home_at(home).root} yet; `meansweep run FILE`")
        return
    show_rows(rows)


def sweep_rows(home: Path | None) -> list[dict[str, Any]]:
    """Return one row for each sweep of a home, by name; of a damaged one its name and the damage."""
    from orchestrator.ledger import Ledger, LedgerError
    from orchestrator.results import status_of
    from orchestrator.worker import disk_use

    rows: list[dict[str, Any]] = []
    for paths in home_at(home).all_sweeps():
        try:
            ledger = Ledger.open(paths)
        except LedgerError as error:
            rows.append({"sweep": paths.name, "state": "damaged", "reason": str(error)})
            continue
        found, disk = status_of(ledger).to_json(), disk_use(paths)
        best = found["best"]
        rows.append(
            {
                "sweep": paths.name,
                "state": found["state"],
                "trials": found["trials"],
                "best": best and {"trial": best["trial"], "metric": best["mean"] or best["metric"]},
                "metric": ledger.spec().metric.name,
                "owner": found.get("owner"),
                "age_seconds": time.time() - ledger.revisions()[0].at,
                "disk": {key: disk[key] for key in ("checkpoints", "bytes")},
                "id": ledger.id or None,
            }
        )
    return rows


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
