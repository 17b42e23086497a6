"""Tangent rules of whole layers for `RowDual`: linear, convolution, norms, softmax, attention, dropout.

Layer norm, group norm and softmax have a symmetric Jacobian in the dimensions they normalise (before the affine map),
so the fused kernel of their backward pass gives the tangent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_core.derivative.dual import RowDual, UnsupportedOperation, leading, raw, rule
from meanflow_core.derivative.fused import fused_tangent

_aten = torch.ops.aten
ATTENTION_ENTRIES = 2**26
"""Entries of P that the tangent of attention holds at once. At 14 to 18.5 bytes an entry that is about 1 GiB: a GPU is
busy with far less, and whole rows times heads times tokens squared would be 15 GiB a layer at 1,024 tokens."""


@rule("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d")
def affine(
    func: Callable[..., Tensor], x: RowDual, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> RowDual:
    """The tangent goes through the weights, not the bias."""
    if not isinstance(x, RowDual) or isinstance(weight, RowDual) or isinstance(bias, RowDual):
        raise UnsupportedOperation(func.__name__, "has weights that depend on the input")
    primal = func(x.primal, weight, bias, *args, **kwargs)
    with torch.no_grad():
        return RowDual(primal, func(x.tangent, weight, None, *args, **kwargs))


def _norm_input(x: Tensor) -> Tensor:
    """What autocast would make of a norm's input; the kernels called here are below it."""
    return x.float() if torch.is_autocast_enabled(x.device.type) else x


