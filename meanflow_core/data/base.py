"""What a data set is, and one that lies in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Pictures = np.ndarray[Any, np.dtype[np.uint8]]

REFERENCE_BATCH = 256
"""Rows a batch when the reference is read; small enough for decoded 256x256 images."""


class DataError(RuntimeError):
    """A data file exists and is not what it should be; the message names the file and what was expected."""


@runtime_checkable
class Dataset(Protocol):
    """Training rows, and the rows that samples are judged by. Picklable, and without state that training changes."""

    name: str
    shape: tuple[int, ...]
    """Of one row, e.g. (2,) or (1, 8, 8)."""
    num_classes: int | None
    """None: no labels."""
    fingerprint: str
    """16 hex digits that differ where the training data differ."""
    reference_rows: str
    """Which rows `reference` yields, in words, for the record."""

    def __len__(self) -> int:
        """Return the number of training rows."""

    def batch(self, indices: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows.

        Args:
            indices: int64 [B] on the CPU.
            generator: on the CPU, of everything random (flips, latent noise): equal state, equal rows.

        Returns:
            x, float32 [B, *shape], about within [-1, 1], and labels, int64 [B] or None.
        """

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Return rows that are never trained on, with labels.

        Raises:
            DataError: the data come without such rows.
        """

    def reference(self) -> Iterator[Tensor]:
        """Yield, in batches [B, *shape], the real rows that a sample statistic is compared with; nothing is random."""

    def to_images(self, x: Tensor) -> Pictures:
        """Return pictures, uint8 [N, H, W, 3], of rows x [N, *shape]."""


def digest(*parts: object) -> str:
    """Return 16 hex digits of the parts: tensors and arrays by dtype, shape and content, the rest by `repr`."""
    content = hashlib.sha256()
    for part in parts:
        array = part.numpy() if isinstance(part, Tensor) else part
        if isinstance(array, np.ndarray):
            content.update(f"{array.dtype}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
        else:
            content.update(repr(array).encode())
        content.update(b";")
    return content.hexdigest()[:16]


def unit_images(x: Tensor) -> Pictures:
    """Return uint8 [N, H, W, 3] of images [N, 1 or 3, H, W] in [-1, 1]; values outside are cut off."""
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"need images [N, 1 or 3, H, W], got {tuple(x.shape)}")
    levels = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def scaled(levels: Tensor, highest: int = 255) -> Tensor:
    """Return whole numbers 0 ... highest as float32 in [-1, 1]."""
    return levels.to(torch.float32, memory_format=torch.contiguous_format).mul_(2 / highest).sub_(1)


def flip_some(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of x [B, C, H, W] left to right with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


class ArrayImages:
    """Small images held in memory as whole numbers 0 ... levels, seen as float32 in [-1, 1].

    Args:
        name: of the data set.
        train: uint8 [N, C, H, W].
        train_labels: int64 [N], or None for unlabelled data.
        held: uint8, held-out rows.
        held_labels: like `train_labels`.
        num_classes: None where the labels are None.
        levels: the value that becomes 1; 0 becomes -1.
        flip: mirror training rows at random.
        reference_held: whether `reference` yields the held-out rows (else the training rows, as they are).
    """

    def __init__(
        self,
        name: str,
        train: Tensor,
        train_labels: Tensor | None,
        held: Tensor,
        held_labels: Tensor | None,
        *,
        num_classes: int | None,
        levels: int = 255,
        flip: bool = False,
        reference_held: bool = False,
    ) -> None:
        self.name, self.num_classes, self.levels, self.flip = name, num_classes, levels, flip
        self.shape = tuple(train.shape[1:])
        self._train, self._train_labels = train, train_labels
        self._held, self._held_labels = held, held_labels
        self._reference_held = reference_held
        rows = held if reference_held else train
        self.reference_rows = f"{len(rows)} {'held-out' if reference_held else 'training'} rows"
        labels = "unlabelled" if train_labels is None else train_labels
        self.fingerprint = digest(name, train, labels, levels)

    def __len__(self) -> int:
        return len(self._train)

    def batch(self, indices: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows; see `Dataset.batch`."""
        rows = self._train[indices]
        if self.flip:
            rows = flip_some(rows, generator)
        return scaled(rows, self.levels), None if self._train_labels is None else self._train_labels[indices]

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Return the held-out rows and their labels."""
        return scaled(self._held, self.levels), self._held_labels

    def reference(self) -> Iterator[Tensor]:
        """Yield the reference rows."""
        for part in torch.split(self._held if self._reference_held else self._train, REFERENCE_BATCH):
            yield scaled(part, self.levels)

    def to_images(self, x: Tensor) -> Pictures:
        """Return uint8 [N, H, W, 3]."""
        return unit_images(x)
