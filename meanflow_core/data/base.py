"""What a data set is, and one that lies in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from meanflow_core.errors import ConfigError, Problem
from meanflow_core.errors import DataError as DataError

Pictures = np.ndarray[Any, np.dtype[np.uint8]]

REFERENCE_BATCH = 256
"""Rows a batch when the reference is read; small enough for decoded 256x256 images."""


@runtime_checkable
class Dataset(Protocol):
    """Training rows, and the rows that samples are judged by. Picklable, and without state that training changes.

    One may also have `part(indices, own, *, generator)`: the rows `batch(indices, generator=generator)[own]`, bit for
    bit, without reading the others. Where it is missing, each of several processes reads the whole batch.
    """

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
    """Return uint8 [N, H, W, 3] of images [N, 1, 3 or 4, H, W] in [-1, 1]; values outside are cut off.

    The fourth channel is opacity, before white.
    """
    if x.dim() != 4 or x.shape[1] not in (1, 3, 4):
        raise ValueError(f"need images [N, 1, 3 or 4, H, W], got {tuple(x.shape)}")
    if x.shape[1] == 4:
        opacity = ((x[:, 3:].float() + 1) / 2).clamp(0, 1)
        x = x[:, :3].float() * opacity + (1 - opacity)
    levels = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def shown(x: Tensor) -> Pictures:
    """Return pictures, uint8 [N, H, W, 3], of rows x [N, *shape], as far as their shape says how.

    Images [1, 3 or 4, H, W] as they are, [H, W] in grey; signals [C, L] (at most 16 channels) as curves; points of the
    plane as one scatter plot.

    Raises:
        ConfigError: rows of another shape.
    """
    if x.dim() == 4 and x.shape[1] in (1, 3, 4):
        return unit_images(x)
    if x.dim() == 2 and x.shape[1] == 2:
        return scatter(x)
    if x.dim() == 3 and x.shape[1] <= 16:
        return curves(x)
    if x.dim() == 3:
        return unit_images(x[:, None])
    rule = f"rows of the shape {tuple(x.shape[1:])} cannot be shown as pictures"
    raise ConfigError([Problem(key="data.name", rule=rule)])


def scatter(x: Tensor, reach: float = 1.5) -> Pictures:
    """Return one scatter plot [1, 320, 320, 3] of all rows [N, 2] over [-reach, reach]^2; rows outside are left out."""
    size = 320
    place = ((x.detach().double().cpu() + reach) * (size / (2 * reach))).floor()
    inside = (torch.isfinite(place) & (place >= 0) & (place < size)).all(dim=1)
    column, row = place[inside].long().unbind(dim=1)
    counts = torch.zeros(size, size, dtype=torch.float64)
    counts.index_put_((size - 1 - row, column), torch.ones(len(row), dtype=torch.float64), accumulate=True)
    spread = torch.nn.functional.max_pool2d(counts[None, None], 3, stride=1, padding=1)[0, 0]  # visible dots
    shade = (255 * torch.exp(-spread)).numpy()
    return np.repeat(shade.astype(np.uint8)[None, :, :, None], 3, axis=3)


def curves(x: Tensor, height: int = 64, width: int = 96) -> Pictures:
    """Return a picture [N, height, width, 3] of each signal [C, L]: its channels, within [-1.5, 1.5]."""
    level = torch.nn.functional.interpolate(x.detach().float().cpu(), size=width, mode="linear", align_corners=True)
    place = ((1.5 - level) / 3 * (height - 1)).round().clamp(0, height - 1)  # [N, C, width]
    before = torch.cat([place[..., :1], place[..., :-1]], dim=-1)
    low, high = torch.minimum(place, before)[:, :, None], torch.maximum(place, before)[:, :, None]
    rows = torch.arange(height)[:, None]
    ink = ((rows >= low) & (rows <= high)).any(dim=1)  # [N, height, width]
    return np.repeat(np.where(ink.numpy(), 0, 255).astype(np.uint8)[..., None], 3, axis=3)


def checked_labels(labels: Tensor, num_classes: int, rows: Sequence[int] | None = None) -> Tensor:
    """Return labels as they are.

    Args:
        labels: int64 [B].
        num_classes: they must lie in [0, num_classes).
        rows: numbers of these rows in the data; None: 0, 1, ...

    Raises:
        DataError: one does not, naming the row.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        row = first if rows is None else rows[first]
        more = f" ({len(wrong)} such rows)" if len(wrong) > 1 else ""
        valid = f"the {num_classes} classes are 0 to {num_classes - 1}"
        raise DataError(f"the label of row {row} is {int(labels[first])}; {valid}{more}")
    return labels


def scaled(levels: Tensor, highest: int = 255) -> Tensor:
    """Return whole numbers 0 ... highest as float32 in [-1, 1]."""
    return levels.to(torch.float32, memory_format=torch.contiguous_format).mul_(2 / highest).sub_(1)


ALL = slice(None)


def part_of(
    dataset: Dataset, indices: Tensor, own: slice, *, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return the rows `own` of a batch; no others are read where the data set knows how (`Dataset`)."""
    if own == ALL:
        return dataset.batch(indices, generator=generator)
    if (part := getattr(dataset, "part", None)) is not None:
        rows: tuple[Tensor, Tensor | None] = part(indices, own, generator=generator)
        return rows
    x, labels = dataset.batch(indices, generator=generator)
    return x[own], None if labels is None else labels[own]


def flip_some(x: Tensor, generator: torch.Generator, own: slice = ALL, of: int | None = None) -> Tensor:
    """Mirror each image of x [B, C, H, W] left to right with probability one half.

    Args:
        x: the rows `own` of a batch.
        generator: is drawn from for the whole batch.
        own: which rows.
        of: rows of the batch; None: of x.
    """
    mirrored = (torch.rand(len(x) if of is None else of, generator=generator) < 0.5)[own]
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
        return self.part(indices, ALL, generator=generator)

    def part(self, indices: Tensor, own: slice, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return rows of a batch; see `Dataset`."""
        rows = self._train[indices[own]]
        if self.flip:
            rows = flip_some(rows, generator, own, len(indices))
        return scaled(rows, self.levels), None if self._train_labels is None else self._train_labels[indices[own]]

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
