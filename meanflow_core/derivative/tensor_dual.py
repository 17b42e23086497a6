"""A tensor that carries the derivative of its first rows through any network, beside the one differentiable pass.

`DualTensor` is a `torch.Tensor` like any other: `isinstance`, hooks, `torch.autograd.Function`, checkpointing and
in-place operations meet a tensor, and its values and graph are those of a plain pass. Beside them it holds the tangent
of the first m of the batch's n rows, and the dimension in which the batch lies. That dimension is found, not assumed:
an operation on the m rows gives a result that differs in shape from that on all rows in this dimension alone.

An operation with a rule (`meanflow_core.derivative.structure`, and the rules of layers that `RowDual` has) gets its
tangent from that. Every other one is run once more, on the m rows, as forward-mode dual numbers, without gradient. What
comes with the batch and does not move (labels, masks, random numbers) is followed too, with a tangent of None, so that
its first rows go with the others': one draw serves the prediction and its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from meanflow_core.derivative.dual import BY_FUNCTION, BY_NAME, RowDual, UnsupportedOperation
from meanflow_core.derivative.query import Query
from meanflow_core.flow import Network

Function = Callable[..., Any]
Handler = Callable[[Function, tuple[Any, ...], dict[str, Any]], Any]
_plain = torch._C.DisableTorchFunctionSubclass


class Pass:
    """One pass of a network: n rows, of which the first m are differentiated. Closed, its tensors are plain ones."""

    __slots__ = ("m", "n", "open")

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m, self.open = n, m, True


class DualTensor(Tensor):
    """See the module. The attributes are set by `make`, since tensors are made by operations, not constructed."""

    tangent: Tensor | None
    batch_dim: int
    course: Pass

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry a call that has a `DualTensor` among its arguments."""
        handler = _handlers.get(func)
        if handler is None:
            handler = _handlers[func] = _handler_of(func)
        with _plain():
            return handler(func, args, kwargs or {})


def make(primal: Tensor, tangent: Tensor | None, batch_dim: int, course: Pass) -> DualTensor:
    """Turn a tensor that an operation has just made into one that carries `tangent`; its graph stays as it is."""
    if tangent is not None and course.m != course.n and not _proportional(primal, tangent, batch_dim, course):
        raise UnsupportedOperation("?", "mixes rows of the batch")
    primal.__class__ = DualTensor
    dual: DualTensor = primal  # type: ignore[assignment]
    dual.tangent, dual.batch_dim, dual.course = tangent, batch_dim, course
    return dual


def head(x: DualTensor) -> Tensor:
    """Return the primal of the first m rows, as a plain tensor without graph. Call it without gradient."""
    course = x.course
    if course.m == course.n:
        return x.detach()
    return x.narrow(x.batch_dim, 0, x.shape[x.batch_dim] // course.n * course.m)


def is_dual(x: Any) -> TypeGuard[DualTensor]:
    """Whether x belongs to a pass that is going on."""
    return isinstance(x, DualTensor) and x.course.open


def _proportional(primal: Tensor, tangent: Tensor, dim: int, course: Pass) -> bool:
    return primal.dim() == tangent.dim() and primal.shape[dim] * course.m == tangent.shape[dim] * course.n


def batch_dim_of(whole: Tensor, part: Tensor, course: Pass) -> int | None:
    """Return the one dimension in which the results for n and for m rows differ, None if there is no such one."""
    if course.m == course.n:
        return 0
    if whole.dim() != part.dim():
        return None
    found = None
    for dim, (size, other) in enumerate(zip(whole.shape, part.shape, strict=True)):
        if size != other:
            if found is not None or size * course.m != other * course.n or size % course.n:
                return None
            found = dim
    return found


# ---------------------------------------------------------------------------------------------- trees of arguments


def duals_in(values: Any, found: list[DualTensor]) -> list[DualTensor]:
    """Collect the dual tensors of nested arguments."""
    for value in values:
        if isinstance(value, DualTensor):
            if value.course.open:
                found.append(value)
        elif isinstance(value, tuple | list):
            duals_in(value, found)
        elif isinstance(value, dict):
            duals_in(value.values(), found)
    return found


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return nested values with `function` applied to the tensors among them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [mapped(item, function) for item in value]
        if type(value) is tuple:
            return tuple(items)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # type: ignore[arg-type, call-arg]
    if isinstance(value, list):
        return [mapped(item, function) for item in value]
    if isinstance(value, slice):
        return slice(*(mapped(item, function) for item in (value.start, value.stop, value.step)))
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """Collect the tensors of nested values."""
    found: list[Tensor] = []
    mapped(value, found.append)
    return found


# --------------------------------------------------------------------------------------------------- by rule


_handlers: dict[Function, Handler] = {}
RULES: dict[str, Handler] = {}
"""Rules of `DualTensor` itself, by the bare name of the operation."""
ANY = "an operation without a rule"
"""The name of the rule for all others."""


def as_it_is(func: Function, args: Any, kwargs: Any) -> Any:
    """Answer for the primal what is no tensor: sizes, dtype, device."""
    return func(*args, **kwargs)


_getters = ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout", "is_leaf", "grad_fn", "is_sparse")
for _name in _getters:
    _handlers[getattr(Tensor, _name).__get__] = as_it_is
for _name in (
    "dim",
    "size",
    "numel",
    "stride",
    "is_floating_point",
    "is_complex",
    "is_contiguous",
    "__len__",
    "requires_grad_",
):
    RULES[_name] = as_it_is

SHARED = {
    *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "layer_norm", "group_norm", "rms_norm", "softmax"),
    *("scaled_dot_product_attention", "dropout", "pad", "interpolate", "avg_pool2d", "adaptive_avg_pool2d"),
    *("silu", "relu", "sigmoid", "tanh", "gelu", "softplus", "exp", "log", "sin", "cos", "sqrt", "rsqrt", "square"),
    *("pow", "add", "__radd__", "sub", "rsub", "__rsub__", "mul", "multiply", "__rmul__", "addcmul", "div"),
    *("true_divide", "__rdiv__", "__rtruediv__", "matmul", "bmm", "neg"),
}
"""Rules of `RowDual` that serve where the batch is the first dimension of every argument."""
OPERATORS = {
    **{f"__{name}__": name for name in ("add", "sub", "mul", "matmul", "pow", "neg", "getitem")},
    **{"__truediv__": "div", "__pos__": "clone"},
}


