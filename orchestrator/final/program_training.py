"""The final training of an own program: the same command with the best parameters, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanflow_core.config import read_yaml, write_yaml
from meanflow_core.errors import ConfigError, Problem
from orchestrator.final.reproduction import Reproduction, compare_curves
from orchestrator.final.training import read_rows
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
    curve: dict[int, float]
    """The sweep's metric by step."""
    reproduction: Reproduction
    """Its curve against its trial's."""


def train_program(
    name: str,
    content: Mapping[str, Any],
    folder: Path,
    *,
    on_report: Callable[[Report], None] = lambda report: None,
) -> ProgramResult:
    """Run a program with a configuration; where it was interrupted, it finds its checkpoints again.

    Args:
        name: of the training.
        content: of `winning_mapping`: the program's parameters, nested, and `evidence` with `program` and `metric`.
        folder: of the training.
        on_report: called with each report; those of an earlier run come again.

    Raises:
        ConfigError: the folder holds another training.
        Exception: see `run_program`.
    """
    kept, done, rows = folder / "config.yaml", folder / "end.json", folder / "metrics.jsonl"
    if kept.exists() and _trained(read_yaml(kept).content) != _trained(content):
        rule = f"is a training of another configuration; give another --name, or delete {folder}"
        raise ConfigError([Problem(key="--name", value=name, rule=rule)])
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(write_yaml(content), encoding="utf-8")
    if not done.exists():
        config, evidence = _trained(content)[0], content["evidence"]
        metric = str(evidence["metric"])
        work = Assignment(
            trial=name, sweep=str(evidence["sweep"]), config=config, trainer=str(evidence["trainer"]), steps=[],
            folder=str(folder), metric=metric, metrics=[metric], goal=str(evidence["goal"]),
            program=dict(evidence["program"]),
        )  # fmt: skip
        with rows.open("w", encoding="utf-8") as file:
            for report in run_trial(work):
                print(json.dumps({"step": report.step, **report.metrics}), file=file, flush=True)
                on_report(report)
        done.touch()
    return program_result(content, folder)


def program_result(content: Mapping[str, Any], folder: Path) -> ProgramResult:
    """Read the folder of a program's training, whether it has ended or not.

    Args:
        content: see `train_program`.
        folder: of the training.
    """
    rows, evidence = dict(read_rows(folder / "metrics.jsonl")), content["evidence"]
    curve = {step: row[evidence["metric"]] for step, row in rows.items() if evidence["metric"] in row}
    last = max(rows, default=0)
    trial = {int(step): float(value) for step, value in dict(evidence.get("curve", {})).items()}
    return ProgramResult(
        folder=folder, steps=last, metrics=rows.get(last, {}), curve=curve, reproduction=compare_curves(trial, curve)
    )


def _trained(content: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What decides what is trained: the parameters, and the program."""
    return {key: value for key, value in content.items() if key != "evidence"}, content["evidence"]["program"]
