"""What a step of training sees: data, noise, times and dropped labels of the global batch, split into parts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_core.config import TrainConfig
from meanflow_core.data import Dataset, IndexStream, checked_labels, part_of
from meanflow_core.distributed import World
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.flow import draw_scales, sample_dropped, sample_times, spanning_rows
from meanflow_core.objectives import draw_split
from meanflow_core.rng import Streams, stable_seed


@dataclass(frozen=True)
class Microbatch:
    """Some rows of a global batch: what one forward and backward pass takes. Rows with r < t come first."""

    x: Tensor
    """Data, [n, ...]."""
    noise: Tensor
    """Like `x`."""
    r: Tensor
    """[n]."""
    t: Tensor
    """[n], r <= t."""
    labels: Tensor | None
    """int64 [n]; with conditions [n, 3 + K] (`flow.condition`)."""
    dropped: Tensor | None
    """bool [n]: trained on the null label."""
    spanning_rows: int
    """How many leading rows have r < t."""
    dropped_count: int
    """At least so many rows are dropped (known without asking the device)."""
    split: Tensor | float = 0.0
    """a of s = t - a (t - r), [n], or 0 or 1 for all rows."""
    scales: Tensor | None = None
    """The scale of guidance of each row, [n], where it is an input of the network."""


_Rows = tuple[Tensor, Tensor | None, Tensor]
"""Data, labels and noise of this process's rows of a global batch, on the CPU."""


class Batches:
    """The batches of a run, each a pure function of (seed, step, position in the data): the same on every device.

    All random numbers are drawn on the CPU: a GPU's generator answers by its number of multiprocessors, so that runs
    with equal seeds on two kinds of GPU would not be paired, nor a run be resumed on another kind as the same run.

    A global batch is split into world size x accumulation parts of equal size. Part k takes the rows k, k + parts,
    k + 2 parts ..., so every part gets its share of the rows with r < t, which come first, and counts of the whole
    batch (the ratio, the dropped labels) hold whatever the number of parts is. A process reads the rows of its own
    parts alone: row, row + processes, ...

    Args:
        config: of the run.
        dataset: the training data.
        device: where the parts are put. On a GPU the next batch is read, and its noise drawn, while the current
            one is trained.
        world: the processes that share the batch.

    Raises:
        ConfigError: the batch cannot be split evenly.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device, world: World) -> None:
        self._config, self._dataset, self._device, self._world = config, dataset, device, world
        self.size = config.trainer.batch_size
        self.count = world.size * config.trainer.accumulation
        if self.size % self.count:
            rule = f"must be a multiple of processes x accumulation = {world.size} x {config.trainer.accumulation}"
            raise ConfigError([Problem(key="trainer.batch_size", value=self.size, rule=rule)])
        self.spanning = spanning_rows(self.size, config.objective.time.ratio)
        """Rows of a batch with r < t."""
        self._streams = Streams(config.seed)
        self._order = IndexStream(len(dataset), config.seed)
        ahead = device.type == "cuda" and getattr(dataset, "reads_ahead", True)
        self._reader = ThreadPoolExecutor(1, "batches") if ahead else None
        self._ahead: tuple[tuple[int, int], Future[_Rows]] | None = None

    def parts(self, step: int, position: int) -> Iterator[Microbatch]:
        """Yield this process's parts of the batch of `step` (the first is 0).

        Args:
            step: which random numbers.
            position: training rows seen before this step: where in the data order it stands.
        """
        x, labels, noise = self._rows(step, position)
        draw, law = self._streams.at, self._config.objective.time
        r, t = sample_times(self.size, law, generator=draw("times", step))
        share = self._config.objective.guidance.dropout if labels is not None else 0.0
        dropped = sample_dropped(self.size, share, generator=draw("dropped", step)) if share else None
        split = draw_split(
            self.size,
            self._config.objective.split,
            step / self._config.trainer.steps,
            generator=lambda: draw("split", step),
        )
        guidance = self._config.objective.guidance
        scales = None
        if guidance.input:
            scales = draw_scales(self.size, guidance, generator=draw("scales", step))
        # How many of a part's rows are dropped changes from step to step, and a compiled graph is for one number.
        counted = dropped is not None and (self.count == 1 or not self._config.trainer.compile)
        accumulation = self._config.trainer.accumulation
        for index in range(self._world.rank, self.count, self._world.size):
            take, own = slice(index, None, self.count), slice(index // self._world.size, None, accumulation)
            yield Microbatch(
                x=self._put(x[own]),
                noise=self._put(noise[own]),
                r=self._put(r[take]),
                t=self._put(t[take]),
                labels=None if labels is None else self._put(labels[own]),
                dropped=None if dropped is None else self._put(dropped[take]),
                spanning_rows=len(range(index, self.spanning, self.count)),
                dropped_count=int(dropped[take].sum()) if dropped is not None and counted else 0,
                split=self._put(split[take]) if isinstance(split, Tensor) else split,
                scales=None if scales is None else self._put(scales[take]),
            )

    def _rows(self, step: int, position: int) -> _Rows:
        """Return this process's rows of the global batch, reading the next one's ahead where that helps."""
        if self._reader is None:
            return self._read(step, position)
        key, future = self._ahead or ((-1, -1), None)
        if key != (step, position) or future is None:
            future = self._reader.submit(self._read, step, position)
        rows = future.result()
        after = (step + 1, position + self.size)
        self._ahead = (after, self._reader.submit(self._read, *after))
        return rows

    def _read(self, step: int, position: int) -> _Rows:
        self._order.position = position
        generator = torch.Generator().manual_seed(stable_seed(self._config.seed, "data", step))
        indices, world = self._order.take(self.size), self._world
        own = slice(world.rank, None, world.size) if world.size > 1 else slice(None)
        x, labels = part_of(self._dataset, indices, own, generator=generator)
        if labels is not None and labels.dim() == 1 and self._dataset.num_classes is not None:
            checked_labels(labels, self._dataset.num_classes, indices[own].tolist())
        generator = torch.Generator().manual_seed(stable_seed(self._config.seed, "noise", step))
        noise = torch.randn((self.size, *x.shape[1:]), generator=generator)[own]
        if self._device.type == "cuda":  # here, in the reader's thread: it copies
            x, noise = x.pin_memory(), noise.pin_memory()
        return x, labels, noise

    def _put(self, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        if self._device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)
