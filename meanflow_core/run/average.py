"""Which weights a training leaves at its end: an average whose length is chosen now (`ema.length`), or the primary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from meanflow_core.config import BEST
from meanflow_core.run.folder import RunFolder
from meanflow_core.training import Trainer, length_name

TRIED = (0.03, 0.05, 0.08, 0.12, 0.17, 0.23)
"""Lengths among which `ema.length: best` chooses."""


def leave_weights(trainer: Trainer, folder: RunFolder, log: Callable[[int, Mapping[str, float]], None]) -> None:
    """Write the weights that `ema.length` asks for, where the folder does not hold them already.

    Lengths are judged as the primary weights are, each under its own name (`eval/length_0.12/fid_1nfe`). In a process
    group every process calls this, once the averages are on a disk that all see.

    Args:
        trainer: at its last step.
        folder: of the training.
        log: takes (step, metrics), in the first process.

    Raises:
        ConfigError: the training stored no averages.
    """
    config = trainer.config
    trainer.world.wait()
    settled = folder.is_settled(config)
    trainer.world.wait()  # nobody writes before all have looked
    if settled:
        return
    wanted = config.ema.length
    if wanted is None:
        folder.leave(trainer, None)
        return
    lengths: Sequence[float] = TRIED if wanted == BEST else (float(wanted),)
    values: dict[str, float] = {}
    for length in lengths:
        average = folder.average(length, trainer.step)
        on_device = {name: tensor.to(trainer.device) for name, tensor in average.items()}
        values |= trainer.evaluate({length_name(length): on_device})
    higher = trainer.shared.evaluator.higher
    chosen = lengths[0] if len(lengths) == 1 else best_length(values, lengths, config.evidence, higher)
    if trainer.world.first:
        log(trainer.step, values)
    folder.leave(trainer, chosen)


def best_length(
    values: Mapping[str, float], lengths: Sequence[float], evidence: Mapping[str, Any], higher: Collection[str]
) -> float:
    """Return the length whose average is best by the metric that the configuration was found by, else by the first one.

    Args:
        values: `eval/length_<length>/<metric>` of each.
        lengths: two or more.
        evidence: for the configuration; empty where no sweep has found it.
        higher: metrics, by their bare names, whose larger values are better.
    """
    first = f"eval/{length_name(lengths[0])}/"
    names = [name.removeprefix(first) for name in values if name.startswith(first)]
    metric = next((name for name in names if name.startswith("best_")), names[0])
    upwards = _bare(metric) in higher
    if (found_by := str(evidence.get("metric", "")).removeprefix("eval/")) in names:
        metric, upwards = found_by, evidence.get("goal") == "maximize"
    choose = max if upwards else min
    return choose(lengths, key=lambda length: values[f"eval/{length_name(length)}/{metric}"])


def _bare(metric: str) -> str:
    """Return `fid` of `fid_1nfe` and of `best_fid_1nfe`."""
    return metric.removeprefix("best_").rpartition("nfe")[0].rpartition("_")[0]
