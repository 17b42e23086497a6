"""Samples from fixed noise and labels, by any set of weights, shared among processes; and pictures of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meanflow_core.config import TrainConfig
from meanflow_core.data import Dataset
from meanflow_core.distributed import World
from meanflow_core.rng import stable_seed
from meanflow_core.sampling.asking import conditions_of
from meanflow_core.sampling.sampler import sample

BLOCK = 64
"""Noise is drawn in blocks of this many samples, each from its own seed: sample i is the same whatever the number of
samples, the batch size or the number of processes."""

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def fixed_noise(seed: int, shape: tuple[int, ...], start: int, stop: int) -> Tensor:
    """Return the noise [stop - start, *shape] of samples start ... stop - 1 of a seed, on the CPU."""
    generator = torch.Generator()
    blocks = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        generator.manual_seed(stable_seed(seed, "noise", block))
        blocks.append(torch.randn((BLOCK, *shape), generator=generator))
    offset = start - start % BLOCK
    return torch.cat(blocks)[start - offset : stop - offset]


class Sampling:
    """The samples an evaluation judges.

    Args:
        config: of the run; `evaluation` says how many samples, which labels and which noise.
        dataset: for the shape and the classes.
        world: the processes that share the work.
        device: of the network.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, world: World, device: torch.device) -> None:
        self._evaluation, self._dataset = config.evaluation, dataset
        self._low = config.trainer.precision == "bf16"
        self.world, self.device = world, device
        self.count = config.evaluation.samples
        """Of samples, over all processes."""
        self.labels = self._labels(self.count)
        """int64 [samples] on the CPU, with conditions [samples, 3 + K], or None for data that have neither."""

    def _labels(self, count: int) -> Tensor | None:
        if (conditions := conditions_of(self._dataset, count)) is not None:
            return conditions
        classes = self._dataset.num_classes
        if classes is None:
            return None
        if self._evaluation.labels == "balanced":
            return torch.arange(count) % classes
        generator = torch.Generator().manual_seed(stable_seed(self._evaluation.seed, "labels"))
        return torch.randint(classes, (count,), generator=generator)

    def noise(self, start: int, stop: int) -> Tensor:
        """Return the fixed noise of samples start ... stop - 1, on the CPU, so that it is the same for all devices."""
        return fixed_noise(self._evaluation.seed, self._dataset.shape, start, stop)

    def draw(self, net: nn.Module, weights: dict[str, Tensor], nfe: int, guidance: float | None = None) -> Tensor:
        """Return all samples, float32 on the CPU, in every process.

        Args:
            net: the network's structure.
            weights: its state dict to use.
            nfe: number of function evaluations.
            guidance: the scale, of a network that takes it as an input.
        """
        count = self._evaluation.samples
        each = -(-count // self.world.size)
        own = range(self.world.rank * each, (self.world.rank + 1) * each)
        labels = self._labels(each * self.world.size)
        return self.world.gather(self._of(own, labels, net, weights, nfe, guidance))[:count].cpu()

    def draw_share(
        self, net: nn.Module, weights: dict[str, Tensor], nfe: int, guidance: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return this process's share of the samples and their labels, on the CPU; arguments as of `draw`."""
        count, size = self._evaluation.samples, self.world.size
        own = range(self.world.rank * count // size, (self.world.rank + 1) * count // size)
        labels = None if self.labels is None else self.labels[own.start : own.stop]
        return self._of(own, self.labels, net, weights, nfe, guidance).cpu(), labels

    def _of(
        self,
        own: range,
        labels: Tensor | None,
        net: nn.Module,
        weights: dict[str, Tensor],
        nfe: int,
        guidance: float | None,
    ) -> Tensor:
        batch = self._evaluation.batch_size
        parts = []
        for start in range(own.start, own.stop, batch):
            stop = min(start + batch, own.stop)
            part = None if labels is None else labels[start:stop]
            parts.append(self.run(net, weights, self.noise(start, stop), part, nfe, guidance))
        return torch.cat(parts)

    def run(
        self,
        net: nn.Module,
        weights: dict[str, Tensor],
        noise: Tensor,
        labels: Tensor | None,
        nfe: int,
        guidance: float | None = None,
    ) -> Tensor:
        """Return samples of `noise` and `labels` (both moved to the device), float32 on the device."""

        def with_weights(z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            u: Tensor = torch.func.functional_call(net, weights, (z, r, t, labels))
            return u

        training = net.training
        net.eval()
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._low, cache_enabled=False):
                moved = None if labels is None else labels.to(self.device)
                noise = noise.to(self.device)
                return sample(with_weights, noise, labels=moved, steps=nfe, guidance=guidance).float()
        finally:
            net.train(training)

    def of(
        self,
        net: nn.Module,
        weights: dict[str, Tensor],
        n: int,
        labels: Tensor | None,
        nfe: int,
        guidance: float | None,
        seed: int,
    ) -> Tensor:
        """Return n samples of a seed's noise and of labels [n, ...], float32 [n, *shape] on the CPU."""
        parts = [torch.empty((0, *self._dataset.shape))]
        for start in range(0, n, self._evaluation.batch_size):
            stop = min(start + self._evaluation.batch_size, n)
            noise = fixed_noise(seed, self._dataset.shape, start, stop)
            part = None if labels is None else labels[start:stop]
            parts.append(self.run(net, weights, noise, part, nfe, guidance).cpu())
        return torch.cat(parts)

    def grid_inputs(self, columns: int = 10, rows: int = 10) -> tuple[Tensor, Tensor | None, int]:
        """Return noise, labels and the number of columns of a picture: a row is a class (at most `rows` of them)."""
        classes = self._dataset.num_classes
        conditions = conditions_of(self._dataset, columns * rows)
        if classes is None or conditions is not None:
            return self.noise(0, columns * rows), conditions, columns
        labels = torch.arange(min(classes, rows)).repeat_interleave(columns)
        return self.noise(0, len(labels)), labels, columns


def image_grid(images: Picture, columns: int, smallest: int = 32, gap: int = 2) -> Picture:
    """Lay images [N, H, W, 3] out in rows of `columns`, small ones enlarged to `smallest` pixels or more.

    A single image (a plot of all samples) is returned as it is.
    """
    if len(images) == 1:
        single: Picture = images[0]
        return single
    factor = -(-smallest // min(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = images.shape[1:3]
    rows = -(-len(images) // columns)
    picture = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture
