"""Weights under autocast: each is cast to bfloat16 once a step, and none is cut off from its gradient.

Autocast can keep the weights that it has cast until its outermost block ends. It keeps them as it first met them: one
that was cast in a pass without gradient, of guidance or of a target, would give the training pass a copy behind which
there is no weight. So either all are cast before the first pass, with gradient (`cast_once`), or what a pass without
gradient has left behind is forgotten (`forget_casts`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_held = False


def casts_are_held() -> bool:
    """Whether this is inside of `cast_once`: passes may then use autocast's cache."""
    return _held


@contextmanager
def cast_once(device: torch.device, weights: Iterable[Tensor], constants: Iterable[Tensor] = ()) -> Iterator[None]:
    """Cast weights to bfloat16 for every pass of the block, forward and backward, that has autocast on with its cache.

    The numbers are those of autocast without a cache, save that the gradients of a weight that occurs several times in
    one pass are added up in bfloat16, as autocast with a cache does. The weights must not be changed in the block.

    Args:
        device: of the weights.
        weights: all that any pass may cast. Those that need no gradient, and those that are not float32, are cast at
            each use.
        constants: further weights, of passes without gradient alone.
    """
    global _held
    constants = list(constants)
    before = _held
    torch.clear_autocast_cache()  # the casts of older weights, where the caller has autocast on
    try:
        for constant in constants:
            constant.requires_grad_()  # autocast keeps no others
        # The outer block holds the casts, since autocast forgets them at the end of its outermost one.
        with torch.autocast(device.type, torch.bfloat16, enabled=False, cache_enabled=True):
            with torch.enable_grad(), torch.autocast(device.type, torch.bfloat16, cache_enabled=True):
                for weight in (*weights, *constants):
                    if weight.requires_grad and weight.dtype == torch.float32:
                        _cast(weight)
            _held = True
            yield
    finally:
        _held = before
        torch.clear_autocast_cache()
        for constant in constants:
            constant.requires_grad_(False)


def _cast(weight: Tensor) -> None:
    """Have autocast cast a weight: a product with nothing does."""
    if weight.dim() == 0:
        torch.prelu(_nothing((0,), weight.device), weight)
        return
    *batch, size = weight.shape if weight.dim() == 1 else weight.shape[:-1]
    torch.matmul(_nothing((*batch, 0, size), weight.device), weight)


@functools.lru_cache(4096)
def _nothing(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a tensor without entries; to make one anew for each weight and step takes as long as the cast."""
    return torch.empty(shape, dtype=torch.bfloat16, device=device)


def forget_casts(device: torch.device) -> None:
    """After a pass without gradient, let the next one cast the weights anew; not in a graph, or where they are held."""
    if torch.compiler.is_compiling() or _held:
        return
    if torch.is_autocast_enabled(device.type):
        torch.clear_autocast_cache()


@contextmanager
def without_cache() -> Iterator[None]:
    """Let autocast keep nothing in the block."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
