"""Torch's tensors in Ray's object store: the workers of a node read the same memory instead of a copy each.

Ray has a switch for this (`RAY_ENABLE_ZERO_COPY_TORCH_TENSORS`), but with it every process of a node imports torch: a
second and a half that a trainer without torch has no use for. And it is set by whoever starts a node, not by the sweep.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ray.util import register_serializer


def share_tensors() -> None:
    """Let what this process puts into the object store hold its tensors as arrays, which Ray shares without a copy.

    Nobody may write into those: torch has no tensor that refuses it, and a process that tries is ended by the system.
    Without torch in this process there are no tensors.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        register_serializer(torch.Tensor, serializer=_taken_apart, deserializer=_put_together)


def _taken_apart(tensor: Any) -> tuple[Any, ...]:
    """Return a dense tensor's bytes (uint8 [n], on the CPU) with its type and shape; what else pickles any other."""
    import torch

    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.requires_grad or tensor.is_quantized:
        return tuple(tensor.__reduce_ex__(2)[:2])
    bytes_ = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
    return (tensor.dtype, tuple(tensor.shape), bytes_)


def _put_together(parts: tuple[Any, ...]) -> Any:
    if len(parts) == 2:
        rebuild, arguments = parts
        return rebuild(*arguments)
    import torch

    dtype, shape, bytes_ = parts
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor may it be
        flat = torch.from_numpy(bytes_)
    return flat.view(dtype).reshape(shape)
