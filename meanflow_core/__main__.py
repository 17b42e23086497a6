"""Train, sample and evaluate one model: `python -m meanflow_core train CONFIG [key=value ...]`.

On several GPUs: `torchrun --nproc-per-node 8 -m meanflow_core train CONFIG`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meanflow_core.config import FIRST, TrainConfig, load_config
from meanflow_core.errors import ConfigError, Problem, TrainingDiverged
from meanflow_core.training import CheckpointError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)  # argparse takes no key=value that stands after an option
    if any(word.startswith("-") or "=" not in word for word in rest):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    options.overrides += rest
    try:
        config, folder = _read(options)
        return int(options.command(config, folder, options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    except (CheckpointError, TrainingDiverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m meanflow_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train|sample|evaluate")
    summaries: list[tuple[str, Callable[..., int], str]] = [
        ("train", train, "train to trainer.steps, going on from the last checkpoint if there is one"),
        ("sample", sample, "make a picture of samples"),
        ("evaluate", evaluate, "judge samples of every set of weights; prints JSON"),
    ]
    for name, command, summary in summaries:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("config", type=Path, help="a training configuration, or the folder of a training")
        sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. trainer.steps=2000")
        sub.add_argument("--out", type=Path, help="folder of the training (default: runs/<name of the configuration>)")
        sub.set_defaults(command=command)
        if name != "train":
            length = "length of the average, chosen now, of a training with `ema.lengths`"
            sub.add_argument("--ema-length", type=float, metavar="LENGTH", help=length)
        if name == "sample":
            sub.add_argument("--nfe", type=int, default=1, help="number of function evaluations (default: 1)")
            sub.add_argument("--guidance", type=float, help="the scale, of a network that takes it as an input")
            sub.add_argument("--picture", type=Path, help="PNG file to write (default: in the folder of the training)")
    return parser


def _read(options: argparse.Namespace) -> tuple[TrainConfig, Path]:
    """Return the configuration and the folder of its training."""
    file: Path = options.config
    if file.is_dir():
        return load_config(file / "config.yaml", options.overrides, defaults=FIRST), options.out or file
    return load_config(file, options.overrides), options.out or Path("runs") / file.stem


def train(config: TrainConfig, out: Path, options: argparse.Namespace) -> int:
    """Train to `trainer.steps`, with an evaluation and a checkpoint where the configuration wants them."""
    from meanflow_core.distributed import launched
    from meanflow_core.run import RunFolder, train_in_folder

    with launched(config.trainer.device) as world:
        if world.first:
            for remark in config.remarks():
                print(f"note: {remark}", flush=True)
        if world.first and (before := RunFolder(out).steps_before(config)) is not None:
            longer = f"made longer: {before} -> {config.trainer.steps} steps"
            print(f"{longer}; from here on, schedules are those of the new length", flush=True)
        if world.first and (steps := RunFolder(out).steps()):
            print(f"going on from step {steps[-1]} of {config.trainer.steps}", flush=True)
        trainer = train_in_folder(config, out, on_row=lambda step, row: print(_line(step, row), flush=True))
        if world.first:
            print(f"done: step {trainer.step}, {out / 'weights.safetensors'}")
    return DONE


def sample(config: TrainConfig, out: Path, options: argparse.Namespace) -> int:
    """Make a picture of samples of the last checkpoint."""
    if options.nfe < 1:
        raise ConfigError([Problem(key="--nfe", value=options.nfe, rule="must be at least 1")])
    from meanflow_core.run import RunFolder
    from meanflow_core.sampling import guidance_scale, save_picture

    scale = guidance_scale(config, options.guidance)
    trainer = _trained(config, out, options.ema_length)

    path = options.picture or RunFolder(out).picture(trainer.step, options.nfe)
    save_picture(path, trainer.sample_grid(options.nfe, scale))
    print(path)
    return DONE


def evaluate(config: TrainConfig, out: Path, options: argparse.Namespace) -> int:
    """Judge the last checkpoint, and print the values with the protocol they were measured by."""
    trainer = _trained(config, out, options.ema_length)
    values = trainer.evaluate()
    print(json.dumps({"step": trainer.step, "metrics": values, "protocol": trainer.evaluation_record()}, indent=2))
    return DONE


def _trained(config: TrainConfig, out: Path, length: float | None) -> Any:
    """Return a trainer with the state of the folder's last checkpoint, its primary weights the average of a length."""
    from meanflow_core.run import RunFolder
    from meanflow_core.training import Trainer

    folder = RunFolder(out)
    if not folder.steps():
        raise CheckpointError(f"{folder.checkpoints}: no checkpoint here; train first, or name the folder with --out")
    trainer = Trainer(config)
    folder.load(trainer)
    if length is not None:
        trainer.use_average(folder.average(length, trainer.step))
    return trainer


def _line(step: int, values: Mapping[str, float]) -> str:
    words = (f"{name.partition('/')[2]} {value:.4g}" for name, value in values.items())
    return f"step {step}  " + "  ".join(words)


if __name__ == "__main__":
    sys.exit(main())
