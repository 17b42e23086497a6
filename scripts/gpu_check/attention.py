"""Attention and its tangent: which kernels, how much memory, which error."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_core.derivative import predict
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import relative

HEADS, SIZE = 16, 72
"""Of DiT-XL/2."""
TANGENT_GIB = 2.0
"""What the tangent of one layer may take beyond its inputs and result, whatever the number of tokens."""


class Attend(torch.nn.Module):
    """q, k, v = z, and attention: as a network, so that its tangent goes the way of a network's."""

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return attention of z [B, 3, heads, tokens, size]."""
        q, k, v = z.unbind(1)
        return F.scaled_dot_product_attention(q, k, v) * t[:, None, None, None]


def attention(setting: Setting) -> Figures:
    """Measure attention as in DiT-XL/2 in bfloat16: 16 heads of 72, a quarter of the rows with tangent."""
    cases = {256: 64, 1024: 64, 4096: 8} if setting.on_gpu else {16: 4, 64: 4}
    table: dict[str, Any] = {}
    for tokens, rows in cases.items():
        table[str(tokens)] = _case(setting, tokens, rows)
    largest = max(case["tangent_gib"] for case in table.values())
    wrong = [tokens for tokens, case in table.items() if not case["tangent_error"] < 2e-2]
    figures = {"tokens": table, "backends": _backends(setting, max(cases))}
    return demand(figures, tangent_in_bounded_memory=largest <= TANGENT_GIB, tangent_right=not wrong)


def _case(setting: Setting, tokens: int, rows: int) -> dict[str, Any]:
    torch.manual_seed(1)
    z = torch.randn(rows, 3, HEADS, tokens, SIZE, device=setting.device)
    m = rows // 4
    v = torch.randn(m, 3, HEADS, tokens, SIZE, device=setting.device)
    t = torch.rand(rows, device=setting.device)
    net = Attend()

    def step(direction: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(setting.device, torch.bfloat16, cache_enabled=False):
            tangent = predict(net, z.bfloat16(), t * 0, t, None, direction=direction.bfloat16(), method="dual")
        return tangent[1] if len(direction) else tangent[0]

    du_dt = step(v)
    with_tangent, plain = _peak(setting, lambda: step(v)), _peak(setting, lambda: step(v[:0]))
    return {
        "rows": rows,
        "rows_with_tangent": m,
        "tangent_gib": round(with_tangent - plain, 3),
        "tangent_ms": round(_milliseconds(setting, lambda: step(v)), 2),
        "primal_ms": round(_milliseconds(setting, lambda: step(v[:0])), 2),
        "tangent_error": float(f"{relative(du_dt[:1], _exact(z[:1], v[:1], t[:1])):.1e}"),
    }


def _exact(z: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The tangent by the formula, in float64, for one row, head by head (t has tangent 1)."""
    z, v, t = z.bfloat16().double(), v.bfloat16().double(), t.double()
    out = []
    for head in range(z.shape[2]):
        (q, k, w), (dq, dk, dw) = z[0, :, head], v[0, :, head]
        p = torch.softmax(q @ k.T * SIZE**-0.5, -1)
        ds = (dq @ k.T + q @ dk.T) * SIZE**-0.5
        dp = p * (ds - (p * ds).sum(-1, keepdim=True))
        out.append((dp @ w + p @ dw) * t + p @ w)
    return torch.stack(out)[None]


def _backends(setting: Setting, tokens: int) -> dict[str, Any]:
    """Time forward and backward of each kernel that torch has for these shapes, for 4 rows."""
    table: dict[str, Any] = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        q, k, v = (
            torch.randn(4, HEADS, tokens, SIZE, device=setting.device, dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )

        def both(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
            F.scaled_dot_product_attention(q, k, v).sum().backward()  # type: ignore[no-untyped-call]

        try:
            with sdpa_kernel(backend):
                table[backend.name.lower()] = {
                    "ms": round(_milliseconds(setting, both), 3),
                    "gib": round(_peak(setting, both), 3),
                }
        except RuntimeError as error:
            table[backend.name.lower()] = str(error).splitlines()[0][:120]
    return table


def _peak(setting: Setting, run: Any) -> float:
    """Peak memory of a call above what is held before it, in GiB."""
    if not setting.on_gpu:
        run()
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / 2**30


def _milliseconds(setting: Setting, run: Any, times: int = 5) -> float:
    """Median time of a call."""
    found = []
    for index in range(times + 2):
        if setting.on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if setting.on_gpu:
            torch.cuda.synchronize()
        if index >= 2:
            found.append(1e3 * (time.perf_counter() - began))
    return sorted(found)[times // 2]
