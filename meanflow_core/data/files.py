"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO


def write_aside(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name and rename it: no reader ever sees half of it.

    Args:
        path: of the file; its folder is made.
        write: gets the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)  # temporary files are private, these are meant to be shared
    Path(file.name).replace(path)
