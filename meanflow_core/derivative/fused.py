"""When the tangent of attention is one kernel: on a GPU, with Triton, and once the kernel was found right there."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST = 128
"""Numbers a head; larger ones do not fit into a block's memory."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the check at first use, as a share of the norm."""


def fused_tangent(parts: Sequence[Tensor], factor: float) -> Tensor | None:
    """Return the tangent of attention by the kernel, or None where it is to be had otherwise.

    Args:
        parts: q, k, v and their tangents, [rows * heads, tokens, size].
        factor: of the scores.
    """
    if torch.compiler.is_compiling() or parts[0].device.type != "cuda":
        return None
    dtype, size = parts[0].dtype, parts[0].shape[-1]
    if dtype not in DTYPES or any(x.dtype != dtype for x in parts) or any(x.shape[-1] != size for x in parts):
        return None
    if size > LARGEST or not kernel_is_right(parts[0].device, dtype, size):
        return None
    from meanflow_core.derivative.attention_kernel import tangent

    q, k, v, dq, dk, dv = parts
    return tangent(q, k, v, dq, dk, dv, factor)


@functools.cache
def kernel_is_right(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the kernel can be had here, and gives what the formula gives in float64."""
    try:
        from meanflow_core.derivative.attention_kernel import tangent
    except ImportError:
        return False
    generator = torch.Generator().manual_seed(0)
    shapes = (70, 90, 90, 70, 90, 90)  # queries and keys that fill no block
    parts = [torch.randn((2, tokens, size), generator=generator).to(device, dtype) for tokens in shapes]
    factor = 1.3 * size**-0.5
    try:
        found = tangent(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], factor)
    except Exception as error:  # of a compiler, a driver, a GPU too old: there is another way
        _log.warning("attention's tangent is made in chunks, the kernel fails: %s: %s", type(error).__name__, error)
        return False
    q, k, v, dq, dk, dv = (x.double() for x in parts)
    wanted = by_formula(q, k, v, dq, dk, dv, factor)
    off = float((found.double() - wanted).norm() / wanted.norm())
    if not off < TOLERANCE[dtype]:
        _log.warning("attention's tangent is made in chunks, the kernel is off by %.2g of its norm", off)
        return False
    return True


def by_formula(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, factor: float) -> Tensor:
    """Return the tangent of softmax(factor q k') v with P in memory."""
    p = torch.softmax(q @ k.mT * factor, -1)
    ds = (dq @ k.mT + q @ dk.mT) * factor
    return (p * (ds - (p * ds).sum(-1, keepdim=True))) @ v + p @ dv
