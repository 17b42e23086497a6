"""Images in a folder, one sub-folder per class, decoded when they are needed."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanflow_core.config import ImageFolderConfig
from meanflow_core.data import availability
from meanflow_core.data.base import ALL, REFERENCE_BATCH, Pictures, digest, flip_some, scaled, unit_images
from meanflow_core.data.image_files import (
    SUFFIXES,
    Levels,
    broken,
    find_images,
    left_out,
    read_image,
    said,
    training_folder,
)
from meanflow_core.errors import ConfigError, DataError, Problem

KEPT_BYTES = 2**30

log = logging.getLogger(__name__)


class ImageFolder:
    """Images below a folder as float32 [channels, height, width] in [-1, 1].

    The sub-folders' names, sorted, are the classes; images that lie in the folder itself have no labels. With
    sub-folders `train` and `val` (as ImageNet has them) the first is trained on and the second is held out, under the
    class numbers of the first. Images beside sub-folders belong to no class; they are left out, and that is said.

    Args:
        config: path, size, channels, flips.

    Raises:
        ConfigError: there is no such folder, or no image in it.
    """

    name = "image_folder"

    def __init__(self, config: ImageFolderConfig) -> None:
        root = Path(config.path).expanduser()
        availability.demand(availability.image_folder(config.path))
        self._root = training_folder(config.path)
        found = find_images(self._root)
        self._files, self._classes = found.files, found.classes
        self._labels = None if found.labels is None else torch.tensor(found.labels)
        self.num_classes = None if found.classes is None else len(found.classes)
        if told := left_out(self._root, found):
            log.warning("%s", told)
        if not self._files:
            kinds = ", ".join(sorted(SUFFIXES))
            rule = f"holds no image ({kinds}); {availability.IMAGE_LAYOUT}"
            raise ConfigError([Problem(key="data.path", value=str(root), rule=rule)])
        self._held_root = root / "val" if self._root != root and (root / "val").is_dir() else None
        self._flip, self._size = config.flip, config.shape[1:]
        self.shape: tuple[int, ...] = config.shape
        self.reference_rows = f"{len(self._files)} training rows"
        sizes = [(str(file.relative_to(self._root)), file.stat().st_size) for file in self._files]
        grey = () if config.channels == 3 else (config.channels,)
        self.fingerprint = digest(self.name, config.size, sizes, *grey)
        self.kept_bytes = KEPT_BYTES
        self._pool: ThreadPoolExecutor | None = None
        self._kept: dict[int, Levels] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_kept": {}}

    def _decode(self, files: list[Path]) -> list[Levels]:
        """Decode files, in threads: decoding and resizing run outside Python's lock."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "images")
        return list(self._pool.map(self._pixels, files))

    def _pixels(self, file: Path) -> Levels:
        return np.ascontiguousarray(read_image(file, self._size, self.shape[0]).transpose(2, 0, 1))

    def _rows(self, indices: list[int]) -> Tensor:
        """Return training images, uint8 [B, *shape]; decoded ones are kept if all fit into `kept_bytes`."""
        if len(self) * math.prod(self.shape) > self.kept_bytes:
            return _stacked(self._decode([self._files[index] for index in indices]))
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        decoded = self._decode([self._files[index] for index in missing])
        self._kept.update(zip(missing, decoded, strict=True))
        return _stacked([self._kept[index] for index in indices])

    def batch(self, indices: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows; see `Dataset.batch`.

        Raises:
            DataError: an image cannot be decoded.
        """
        return self.part(indices, ALL, generator=generator)

    def part(self, indices: Tensor, own: slice, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return rows of a batch; see `Dataset`. No other image is decoded.

        Raises:
            DataError: an image cannot be decoded.
        """
        levels = self._rows(indices[own].tolist())
        if self._flip:
            levels = flip_some(levels, generator, own, len(indices))
        return scaled(levels), None if self._labels is None else self._labels[indices[own]]

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Return all images under `val`.

        Raises:
            DataError: there is no folder `val`.
        """
        if self._held_root is None:
            raise DataError(f"{self._root}: has no held-out images; put them into a folder `val` beside one `train`")
        held = find_images(self._held_root, self._classes)
        if (held.labels is None) != (self._labels is None):
            raise DataError(f"{self._held_root}: has {'no ' * (held.labels is None)}sub-folders, other than `train`")
        return scaled(_stacked(self._decode(held.files))), None if held.labels is None else torch.tensor(held.labels)

    def check(self) -> None:
        """Read all training images.

        Raises:
            DataError: naming how many cannot be read, and the first ten.
        """
        faults = broken(self._files, self._size, self.shape[0])
        if faults:
            raise DataError(said(faults, len(self)))

    def reference(self) -> Iterator[Tensor]:
        """Yield the training images, unflipped.

        Raises:
            DataError: images cannot be read: how many, and the first ten.
        """
        for start in range(0, len(self._files), REFERENCE_BATCH):
            try:
                rows = self._rows(list(range(start, min(start + REFERENCE_BATCH, len(self)))))
            except DataError:
                self.check()  # all of them at once
                raise
            yield scaled(rows)

    def to_images(self, x: Tensor) -> Pictures:
        """Return uint8 [N, height, width, 3]."""
        return unit_images(x)


def _stacked(images: list[Levels]) -> Tensor:
    """Return uint8 [N, channels, height, width]."""
    return torch.from_numpy(np.stack(images))
