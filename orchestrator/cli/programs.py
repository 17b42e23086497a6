"""`train` for what a sweep of an own program has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cli.common import CommandFailed, check_name, home_at, print_json


def found_program(file: str) -> dict[str, Any] | None:
    """Return the content of a configuration that a sweep of an own program has found; None of any other."""
    from meanflow_core.config import read_yaml

    if not Path(file).is_file():
        return None
    content = dict(read_yaml(file).content)
    evidence = content.get("evidence")
    return content if isinstance(evidence, dict) and isinstance(evidence.get("program"), dict) else None


def train_found(
    file: str, content: dict[str, Any], words: list[str], *, name: str | None, json: bool, home: Path | None
) -> None:
    """Run the program with its best parameters, and print what it reports.

    Args:
        file: the configuration's.
        content: what is in it.
        words: `key=value`, which replace parameters.
        name: of the training; None: that of the file or of the trial.
        json: print the result as JSON, and nothing else.
        home: where its folder is made.
    """
    from meanflow_core.config import parse_value
    from orchestrator.final import train_program, training_in
    from orchestrator.results import training_name
    from orchestrator.spec import put
    from orchestrator.worker import classify

    config, evidence = {key: value for key, value in content.items() if key != "evidence"}, content["evidence"]
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise ConfigError([Problem(key=word, rule="an override must look like `key=value`")])
        put(config, key, parse_value(value))
    label = check_name(name or training_name(file, evidence))
    folder = home_at(home).final(label)
    if not json:
        typer.echo(f"training {label} with {evidence['trainer']} in {folder}")
    try:
        with training_in(folder):
            result = train_program(
                label, config, evidence, folder,
                on_report=lambda report: None if json else typer.echo(_said(report.step, report.metrics)),
            )  # fmt: skip
    except BlockingIOError as error:
        raise CommandFailed(f"{label} is being trained by another process; --name gives this one a folder") from error
    except RuntimeError as error:
        outcome = classify(error)
        raise CommandFailed(f"{outcome.kind}: {outcome.reason}\nlog: {folder / 'log.txt'}") from error
    if json:
        print_json(
            [
                {
                    "name": label,
                    "trial": evidence["trial"],
                    "steps": result.steps,
                    "metrics": result.metrics,
                    "folder": folder,
                }
            ]
        )
        return
    typer.echo(f"\n{label}: {_said(result.steps, result.metrics)}")
    typer.echo(f"trial        {evidence['metric']} {evidence['value']:.6g} at step {evidence['trial_steps']}")
    typer.echo(f"checkpoints  {folder / 'checkpoints'}")


def _said(step: int, metrics: dict[str, float]) -> str:
    return f"step {step:>7}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
