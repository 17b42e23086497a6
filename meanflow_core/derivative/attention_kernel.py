"""The tangent of attention by one kernel that never holds P: for GPUs on which Triton is installed.

Imported where it is used only, since it needs Triton. For the queries of a block it walks over the keys once and keeps
running sums, as flash attention does: with S = q k' s, dS = (dq k' + q dk') s and P = softmax(S),

    o = P v,  do = (P dS) v + P dv - rowsum(P dS) o.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES, KEYS = 64, 32
"""Of a block: at 72 to 128 numbers a head this fits into the registers and shared memory of an A100 or an H100."""


@triton.jit  # type: ignore[untyped-decorator]
def _tangent(  # type: ignore[no-untyped-def]
    q_at, k_at, v_at, dq_at, dk_at, dv_at, out_at, queries, keys, size, factor,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    column = tl.arange(0, SIZE)
    here = (query[:, None] < queries) & (column[None, :] < size)
    at = row * queries * size + query[:, None] * size + column[None, :]
    q = tl.load(q_at + at, mask=here, other=0.0)
    dq = tl.load(dq_at + at, mask=here, other=0.0)
    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)  # of exp(S - top)
    moved = tl.zeros((QUERIES,), tl.float32)  # of exp(S - top) dS
    out = tl.zeros((QUERIES, SIZE), tl.float32)  # o
    tangent = tl.zeros((QUERIES, SIZE), tl.float32)  # (P dS) v + P dv
    for start in range(0, keys, KEYS):
        key = start + tl.arange(0, KEYS)
        there = (key[:, None] < keys) & (column[None, :] < size)
        from_ = row * keys * size + key[:, None] * size + column[None, :]
        k = tl.load(k_at + from_, mask=there, other=0.0)
        v = tl.load(v_at + from_, mask=there, other=0.0)
        dk = tl.load(dk_at + from_, mask=there, other=0.0)
        dv = tl.load(dv_at + from_, mask=there, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
        score = tl.where(key[None, :] < keys, score, float("-inf"))
        change = tl.dot(dq, tl.trans(k), input_precision="ieee") + tl.dot(q, tl.trans(dk), input_precision="ieee")
        change = change * factor
        new_top = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp(top - new_top)
        p = tl.exp(score - new_top[:, None])
        ds = p * change
        total = total * shrink + tl.sum(p, 1)
        moved = moved * shrink + tl.sum(ds, 1)
        out = out * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        tangent = tangent * shrink[:, None] + tl.dot(ds.to(v.dtype), v, input_precision="ieee")
        tangent += tl.dot(p.to(v.dtype), dv, input_precision="ieee")
        top = new_top
    tangent = (tangent - (moved / total)[:, None] * out) / total[:, None]
    tl.store(out_at + at, tangent.to(out_at.dtype.element_ty), mask=here)


def tangent(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, factor: float) -> Tensor:
    """Return the tangent of softmax(factor q k') v, [rows, queries, size].

    Args:
        q: [rows, queries, size], with rows = batch times heads.
        k: [rows, keys, size].
        v: like k.
        dq: like q; the tangents are of the dtype of what they are of, float32, float16 or bfloat16.
        dk: like k.
        dv: like k.
        factor: of the scores.
    """
    rows, queries, size = q.shape
    parts = [x.contiguous() for x in (q, k, v, dq, dk, dv)]
    out = torch.empty_like(parts[3])
    blocks = (triton.cdiv(queries, QUERIES), rows)
    padded = max(16, triton.next_power_of_2(size))
    _tangent[blocks](*parts, out, queries, k.shape[1], size, factor, QUERIES=QUERIES, KEYS=KEYS, SIZE=padded)
    return out
