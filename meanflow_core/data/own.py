"""Data of the user's own: tensors, an (x, labels) pair, or any torch Dataset, as the trainer reads data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meanflow_core.config import CustomData, call_named
from meanflow_core.data.base import (
    REFERENCE_BATCH,
    DataError,
    Dataset,
    Pictures,
    checked_labels,
    digest,
    scaled,
    shown,
)
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.flow import ConditionSpec
from meanflow_core.rng import seeded, stable_seed

FINGERPRINTED = 256
"""Rows of a torch Dataset that its fingerprint is made of, evenly spread."""
FIELDS = ("x", "labels", "condition")
EXPECTED = (
    "expected a tensor [N, ...], a pair (x, labels), a triple (x, labels, condition), a dict of these, or a torch "
    "Dataset whose items are a row, (row, label), (row, label, condition) or a dict of these"
)

Row = tuple[Tensor, int | None, Tensor | None]


def build_custom(config: CustomData) -> Dataset:
    """Call the class (or function) that `data.name` names, and read what it makes.

    Raises:
        ConfigError: it cannot be imported, does not take its arguments, or makes no data.
        DataError: the rows are not what they should be.
    """
    return as_dataset(call_named(config, "data"), identity=(config.name, sorted(config.arguments.items())))


def as_dataset(given: Any, *, identity: object = "own", key: str = "data.name") -> Dataset:
    """Return data as the trainer reads them.

    Args:
        given: a `Dataset` of this package, or what `EXPECTED` says. uint8 rows are scaled from 0 ... 255 to [-1, 1];
            others are taken as they are, in float32.
        identity: part of the fingerprint.
        key: where the data come from, for the error.

    Raises:
        ConfigError: these are no data.
        DataError: a row is not what it should be.
    """
    if isinstance(given, Dataset):
        return given
    if isinstance(given, Tensor | np.ndarray):
        return TensorRows(given)
    if isinstance(given, Mapping) and "x" in given:
        return TensorRows(given["x"], given.get("labels"), given.get("condition"))
    if isinstance(given, tuple | list) and 1 <= len(given) <= 3 and isinstance(given[0], Tensor | np.ndarray):
        return TensorRows(*given)
    if isinstance(given, torch.utils.data.TensorDataset) and 1 <= len(given.tensors) <= 3:
        return TensorRows(*given.tensors)
    if isinstance(given, torch.utils.data.IterableDataset):
        rule = "is an IterableDataset; training needs rows by their number: a Dataset with __len__ and __getitem__"
        raise ConfigError([Problem(key=key, value=type(given).__name__, rule=rule)])
    if hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, str | Mapping):
        return TorchRows(given, identity)
    raise ConfigError([Problem(key=key, value=type(given).__name__, rule=f"are no data; {EXPECTED}")])


class _Rows:
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
        raise NotImplementedError

    def batch(self, indices: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows; see `Dataset.batch`. Labels hold the conditions too, where there are any."""
        return self.take(indices)

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


