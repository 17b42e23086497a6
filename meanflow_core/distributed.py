"""Several devices: what a process needs to know of the others, and nothing where it is alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """Return the default process group's, or a world of one where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of every process's tensor."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            dist.barrier()

    def gather(self, tensor: Tensor) -> Tensor:
        """Return every process's tensor (equal shapes), concatenated in the order of the ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Let the gradients of `module` be averaged over the processes.

        `module` must contain the whole loss. A `torch.func.jvp` through the wrapper raises, and one of the wrapped
        module alone runs without ever synchronising; inside the wrapped forward it is right.
        """
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        with warnings.catch_warnings():  # torch 2.13 has a new name for broadcast_buffers that 2.7 does not know
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            # The networks' buffers are constants (sinusoids): nothing to broadcast.
            return DistributedDataParallel(
                module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )


_IN_SHARDS = "_in_shards"


def mark_in_shards(net: nn.Module) -> None:
    """Note that a network's weights are in shards, or soon will be: every process must call it equally often."""
    setattr(net, _IN_SHARDS, True)


def in_shards(net: object) -> bool:
    """Whether a network was marked so."""
    return getattr(net, _IN_SHARDS, False)


def choose_device(name: str) -> torch.device:
    """Return the device of a `trainer.device`; `auto` is this process's GPU (LOCAL_RANK), or the CPU.

    Raises:
        ValueError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"trainer.device is {name!r}, but torch {torch.__version__} sees no GPU here")
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        index = 0 if device.index is None else index  # a launcher that shows each process one GPU only
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextmanager
def launched(device: str = "auto") -> Iterator[World]:
    """Join the process group that torchrun describes in the environment, for the block; alone without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World()
        return
    dist.init_process_group("nccl" if choose_device(device).type == "cuda" else "gloo")
    try:
        yield World.current()
    finally:
        dist.destroy_process_group()
