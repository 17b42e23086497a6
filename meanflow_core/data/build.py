"""From the data's configuration to the data set, and to the shape of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from meanflow_core.config import (
    Cifar10Config,
    CustomData,
    DataConfig,
    DigitsConfig,
    ImageFolderConfig,
    LatentsConfig,
    MnistConfig,
    Toy2dConfig,
)
from meanflow_core.data.base import Dataset
from meanflow_core.data.cifar10 import load_cifar10
from meanflow_core.data.digits import load_digits
from meanflow_core.data.image_folder import ImageFolder
from meanflow_core.data.latents import Latents, read_index
from meanflow_core.data.mnist import load_mnist
from meanflow_core.data.own import build_custom
from meanflow_core.data.toy2d import Toy2d


def build_dataset(config: DataConfig) -> Dataset:
    """Read the data set that `config` names.

    Raises:
        ConfigError: a path is missing; the message says what was expected there and how to get it.
        DataError: a file is damaged or not what it should be.
    """
    match config:
        case DigitsConfig():
            return load_digits()
        case MnistConfig():
            return load_mnist()
        case Toy2dConfig():
            return Toy2d(config)
        case Cifar10Config():
            return load_cifar10(config)
        case ImageFolderConfig():
            return ImageFolder(config)
        case LatentsConfig():
            return Latents(config)
        case CustomData():
            return build_custom(config)
        case _:
            assert_never(config)


def row_shape(config: DataConfig) -> tuple[int, ...]:
    """Return the shape of one row, without reading the rows (those of the user's own are).

    Raises:
        ConfigError: latents are not there.
        DataError: their index is damaged.
    """
    match config:
        case DigitsConfig():
            return (1, 8, 8)
        case MnistConfig():
            return (1, 28, 28)
        case Toy2dConfig():
            return (2,)
        case Cifar10Config():
            return (3, 32, 32)
        case ImageFolderConfig():
            return config.shape
        case MnistConfig():
            return (1, 28, 28)
        case CustomData():
            return build_custom(config).shape
        case LatentsConfig():
            return tuple(read_index(Path(config.path).expanduser())["shape"])
        case _:
            assert_never(config)
