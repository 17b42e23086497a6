"""What `DualTensor` does with an operation without a rule: it runs once more, on the first m rows, in forward mode.

So every operation that torch can differentiate forward is carried: rules only make it cheaper. Operations that write in
place write the tangent in place, and those that draw random numbers draw them once, for all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_core.derivative.dual import UnsupportedOperation
from meanflow_core.derivative.forward_mode import apart, as_number
from meanflow_core.derivative.tensor_dual import (
    ANY,
    DualTensor,
    Function,
    Pass,
    batch_dim_of,
    duals_in,
    head,
    is_dual,
    make,
    mapped,
    rule,
    tensors_in,
)
from meanflow_core.rng import RandomState

IN_PLACE = {"__setitem__", *(f"__i{name}__" for name in ("add", "sub", "mul", "div", "truediv", "pow", "and", "or"))}
RANDOM = {
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu"),
    *("multi_head_attention_forward", "gumbel_softmax", "lstm", "gru", "rnn_tanh", "rnn_relu"),
}
"""Operations that may draw random numbers for a tensor that moves: their derivative is taken of all rows, with the same
draw. One that is missing here is found out by the check at first use."""


def _draws(func: Function, args: Any, kwargs: Any) -> bool:
    """Whether an operation may draw random numbers for a tensor that moves."""
    if func.__name__ == "scaled_dot_product_attention":
        return bool(args[4] if len(args) > 4 else kwargs.get("dropout_p"))
    return func.__name__ in RANDOM


def writes_in_place(func: Function, kwargs: dict[str, Any]) -> bool:
    """Whether a call overwrites its first argument."""
    name = func.__name__
    return name in IN_PLACE or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace") is True


@rule(ANY)
def any_operation(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Carry an operation without a rule: once more, on the first m rows, as forward-mode dual numbers."""
    duals = duals_in(args, duals_in(kwargs.values(), []))
    if not duals:
        return func(*args, **kwargs)
    course = duals[0].course
    if kwargs.get("out") is not None:
        raise UnsupportedOperation(func.__name__, "writes into `out=`")
    if all(dual.tangent is None for dual in duals):
        return _unmoved(func, args, kwargs, duals, course)
    if writes_in_place(func, kwargs):
        return _in_place(func, args, kwargs, course)
    if _draws(func, args, kwargs) and course.m != course.n:
        return _random(func, args, kwargs, course)
    primal = func(*args, **kwargs)
    tensors = tensors_in(primal)
    if not tensors:
        return primal
    pairs = iter(_derivatives(func, args, kwargs, tensors, course))
    return mapped(primal, lambda p: make(p, *next(pairs), course))


def _unmoved(func: Function, args: Any, kwargs: Any, duals: list[DualTensor], course: Pass) -> Any:
    """Run an operation on what comes with the batch and does not move; its result does the same."""
    result = func(*args, **kwargs)

    def follow(x: Tensor) -> Tensor:
        if isinstance(x, DualTensor):
            return x
        dim = next((d.batch_dim for d in duals if d.shape == x.shape), None)
        if dim is None:
            first = duals[0]
            sizes = [i for i, size in enumerate(x.shape) if size == first.shape[first.batch_dim]]
            dim = sizes[0] if sizes else next((i for i, size in enumerate(x.shape) if size % course.n == 0), None)
        return x if dim is None else make(x, None, dim, course)

    return mapped(result, follow)


def _derivatives(
    func: Function, args: Any, kwargs: Any, primals: list[Tensor], course: Pass
) -> list[tuple[Tensor | None, int]]:
    """Return (tangent, batch dimension) of each result; of all shapes that plain tensors may have, the first to fit."""
    sizes = {dual.shape[dual.batch_dim] for dual in duals_in(args, duals_in(kwargs.values(), []))}
    narrowed = course.m != course.n and any(
        not sizes.isdisjoint(x.shape) for x in tensors_in((args, kwargs)) if not isinstance(x, DualTensor)
    )
    problem: Exception | None = None
    for narrow in (sizes, set()) if narrowed else (set(),):
        try:
            parts = _on_head(func, args, kwargs, course, narrow)
        except (RuntimeError, IndexError, ValueError) as error:
            problem = error
            continue
        found = []
        for primal, (part, tangent) in zip(primals, parts, strict=True):
            dim = batch_dim_of(primal, part, course)
            if dim is None:
                break
            if tangent is None and (primal.is_floating_point() or primal.is_complex()):
                tangent = torch.zeros_like(part)
            found.append((tangent, dim))
        else:
            return found
    if problem is not None:
        raise UnsupportedOperation(func.__name__, f"cannot be differentiated on rows of the batch ({_first(problem)})")
    raise UnsupportedOperation(func.__name__, "mixes rows of the batch")


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _on_head(
    func: Function, args: Any, kwargs: Any, course: Pass, sizes: set[int]
) -> list[tuple[Tensor, Tensor | None]]:
    """Run the operation on the first m rows as dual numbers: (primal, tangent) of each result.

    Plain tensors are taken to have the batch in the first dimension that has one of these `sizes`.
    """
    of_head = _of_head(course, sizes)
    with _forward_mode(func):
        result = func(*mapped(args, of_head), **mapped(kwargs, of_head))
        return [apart(x) for x in tensors_in(result)]


