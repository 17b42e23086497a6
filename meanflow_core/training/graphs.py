"""Compiled losses of a process: kept from trainer to trainer of one structure, let go when another structure begins.

torch keeps every graph it has compiled, and with CUDA graphs the memory pools of each: a worker that trains trial after
trial would hold those of all of them. A structure's trials share graphs whatever their numbers are (`with_scalars`).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from typing import Any

import torch

from meanflow_core.config import TrainConfig
from meanflow_core.objectives import with_scalars
from meanflow_core.training.training_loss import TrainingLoss

GRAPHS = 1000
"""Compiled losses of one process, and recordings of one of them, at most: torch's own limit of 8 would end the ninth
trial, and its limit of 128 recordings (each trial's weights lie elsewhere) would end CUDA graphs in the 129th."""
_structure: str | None = None


def compile_if_wanted(loss: TrainingLoss, config: TrainConfig, shape: tuple[int, ...], device: torch.device) -> None:
    """Have a loss compiled, as one graph, where the configuration says so; let go of graphs that it does not share.

    Args:
        loss: changed in place.
        config: of the training.
        shape: of a row of the data.
        device: of the network.
    """
    options = config.trainer
    begin_graphs(structure_of(config.to_dict(), shape) if options.compile else None)
    if options.compile:
        loss.objective = with_scalars(config.objective, device)
        loss.compile(fullgraph=True, dynamic=False, mode=compile_mode(device, options.accumulation))


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


def begin_graphs(structure: str | None) -> None:
    """Make room for the graphs of a structure, letting go of those of another; None: of a trainer without graphs."""
    global _structure
    if structure is not None:
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = GRAPHS
        # Otherwise DDP cuts the graph at each of its buckets, to send gradients while others are computed.
        torch._dynamo.config.optimize_ddp = False
    if structure is not None and torch.cuda.is_available():
        import torch._inductor.config as inductor

        inductor.triton.cudagraph_unexpected_rerecord_limit = GRAPHS
    if _structure not in (None, structure):
        torch.compiler.reset()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
    _structure = structure


def compile_mode(device: torch.device, accumulation: int) -> str:
    """Return torch.compile's mode: CUDA graphs on a GPU.

    Not where gradients are accumulated: a graph's outputs, and gradients are such, live until its next replay only.
    """
    return "reduce-overhead" if device.type == "cuda" and accumulation == 1 else "default"


def bytes_of_graphs() -> int:
    """Return the bytes of GPU memory in the pools of CUDA graphs: those of the present structure, kept on purpose."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))
