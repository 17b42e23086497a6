"""Rules of `DualTensor` for operations that move entries about: their tangent is the same operation on the tangent.

They are views wherever the operation is one, so that what is later written into either is seen through the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meanflow_core.derivative.any_operation import any_operation
from meanflow_core.derivative.dual import UnsupportedOperation
from meanflow_core.derivative.tensor_dual import (
    DualTensor,
    Function,
    batch_dim_of,
    duals_in,
    head,
    is_dual,
    make,
    place_after,
    rule,
)


@rule(
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "squeeze", "unsqueeze"),
    *("chunk", "split", "unbind", "tensor_split", "split_with_sizes", "narrow", "select", "diagonal"),
    *("contiguous", "clone", "detach", "float", "double", "half", "bfloat16", "to", "type_as", "mean", "sum"),
    *("pixel_shuffle", "pixel_unshuffle", "repeat_interleave", "cumsum"),
)
def linear(func: Function, args: Any, kwargs: Any) -> Any:
    """d f(x) = f(dx); the batch is where the two results differ in shape."""
    x = args[0] if args else None
    if not isinstance(x, DualTensor) or not x.course.open or any(is_dual(a) for a in args[1:]) or kwargs.get("out"):
        return any_operation(func, args, kwargs)
    primal = func(x, *args[1:], **kwargs)
    if primal is x:
        return x
    course, moving = x.course, x.tangent is not None
    with torch.no_grad():
        tangent = func(x.tangent if moving else head(x), *args[1:], **kwargs)
    if isinstance(primal, Tensor):
        return _paired(func, x, primal, tangent, moving)
    if course.m != course.n and len(primal) != len(tangent):
        raise UnsupportedOperation(func.__name__, "picks rows of the batch")
    return tuple(_paired(func, x, p, d, moving) for p, d in zip(primal, tangent, strict=True))


def _paired(func: Function, x: DualTensor, primal: Tensor, tangent: Tensor, moving: bool) -> Tensor:
    dim = batch_dim_of(primal, tangent, x.course)
    if dim is None:
        if not moving:
            return primal
        raise UnsupportedOperation(func.__name__, "mixes rows of the batch")
    return make(primal, tangent if moving else None, dim, x.course)


@rule("getitem")
def getitem(func: Function, args: Any, kwargs: Any) -> Any:
    """Indexing by numbers, slices, None and Ellipsis as above; by tensors without a rule."""
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    simple = all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in index)
    return (linear if simple else any_operation)(func, args, kwargs)


@rule("reshape", "view", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def reshape(func: Function, args: Any, kwargs: Any) -> Any:
    """The batch keeps its place in memory; sizes that spell out the number of rows are those of all rows."""
    x = args[0]
    if not is_dual(x) or (len(args) > 1 and isinstance(args[1], torch.dtype)):
        return any_operation(func, args, kwargs)
    primal = func(*args, **kwargs)
    if primal is x:
        return x
    course = x.course
    if course.m == course.n:
        tangent = None if x.tangent is None else x.tangent.reshape(primal.shape)
        return make(primal, tangent, 0, course)
    place = place_after(x.shape, x.batch_dim, course.n, primal.shape)
    if place is None:
        if x.tangent is None:
            return primal
        raise UnsupportedOperation(func.__name__, "mixes rows of the batch")
    if x.tangent is None:
        return make(primal, None, place, course)
    sizes = list(primal.shape)
    sizes[place] = sizes[place] // course.n * course.m
    return make(primal, x.tangent.reshape(sizes), place, course)


@rule("expand", "expand_as", "broadcast_to")
def expand(func: Function, args: Any, kwargs: Any) -> Any:
    """New dimensions come before the old ones; the batch itself is not expanded."""
    x = args[0]
    if not is_dual(x):
        return any_operation(func, args, kwargs)
    primal = func(*args, **kwargs)
    course = x.course
    place = x.batch_dim + primal.dim() - x.dim()
    if x.tangent is None:
        return make(primal, None, place, course)
    sizes = list(primal.shape)
    sizes[place] = x.tangent.shape[x.batch_dim]
    return make(primal, x.tangent.expand(sizes), place, course)


@rule("repeat", "tile")
def repeat(func: Function, args: Any, kwargs: Any) -> Any:
    """As expand, by multiples."""
    return linear(func, args, kwargs)


@rule("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
def cat(func: Function, args: Any, kwargs: Any) -> Any:
    """Join along a dimension other than the batch; what does not move has tangent 0."""
    given = dict(zip(("tensors", "dim"), args, strict=False))
    tensors = given.get("tensors", kwargs.get("tensors"))
    duals = duals_in(tensors, [])
    moving = [x for x in duals if x.tangent is not None]
    if not moving or len(args) > 2 or "out" in kwargs or func.__name__.endswith("hstack"):
        return any_operation(func, args, kwargs)
    course, place, dims = moving[0].course, moving[0].batch_dim, moving[0].dim()
    if any(x.batch_dim != place or x.dim() != dims for x in duals):
        return any_operation(func, args, kwargs)
    primal = func(*args, **kwargs)
    with torch.no_grad():
        tangents = []
        for x in tensors:
            if isinstance(x, DualTensor) and x.tangent is not None:
                tangents.append(x.tangent)
                continue
            rows = x.shape[place] // course.n * course.m if x.shape[place] % course.n == 0 else x.shape[place]
            tangents.append(torch.zeros_like(x.narrow(place, 0, rows)))
        kept = {key: value for key, value in kwargs.items() if key != "tensors"}
        tangent = func(tangents, *args[1:], **kept)
    dim = batch_dim_of(primal, tangent, course)
    if dim is None:
        raise UnsupportedOperation(func.__name__, "joins along the batch")
    return make(primal, tangent, dim, course)


@rule(
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "bernoulli"),
)
def created(func: Function, args: Any, kwargs: Any) -> Any:
    """A new tensor does not move; if it has rows of the batch, they are followed."""
    x = args[0]
    result = func(*args, **kwargs)
    if not is_dual(x):
        return result
    if result.shape == x.shape:
        return make(result, None, x.batch_dim, x.course)
    place = next((i for i, size in enumerate(result.shape) if size == x.course.n), None)
    return result if place is None else make(result, None, place, x.course)
