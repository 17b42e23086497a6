"""One whole training in a folder, from wherever it stands to its last step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from meanflow_core.config import TrainConfig
from meanflow_core.distributed import World
from meanflow_core.errors import ConfigError
from meanflow_core.run.average import leave_weights
from meanflow_core.run.folder import RunFolder
from meanflow_core.sampling import save_picture
from meanflow_core.training import BackgroundWriter, Trainer

_log = logging.getLogger(__name__)


def train_in_folder(
    config: TrainConfig,
    root: Path | str,
    *,
    evaluate_at: Collection[int] = (),
    on_row: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Trainer:
    """Train to `trainer.steps` in a folder, going on from its last checkpoint.

    It evaluates every `trainer.eval_every` steps and makes a picture of one-step samples there, writes a checkpoint
    every `trainer.checkpoint_every` steps, and does all three at the end, where the average of `ema.length` is made. A
    checkpoint is written while the training goes on; where that fails, the next logged row raises. In a process group
    every process calls it; the first one writes.

    Args:
        config: of the training.
        root: the folder; see `RunFolder` for what is in it.
        evaluate_at: further steps at which to evaluate.
        on_row: called with (step, metrics) after each row is written, in the first process.

    Returns:
        The trainer at its last step.

    Raises:
        ConfigError: the folder holds another training.
        CheckpointError: its newest checkpoint is damaged.
        OSError: a checkpoint could not be written; the one before is still there.
        TrainingDiverged: see `Trainer.train`.
    """
    folder, options, writer = RunFolder(root), config.trainer, BackgroundWriter()

    def log(step: int, values: Mapping[str, float]) -> None:
        writer.check()
        folder.log(step, values)
        if on_row is not None:
            on_row(step, values)

    if World.current().first:
        folder.claim(config)
    trainer = Trainer(config, on_log=log)
    first = trainer.world.first
    together = first or trainer.collective
    folder.resume(trainer)
    with writer:
        while trainer.step < options.steps:
            trainer.train(_next_stop(trainer.step, config, evaluate_at) - trainer.step)
            if first:
                folder.note(trainer)
            last = trainer.step == options.steps
            if last or trainer.step % options.eval_every == 0 or trainer.step in evaluate_at:
                values = trainer.evaluate()
                if together:
                    _picture(trainer, folder)  # first, so that who reads the row finds the picture
                if first:
                    log(trainer.step, values)
            if together and config.ema.lengths and (last or trainer.step % config.ema.snapshot_every == 0):
                folder.store_averages(trainer, writer)
            if together and (last or trainer.step % options.checkpoint_every == 0):
                folder.save(trainer, writer)
    leave_weights(trainer, folder, log)
    return trainer


def _next_stop(step: int, config: TrainConfig, evaluate_at: Collection[int]) -> int:
    """Return the next step at which there is something to do besides training."""
    options = config.trainer
    intervals = [
        options.eval_every,
        options.checkpoint_every,
        *([config.ema.snapshot_every] if config.ema.lengths else []),
    ]
    regular = (step - step % every + every for every in intervals)
    return min(options.steps, *regular, *(at for at in evaluate_at if at > step))


def _picture(trainer: Trainer, folder: RunFolder) -> None:
    """Write the grid of one-step samples, where the data can be shown and Pillow is there to write it."""
    try:
        picture = trainer.sample_grid(1)
        if trainer.world.first:
            save_picture(folder.picture(trainer.step, 1), picture)
    except ConfigError:
        pass  # latents without their decoder, or no Pillow: training needs neither
    except Exception as error:  # no picture is worth a training
        _log.warning("no picture at step %d: %s: %s", trainer.step, type(error).__name__, error)
