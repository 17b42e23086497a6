"""Image files as people have them: which lie in a folder, and their pixels. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meanflow_core.config import ImageFolderConfig
from meanflow_core.errors import DataError, Problem

if TYPE_CHECKING:
    from PIL.Image import Image

Levels = np.ndarray[Any, np.dtype[np.uint8]]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
LOOKED_AT = 20_000
"""Files that are read to find broken ones before a training, evenly spread where there are more."""
NAMED = 10
"""Broken files that are named."""


@dataclass(frozen=True)
class Found:
    """The images of a folder."""

    files: list[Path]
    labels: list[int] | None
    """None: no sub-folders, no labels."""
    classes: list[str] | None
    """Names of the sub-folders, in the order of their numbers."""
    beside: list[Path]
    """Images that lie beside the sub-folders and belong to no class."""


def find_images(root: Path, classes: Sequence[str] | None = None) -> Found:
    """Return a folder's images, sorted. Hidden files and folders are left out.

    Args:
        root: the folder; its sub-folders with images are the classes.
        classes: the sub-folders' names where their numbers are known already; None: those here, sorted.

    Raises:
        DataError: there is a sub-folder with images that is none of `classes`.
    """

    def images(folder: Path) -> list[Path]:
        found: list[Path] = []
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]  # `os.walk` goes into these
            found += filter(_is_image, (Path(place, name) for name in names))
        return sorted(found)

    beside = sorted(_beside(root))
    found = {folder.name: images(folder) for folder in sorted(root.iterdir()) if folder.is_dir() and _shown(folder)}
    found = {name: files for name, files in found.items() if files}
    if classes is not None and (foreign := sorted(set(found) - set(classes))):
        shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise DataError(f"{root / foreign[0]}: is no class of the training images ({shown})")
    if not found:
        return Found(beside, None, None, [])
    names = sorted(found) if classes is None else list(classes)
    files = [file for name in names for file in found.get(name, [])]
    labels = [label for label, name in enumerate(names) for _ in found.get(name, [])]
    return Found(files, labels, names, beside)


def _beside(root: Path) -> Iterator[Path]:
    return (file for file in root.iterdir() if file.is_file() and _is_image(file))


def _is_image(path: Path) -> bool:
    return _shown(path) and path.suffix.lower() in SUFFIXES


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def training_folder(path: str) -> Path:
    """Return the folder of the training images: `train` below it, if there is one."""
    root = Path(path).expanduser()
    return root / "train" if (root / "train").is_dir() else root


def read_image(path: Path, size: tuple[int, int], channels: int = 3) -> Levels:
    """Return an image, uint8 [height, width, channels]: its central part of that shape, resized.

    Large images are first halved by averaging, then resized bicubically (the preprocessing of arXiv 2105.05233). The
    camera's orientation is applied; 16 bits are scaled to 8; of several frames the first is read; where there is no
    channel for opacity, the image lies before white.

    Args:
        path: of the file.
        size: height and width.
        channels: 1 (grey), 3 (red, green, blue), or 4 (with opacity).

    Raises:
        DataError: the file cannot be decoded.
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        import PIL.Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs Pillow: pip install pillow", name="PIL") from error
    try:
        image = _opened(path, channels)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise SyntaxError, EOFError, struct.error, DecompressionBombError ...
        raise DataError(f"{path}: cannot be decoded as an image ({_first_line(error)})") from error
    height, width = size
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), PIL.Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize((across, down), PIL.Image.Resampling.BICUBIC)
    left, top = (across - width) // 2, (down - height) // 2
    pixels = np.array(image.crop((left, top, left + width, top + height)))
    return pixels[:, :, None] if channels == 1 else pixels


def _opened(path: Path, channels: int) -> Image:
    import PIL.Image
    import PIL.ImageOps

    if path.suffix.lower() == ".npy":
        return _converted(_of_array(np.load(path, allow_pickle=False)), channels)
    with PIL.Image.open(path) as file:
        image = PIL.ImageOps.exif_transpose(file)
        if image.mode.startswith("I") or image.mode == "F":
            image = _of_array(np.asarray(image))
        return _converted(image, channels)


def _of_array(values: np.ndarray[Any, Any]) -> Image:
    """Return an image of an array [H, W], [H, W, C] or [C, H, W]: bytes, 16-bit whole numbers, or numbers in [0, 1]."""
    import PIL.Image

    if values.ndim == 3 and values.shape[2] not in MODES and values.shape[0] in MODES:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in MODES):
        raise ValueError(f"expected [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, got {values.shape}")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype == np.uint8:
        levels = values
    elif values.dtype.kind in "iu":
        if low < 0 or high > 65535:
            raise ValueError(f"whole numbers must lie in 0 ... 65535 (16 bits), got {low:g} ... {high:g}")
        levels = np.round(values / 257).astype(np.uint8)
    elif values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise ValueError(f"floating-point values must lie in [0, 1], got {low:g} ... {high:g}")
        levels = np.round(values.astype(np.float64) * 255).astype(np.uint8)
    elif values.dtype.kind == "b":
        levels = values.astype(np.uint8) * 255
    else:
        raise ValueError(f"expected numbers, got {values.dtype}")
    return PIL.Image.fromarray(levels)


def _converted(image: Image, channels: int) -> Image:
    """Return an image in the mode of so many channels."""
    import PIL.Image

    if channels != 4 and (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def broken(files: Sequence[Path], size: tuple[int, int], channels: int) -> list[str]:
    """Return what is wrong with each file that cannot be read, in their order. All are decoded, in threads."""

    def fault(file: Path) -> str | None:
        try:
            read_image(file, size, channels)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1), "images") as pool:
        return [text for text in pool.map(fault, files) if text is not None]


def said(faults: Sequence[str], of: int) -> str:
    """Say how many files are broken, and which: the first ten."""
    more = [f"... and {len(faults) - NAMED} more"] if len(faults) > NAMED else []
    return "\n  ".join([f"{len(faults)} of {of} images cannot be read:", *faults[:NAMED], *more])


def left_out(root: Path, found: Found) -> str | None:
    """Say which images of a folder belong to no class and are left out; None if there are none."""
    if not found.beside or found.classes is None:
        return None
    many = len(found.beside)
    lie = (
        f"{many} images lie beside the sub-folders, belong"
        if many > 1
        else "1 image lies beside the sub-folders, belongs"
    )
    return f"{root}: {lie} to no class and {'are' if many > 1 else 'is'} left out ({found.beside[0].name})"


def image_notes(config: ImageFolderConfig) -> str | None:
    """Say which images of a configuration's folder are left out; None: none, or there is no such folder."""
    root = training_folder(config.path)
    if not root.is_dir() or not any(_beside(root)):  # the sub-folders may hold millions
        return None
    return left_out(root, find_images(root))


def image_faults(config: ImageFolderConfig) -> Iterator[Problem]:
    """Read the images that a configuration names (at most `LOOKED_AT`), and yield what is wrong with them.

    A folder that is not there, or holds no image, is none of its business.
    """
    root = training_folder(config.path)
    if not root.is_dir():
        return
    found = find_images(root)
    step = -(-len(found.files) // LOOKED_AT) if found.files else 1
    files = found.files[::step]
    wrong = broken(files, config.shape[1:], config.channels)
    if wrong:
        yield Problem(key="data.path", value=config.path, rule=said(wrong, len(files)))
