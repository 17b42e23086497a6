"""Blocks whose activations are computed again in the backward pass instead of being kept (`checkpoint_activations`)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def apply_block(block: nn.Module, x: T, condition: Tensor, again: bool) -> T:
    """Return block(x, condition).

    Args:
        block: of a network.
        x: a tensor, or what carries a tangent beside it.
        condition: the second input.
        again: keep the inputs alone for the backward pass, in which the block is computed once more, with the same
            random numbers. A pass without gradient keeps nothing in any case.
    """
    if again and torch.is_grad_enabled():
        y: T = checkpoint(block, x, condition, use_reentrant=False, context_fn=_same_attention)
        return y
    plain: T = block(x, condition)
    return plain


def _same_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Let the second time have the kernels of attention that are allowed now: others keep other tensors."""
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
        SDPBackend.MATH: cuda.math_sdp_enabled(),  # type: ignore[no-untyped-call]
    }
    return nullcontext(), sdpa_kernel([kernel for kernel, yes in allowed.items() if yes])
