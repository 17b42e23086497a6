"""Latents of an autoencoder: memory-mapped shards of mean and standard deviation, sampled again at each step.

A folder holds `index.json` and, for each shard, three arrays: `mean-00000.npy` and `std-00000.npy`, float16 or float32
[rows, c, h, w], and `labels-00000.npy`, int64 [rows]. `python -m meanflow_core.data.encode_latents` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanflow_core.config import LatentsConfig
from meanflow_core.data import availability
from meanflow_core.data.availability import LATENTS_INDEX as INDEX
from meanflow_core.data.availability import MAKE_LATENTS as MAKE
from meanflow_core.data.base import ALL, REFERENCE_BATCH, DataError, Pictures, checked_labels, digest, unit_images
from meanflow_core.data.vae import Vae, load_vae
from meanflow_core.errors import ConfigError, Problem

VERSION = 1

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Shard:
    """The mapped arrays of one shard."""

    mean: Array
    std: Array
    labels: Array | None


class Latents:
    """Training rows z = scale (mean + std noise), with the noise drawn at each step.

    Args:
        config: path of the folder, scale, and the autoencoder for pictures, if any.
        vae: used instead of `config.vae`.

    Raises:
        ConfigError: there is no index at the path.
        DataError: the index or a shard is damaged.
    """

    name = "latents"

    def __init__(self, config: LatentsConfig, *, vae: Vae | None = None) -> None:
        self._folder = Path(config.path).expanduser()
        self._scale, self.vae_path, self._vae = config.scale, config.vae, vae
        index = read_index(self._folder)
        self._names = list(index["shards"])
        self.shape = tuple(index["shape"])
        self.num_classes = index["num_classes"]
        self.fingerprint = digest(self.name, config.scale, json.dumps(index, sort_keys=True))
        self._starts = np.cumsum([0, *(shard["rows"] for shard in self._names)])
        self.reference_rows = f"{len(self)} training rows, decoded means"
        self._shards = self._open()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": None}  # a mapped array would be pickled with all its content

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shards = self._open()

    def _open(self) -> list[Shard]:
        return [self._open_shard(entry, int(at)) for entry, at in zip(self._names, self._starts, strict=False)]

    def _open_shard(self, entry: dict[str, Any], start: int) -> Shard:
        wanted = {"mean": (entry["rows"], *self.shape), "std": (entry["rows"], *self.shape)}
        if self.num_classes is not None:
            wanted["labels"] = (entry["rows"],)
        arrays: dict[str, Array] = {}
        for kind, shape in wanted.items():
            path = self._folder / entry[kind]
            try:
                arrays[kind] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{path}: not a readable .npy array ({error}); make it again with `{MAKE}`") from error
            if arrays[kind].shape != shape:
                raise DataError(f"{path}: expected the shape {shape}, got {arrays[kind].shape}")
        if self.num_classes is not None:
            labels = torch.from_numpy(np.array(arrays["labels"], dtype=np.int64))
            checked_labels(labels, self.num_classes, range(start, start + len(labels)))
        return Shard(arrays["mean"], arrays["std"], arrays.get("labels"))

    def _rows(self, indices: Array) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return mean, std (unscaled) and labels of rows in the order asked for; each shard is read once, in order."""
        mean = np.empty((len(indices), *self.shape), dtype=np.float32)
        std = np.empty_like(mean)
        labels = None if self.num_classes is None else np.empty(len(indices), dtype=np.int64)
        order = np.argsort(indices, kind="stable")
        places = np.searchsorted(self._starts, indices[order], side="right") - 1
        for number in np.unique(places):
            shard, target = self._shards[number], order[places == number]
            local = indices[target] - self._starts[number]
            mean[target], std[target] = shard.mean[local], shard.std[local]
            if labels is not None and shard.labels is not None:
                labels[target] = shard.labels[local]
        return torch.from_numpy(mean), torch.from_numpy(std), None if labels is None else torch.from_numpy(labels)

    def batch(self, indices: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return training rows, each a new draw of its latent; see `Dataset.batch`."""
        return self.part(indices, ALL, generator=generator)

    def part(self, indices: Tensor, own: slice, *, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return rows of a batch; see `Dataset`."""
        mean, std, labels = self._rows(indices[own].numpy())
        noise = torch.randn((len(indices), *self.shape), generator=generator)[own]
        return torch.addcmul(mean, std, noise).mul_(self._scale), labels

    def held_out(self) -> tuple[Tensor, Tensor | None]:
        """Refuse: a folder of latents has training rows alone.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self._folder}: latents come without held-out rows; compare with `evaluation.reference`")

    def reference(self) -> Iterator[Tensor]:
        """Yield the scaled means of all training rows, without noise."""
        for start in range(0, len(self), REFERENCE_BATCH):
            mean, _, _ = self._rows(np.arange(start, min(start + REFERENCE_BATCH, len(self))))
            yield mean * self._scale

    def to_images(self, x: Tensor) -> Pictures:
        """Decode scaled latents [N, c, h, w] to uint8 [N, H, W, 3].

        Raises:
            ConfigError: `data.vae` is not set.
        """
        if self._vae is None:
            if self.vae_path is None:
                rule = "pictures of latents need the autoencoder that made them: set the path of its diffusers folder"
                raise ConfigError([Problem(key="data.vae", value=None, rule=rule)])
            self._vae = load_vae(self.vae_path)
        parts = [unit_images(self._vae.decode(part / self._scale)) for part in torch.split(x.detach().float(), 64)]
        return np.concatenate(parts)


def read_index(folder: Path) -> dict[str, Any]:
    """Return the checked index of a folder of latents.

    Raises:
        ConfigError: there is none.
        DataError: it is damaged.
    """
    path = folder / INDEX
    availability.demand(availability.latents(str(folder)))
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        wrong = index["version"] != VERSION or len(index["shape"]) != 3 or not index["shards"]
        for shard in index["shards"]:
            wrong |= shard["rows"] < 1 or not (isinstance(shard["mean"], str) and isinstance(shard["std"], str))
            wrong |= index["num_classes"] is not None and not isinstance(shard["labels"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); make it again with `{MAKE}`") from error
    if wrong:
        raise DataError(f"{path}: not an index of version {VERSION} with shards; make it again with `{MAKE}`")
    return index
