"""The final training of an own program: the same command with the best parameters, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.trials import Assignment, Report
from orchestrator.worker import run_trial


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """What a program's training came to."""

    folder: Path
    """With its log, its reports and its checkpoints."""
    steps: int
    metrics: dict[str, float]
    """Of its last report."""


def train_program(
    name: str,
    config: Mapping[str, Any],
    evidence: Mapping[str, Any],
    folder: Path,
    *,
    on_report: Callable[[Report], None] = lambda report: None,
) -> ProgramResult:
    """Run a program with a configuration; where it was interrupted, it finds its checkpoints again.

    Args:
        name: of the training.
        config: the program's parameters, nested.
        evidence: from `winning_mapping`: its `program` and `metric`.
        folder: of the training.
        on_report: called with each report; those of an earlier run come again.

    Raises:
        ConfigError: the folder holds another training.
        Exception: see `run_program`.
    """
    content, kept, done = (
        json.dumps([config, evidence["program"]], sort_keys=True),
        folder / "given.json",
        folder / "end.json",
    )
    if kept.exists() and kept.read_text(encoding="utf-8") != content:
        rule = f"is a training of another configuration; give another --name, or delete {folder}"
        raise ConfigError([Problem(key="--name", value=name, rule=rule)])
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(content, encoding="utf-8")
    if not done.exists():
        metric = str(evidence["metric"])
        work = Assignment(
            trial=name, sweep=str(evidence["sweep"]), config=dict(config), trainer=str(evidence["trainer"]), steps=[],
            folder=str(folder), metric=metric, metrics=[metric], goal=str(evidence["goal"]),
            program=dict(evidence["program"]),
        )  # fmt: skip
        last = Report(step=0, metrics={})
        for last in run_trial(work):
            on_report(last)
        done.write_text(json.dumps({"step": last.step, "metrics": last.metrics}), encoding="utf-8")
    end = json.loads(done.read_text(encoding="utf-8"))
    return ProgramResult(folder=folder, steps=end["step"], metrics=end["metrics"])
