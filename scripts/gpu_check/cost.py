"""What a step costs on this device, in units of a flow-matching step of the same network."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from dataclasses import replace
from typing import Any

import torch

from benchmarks.step_cost import BASE, CASES, Variant, _variant, measure
from scripts.gpu_check.check import Figures, Setting, demand

STEPS = ((BASE, "plain"), ("dual", "plain"), ("dual", "guided"))
DUAL, GUIDED = 1.25, 1.75
"""Largest ratios of a compiled step of DiT-B/4; by arithmetic 1.085 and 1.47."""


def _options(setting: Setting) -> argparse.Namespace:
    return argparse.Namespace(device=setting.device, dtype="bf16", ratio=0.25, turns=setting.size(12, 2))


def _make(setting: Setting, name: str, guidance: str, compiled: bool) -> Variant:
    case = CASES["b4"] if setting.on_gpu else replace(CASES["dit64"], batch=8)
    return _variant(case, _options(setting), name, guidance, compiled)


def _warm(setting: Setting, name: str, guidance: str) -> None:
    _make(setting, name, guidance, True).step()
    os._exit(0)


def warm_up(setting: Setting) -> list[Any]:
    """Compile each step once in processes of their own, beside the other checks: inductor keeps kernels on disk."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_warm, args=(setting, *step)) for step in STEPS]
    for process in processes:
        process.start()
    return processes


def cost(setting: Setting) -> Figures:
    """Let eager and compiled bfloat16 steps of DiT-B/4 (256 rows) take turns: flow matching, dual, dual guided."""
    variants = [
        _make(setting, *step, compiled) for compiled in (False, True)[: 2 if setting.on_gpu else 1] for step in STEPS
    ]
    measure(variants, _options(setting))
    bases = {v.compiled: v for v in variants if v.name == BASE}
    table = {}
    for v in variants:
        base = bases[v.compiled]
        ratios = [a / b for a, b in zip(v.seconds, base.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table[f"{v.label} {v.guidance}"] = {
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "ms": round(1e3 * statistics.median(v.seconds), 2),
            "peak_gib": round(v.peak / 1024, 2),
        }
    figures: Figures = {"network": "DiT-B/4, 256 rows, bf16", "steps": table}
    if not setting.on_gpu:
        return figures
    figures["reserved_gib"] = round(torch.cuda.memory_reserved() / 2**30, 1)
    dual, guided = (table[f"dual, compiled {kind}"]["ratio"] for kind in ("plain", "guided"))
    return demand(figures, dual_is_cheap=dual <= DUAL, guided_is_cheap=guided <= GUIDED)


def launches(setting: Setting) -> Figures:
    """Let steps of a small network, which launching bounds, take turns: eager and compiled, float32."""
    options = argparse.Namespace(device=setting.device, dtype="fp32", ratio=0.25, turns=setting.size(30, 2))
    case = CASES["digits"]
    modes = (False, True) if setting.on_gpu else (False,)
    variants = [_variant(case, options, *step, compiled) for compiled in modes for step in STEPS]
    measure(variants, options)
    base = variants[0]
    return {
        "network": "MLP of the digits, 128 rows, fp32",
        "steps": {
            f"{v.label} {v.guidance}": {
                "ms": round(1e3 * statistics.median(v.seconds), 3),
                "ratio": round(statistics.median(a / b for a, b in zip(v.seconds, base.seconds, strict=True)), 3),
            }
            for v in variants
        },
    }
