"""Compiled losses of a process: kept from trainer to trainer of one structure, let go when another structure begins.

torch keeps every graph it has compiled, and with CUDA graphs the memory pools of each: a worker that trains trial after
trial would hold those of all of them.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from typing import Any

import torch

GRAPHS = 1000
"""Compiled losses of one process, at most: torch's own limit of 8 would end the ninth trial."""
_structure: str | None = None


def structure_of(config: Mapping[str, Any], shape: tuple[int, ...]) -> str:
    """Return a text that differs where two configurations compile to graphs of other shapes or operations.

    Args:
        config: nested values of a training configuration.
        shape: of a row of the data.
    """
    loop = {key: config["trainer"][key] for key in ("batch_size", "accumulation", "precision")}
    ways = {key: config["objective"].get(key) for key in ("name", "derivative", "tangent")}
    ratio = config["objective"]["time"]["ratio"]
    return json.dumps([config["model"], loop, ways, ratio, list(shape)], sort_keys=True, default=str)


def begin_graphs(structure: str) -> None:
    """Make room for the graphs of a structure, letting go of those of another."""
    global _structure
    torch._dynamo.config.recompile_limit = GRAPHS
    if _structure not in (None, structure):
        torch.compiler.reset()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
    _structure = structure
