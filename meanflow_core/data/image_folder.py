"""Images in a folder, one sub-folder per class, decoded when they are needed."""

from __future__ import annotations

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
from meanflow_core.data.base import REFERENCE_BATCH, DataError, Pictures, digest, flip_some, scaled, unit_images
from meanflow_core.errors import ConfigError, Problem

Levels = np.ndarray[Any, np.dtype[np.uint8]]

KEPT_BYTES = 2**30
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImageFolder:
    """Images below a folder as float32 [3, size, size] in [-1, 1].

    The sub-folders' names, sorted, are the classes; images that lie in the folder itself have no labels. With
    sub-folders `train` and `val` (as ImageNet has them) the first is trained on and the second is held out.

    Args:
        config: path, size, flips.

    Raises:
        ConfigError: there is no such folder, or no image in it.
    """

    name = "image_folder"

    def __init__(self, config: ImageFolderConfig) -> None:
        root = Path(config.path).expanduser()
        availability.demand(availability.image_folder(config.path))
        split = (root / "train").is_dir()
        self._root = root / "train" if split else root
        self._files, self._labels, self.num_classes = list_images(self._root)
        if not self._files:
            kinds = ", ".join(sorted(SUFFIXES))
            rule = f"holds no image ({kinds}); {availability.IMAGE_LAYOUT}"
            raise ConfigError([Problem(key="data.path", value=str(root), rule=rule)])
        self._held_root = root / "val" if split and (root / "val").is_dir() else None
        self._flip, self._size = config.flip, config.size
        self.shape: tuple[int, ...] = (3, config.size, config.size)
        self.reference_rows = f"{len(self._files)} training rows"
        sizes = [(str(file.relative_to(self._root)), file.stat().st_size) for file in self._files]
        self.fingerprint = digest(self.name, config.size, sizes)
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
        size = self._size
        return list(self._pool.map(lambda file: np.ascontiguousarray(read_image(file, size).transpose(2, 0, 1)), files))

    def _rows(self, indices: list[int]) -> Tensor:
        """Return training images, uint8 [B, 3, size, size]; decoded ones are kept if all fit into `kept_bytes`."""
        if len(self) * 3 * self._size**2 > self.kept_bytes:
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
        levels = self._rows(indices.tolist())
        if self._flip:
            levels = flip_some(levels, generator)
        return scaled(levels), None if self._labels is None else self._labels[indices]

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Return all images under `val`.

        Raises:
            DataError: there is no folder `val`.
        """
        if self._held_root is None:
            raise DataError(f"{self._root}: has no held-out images; put them into a folder `val` beside one `train`")
        files, labels, _ = list_images(self._held_root)
        return scaled(_stacked(self._decode(files))), labels

    def reference(self) -> Iterator[Tensor]:
        """Yield the training images, unflipped."""
        for start in range(0, len(self._files), REFERENCE_BATCH):
            yield scaled(self._rows(list(range(start, min(start + REFERENCE_BATCH, len(self))))))

    def to_images(self, x: Tensor) -> Pictures:
        """Return uint8 [N, size, size, 3]."""
        return unit_images(x)


def _stacked(images: list[Levels]) -> Tensor:
    """Return uint8 [N, 3, size, size]."""
    return torch.from_numpy(np.stack(images))


def list_images(root: Path) -> tuple[list[Path], Tensor | None, int | None]:
    """Return a folder's image files, sorted, their labels, and the number of classes (None without sub-folders)."""

    def images(folder: Path) -> list[Path]:
        return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())

    classes = sorted(folder for folder in root.iterdir() if folder.is_dir() and images(folder))
    if not classes:
        return images(root), None, None
    files, labels = [], []
    for label, folder in enumerate(classes):
        found = images(folder)
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels), len(classes)


def read_image(path: Path, size: int) -> Levels:
    """Return an image, uint8 [size, size, 3]: its central square, resized.

    Large images are first halved by averaging, then resized bicubically (the preprocessing of arXiv 2105.05233).

    Raises:
        DataError: the file cannot be decoded.
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs Pillow: pip install pillow", name="PIL") from error
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise DataError(f"{path}: cannot be decoded as an image ({error})") from error
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))
