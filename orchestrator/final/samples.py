"""A picture of samples from a weights file alone: neither the training data nor the sweep is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    length: float | None = None,
) -> tuple[torch.Tensor, TrainConfig, int, list[int] | None]:
    """Sample from a weights file.

    Args:
        weights: of `Trainer.export`.
        count: number of samples.
        nfe: network evaluations per sample.
        labels: classes, dealt out in turn; None takes every class of a labelled model.
        seed: of the noise. Sample i is the same for any number of samples.
        guidance: the scale, of a network that takes it as an input; None: the first of its `evaluation.guidance`.
        conditions: [M, *shape], dealt out in turn; None: the null condition, for a model of data with conditions.
        length: of the average to sample, made of those that the training stored beside its weights; None: the weights.

    Returns:
        Samples, float32 [count, *shape] on the CPU, the configuration the weights were trained with, their step, and
        the class of each sample (None: the model has none).

    Raises:
        ConfigError: a label is not one of the model's, it takes no scale, the conditions are not of its shape, or there
            are no averages to make one of this length of.
        CheckpointError: the file is missing or damaged.
    """
    import torch

    from meanflow_core.run import RunFolder
    from meanflow_core.sampling import asked_of_weights, fixed_noise, guidance_scale, sample
    from meanflow_core.training import load_network

    net, config, metadata = load_network(weights)
    if length is not None:
        net.load_state_dict(RunFolder(weights.parent).average(length, int(metadata["step"])))
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
    return torch.cat(parts), config, int(metadata["step"]), chosen


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
    length: float | None = None,
) -> str:
    """Write a PNG of samples: one block for each number of evaluations, side by side, all from the same noise.

    Above each block stands its number of evaluations (NFE), below them what the picture is of.

    Returns:
        What it is of, in words: weights, step, scale of guidance, classes.

    Raises:
        ConfigError: a label is not one of the model's, it takes no scale, or the data cannot be shown.
    """
    from meanflow_core.sampling import save_picture

    columns = _columns(count, labels)
    blocks = []
    for steps in nfe:
        asked: Any = {"labels": labels, "guidance": guidance, "conditions": conditions, "length": length}
        samples, config, step, classes = draw_samples(weights, count=count, nfe=steps, seed=seed, **asked)
        blocks.append(_picture(samples, config, columns))
    told = _told(weights, config, step, classes, guidance, length)
    save_picture(out, captioned(blocks, [f"{steps} NFE" for steps in nfe], told))
    return told


def _told(
    weights: Path,
    config: TrainConfig,
    step: int,
    classes: Sequence[int] | None,
    guidance: float | None,
    length: float | None,
) -> str:
    """Return `digits-7, step 800 of 10000, classes 0 to 9 in turn`."""
    name = weights.parent.name if weights.name == "weights.safetensors" else weights.stem
    whole = config.trainer.steps
    parts = [name, f"step {step}" + (f" of {whole}" if step < whole else "")]
    parts += [] if length is None else [f"average of length {length:g}"]
    parts += [] if guidance is None else [f"guidance {guidance:g}"]
    return ", ".join([*parts, *([] if classes is None else [_of_classes(list(dict.fromkeys(classes)))])])


def _of_classes(chosen: Sequence[int]) -> str:
    """Return `class 3`, `classes 3 and 5 in turn`, `classes 0 to 9 in turn`."""
    from orchestrator.formatting import join

    if len(chosen) == 1:
        return f"class {chosen[0]}"
    row = len(chosen) > 2 and list(chosen) == list(range(chosen[0], chosen[-1] + 1))
    return f"classes {f'{chosen[0]} to {chosen[-1]}' if row else join([str(each) for each in chosen])} in turn"


def captioned(blocks: Sequence[np.ndarray], heads: Sequence[str], foot: str) -> np.ndarray:
    """Return pictures side by side, each with words above it, and words below all of them.

    Args:
        blocks: uint8 [H, W, 3], of one height.
        heads: one for each block.
        foot: broken into lines where it is wider than the picture; that is at least 240 pixels wide.

    Returns:
        uint8 [H', W', 3].
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font, gap, line = ImageFont.load_default(size=12), 12, 16
    places = np.cumsum([0, *(block.shape[1] + gap for block in blocks)]).tolist()
    width = max(places[-1] - gap, 240)
    lines = _broken(foot, lambda text: font.getlength(text) <= width - 4)
    height = blocks[0].shape[0]
    page = Image.new("RGB", (width, line + height + 4 + line * len(lines)), "white")
    draw = ImageDraw.Draw(page)
    for block, head, place in zip(blocks, heads, places, strict=False):
        draw.text((place + 2, 0), head, fill="black", font=font)
        page.paste(Image.fromarray(block), (place, line))
    for row, text in enumerate(lines):
        draw.text((2, line + height + 4 + line * row), text, fill="black", font=font)
    return np.asarray(page)


def _broken(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Return the words in lines that fit; a word too long for one has its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


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