@rule("layer_norm")
def layer_norm(
    func: Callable[..., Tensor],
    x: RowDual,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *unused: Any,
) -> RowDual:
    """dy = weight * J dx with J the Jacobian of the normalisation, the same as its transpose."""
    shape = list(normalized_shape)
    primal, mean, rstd = torch.native_layer_norm(_norm_input(x.primal), shape, weight, bias, eps)
    with torch.no_grad():
        m = x.tangent.shape[0]
        head = _norm_input(x.head)
        tangent = _aten.native_layer_norm_backward(
            x.tangent.to(head.dtype), head, shape, mean[:m], rstd[:m], None, None, [True, False, False]
        )[0]
        return RowDual(primal, tangent if weight is None else tangent * weight)


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """Return y with its channels last in memory where x has them so: what dropout draws depends on the layout."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if last else y


@rule("group_norm")
def group_norm(
    func: Callable[..., Tensor],
    x: RowDual,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *unused: Any,
) -> RowDual:
    """As layer norm, over groups of channels."""
    n, channels, *space = x.shape
    size = math.prod(space)
    data = _norm_input(x.primal).contiguous()
    primal, mean, rstd = torch.native_group_norm(data, weight, bias, n, channels, size, num_groups, eps)
    primal = in_layout_of(x.primal, primal)
    with torch.no_grad():
        m = x.tangent.shape[0]
        dx = x.tangent.to(data.dtype).contiguous()
        tangent = _aten.native_group_norm_backward(
            dx, data[:m], mean[:m], rstd[:m], None, m, channels, size, num_groups, [True, False, False]
        )[0]
        if weight is not None:
            tangent = tangent * weight.reshape(-1, *([1] * len(space)))
        return RowDual(primal, tangent)


@rule("rms_norm")
def rms_norm(
    func: Callable[..., Tensor],
    x: RowDual,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> RowDual:
    """y = x / rms(x), dy = (dx - y mean(y dx)) / rms(x); then the weight."""
    primal = func(x.primal, normalized_shape, weight, eps)
    with torch.no_grad():
        dims = tuple(range(-len(normalized_shape), 0))
        head = _norm_input(x.head)
        floor = torch.finfo(head.dtype).eps if eps is None else eps
        scale = torch.rsqrt(head.square().mean(dims, keepdim=True) + floor)
        y = head * scale
        tangent = (x.tangent - y * (y * x.tangent).mean(dims, keepdim=True)) * scale
        return RowDual(primal, tangent if weight is None else tangent * weight)


@rule("softmax")
def softmax(func: Callable[..., Tensor], x: RowDual, dim: int, *args: Any, **kwargs: Any) -> RowDual:
    """dy = y (dx - sum(y dx))."""
    if dim % x.ndim == 0:
        raise UnsupportedOperation("softmax", "normalises over the batch")
    primal = func(x.primal, dim, *args, **kwargs)
    with torch.no_grad():
        head = leading(primal, x.tangent.shape[0])
        return RowDual(primal, _aten._softmax_backward_data(x.tangent.to(head.dtype), head, dim, head.dtype))


@rule("scaled_dot_product_attention")
def attention(
    func: Callable[..., Tensor],
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> RowDual:
    """P = softmax(s q k'), dP = J s (dq k' + q dk'), do = dP v + P dv.

    The primal uses whatever kernel torch picks, flash included; the tangent forms P again, for its m rows: in chunks,
    or where it is large in one kernel that never holds it, if there is such (`fused`).
    """
    if not all(isinstance(x, RowDual) for x in (query, key, value)):
        raise UnsupportedOperation(func.__name__, "has an input without tangent")
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise UnsupportedOperation(func.__name__, "has a mask, dropout or grouped heads")
    primal = func(raw(query), raw(key), raw(value), scale=scale)
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.no_grad():
        heads = (query.head, key.head, value.head, query.tangent, key.tangent, value.tangent)
        parts = [x.flatten(0, -3) for x in heads]
        large = parts[0].shape[0] * parts[0].shape[1] * parts[1].shape[1] > ATTENTION_ENTRIES
        tangent = fused_tangent(parts, factor) if large else None
        if tangent is None:
            chunks = [_attention_tangent(chunk, factor).flatten(0, 1) for chunk in _attention_chunks(parts)]
            tangent = chunks[0] if len(chunks) == 1 else torch.cat(chunks)  # of queries, head by head and row by row
        return RowDual(primal, tangent.reshape(-1, *primal.shape[1:]))


def _attention_chunks(parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Cut q, k, v and their tangents, [rows * heads, tokens, size], so that P has at most `ATTENTION_ENTRIES` in each.

    Whole heads where one fits; else the queries of one head, whose rows of P do not depend on each other.
    """
    count, queries, keys = parts[0].shape[0], parts[0].shape[1], parts[1].shape[1]
    each = max(1, ATTENTION_ENTRIES // (queries * keys))
    length = queries if queries * keys <= ATTENTION_ENTRIES else max(1, ATTENTION_ENTRIES // keys)
    for start in range(0, count, each):
        q, k, v, dq, dk, dv = (x[start : start + each] for x in parts)
        if length == queries:
            yield q, k, v, dq, dk, dv
        else:
            for at in range(0, queries, length):
                yield q[:, at : at + length], k, v, dq[:, at : at + length], dk, dv


def _attention_tangent(parts: tuple[Tensor, ...], factor: float) -> Tensor:
    q, k, v, dq, dk, dv = parts
    q, kt = q * factor, k.mT
    p = torch.softmax(torch.bmm(q, kt), -1)
    ds = torch.baddbmm(torch.bmm(dq, kt), q, dk.mT, beta=factor)
    dp = _aten._softmax_backward_data(ds.to(p.dtype), p, -1, p.dtype)
    return torch.baddbmm(torch.bmm(dp, v), p, dv)


@rule("dropout")
def dropout(
    func: Callable[..., Tensor], x: RowDual, p: float = 0.5, training: bool = True, inplace: bool = False
) -> RowDual:
    """Primal and tangent share one mask: the derivative is that of the network that made the prediction."""
    if inplace:
        raise UnsupportedOperation("dropout", "overwrites its input (inplace=True)")
    if not training or p == 0:
        return x
    primal, mask = torch.native_dropout(x.primal, p, True)
    with torch.no_grad():
        return RowDual(primal, x.tangent * leading(mask, x.tangent.shape[0]) * (1 / (1 - p)))
