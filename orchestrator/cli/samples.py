"""Samples of a trained model: sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cli.common import HomeOption, home_at
from orchestrator.paths import Home


def sample(
    model: Annotated[
        str, typer.Argument(help="models:/NAME/VERSION; a training's name, folder or configuration; or a weights file.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="PNG file to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option("-n", min=1, help="Samples for each number of evaluations.")] = 64,
    nfe: Annotated[str, typer.Option(help="Network evaluations per sample, e.g. 1,2.")] = "1",
    labels: Annotated[
        str | None, typer.Option(help="Classes, e.g. 0-9 or 3,5 (default: all in turn).", show_default=False)
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the noise; sample i does not depend on the number of samples.")
    ] = 0,
    guidance: Annotated[
        float | None, typer.Option(help="The scale, of a model trained with guidance as an input.", show_default=False)
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(
            help="A .npy of conditions [M, ...], dealt out in turn, for a model of data with conditions "
            "(default: the null condition).",
            show_default=False,
        ),
    ] = None,
    ema_length: Annotated[
        float | None,
        typer.Option(
            "--ema-length",
            help="The average of this length, made now, of a training with `ema.lengths`.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Make a picture of samples. Several numbers of evaluations stand side by side, from the same noise."""
    from orchestrator.final import sample_picture

    if out.suffix.lower() != ".png":
        raise ConfigError([Problem(key="--out", value=str(out), rule="must end in .png")])
    place = home_at(home)
    evaluations = _numbers("--nfe", nfe, low=1)
    classes = None if labels is None else _numbers("--labels", labels, low=0)
    if ema_length is not None and model.startswith("models:/"):
        rule = "a registered model is one average; sample the training that it is of, by its name"
        raise ConfigError([Problem(key="--ema-length", value=ema_length, rule=rule)])
    weights = _weights(place, model)
    asked = {"labels": classes, "guidance": guidance, "conditions": _array("--conditions", conditions)}
    asked["length"] = ema_length
    told = sample_picture(weights, out, count=count, nfe=evaluations, seed=seed, **asked)
    typer.echo(out)
    typer.echo(f"{told}, NFE {', '.join(map(str, evaluations))}", err=True)


def _array(option: str, file: Path | None) -> Any:
    """Return the array of a .npy file, None without one."""
    import numpy as np

    if file is None:
        return None
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(key=option, value=str(file), rule=f"is no .npy file: {error}")]) from error
    if array.ndim == 0 or not len(array) or array.dtype.kind not in "fiub":
        rule = f"must hold numbers [M, ...], a condition a row; it holds {array.dtype} {array.shape}"
        raise ConfigError([Problem(key=option, value=str(file), rule=rule)])
    return array


def _weights(home: Home, model: str) -> Path:
    """Return the weights file of a model's name, folder or registry address."""
    if model.startswith("models:/"):
        from orchestrator.final import resolve
        from orchestrator.tracking import Store

        return resolve(Store.of(home), model)
    from orchestrator.results import trained_as

    path, configured = Path(model), trained_as(model)
    named = home.final(configured or path.name)
    candidates = [*([] if configured else [path, path / "weights.safetensors"]), named / "weights.safetensors"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    trained = sorted(p.parent.name for p in (home.root / "final").glob("*/weights.safetensors"))
    rule = "no such weights file, training or registered model" + (
        f"; trained: {', '.join(trained)}" if trained else ""
    )
    raise ConfigError([Problem(key="MODEL", value=model, rule=rule)])


def _numbers(option: str, text: str, *, low: int) -> list[int]:
    """Read `0-3,7` as [0, 1, 2, 3, 7]."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(first) < low:
            rule = f"must be whole numbers from {low} on, such as 1,2 or 0-9"
            raise ConfigError([Problem(key=option, value=text, rule=rule)])
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers
