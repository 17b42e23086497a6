"""What samples are asked for: classes, conditions, or both, in the place of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanflow_core.data import Dataset
from meanflow_core.flow import ConditionSpec


def conditions_of(dataset: Dataset, count: int) -> Tensor | None:
    """Return the packed labels and conditions of `count` rows of the data, which samples are asked for; None: no such.

    What a model can be asked for is known from the data alone, so every configuration is judged at the same.
    """
    if getattr(dataset, "condition", None) is None:
        return None
    conditions: Tensor = dataset.conditions(count)  # type: ignore[attr-defined]
    return conditions


def asked_for(
    dataset: Dataset, n: int, labels: int | Sequence[int] | Tensor | None = None, condition: Tensor | None = None
) -> Tensor | None:
    """Return what n samples are asked for: [n], or packed with conditions [n, 3 + K].

    Args:
        dataset: the model's data.
        n: how many.
        labels: one class for all, or n; None: every class in turn (with conditions: those of the same rows).
        condition: one for all, or n; None: those of rows of the data.

    Raises:
        ValueError: labels or a condition that the data do not have, or not n of them.
    """
    spec: ConditionSpec | None = getattr(dataset, "condition", None)
    classes = dataset.num_classes
    if condition is not None and spec is None:
        raise ValueError("a condition was given, and these data have none")
    chosen = None
    if labels is not None:
        if classes is None:
            raise ValueError("labels were given, and these data have none")
        chosen = _one_each(torch.as_tensor(labels).to(torch.int64), (), n, "label")
        if n and not (int(chosen.min()) >= 0 and int(chosen.max()) <= classes):
            raise ValueError(f"labels are 0 to {classes - 1} ({classes}: no class); got {sorted(set(chosen.tolist()))}")
    if spec is None:
        return torch.arange(n) % classes if chosen is None and classes is not None else chosen
    rows = conditions_of(dataset, n)
    assert rows is not None
    own, _, _, theirs = spec.unpack(rows)
    if condition is not None:
        theirs = _one_each(torch.as_tensor(condition), spec.shape, n, "condition")
    if classes is None:
        return spec.pack(None, theirs)
    if chosen is None:
        chosen = own if condition is None else torch.arange(n) % classes
    return spec.pack(chosen, theirs)


def asked_of_weights(
    metadata: Mapping[str, Any], n: int, labels: Tensor | None, conditions: Sequence[Any] | None
) -> Tensor | None:
    """Return what n samples are asked for of a model whose data are not here: [n], or packed [n, 3 + K].

    Args:
        metadata: of the weights.
        n: how many.
        labels: int64 [n], or None.
        conditions: n of a row's shape, None among them for the null condition; None: the null condition for all.

    Raises:
        ValueError: conditions that the model does not have, not n of them, or of another shape.
    """
    if "condition" not in metadata:
        if conditions is not None:
            raise ValueError("a condition was given, and this model has none")
        return labels
    spec = ConditionSpec.from_dict(metadata["condition"])
    given = [None] * n if conditions is None else list(conditions)
    if len(given) != n:
        raise ValueError(f"needs {n} conditions, one a sample; got {len(given)}")
    rows = torch.zeros(n, *spec.shape, dtype=spec.dtype)
    for row, condition in enumerate(given):
        if condition is None:
            continue
        own = torch.as_tensor(np.asarray(condition, dtype=np.float64))
        if tuple(own.shape) != spec.shape:
            raise ValueError(f"a condition of this model has the shape {spec.shape}; row {row} has {tuple(own.shape)}")
        if not bool(own.isfinite().all()):
            raise ValueError(f"the condition of row {row} is not finite")
        rows[row] = own.to(spec.dtype)
    packed = spec.pack(labels, rows)
    packed[:, 2] = torch.tensor([float(condition is None) for condition in given])
    return packed


def _one_each(given: Tensor, shape: tuple[int, ...], n: int, what: str) -> Tensor:
    given = given.expand(n, *shape) if tuple(given.shape) == shape else given
    if tuple(given.shape) != (n, *shape):
        raise ValueError(f"needs one {what}, of shape {shape}, or {(n, *shape)}; got {tuple(given.shape)}")
    return given
