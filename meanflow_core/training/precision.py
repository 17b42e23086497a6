"""What the products of a training are computed in: `trainer.precision`, with one meaning on every kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Let float32 products be what `trainer.precision` says, in the block and in backward passes within it.

    torch's own default is neither: convolutions take TensorFloat-32 (an error of 3e-4, and 8 % in a central difference
    of a U-Net), while matrix products and attention do not.

    Args:
        precision: `tf32` lets both use TensorFloat-32; `float32` and `bf16` let neither, and what autocast leaves in
            float32 is that.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_its_precision(method: Callable[P, R]) -> Callable[P, R]:
    """Run a method of a trainer in the arithmetic of its configuration."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        trainer: Any = args[0]
        with arithmetic(trainer.config.trainer.precision):
            return method(*args, **kwargs)

    return run
