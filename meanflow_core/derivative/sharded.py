"""Tangents through the hooks by which FSDP gathers a module's weights: those look for tensors, and keep no attributes.

Before FSDP's own hooks what carries a tangent becomes a tuple with a tensor in it, and after them it is itself again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from meanflow_core.derivative.dual import RowDual
from meanflow_core.derivative.tensor_dual import DualTensor, is_dual, make


def carry_through_hooks(module: nn.Module) -> None:
    """Let tangents pass the hooks that a module has now."""
    module.register_forward_pre_hook(_opened_before, prepend=True, with_kwargs=True)
    module.register_forward_pre_hook(_closed_before, with_kwargs=True)
    module.register_forward_hook(_opened_after, prepend=True)
    module.register_forward_hook(_closed_after)


@dataclass(frozen=True)
class _Kind:
    """Stands first in a tuple of the tensors that a carrier of a tangent consists of."""

    close: Callable[..., Any]


def _opened(x: Any) -> Any:
    if isinstance(x, RowDual):
        return (_Kind(RowDual), x.primal, x.tangent)
    if is_dual(x):
        kept = x.tangent, x.batch_dim, x.course
        return (_Kind(lambda y: y if isinstance(y, DualTensor) else make(y, *kept)), x)
    if isinstance(x, tuple | list):
        return type(x)(_opened(item) for item in x)
    return x


def _closed(x: Any) -> Any:
    if isinstance(x, tuple | list):
        if x and isinstance(x[0], _Kind):
            return x[0].close(*x[1:])
        return type(x)(_closed(item) for item in x)
    return x


def _opened_before(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _opened(args), {name: _opened(value) for name, value in kwargs.items()}


def _closed_before(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _closed(args), {name: _closed(value) for name, value in kwargs.items()}


def _opened_after(module: nn.Module, args: Any, output: Any) -> Any:
    return output if isinstance(output, Tensor) else _opened(output)


def _closed_after(module: nn.Module, args: Any, output: Any) -> Any:
    return _closed(output)
