"""From the data's configuration to the data set."""

from __future__ import annotations

from typing import assert_never

from meanflow_core.config import Cifar10Config, DataConfig, DigitsConfig, ImageFolderConfig, LatentsConfig, MnistConfig, Toy2dConfig
from meanflow_core.data.base import Dataset
from meanflow_core.data.cifar10 import load_cifar10
from meanflow_core.data.digits import load_digits
from meanflow_core.data.image_folder import ImageFolder
from meanflow_core.data.latents import Latents
from meanflow_core.data.mnist import load_mnist
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
        case _:
            assert_never(config)
