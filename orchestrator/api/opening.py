"""Finding the sweeps of a home and reading one."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.credentials import load_credentials
from orchestrator.paths import Home, SweepPaths

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.results import SweepComparison
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord


def home_at(path: Path | str | None) -> Home:
    """Return the home at a folder, or the default one; its credentials become part of the environment."""
    home = Home.default() if path is None else Home(Path(path).expanduser().absolute())
    load_credentials(home)
    return home


def find_sweep(home: Home, name: str | None) -> SweepPaths:
    """Return the folder of an existing sweep.

    Raises:
        ConfigError: there is none of that name (with the nearest), or none or several to choose from.
    """
    known = {paths.name: paths for paths in home.all_sweeps()}
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        rule = (
            f"name one: {', '.join(known)}" if known else f"there is no sweep in {home.root} yet; `meansweep run FILE`"
        )
        raise ConfigError([Problem(key="SWEEP", rule=rule)])
    if name not in known:
        rule = f"no such sweep in {home.root}"
        raise ConfigError([Problem(key="SWEEP", value=name, rule=rule, nearest=nearest(name, list(known)))])
    return known[name]


def read_sweep(home: Home, name: str | None) -> tuple[SweepPaths, Ledger, SweepSpec, list[TrialRecord]]:
    """Open a sweep's ledger for reading; the trials as they stand now.

    Raises:
        ConfigError: see `find_sweep`.
        LedgerError: it cannot be read.
    """
    from orchestrator.ledger import Ledger
    from orchestrator.results import standing

    paths = find_sweep(home, name)
    ledger = Ledger.open(paths)
    if ledger.foreign:
        told = f"note: {len(ledger.foreign)} rows of its study are not meansweep's, and do not count"
        print(told, file=sys.stderr)
    return paths, ledger, ledger.spec(), standing(ledger)


def compare_named(home: Home, names: Sequence[str], *, target: float | None = None) -> SweepComparison:
    """Compare sweeps of a home; see `orchestrator.results.compare_sweeps`.

    Raises:
        ConfigError: there is no such sweep, or they cannot be compared.
        LedgerError: one cannot be read.
    """
    from orchestrator.results import compare_sweeps, side_of

    return compare_sweeps([side_of(read_sweep(home, name)[1]) for name in names], target=target)


def sweep_rows(home: Home) -> list[dict[str, Any]]:
    """Return one row for each sweep of a home, by name; of a damaged one its name and the damage."""
    from orchestrator.ledger import Ledger, LedgerError
    from orchestrator.results import status_of
    from orchestrator.worker import disk_use

    rows: list[dict[str, Any]] = []
    for paths in home.all_sweeps():
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
                "disk": {key: disk[key] for key in ("checkpoints", "bytes", "here", "stored")},
                "id": ledger.id or None,
            }
        )
    return rows
