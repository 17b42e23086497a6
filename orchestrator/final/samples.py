"""A picture of samples from a weights file alone: neither the training data nor the sweep is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meanflow_core.errors import ConfigError, Problem

if TYPE_CHECKING:
    import numpy as np
    import torch

    from meanflow_core.config import TrainConfig

BATCH = 256


def draw_samples(
    weights: Path,
    *,
    count: int,
    nfe: int = 1,
    labels: Sequence[int] | None = None,
    seed: int = 0,
    guidance: float | None = None,
    conditions: np.ndarray | None = None,
) -> tuple[torch.Tensor, TrainConfig]:
    """Sample from a weights file.

    Args:
        weights: of `Trainer.export`.
        count: number of samples.
        nfe: network evaluations per sample.
        labels: classes, dealt out in turn; None takes every class of a labelled model.
        seed: of the noise. Sample i is the same for any number of samples.
        guidance: the scale, of a network that takes it as an input; None: the first of its `evaluation.guidance`.
        conditions: [M, *shape], dealt out in turn; None: the null condition, for a model of data with conditions.

    Returns:
        Samples, float32 [count, *shape] on the CPU, and the configuration the weights were trained with.

    Raises:
        ConfigError: a label is not one of the model's, it takes no scale, or the conditions are not of its shape.
        CheckpointError: the file is missing or damaged.
    """
    import torch

    from meanflow_core.sampling import asked_of_weights, fixed_noise, guidance_scale, sample
    from meanflow_core.training import load_network

    net, config, metadata = load_network(weights)
    classes = metadata["num_classes"]
    chosen = _labels(labels, classes, count)
    theirs = None if conditions is None else [conditions[index % len(conditions)] for index in range(count)]
    try:
        given = asked_of_weights(metadata, count, None if chosen is None else torch.tensor(chosen), theirs)
    except ValueError as error:
        raise ConfigError([Problem(key="--conditions", rule=str(error))]) from error
    scale = guidance_scale(config, guidance)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = net.to(device)
    parts = []
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        noise = fixed_noise(seed, tuple(metadata["shape"]), start, stop).to(device)
        part = None if given is None else given[start:stop].to(device)
        parts.append(sample(net, noise, labels=part, steps=nfe, guidance=scale).float().cpu())
    return torch.cat(parts), config


def sample_picture(
    weights: Path,
    out: Path,
    *,
    count: int,
    nfe: Sequence[int],
    labels: Sequence[int] | None,
    seed: int,
    guidance: float | None = None,
    conditions: np.ndarray | None = None,
) -> None:
    """Write a PNG of samples: one block for each number of evaluations, side by side, all from the same noise.

    Raises:
        ConfigError: a label is not one of the model's, it takes no scale, or the data cannot be shown.
    """
    import numpy as np

    from meanflow_core.sampling import save_picture

    columns = _columns(count, labels)
    blocks = []
    for steps in nfe:
        samples, config = draw_samples(
            weights, count=count, nfe=steps, labels=labels, seed=seed, guidance=guidance, conditions=conditions
        )
        blocks.append(_picture(samples, config, columns))
    gap = np.full((blocks[0].shape[0], 12, 3), 255, dtype=np.uint8)
    parts = [part for block in blocks for part in (gap, block)][1:]
    save_picture(out, np.concatenate(parts, axis=1))


def _labels(labels: Sequence[int] | None, classes: int | None, count: int) -> list[int] | None:
    if classes is None:
        if labels is not None:
            raise ConfigError([Problem(key="--labels", value=list(labels), rule="the model has no labels")])
        return None
    chosen = list(range(classes)) if labels is None else list(labels)
    for label in chosen:
        if not 0 <= label < classes:
            raise ConfigError([Problem(key="--labels", value=label, rule=f"the labels are 0 to {classes - 1}")])
    return [chosen[index % len(chosen)] for index in range(count)]


def _columns(count: int, labels: Sequence[int] | None) -> int:
    """A column for each class where that fills whole rows; otherwise about a square."""
    wanted = 10 if labels is None else len(set(labels))
    if wanted > 1 and count % wanted == 0 and wanted <= 20:
        return wanted
    return max(1, math.isqrt(count))


def _picture(samples: torch.Tensor, config: TrainConfig, columns: int) -> np.ndarray:
    from meanflow_core.data import build_dataset, unit_images
    from meanflow_core.sampling import image_grid

    if samples.dim() == 4 and samples.shape[1] in (1, 3):
        return image_grid(unit_images(samples), columns)
    return image_grid(build_dataset(config.data).to_images(samples), columns)