def _of_head(course: Pass, sizes: set[int]) -> Callable[[Tensor], Tensor]:
    def of_head(x: Tensor) -> Tensor:
        if is_dual(x):
            return as_number(head(x), x.tangent)
        dim = next((i for i, size in enumerate(x.shape) if size in sizes), None)
        return x if dim is None else x.narrow(dim, 0, x.shape[dim] // course.n * course.m)

    return of_head


class _forward_mode:
    """No gradient, forward mode on (also where `torch.autograd.Function` has switched it off), no fused attention."""

    def __init__(self, func: Function) -> None:
        attends = "attention" in func.__name__ or "encoder" in func.__name__
        self._math = sdpa_kernel(SDPBackend.MATH) if attends else None

    def __enter__(self) -> None:
        self._grad, self._forward = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        torch._C._set_grad_enabled(False)
        torch._C._set_fwd_grad_enabled(True)
        if self._math is not None:
            self._math.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._math is not None:
            self._math.__exit__(*error)
        torch._C._set_fwd_grad_enabled(self._forward)
        torch._C._set_grad_enabled(self._grad)


def _in_place(func: Function, args: Any, kwargs: Any, course: Pass) -> Any:
    """Overwrite the primal, and the tangent in its own memory, so that whoever shares either sees it."""
    target = _moving(args[0], func, course)
    dim = target.batch_dim
    with torch.no_grad():
        tangent = torch.zeros_like(head(target)) if target.tangent is None else target.tangent
    target.tangent = tangent
    draws = _draws(func, args, kwargs) and course.m != course.n
    state = RandomState.now(target.device) if draws else None
    sizes = {course.n, target.shape[dim]} if course.m != course.n else set()
    of_part = _padded if draws else _of_head(course, sizes)
    with _forward_mode(func):
        part = target if draws else head(target)
        number = as_number(part.detach().clone(), _whole(target) if draws else tangent.clone())
        func(number, *mapped(args[1:], of_part), **mapped(kwargs, of_part))
        after = apart(number)[1]
    if state is not None:
        state.restore()
    result = func(*args, **kwargs)
    with torch.no_grad():
        if after is None:
            tangent.zero_()
        else:
            tangent.copy_(after.narrow(dim, 0, tangent.shape[dim]))
    return target if isinstance(result, Tensor) else result


def _moving(x: Any, func: Function, course: Pass) -> DualTensor:
    """Return the tensor that is written into; a plain one, made in the forward pass, moves from here on."""
    if isinstance(x, DualTensor):
        return x
    if not isinstance(x, Tensor):
        raise UnsupportedOperation(func.__name__, "overwrites what is no tensor")
    place = next((i for i, size in enumerate(x.shape) if size == course.n), None)
    if place is None:
        raise UnsupportedOperation(func.__name__, "writes rows of the batch into a tensor without them")
    return make(x, None, place, course)


def _whole(x: DualTensor) -> Tensor:
    """Return the tangent on all rows: 0 on those that are not differentiated."""
    tangent = torch.zeros_like(x.detach())
    if x.tangent is not None:
        tangent.narrow(x.batch_dim, 0, x.tangent.shape[x.batch_dim]).copy_(x.tangent)
    return tangent


def _padded(x: Tensor) -> Tensor:
    return as_number(x.detach(), _whole(x)) if is_dual(x) and x.tangent is not None else x.detach()


def _random(func: Function, args: Any, kwargs: Any, course: Pass) -> Any:
    """Differentiate on all rows, with the generators put back: one draw."""
    device = duals_in(args, duals_in(kwargs.values(), []))[0].device
    before = RandomState.now(device)
    with sdpa_kernel(SDPBackend.MATH) if "attention" in func.__name__ else nullcontext():  # fused kernels draw others
        primal = func(*args, **kwargs)
    after = RandomState.now(device)

    before.restore()
    try:
        with _forward_mode(func):
            tangents = [apart(x)[1] for x in tensors_in(func(*mapped(args, _padded), **mapped(kwargs, _padded)))]
    finally:
        after.restore()
    dims = [dual.batch_dim for dual in duals_in(args, []) if dual.tangent is not None]
    found = iter(tangents)

    def follow(p: Tensor) -> Tensor:
        tangent, dim = next(found), dims[0]
        if p.dim() <= dim or p.shape[dim] % course.n:
            dim = next((i for i, size in enumerate(p.shape) if size % course.n == 0), -1)
        if dim < 0:
            raise UnsupportedOperation(func.__name__, "mixes rows of the batch")
        rows = p.shape[dim] // course.n * course.m
        with torch.no_grad():
            part = torch.zeros_like(p.narrow(dim, 0, rows)) if tangent is None else tangent.narrow(dim, 0, rows)
        return make(p, part, dim, course)

    return mapped(primal, follow)
