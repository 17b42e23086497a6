"""The report of a sweep, with all that its folder has for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.api.opening import read_sweep
from orchestrator.paths import Home

if TYPE_CHECKING:
    from orchestrator.final import FinalResult, ProgramResult
    from orchestrator.report import FinalTraining
    from orchestrator.trials import TrialRecord


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
        finals=list(_final_trainings(home, spec.name, trials)),
    )


def _final_trainings(home: Home, sweep: str, trials: Sequence[TrialRecord]) -> Iterator[FinalTraining]:
    from meanflow_core.config import load_config, read_yaml
    from orchestrator.final import program_result, result_of, trainings_of
    from orchestrator.report import FinalTraining as Final

    hashes = {trial.id: trial.config_hash for trial in trials}
    for trial, folder in trainings_of(home.root / "final", sweep, hashes):
        content = read_yaml(folder / "config.yaml").content
        found: FinalResult | ProgramResult
        if "program" in content["evidence"]:
            found = program_result(content, folder)
        else:
            found = result_of(load_config(content), folder)
        yield Final(
            name=folder.name,
            trial=trial,
            curve=found.curve,
            steps=found.steps,
            told=str(found.reproduction or "it carries no curve of the trial"),
            picture=getattr(found, "picture", None),
        )