def _handler_of(func: Function) -> Handler:
    name = getattr(func, "__name__", type(func).__name__)
    name = OPERATORS.get(name, name)
    if name in RULES:
        return RULES[name]
    rule = BY_FUNCTION.get(func) or BY_NAME.get(name)
    return _shared(rule) if rule is not None and name in SHARED else RULES[ANY]


def _shared(rule: Function) -> Handler:
    """Return a rule of `RowDual` as one of `DualTensor`, with the way without rule where it does not apply."""

    def carry(func: Function, args: Any, kwargs: Any) -> Any:
        course: Pass | None = None
        converted: list[Any] = []
        for x in args:
            if isinstance(x, DualTensor) and x.course.open:
                course = x.course
                if x.batch_dim != 0 or x.shape[0] != course.n:
                    return RULES[ANY](func, args, kwargs)
                converted.append(x if x.tangent is None else RowDual(x, x.tangent))
            else:
                converted.append(x)
        if not any(isinstance(x, RowDual) for x in converted) or (
            kwargs and (duals_in(kwargs.values(), []) or kwargs.get("inplace") or "out" in kwargs)
        ):
            return RULES[ANY](func, args, kwargs)
        try:
            result = rule(func, *converted, **kwargs)
        except (UnsupportedOperation, TypeError, AttributeError):  # AttributeError: what moves is not what it moves by
            return RULES[ANY](func, args, kwargs)
        if not isinstance(result, RowDual):  # nothing moves
            return RULES[ANY](func, args, kwargs)
        if result.primal is args[0]:
            return args[0]
        assert course is not None
        return make(result.primal, result.tangent, 0, course)

    return carry


def rule(*names: str) -> Callable[[Handler], Handler]:
    """Register a rule of `DualTensor` for the operations called `names`."""

    def register(function: Handler) -> Handler:
        for name in names:
            RULES[name] = function
        return function

    return register


def _without_tangent(x: Tensor) -> Tensor:
    """Let the graph keep a tensor for the backward pass without the tangent that hangs on it."""
    if not isinstance(x, DualTensor):
        return x
    with _plain():
        return x.detach()


def _as_saved(x: Tensor) -> Tensor:
    return x


def by_dual(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Carry the tangent of the rows that need it beside the differentiable pass over all rows."""
    course = Pass(len(at.z), at.rows)

    def moving(x: Tensor, tangent: Tensor | None) -> Tensor:
        return make(x.view_as(x), tangent, 0, course)

    with torch.no_grad():
        dr, dt = (torch.full_like(x[: course.m], d) if d else None for x, d in ((at.r, at.dr), (at.t, at.dt)))
    labels = mapped(at.labels, lambda x: moving(x, None) if x.dim() and len(x) == course.n else x)
    try:
        with forward_ad.dual_level(), torch.autograd.graph.saved_tensors_hooks(_without_tangent, _as_saved):
            u = net(moving(at.z, at.dz.to(at.z.dtype)), moving(at.r, dr), moving(at.t, dt), labels)
    finally:
        course.open = False
    if not isinstance(u, DualTensor):
        return u, torch.zeros_like(at.dz)
    tangent = u.tangent
    if tangent is not None and u.batch_dim != 0:
        raise UnsupportedOperation("the network's last", "leaves the batch in another dimension than the first")
    u.__class__ = Tensor  # type: ignore[assignment]
    u.tangent = None
    return u, torch.zeros_like(at.dz) if tangent is None else tangent


def place_after(shape: Sequence[int], dim: int, n: int, new: Sequence[int]) -> int | None:
    """Return the dimension in which the batch lies after a view, by what stands before it in memory; None: mixed."""
    outer, before = math.prod(shape[:dim]), 1
    for place, size in enumerate(new):
        if before == outer and size % n == 0:
            return place
        before *= size
    return None
