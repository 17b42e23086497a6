"""CIFAR-10 from its standard python archive, or the folder it unpacks to."""

from __future__ import annotations

import codecs
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanflow_core.config import Cifar10Config
from meanflow_core.data import availability
from meanflow_core.data.availability import CIFAR10_FOLDER as FOLDER
from meanflow_core.data.availability import CIFAR10_SOURCE as SOURCE
from meanflow_core.data.base import ArrayImages, DataError

TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
TEST = ["test_batch"]


def load_cifar10(config: Cifar10Config) -> ArrayImages:
    """Return the 50,000 training and 10,000 test images, 3x32x32, scaled to [-1, 1].

    Samples are compared with the training rows, as published CIFAR-10 figures are.

    Raises:
        ConfigError: nothing is at the path.
        DataError: a batch is missing or damaged.
    """
    availability.demand(availability.cifar10(config.path))
    read = _reader(Path(config.path).expanduser())
    train, train_labels = _rows(read, TRAIN)
    held, held_labels = _rows(read, TEST)
    labelled = config.labels
    return ArrayImages(
        "cifar10",
        train,
        train_labels if labelled else None,
        held,
        held_labels if labelled else None,
        num_classes=10 if labelled else None,
        flip=config.flip,
    )


def _reader(path: Path) -> Callable[[str], bytes]:
    """Return a function from a batch's name to its bytes."""
    if path.is_dir():
        folder = path / FOLDER if (path / FOLDER).is_dir() else path

        def from_folder(name: str) -> bytes:
            try:
                return (folder / name).read_bytes()
            except FileNotFoundError:
                raise DataError(f"{folder}: has no file {name}; a CIFAR-10 folder holds {TRAIN + TEST}") from None

        return from_folder
    return _from_archive(path)


def _from_archive(path: Path) -> Callable[[str], bytes]:
    """Read all batches in one pass (a compressed archive has no index)."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name in TRAIN + TEST:
                    file = archive.extractfile(member)
                    found[name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable tar archive ({error}); get it again from {SOURCE}") from error

    def from_archive(name: str) -> bytes:
        if name not in found:
            raise DataError(f"{path}: has no member {FOLDER}/{name}; get it again from {SOURCE}")
        return found[name]

    return from_archive


def _rows(read: Callable[[str], bytes], names: list[str]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(_batch(read(name), name) for name in names), strict=True)
    return torch.cat(images), torch.cat(labels)


def _batch(content: bytes, name: str) -> tuple[Tensor, Tensor]:
    """Return images, uint8 [N, 3, 32, 32], and labels, int64 [N], of one pickled batch."""
    try:
        batch = PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        data = np.asarray(_entry(batch, "data"))
        labels = np.asarray(_entry(batch, "labels"), dtype=np.int64)
    except DataError as error:
        raise DataError(f"CIFAR-10 batch {name}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise DataError(f"CIFAR-10 batch {name}: damaged ({type(error).__name__}: {error})") from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape != (len(labels), 3072):
        raise DataError(f"CIFAR-10 batch {name}: expected uint8 [{len(labels)}, 3072], got {data.dtype} {data.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < 10:
        raise DataError(f"CIFAR-10 batch {name}: labels outside 0 ... 9")
    return torch.from_numpy(data.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(labels)


def _entry(batch: Any, key: str) -> Any:
    for name in (key.encode(), key):
        if isinstance(batch, dict) and name in batch:
            return batch[name]
    raise DataError(f"has no entry {key!r}")


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, which Python 3 uses to pickle bytes in old protocols."""
    if encoding != "latin1":
        raise DataError(f"asks for the encoding {encoding!r}")
    return codecs.latin_1_encode(text)[0]


class PlainUnpickler(pickle.Unpickler):
    """Reads numpy arrays, lists, dicts, numbers and bytes, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the four harmless builders.

        Raises:
            DataError: the pickle names anything else.
        """
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise DataError(f"asks to run {module}.{name}, which CIFAR-10 does not need; the file is not to be trusted")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes | str) -> np.ndarray[Any, Any]:
    if kind is not np.ndarray:
        raise DataError("asks for an unknown kind of array")
    return np.ndarray(shape, dtype if isinstance(dtype, str) else dtype.decode())
