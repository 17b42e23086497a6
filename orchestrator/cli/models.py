"""From the best trial to a trained model: best, train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meanflow_core.errors import ConfigError, Problem, TrainingDiverged
from orchestrator.cli.common import (
    CommandFailed,
    HomeOption,
    JsonOption,
    SweepArgument,
    check_name,
    finish_sending,
    home_at,
    print_json,
    read_sweep,
)
from orchestrator.cli.programs import found_program, train_found

if TYPE_CHECKING:
    from meanflow_core.config import TrainConfig
    from orchestrator.final import FinalResult
    from orchestrator.paths import Home


def best(
    sweep: SweepArgument = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write (default: standard output).")] = None,
    trial: Annotated[str | None, typer.Option(help="This trial instead of the best.")] = None,
    home: HomeOption = None,
) -> None:
    """Write the best trial's training configuration. Complete, at the base's length, with the evidence for it."""
    from orchestrator.api import winner

    _, ledger, _, _ = read_sweep(home, sweep)
    found = winner(ledger, trial)
    if out is None:
        typer.echo(found.yaml, nl=False)
    else:
        out.write_text(found.yaml, encoding="utf-8")
        steps = "" if found.steps is None else f", {found.steps} steps"
        steps += _average_of(found.config)
        typer.echo(f"{out}: trial {found.evidence['trial']} of {found.evidence['sweep']}{steps}")


def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|SWEEP", help="A training configuration, or with --top a sweep.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", show_default=False)] = None,
    workers: Annotated[int, typer.Option(help="Workers of Ray Train; 0 trains in this process.")] = 0,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs per worker (default: 1 where Ray has any).", show_default=False)
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="Train the K best of a sweep; did its short runs predict the order?")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the training (default: the file's name; of best.yaml, SWEEP-TRIAL).", show_default=False
        ),
    ] = None,
    register: Annotated[bool, typer.Option(help="Register the model in MLflow.")] = True,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster: its job server, http://..., or Ray's own address.")
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Train a configuration to its full length. The same command goes on after an interruption."""
    from meanflow_core.config import parse_value, with_values
    from orchestrator.results import training_name

    words = list(overrides or [])
    program = found_program(config) if top is None else None
    if program is not None:
        if workers or address is not None:
            rule = "is an own program's, which is run on this machine alone (with its own processes, if it has several)"
            raise ConfigError([Problem(key="--workers" if workers else "--address", value=config, rule=rule)])
        train_found(config, program, words, name=name, json=json, home=home)
        return
    if top is None:
        single = _training_configuration(config, words)
        configs = {check_name(name or training_name(config, single.evidence)): single}
    else:
        changes = {key: parse_value(value) for key, _, value in (word.partition("=") for word in words)}
        found = _winners(home, config, top)
        configs = {
            f"{check_name(name or config)}-{c.evidence['trial']}": with_values(c, changes) if changes else c
            for c in found
        }
    options = {"workers": workers, "gpus": gpus, "address": _address_of_ray(address)}
    results, diverged = {}, []
    for label, each in configs.items():
        try:
            results[label] = _train_one(home_at(home), label, each, options, register=register, quiet=json)
        except TrainingDiverged as error:  # a result, which says nothing of the others
            diverged.append(f"{label} {error}")
            if label != list(configs)[-1]:
                typer.echo(f"{diverged[-1]}; going on with the next", err=True)
    answer = [_summary(label, configs[label], result) for label, (result, _) in results.items()]
    correlation = _predicted([configs[label] for label in results], [result for result, _ in results.values()])
    for entry, (_, model) in zip(answer, results.values(), strict=True):
        entry |= {"model": model, "rank_correlation": correlation}
    if json:
        print_json(answer)
    elif len(answer) > 1:
        typer.echo(_prediction(correlation, len(answer)))
    if diverged:
        raise CommandFailed("; ".join(diverged))


# ------------------------------------------------------------------------------------------------- helpers


def _average_of(config: Any) -> str:
    """Say that the average's length is chosen after the training, where it is."""
    ema = getattr(config, "ema", None)
    if ema is None or not ema.lengths:
        return ""
    asked = "ema.length" if ema.length is None else f"ema.length: {ema.length}"
    return f"; the length of its average is chosen after the training ({asked})"


def _address_of_ray(address: str | None) -> str | None:
    """Return Ray's own address; that of a job server would have been taken out before, had it been written as a URL."""
    from orchestrator.cluster import job_server

    if address is not None and (url := job_server(address)) != address:
        raise ConfigError([Problem(key="--address", value=address, rule=f"is a job server: write {url}")])
    return address


def _training_configuration(file: str, words: list[str]) -> TrainConfig:
    """Read what is to be trained; a sweep, or what another trainer found, is said to be that."""
    from meanflow_core.config import load_config, read_yaml

    content = read_yaml(file).content
    if {"method", "parameters"} <= set(content):
        rule = f"is a sweep, not a training configuration; `meansweep run {file}` runs it"
        raise ConfigError([Problem(key="CONFIG", value=file, rule=rule)])
    evidence = content.get("evidence")
    other = evidence.get("trainer") if isinstance(evidence, dict) else None
    if other:
        rule = f"was found for {other}; train it with your own code (its keys are those that your class takes)"
        raise ConfigError([Problem(key="CONFIG", value=file, rule=rule)])
    return load_config(file, words)


