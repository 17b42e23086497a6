"""`train` for what a sweep of an own program has found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cli.common import CommandFailed, check_name, finish_sending, home_at, print_json

if TYPE_CHECKING:
    from orchestrator.trials import Report


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
    from orchestrator.tracking import FinalRunLogger, Store
    from orchestrator.trials import At
    from orchestrator.worker import classify

    evidence, place = content["evidence"], home_at(home)
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise ConfigError([Problem(key=word, rule="an override must look like `key=value`")])
        put(content, key, parse_value(value))
    label = check_name(name or training_name(file, evidence))
    folder = place.final(label)
    if not json:
        typer.echo(f"training {label} with {evidence['trainer']} in {folder}")
    logger: FinalRunLogger | None = None

    def show(report: Report) -> None:
        nonlocal logger
        if logger is None:  # once it trains: a folder of another configuration is refused before
            logger = FinalRunLogger(folder, Store.of(place), name=label, config=content)
        logger.report(report.step, report.metrics, {})
        for step, row in report.rows:
            logger.report(step, row, {})
        if not json:
            typer.echo(_said(report.step, report.metrics))

    state = "failed"
    try:
        with training_in(folder):
            try:
                result = train_program(label, content, folder, on_report=show)
                state = "finished"
            except KeyboardInterrupt:
                state = "interrupted"
                raise
            finally:
                if logger is not None:
                    logger.ended(state)
                    finish_sending(logger.close, label)
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
                    "reproduced": result.reproduction.reproduced,
                    "largest_difference": result.reproduction.largest_difference,
                }
            ]
        )
        return
    typer.echo(f"\n{label}: {_said(result.steps, result.metrics)}")
    told = f"{evidence['metric']} {evidence['value']:.6g}{At.from_json(evidence.get('at')).words}"
    typer.echo(f"trial        {told} at step {evidence['trial_steps']}; {result.reproduction}")
    typer.echo(f"checkpoints  {folder / 'checkpoints'}")


def _said(step: int, metrics: dict[str, float]) -> str:
    return f"step {step:>7}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
