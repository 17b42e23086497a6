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
from meanflow_core.data.own_rows import Rows, TensorRows, condition_spec, whole_labels
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.rng import RandomState, seeded, stable_seed

FINGERPRINTED = 256
"""Rows of a torch Dataset that its fingerprint is made of, evenly spread."""
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
        return TensorRows(*given.tensors[:3])  # type: ignore[arg-type]
    if isinstance(given, torch.utils.data.IterableDataset):
        rule = "is an IterableDataset; training needs rows by their number: a Dataset with __len__ and __getitem__"
        raise ConfigError([Problem(key=key, value=type(given).__name__, rule=rule)])
    if hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, str | Mapping):
        return TorchRows(given, identity)
    raise ConfigError([Problem(key=key, value=type(given).__name__, rule=f"are no data; {EXPECTED}")])


class TorchRows(Rows):
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
        self._draws = False  # whether reading a row has been seen to draw random numbers
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__} has no row")
        x, label, condition = self._row(0)
        self.shape = tuple(x.shape)
        if x.dim() == 0:
            raise DataError(f"row 0 of {type(dataset).__name__} is a single number; a row needs a shape, such as [1]")
        null = getattr(dataset, "null_condition", None)
        self.condition = None if condition is None else condition_spec(condition[None], null)
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

    def part(self, indices: Tensor, own: slice, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return rows of a batch; see `Dataset`.

        Rows that draw random numbers follow one another: to have the same ones, the whole batch is read.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        if not self._draws:
            with seeded(seed, "rows"):
                before = RandomState.now(torch.device("cpu"))
                rows = self._read(indices[own])
                self._draws = before.moved()
            if not self._draws:
                return rows
        with seeded(seed, "rows"):
            x, labels = self._read(indices)
        return x[own], None if labels is None else labels[own]

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
        x, labels, condition = (*(given if isinstance(given, tuple | list) else (given,)), None, None)[:3]
        rows = TensorRows(x, labels, condition, self.num_classes)
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
        stated, names = (getattr(self._dataset, word, None) for word in ("num_classes", "classes"))
        count = int(stated) if stated is not None else None if names is None else len(names)
        listed = getattr(self._dataset, "targets", None)
        if listed is None and count is None:
            listed = [self._row(number)[1] for number in range(len(self))]
        if listed is None:
            assert count is not None
            return count
        labels = whole_labels(listed)
        count = int(labels.max()) + 1 if count is None else count
        checked_labels(labels, count)
        return count

    def _sample(self) -> Tensor:
        numbers = torch.linspace(0, len(self) - 1, min(FINGERPRINTED, len(self)), dtype=torch.float64).long()
        x, labels = self.take(numbers)
        parts = [x.flatten(1)] if labels is None else [x.flatten(1), labels.reshape(len(x), -1).to(x.dtype)]
        return torch.cat(parts, dim=1)