class TensorRows(_Rows):
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
        self.condition = _spec(self._condition, None)
        self.reference_rows = f"{len(given)} training rows"
        parts = [self._x, "none" if self._labels is None else self._labels, self._condition]
        self.fingerprint = digest("own", *parts)

    def __len__(self) -> int:
        return len(self._x)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return rows, with their packed labels."""
        labels = None if self._labels is None else self._labels[indices]
        return self._x[indices], self._packed(labels, None if self._condition is None else self._condition[indices])


class TorchRows(_Rows):
    """A torch Dataset with a length and rows by their number.

    Its attributes `num_classes` (or `classes`) and `null_condition` are used where it has them; without the first, all
    labels are read once. `held_out()`, if there is one, returns what samples are compared with. Random augmentation
    is a function of (seed, step): the global generators are seeded around the reading of each batch.

    Args:
        dataset: whose items are a row, (row, label), (row, label, condition), or a dict with x, label and condition.
        identity: part of the fingerprint, which else covers 256 rows spread over the data.

    Raises:
        DataError: an item is none of these.
    """

    reads_ahead = False
    """The global generators are seeded while it is read, so it is not read beside a training step."""

    def __init__(self, dataset: Any, identity: object) -> None:
        self._dataset = dataset
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__} has no row")
        x, label, condition = self._row(0)
        self.shape = tuple(x.shape)
        if x.dim() == 0:
            raise DataError(f"row 0 of {type(dataset).__name__} is a single number; a row needs a shape, such as [1]")
        self.condition = None if condition is None else _spec(condition[None], getattr(dataset, "null_condition", None))
        self.num_classes = None if label is None else self._classes()
        self._held = held = getattr(dataset, "held_out", None)
        self.reference_rows = (
            f"{len(dataset)} training rows" if held is None else f"{len(self.held_out()[0])} held-out rows"
        )
        stated = getattr(dataset, "fingerprint", None)
        self.fingerprint = digest("own", identity, len(dataset), self._sample() if stated is None else stated)

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows; see `Dataset.batch`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with seeded(seed, "rows"):
            return self._read(indices)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return rows, with their packed labels; augmentation is a function of the rows."""
        with seeded(stable_seed("rows", *(int(index) for index in indices[:1]))):
            return self._read(indices)

    def reference(self) -> Iterator[Tensor]:
        """Yield the held-out rows of the data set if it has `held_out()`, else all training rows."""
        if self._held is None:
            yield from super().reference()
        else:
            yield from torch.split(self.held_out()[0], REFERENCE_BATCH)

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Return what the data set's own `held_out()` gives: x, or x with labels.

        Raises:
            DataError: it has none.
        """
        if self._held is None:
            return super().held_out()
        given = self._held()
        rows = TensorRows(*(given if isinstance(given, tuple | list) else (given,)), num_classes=self.num_classes)
        return rows.take(torch.arange(len(rows)))

    def to_images(self, x: Tensor) -> Pictures:
        """Return the data set's own pictures, if it has `to_images`."""
        own = getattr(self._dataset, "to_images", None)
        return shown(x) if own is None else own(x)

    def _read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        numbers = indices.tolist()
        many = getattr(self._dataset, "__getitems__", None)
        items = many(numbers) if many is not None else [self._dataset[number] for number in numbers]
        rows = [self._split(item, number) for item, number in zip(items, numbers, strict=True)]
        for (x, _, condition), number in zip(rows, numbers, strict=True):
            if tuple(x.shape) != self.shape:
                raise DataError(f"row {number} has the shape {tuple(x.shape)}, row 0 has {self.shape}")
            if condition is not None and self.condition is not None and tuple(condition.shape) != self.condition.shape:
                raise DataError(
                    f"the condition of row {number} has the shape {tuple(condition.shape)}, that of row 0 has "
                    f"{self.condition.shape}"
                )
        x = torch.stack([row for row, _, _ in rows])
        if not bool(x.isfinite().all()):
            bad = int((~x.flatten(1).isfinite().all(1)).nonzero()[0])
            raise DataError(f"row {numbers[bad]} is not finite")
        labels = None
        if self.num_classes is not None:
            missing = [number for (_, label, _), number in zip(rows, numbers, strict=True) if label is None]
            if missing:
                raise DataError(f"row {missing[0]} has no label, and row 0 has one")
            labels = torch.tensor([label for _, label, _ in rows])
            checked_labels(labels, self.num_classes, numbers)
        if self.condition is None:
            return x, labels
        return x, self._packed(labels, torch.stack([c for _, _, c in rows if c is not None]))

    def _row(self, number: int) -> Row:
        with seeded(number, "row"):
            return self._split(self._dataset[number], number)

    def _split(self, item: Any, number: int) -> Row:
        x, label, condition = item, None, None
        if isinstance(item, Mapping):
            x = item.get("x")
            label = item.get("label", item.get("labels"))
            condition = item.get("condition")
        elif isinstance(item, Sequence) and not isinstance(item, str):
            x, label, condition = (*item, None, None)[:3]
        if not isinstance(x, Tensor | np.ndarray):
            raise DataError(
                f"row {number} is a {type(x).__name__}, not a tensor; {EXPECTED}. For pictures: a transform to a "
                "tensor [C, H, W] in [-1, 1]"
            )
        x = torch.as_tensor(x)
        x = scaled(x) if x.dtype == torch.uint8 else x.to(torch.float32)
        label = None if label is None else int(whole_labels(torch.as_tensor(label).reshape(1))[0])
        return x, label, None if condition is None else torch.as_tensor(condition)

    def _classes(self) -> int:
        stated = getattr(self._dataset, "num_classes", None)
        if stated is not None:
            return int(stated)
        names = getattr(self._dataset, "classes", None)
        if names is not None:
            return len(names)
        listed = getattr(self._dataset, "targets", None)
        if listed is None:
            listed = [self._row(number)[1] for number in range(len(self))]
        return int(max(int(label) for label in listed)) + 1

    def _sample(self) -> Tensor:
        numbers = torch.linspace(0, len(self) - 1, min(FINGERPRINTED, len(self))).long().unique()
        x, labels = self.take(numbers)
        parts = [x.flatten(1)] if labels is None else [x.flatten(1), labels.reshape(len(x), -1).to(x.dtype)]
        return torch.cat(parts, dim=1)


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


def _spec(condition: Tensor | None, null: Any) -> ConditionSpec | None:
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
