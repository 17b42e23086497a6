"""Rows of one's own in memory, and what they share with those of a torch Dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from meanflow_core.data.base import REFERENCE_BATCH, DataError, Pictures, checked_labels, digest, scaled, shown
from meanflow_core.flow import ConditionSpec


class Rows:
    """What both kinds share: names, pictures, and rows by their number."""

    name = "own"
    shape: tuple[int, ...]
    num_classes: int | None
    condition: ConditionSpec | None
    fingerprint: str
    reference_rows: str

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return rows, with their packed labels."""
        raise NotImplementedError

    def batch(self, indices: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows; see `Dataset.batch`. Labels hold the conditions too, where there are any."""
        return self.take(indices)

    def part(self, indices: Tensor, own: slice, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return rows of a batch; see `Dataset`."""
        return self.take(indices[own])

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Refuse: these are training rows alone.

        Raises:
            DataError: always.
        """
        raise DataError("data of your own come without held-out rows; samples are compared with the training rows")

    def reference(self) -> Iterator[Tensor]:
        """Yield all training rows."""
        for part in torch.split(torch.arange(len(self)), REFERENCE_BATCH):
            yield self.take(part)[0]

    def conditions(self, count: int) -> Tensor | None:
        """Return packed labels and conditions of `count` rows spread over the data, for samples to be asked for."""
        if self.condition is None:
            return None
        order = torch.randperm(len(self), generator=Generator().manual_seed(0))
        return self.take(order.repeat(-(-count // len(self)))[:count])[1]

    def to_images(self, x: Tensor) -> Pictures:
        """Return pictures, uint8 [N, H, W, 3], of images, signals or points."""
        return shown(x)

    def _packed(self, labels: Tensor | None, condition: Tensor | None) -> Tensor | None:
        if self.condition is None or condition is None:
            return labels
        return self.condition.pack(labels, condition)


class TensorRows(Rows):
    """Rows in memory.

    Args:
        x: [N, ...]; uint8 is scaled from 0 ... 255 to [-1, 1].
        labels: whole numbers [N], or None.
        condition: [N, ...], or None.
        num_classes: None: the largest label and one.

    Raises:
        DataError: counts do not agree, a value is not finite, or a label is outside [0, num_classes).
    """

    def __init__(self, x: Any, labels: Any = None, condition: Any = None, num_classes: int | None = None) -> None:
        given = torch.as_tensor(x)
        if given.dim() < 2:
            rule = "one number a row is [N, 1]" if given.dim() == 1 else "needs a dimension of rows"
            raise DataError(f"x has the shape {tuple(given.shape)}; it must be [N, ...]: {rule}")
        self._x = scaled(given) if given.dtype == torch.uint8 else given.to(torch.float32).contiguous()
        self.shape = tuple(given.shape[1:])
        self._labels = None if labels is None else whole_labels(labels)
        self._condition = None if condition is None else torch.as_tensor(condition)
        for word, rows in (("labels", self._labels), ("condition", self._condition)):
            if rows is not None and (rows.dim() == 0 or len(rows) != len(given)):
                raise DataError(f"x has {len(given)} rows, but `{word}` has the shape {tuple(rows.shape)}")
        if len(given) == 0:
            raise DataError("x has no row")
        bad = (~self._x.flatten(1).isfinite().all(1)).nonzero()
        if len(bad):
            raise DataError(f"row {int(bad[0])} of x is not finite ({len(bad)} such rows)")
        self.num_classes = None
        if self._labels is not None:
            self.num_classes = int(self._labels.max()) + 1 if num_classes is None else num_classes
            checked_labels(self._labels, self.num_classes)
        self.condition = condition_spec(self._condition, None)
        self.reference_rows = f"{len(given)} training rows"
        parts = [self._x, "none" if self._labels is None else self._labels, self._condition]
        self.fingerprint = digest("own", *parts)

    def __len__(self) -> int:
        return len(self._x)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return rows, with their packed labels."""
        labels = None if self._labels is None else self._labels[indices]
        return self._x[indices], self._packed(labels, None if self._condition is None else self._condition[indices])


def whole_labels(labels: Any) -> Tensor:
    """Return labels as int64 [N].

    Raises:
        DataError: they are no whole numbers, or not one a row.
    """
    given = torch.as_tensor(labels)
    if given.dim() == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.dim() != 1:
        raise DataError(
            f"labels have the shape {tuple(given.shape)}; a class is one whole number a row, [N]. What has another "
            "shape is a condition: (x, labels, condition), with labels None if there are none"
        )
    if given.dtype.is_floating_point and not bool((given == given.round()).all()):
        row = int((given != given.round()).nonzero()[0])
        raise DataError(f"the label of row {row} is {float(given[row]):g}; a class is a whole number")
    return given.to(torch.int64)


def condition_spec(condition: Tensor | None, null: Any) -> ConditionSpec | None:
    """Return what is known of conditions [N, ...] and of the null condition (None: zeros).

    Raises:
        DataError: the null has another shape, or whole numbers are too large.
    """
    if condition is None:
        return None
    if not condition.dtype.is_floating_point and int(condition.abs().max()) > 2**24:
        raise DataError("whole numbers in conditions must lie within 2^24")
    dtype = torch.float32 if condition.dtype.is_floating_point else condition.dtype
    shape = tuple(condition.shape[1:])
    if null is not None:
        null = torch.as_tensor(null)
        if tuple(null.shape) != shape:
            raise DataError(f"null_condition has the shape {tuple(null.shape)}, a row's condition has {shape}")
    return ConditionSpec(shape, dtype, null)
