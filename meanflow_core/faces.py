"""The face of a package: the names that others may import from it, each loaded when it is first asked for."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["lazy_face"]


def lazy_face(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return `__getattr__` and `__all__` of a package whose `if TYPE_CHECKING:` block imports its face.

    So the face is written once, type checkers and editors read it as ordinary imports, and importing the package
    imports none of its modules: `meansweep --help` and the reading of a sweep file need neither torch nor Ray.

    Args:
        package: the package's `__name__`.
        file: its `__file__`.
    """
    places = {
        alias.asname or alias.name: node.module
        for block in ast.parse(Path(file).read_text()).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if places[name] == package:  # a module of it
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(places[name]), name)

    return __getattr__, sorted(places)
