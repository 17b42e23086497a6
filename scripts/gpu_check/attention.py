"""Attention and its tangent: which kernels, how much memory, which error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import meanflow_core.derivative.rules  # noqa: F401 (registers the rules of layers)
from meanflow_core.derivative import fused
from meanflow_core.derivative.dual import RowDual
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import relative

HEADS, SIZE = 16, 72
"""Of DiT-XL/2."""
TANGENT_GIB = 2.0
"""What the tangent of one layer may take beyond its inputs and result, whatever the number of tokens."""


def attention(setting: Setting) -> Figures:
    """Measure attention as in DiT-XL/2 in bfloat16: 16 heads of 72, a quarter of the rows with tangent."""
    cases = {256: 64, 1024: 64, 4096: 8} if setting.on_gpu else {16: 4, 64: 4}
    table: dict[str, Any] = {}
    for tokens, rows in cases.items():
        table[str(tokens)] = _case(setting, tokens, rows)
    largest = max(case["tangent_gib"] for case in table.values())
    wrong = [tokens for tokens, case in table.items() if not case["tangent_error"] < 2e-2]
    figures = {"tokens": table, "backends": _backends(setting, max(cases)), **_kernel(setting, max(cases))}
    return demand(figures, tangent_in_bounded_memory=largest <= TANGENT_GIB, tangent_right=not wrong)


def _kernel(setting: Setting, tokens: int) -> dict[str, Any]:
    """Say whether the kernel of the tangent is right here, by dtype, and what it takes beside the chunks."""
    device = torch.device(setting.device)
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    found: dict[str, Any] = {
        "kernel_is_right": {str(kind): fused.kernel_is_right(device, kind, SIZE) for kind in kinds}
    }
    if found["kernel_is_right"][str(torch.bfloat16)] and setting.on_gpu:
        parts = [torch.randn(2 * HEADS, tokens, SIZE, device=device, dtype=torch.bfloat16) for _ in range(6)]
        q, k, v, dq, dk, dv = parts
        ways: dict[str, Callable[[], Any]] = {
            "kernel": lambda: fused.fused_tangent(parts, SIZE**-0.5),
            "whole": lambda: fused.by_formula(q, k, v, dq, dk, dv, SIZE**-0.5),
        }
        for name, way in ways.items():
            found[f"tangent_by_{name}"] = {"ms": _milliseconds(setting, way), "gib": _peak(setting, way)}
    return found


def _case(setting: Setting, tokens: int, rows: int) -> dict[str, Any]:
    torch.manual_seed(1)
    m = rows // 4
    z = torch.randn(3, rows, HEADS, tokens, SIZE, device=setting.device, dtype=torch.bfloat16)
    v = torch.randn(3, m, HEADS, tokens, SIZE, device=setting.device, dtype=torch.bfloat16)

    @torch.no_grad()
    def carried() -> Tensor:
        q, k, w = (RowDual(*pair) for pair in zip(z, v, strict=True))
        with torch.autocast(setting.device, torch.bfloat16, cache_enabled=False):
            result: RowDual = F.scaled_dot_product_attention(q, k, w)  # type: ignore[arg-type, assignment]
        return result.tangent

    @torch.no_grad()
    def alone() -> Tensor:
        return F.scaled_dot_product_attention(*z)

    tangent = carried()
    with_tangent, plain = _peak(setting, carried), _peak(setting, alone)
    return {
        "rows": rows,
        "rows_with_tangent": m,
        "tangent_gib": round(with_tangent - plain, 3),
        "tangent_ms": round(_milliseconds(setting, carried), 2),
        "primal_ms": round(_milliseconds(setting, alone), 2),
        "tangent_error": float(f"{relative(tangent[0], _exact(z[:, 0], v[:, 0])):.1e}"),
    }


def _exact(z: Tensor, v: Tensor) -> Tensor:
    """The tangent of one row by the formula, in float64, head by head; z and v are [3, heads, tokens, size]."""
    out = []
    for head in range(z.shape[1]):
        (q, k, w), (dq, dk, dw) = z[:, head].double(), v[:, head].double()
        p = torch.softmax(q @ k.T * SIZE**-0.5, -1)
        ds = (dq @ k.T + q @ dk.T) * SIZE**-0.5
        dp = p * (ds - (p * ds).sum(-1, keepdim=True))
        out.append(dp @ w + p @ dw)
    return torch.stack(out)


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
