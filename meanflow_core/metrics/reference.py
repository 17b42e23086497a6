"""What samples are compared with: moments and rows of the real data's features, computed once and kept."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meanflow_core.data import Dataset, availability, digest, write_aside
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.metrics.features import Features
from meanflow_core.metrics.frechet import Moments, MomentSum, fault_of

KEPT_ROWS = 10_000
"""Rows of features kept for the metrics that need more than moments."""
CACHED_FROM = 10_000
"""Statistics over fewer rows are recomputed each time: it is faster than keeping a file."""
VERSION = 2


@dataclass(frozen=True)
class Reference:
    """Statistics of the real rows."""

    moments: Moments
    rows: Tensor | None
    """Features of rows from all over the data, in random order, float32 [n, d]; None where there are moments alone."""
    source: str
    """In words, for the record."""


def cache_folder() -> Path:
    """Return $MEANSWEEP_CACHE, or `meansweep` in the user's cache folder."""
    named = os.environ.get("MEANSWEEP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named).expanduser() if named else Path(base).expanduser() / "meansweep"


def reference_of(dataset: Dataset, features: Features, *, folder: Path | None = None) -> Reference:
    """Return the statistics of a data set's reference rows.

    Large ones are kept in a file whose name holds the data's and the features' identity, written aside and renamed.

    Args:
        dataset: whose `reference` is read.
        features: the space.
        folder: of the cached files; None: `cache_folder()`.
    """
    key = digest(VERSION, dataset.fingerprint, dataset.reference_rows, features.identity)
    path = (folder or cache_folder()) / f"reference-{dataset.name}-{key}.npz"
    cached = _read(path)
    if cached is not None:
        return Reference(*cached, dataset.reference_rows)
    total = MomentSum()
    kept = Spread(KEPT_ROWS)
    for batch in dataset.reference():
        part = features(batch)
        kept.add(part)
        total.add(part)
    reference = Reference(total.moments(), kept.rows(), dataset.reference_rows)
    if (fault := fault_of(reference.moments)) is not None:
        rule = f"cannot be a reference: of the features of its {total.count} rows {fault}"
        raise ConfigError([Problem(key="data.name", value=dataset.name, rule=rule)])
    if total.count >= CACHED_FROM:
        _write(path, reference)
    return reference


class Spread:
    """Rows evenly spread over a stream of unknown length: files are often sorted by class.

    Args:
        count: most rows that `rows` returns.
    """

    def __init__(self, count: int) -> None:
        self._count, self._stride, self._seen = count, 1, 0
        self._kept: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add rows [n, d]. Every stride-th row of the stream is kept; the stride doubles when they get too many."""
        chosen = rows[-self._seen % self._stride :: self._stride]
        self._kept += [row.clone() for row in chosen]  # a view would hold the whole batch in memory
        self._seen += len(rows)
        while len(self._kept) > 2 * self._count:
            self._kept = self._kept[::2]
            self._stride *= 2

    def rows(self) -> Tensor:
        """Return at most `count` rows, in an order without pattern, so that leading rows are a fair sample too."""
        chosen = torch.linspace(0, len(self._kept) - 1, min(self._count, len(self._kept))).round().long().tolist()
        rows = torch.stack([self._kept[index] for index in chosen])
        return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def read_moments(path: str, key: str = "evaluation.reference") -> Reference:
    """Read moments from a .npz with `mu` and `sigma`, as ADM and pytorch-fid write them.

    Raises:
        ConfigError: the file is missing, has no such arrays, or they are no moments.
    """
    file = Path(path).expanduser()
    availability.demand(availability.reference(path, key))
    try:
        with np.load(file, allow_pickle=False) as content:
            mean, covariance = (torch.from_numpy(content[name].astype(np.float64)) for name in ("mu", "sigma"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        rule = f"cannot be read as a .npz with mu and sigma ({error})"
        raise ConfigError([Problem(key=key, value=path, rule=rule)]) from error
    if mean.dim() != 1 or covariance.shape != (len(mean), len(mean)):
        rule = f"mu must be [d] and sigma [d, d], got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise ConfigError([Problem(key=key, value=path, rule=rule)])
    if (fault := fault_of(Moments(mean, covariance, None))) is not None:
        raise ConfigError([Problem(key=key, value=path, rule=f"holds no moments: {fault}")])
    return Reference(Moments(mean, covariance, None), None, f"{file.name}:{digest(mean, covariance)}")


def _read(path: Path) -> tuple[Moments, Tensor] | None:
    """Return cached statistics; None if there are none (a damaged file counts as none and is made again)."""
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = [torch.from_numpy(content[name]) for name in ("mu", "sigma", "rows")]
            moments = Moments(arrays[0], arrays[1], int(content["count"]))
            return (moments, arrays[2]) if fault_of(moments) is None and arrays[2].isfinite().all() else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, reference: Reference) -> None:
    assert reference.rows is not None
    moments = reference.moments
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "rows": reference.rows}
    content = {name: array.numpy() for name, array in arrays.items()}
    write_aside(path, lambda file: np.savez(file, count=np.int64(moments.count or 0), **content))  # type: ignore[arg-type]