def _winners(home: Path | None, sweep: str, top: int) -> list[TrainConfig]:
    """Return the configurations of a sweep's best trials."""
    from orchestrator.results import leaderboard, winning_config

    _, ledger, spec, trials = read_sweep(home, sweep)
    if not spec.builtin_trainer:
        rule = f"is of {spec.trainer}: only sweeps of the MeanFlow trainer have a final training"
        raise ConfigError([Problem(key="SWEEP", value=sweep, rule=rule)])
    rows = leaderboard(spec, trials)
    ranked: list[str | None] = [row.trial for row in rows if row.rank is not None]
    chosen = ranked[:top] or [None]
    known: dict[str, Any] = {"environment": ledger.environment(), "sweep_id": ledger.id}
    return [winning_config(spec, trials, rows, trial=each, **known) for each in chosen]


def _train_one(
    home: Home, name: str, config: TrainConfig, options: Mapping[str, Any], *, register: bool, quiet: bool
) -> tuple[FinalResult, str | None]:
    from meanflow_core.run import RunFolder
    from orchestrator.final import register_model, train_final, training_in
    from orchestrator.tracking import FinalRunLogger, Store

    folder, store = home.final(name), Store.of(home)
    differences = RunFolder(folder).differences(config)
    if differences:
        rule = f"is a training of another configuration ({differences}); give another --name, or delete {folder}"
        raise ConfigError([Problem(key="--name", value=name, rule=rule)])
    try:
        with training_in(folder):
            if not quiet:
                typer.echo(f"training {name} for {config.trainer.steps} steps in {folder}")
            logger = FinalRunLogger(folder, store, name=name, config=config)
            state = "failed"
            try:
                result = train_final(config, folder, logger=logger, on_row=None if quiet else _print_row, **options)
                state = "finished"
            except KeyboardInterrupt:
                state = "interrupted"
                typer.echo("\ninterrupted; the same command goes on from the last checkpoint", err=True)
                raise
            finally:
                logger.ended(state)
                finish_sending(logger.close, name)
            model = register_model(store, name=name, result=result, config=config) if register else None
    except BlockingIOError as error:
        raise CommandFailed(f"{name} is being trained by another process; --name gives this one a folder") from error
    if not quiet:
        _print_result(name, result, model)
    return result, model


def _print_row(step: int, values: Mapping[str, float]) -> None:
    names = [name for name in values if name.startswith("eval/") and name.count("/") == 1]
    names = names or [name for name in ("train/squared_error", "train/steps_per_second") if name in values]
    typer.echo(f"step {step:>7}  " + "  ".join(f"{name.partition('/')[2]} {values[name]:.4g}" for name in names))


def _print_result(name: str, result: FinalResult, model: str | None) -> None:
    typer.echo(f"\n{name}: {result.steps} steps; " + ", ".join(_headline(result.metrics)))
    if result.length is not None:
        chosen = f"average   length {result.length:g}, chosen now (ema.length)"
        typer.echo(f"{chosen}: " + ", ".join(_headline(result.scores)))
    if result.reproduction is not None:
        typer.echo(f"trial     {result.reproduction}")
    typer.echo(f"weights   {result.weights}")
    if result.best_step not in (None, result.steps):
        typer.echo(
            f"          those of the last step; the sweep ranks by the best report, here {result.score:.4g} at step "
            f"{result.best_step}"
        )
    if result.picture is not None:
        typer.echo(f"samples   {result.picture}")
    if model is not None:
        typer.echo(f"model     {model}")
    typer.echo(f"next      meansweep sample {model or name} -n 100 --nfe 1,2 -o samples.png")


def _headline(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items() if name.count("/") == 1]


def _summary(name: str, config: TrainConfig, result: FinalResult) -> dict[str, Any]:
    again = result.reproduction
    return {
        "name": name,
        "trial": config.evidence.get("trial"),
        "steps": result.steps,
        "metrics": result.metrics,
        "best_step": result.best_step,
        "folder": str(result.folder),
        "weights": str(result.weights),
        "average": result.average,
        "scores": result.scores,
        "picture": None if result.picture is None else str(result.picture),
        "reproduced": None if again is None else again.reproduced,
        "largest_difference": None if again is None else again.largest_difference,
    }


def _predicted(configs: list[TrainConfig], results: list[FinalResult]) -> float | None:
    """Return the rank correlation of the trials' values with those of their final trainings, None without an order."""
    from orchestrator.final import rank_correlation

    if not configs:
        return None
    pairs = [(c.evidence.get("value"), r.score) for c, r in zip(configs, results, strict=True)]
    known = [(float(short), float(long)) for short, long in pairs if short is not None and long is not None]
    return rank_correlation([short for short, _ in known], [long for _, long in known])


def _prediction(correlation: float | None, count: int) -> str:
    if correlation is None:
        return "the short runs' order cannot be judged: two different results are the least"
    verdict = "predicted" if correlation > 0.5 else "hardly predicted" if correlation > 0 else "did NOT predict"
    return f"the short runs {verdict} the order of the long ones: rank correlation {correlation:.2f} over {count}"
