"""The report of a sweep, with all that its folder has for it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.api.opening import read_sweep
from orchestrator.paths import Home


def report_sweep(home: Home, name: str | None, out: Path | None = None) -> Path:
    """Write the report of a sweep and return its file.

    Args:
        home: where the sweep is.
        name: the sweep; None where it is the only one.
        out: the file; None: `report.html` in the sweep's folder.
    """
    from orchestrator.report import find_images, write_report
    from orchestrator.results import leaderboard
    from orchestrator.tracking import run_ids

    paths, ledger, spec, trials = read_sweep(home, name)
    return write_report(
        spec,
        trials,
        out=paths.root / "report.html" if out is None else out,
        plan=ledger.fact("plan"),
        images=find_images(paths, leaderboard(spec, trials)),
        environment=ledger.environment(),
        run_ids=run_ids(paths),
        state=ledger.state().state,
        wall_seconds=ledger.wall_seconds,
    )
