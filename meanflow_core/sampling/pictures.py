"""Pictures on disk. Needs no torch, so that any trainer's pictures can be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meanflow_core.errors import ConfigError, Problem


def save_picture(path: Path, picture: Any) -> None:
    """Write a picture, uint8 [H, W, 3], as PNG; its folder is made.

    Raises:
        ConfigError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        rule = "pictures need Pillow: pip install pillow"
        raise ConfigError([Problem(key="sample", rule=rule)]) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")  # others may hold a link to what is there
    Image.fromarray(picture).save(aside, format="PNG")
    aside.replace(path)
